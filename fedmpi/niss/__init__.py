"""NISS: federated learning with differential-privacy noise that cancels [Yang et al. 2021]."""

ROLES = {"server": 0, "tracker": 1}
"""Ranks that have a name, for `fedmpi run --place`; on the others live clients."""

__all__ = ["ROLES"]
