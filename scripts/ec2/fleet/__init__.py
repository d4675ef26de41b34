"""A cluster of EC2 instances for fedmpi: found by its tag, made, filled, used and taken down."""


class Failure(Exception):
    """What was asked for can't be done: one line for people."""

    exit_code = 2
