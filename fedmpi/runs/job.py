"""What rank 0 tells the ranks that read the data set themselves: parameters, and where the rows are."""

import dataclasses
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from fedmpi.errors import ProtocolError, UsageError

if TYPE_CHECKING:
    from fedmpi.data import Dataset


P = TypeVar("P")


class Parameters(Protocol):
    """What the parameters of all systems have."""

    @property
    def method(self) -> str:
        """The system's own way, or a baseline."""


@dataclass(frozen=True)
class Job(Generic[P]):
    """All that is public, and that all ranks must agree on."""

    params: P
    dataset: str
    data: dict[str, Any]
    """Further arguments of `fedmpi.data.load`, but for the seed."""
    seed: int
    """Of public randomness."""
    class_weight: str | None = None
    """As in `fedmpi.runs.options.RunOptions`."""
    loaded: "Dataset | None" = field(default=None, repr=False, compare=False)
    """The data set, where it has been read and prepared; it stays on its rank."""

    @property
    def schema(self) -> dict[str, Any] | None:
        """Of tables that lie apart, where every rank with rows reads its own."""
        return self.data.get("schema")

    def load(self, **others: Any) -> "Dataset":
        """The data set; every rank reads its own copy, and keeps what is its own."""
        from fedmpi.data import load  # a rank that has no rows never loads it

        return self.loaded or load(self.dataset, seed=self.seed, **self.data | others)

    def load_raw(self) -> "Dataset":
        """The data set as it is, for a preparation that comes out of a protocol."""
        from fedmpi.data import load

        left = {key: value for key, value in self.data.items() if key not in ("scale", "impute", "statistics")}
        missing = self.data.get("impute") is not None
        return load(self.dataset, seed=self.seed, prepare=False, missing=missing, **left)

    def public_values(self, *, without: Collection[str]) -> dict[str, Any]:
        """What a run that goes on must keep, but for some parameters, and for where the data set lies."""
        values = {key: value for key, value in self._params().items() if key not in without}
        values |= {"dataset": self.dataset, **self.data, "seed": self.seed, "class_weight": self.class_weight}
        values.pop("data_dir", None)
        return values

    def to_json(self) -> str:
        """As the server sends it."""
        values = {"params": self._params(), "dataset": self.dataset, "data": self.data, "seed": self.seed}
        return json.dumps(values | {"class_weight": self.class_weight})

    def _params(self) -> dict[str, Any]:
        return dataclasses.asdict(self.params)  # type: ignore[call-overload,no-any-return]  # P is a dataclass

    @classmethod
    def accepted(cls, text: str, parameters: type[P], own_model: str | None) -> Self:
        """As a host receives it that imports code for --model only where its own command line names it.

        Raises
        ------
        ProtocolError, UsageError
            As `from_json`; or if the model is another's code.
        """
        job = cls.from_json(text, parameters)
        model = getattr(job.params, "model", "")
        if ":" in model and model != own_model:
            raise ProtocolError(f"--model must stand on every rank's command line, got {own_model} and {model}")
        return job

    @classmethod
    def from_json(cls, text: str, parameters: type[P]) -> Self:
        """As a host receives it, with the parameters of a system.

        Raises
        ------
        ProtocolError
            If it is no job.
        UsageError
            If a value breaks a rule.
        """
        try:
            values = json.loads(text)
            # JSON has no tuples
            params = {key: tuple(v) if isinstance(v, list) else v for key, v in values["params"].items()}
            weight = "balanced" if values.get("class_weight") == "balanced" else None
            return cls(parameters(**params), values["dataset"], dict(values["data"]), int(values["seed"]), weight)
        except UsageError:
            raise
        except (TypeError, KeyError, AttributeError, ValueError, OverflowError, RecursionError) as error:
            raise ProtocolError(f"a job must be JSON with {parameters.__module__} in it, got {error}") from None
