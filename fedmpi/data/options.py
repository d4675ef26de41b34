"""How a user file is read."""

from dataclasses import dataclass

from fedmpi.errors import UsageError

TABLES = ("csv", "arrow", "arff")
"""Kinds of files that have columns with names."""


@dataclass(frozen=True)
class FileOptions:
    """How a user file is read; see `fedmpi.data.load`."""

    label_column: str | None = None
    group_column: str | None = None
    categorical: tuple[str, ...] = ()
    features: int | None = None
    index_base: int | None = None
    only: tuple[str, ...] = ()
    """Tables: the features that are wanted, where not all are."""
    in_memory_bytes: int | None = None
    """.npy files of more stay on the disk, as memory-mapped arrays, and LIBSVM files that are more when dense stay
    sparse; by default none does."""
    single: bool = False
    """Tables: large ones are rounded to float32 where that does no harm; see `fedmpi.data.rounding`."""

    def check(self, what: str, kind: str | None) -> None:
        """Refuse what has no meaning for this kind of file, or for no file at all."""
        for option, kinds, for_whom in (
            ("label_column", (*TABLES, "npz"), "tables and .npz files"),
            ("group_column", (*TABLES, "npz"), "tables and .npz files"),
            ("categorical", TABLES, "tables"),
            ("features", ("svm",), ".svm files"),
            ("index_base", ("svm",), ".svm files"),
        ):
            if getattr(self, option) not in (None, ()) and kind not in kinds:
                raise UsageError(f"{option} must be given for {for_whom} only, got {what}")
        if self.index_base not in (None, 0, 1):
            raise UsageError(f"index_base must be 0 or 1, got {self.index_base}")
        if self.features is not None and self.features < 1:
            raise UsageError(f"features must be at least 1, got {self.features}")


PLAIN = FileOptions()
"""Nothing is asked for."""
