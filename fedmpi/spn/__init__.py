"""SPN: federated learning with a secret polarization network on every client [Fan et al. 2020]."""

ROLES = {"server": 0}
"""Ranks that have a name, for `fedmpi run --place`; on the others live clients."""

__all__ = ["ROLES"]
