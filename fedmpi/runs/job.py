"""What rank 0 tells the ranks that read the data set themselves: parameters, and where the rows are."""

import dataclasses
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from fedmpi.errors import ProtocolError

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

    def load(self) -> "Dataset":
        """The data set; every rank reads its own copy, and keeps what is its own."""
        from fedmpi.data import load  # a rank that has no rows never loads it

        return load(self.dataset, seed=self.seed, **self.data)

    def public_values(self, *, without: Collection[str]) -> dict[str, Any]:
        """What a run that goes on must keep, but for some parameters, and for where the data set lies."""
        values = {key: value for key, value in dataclasses.asdict(self)["params"].items() if key not in without}
        values |= {"dataset": self.dataset, **self.data, "seed": self.seed}
        values.pop("data_dir", None)
        return values

    def to_json(self) -> str:
        """As the server sends it."""
        return json.dumps(dataclasses.asdict(self))

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
            return cls(parameters(**params), values["dataset"], dict(values["data"]), int(values["seed"]))
        except (TypeError, KeyError, AttributeError, json.JSONDecodeError) as error:
            raise ProtocolError(f"a job must be JSON with {parameters.__module__} in it, got {error}") from None
