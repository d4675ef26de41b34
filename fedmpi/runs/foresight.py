"""What would end a run as soon as it looked at its files, said before any rank starts."""

from fedmpi.data.loading import glance
from fedmpi.data.options import FileOptions
from fedmpi.data.source import check_ranges
from fedmpi.errors import UsageError
from fedmpi.runs.checkpoint import read_checkpoint
from fedmpi.runs.folder import RunFolder
from fedmpi.runs.options import RunOptions


def check_device(device: str) -> None:
    """Refuse a device that torch can't use; torch is loaded only for another one than the processor.

    Raises
    ------
    UsageError
    """
    if device != "cpu":
        from fedmpi.learn.devices import device_here

        device_here(device)


def check_files(options: RunOptions, group_column: str | None = None) -> None:
    """Refuse data sets and files that are not there, and a folder that can't be that of a new run.

    Raises
    ------
    UsageError, FilesError
    """
    check_ranges(
        seed=options.seed,
        max_rows=options.max_rows,
        test_fraction=options.test_fraction,
        classes=options.classes,
        values=False,
    )
    for flag in ("statistics", "schema"):
        path = getattr(options, flag)
        if path is not None and not path.expanduser().is_file():
            raise UsageError(f"--{flag} must be a file, got {path}")
    if options.dataset is not None or options.test_file is not None:
        columns = FileOptions(options.label_column, group_column, options.categorical)
        glance(
            options.dataset or "digits",
            options.data_dir,
            columns,
            test_file=options.test_file,
            classes=options.classes,
            image_shape=options.image_shape,
            missing=options.impute is not None or options.statistics is not None,
        )
    if options.resume is not None:
        read_checkpoint(options.resume)
    if not options.dry_run:
        RunFolder(options.resume or options.out, "run", "", resumed=options.resume is not None)
