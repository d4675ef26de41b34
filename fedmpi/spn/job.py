"""What the server tells the hosts of clients: parameters and data set."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from fedmpi.data import Dataset, load
from fedmpi.errors import ProtocolError
from fedmpi.spn.params import Params


@dataclass(frozen=True)
class Job:
    """All that is public, and that all ranks must agree on."""

    params: Params
    dataset: str
    data: dict[str, Any]
    """Further arguments of `fedmpi.data.load`, but for the seed."""
    seed: int
    """Of public randomness."""

    def load(self) -> Dataset:
        """The data set; every rank reads its own copy, and keeps what is its own."""
        return load(self.dataset, seed=self.seed, **self.data)

    def to_json(self) -> str:
        """As the server sends it."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """As a host receives it.

        Raises
        ------
        ProtocolError
            If it is no job.
        UsageError
            If a value breaks a rule.
        """
        try:
            values = json.loads(text)
            params = values["params"] | {"decay_rounds": tuple(values["params"]["decay_rounds"])}
            return cls(Params(**params), values["dataset"], dict(values["data"]), int(values["seed"]))
        except (TypeError, KeyError, json.JSONDecodeError) as error:
            raise ProtocolError(f"a job must be JSON with the parameters of SPN, got {error}") from None
