"""PBPFL [Feng et al. 2020]: clients train a model that they never see, on weights that the server has perturbed."""

ROLES = {"server": 0}
"""Ranks that have a name, for `fedmpi run --place`; on the others live clients."""

__all__ = ["ROLES"]
