"""What the parameters of all systems with clients have in common."""

from typing import Protocol

from fedmpi.runs.job import Parameters


class FederatedParams(Parameters, Protocol):
    """Options that niss, pbpfl and spn all have."""

    @property
    def model(self) -> str:
        """A name of `fedmpi.learn`, or package.module:Class."""

    @property
    def dtype(self) -> str:
        """Of the model's parameters, as torch calls it."""

    @property
    def clients(self) -> int | None:
        """K; None: one on each host."""

    @property
    def partition(self) -> str:
        """How rows are dealt to clients."""

    @property
    def split_by(self) -> str | None:
        """The column that says which group a row belongs to, where clients have groups; else None."""

    @property
    def rounds(self) -> int | None:
        """Of training, at most; None where they follow from the data."""

    @property
    def dirichlet_alpha(self) -> float:
        """Of the partition of that name."""
