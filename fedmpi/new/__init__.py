"""A package for a system of one's own, with all that `fedmpi run`, `compare`, `report` and `audit` ask of one."""

from fedmpi.new.package import write_package

__all__ = ["write_package"]
