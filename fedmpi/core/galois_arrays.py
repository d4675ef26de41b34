"""Arrays of the package galois go in and come out: `FieldArray`s of galois.GF(p), where the rest of core has uint32.

Nothing of galois is imported: where a program has not imported it, nothing can be one of its arrays.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from fedmpi.errors import UsageError

Method = TypeVar("Method", bound=Callable[..., Any])


def galois_in_and_out(method: Method) -> Method:
    """A method of a field, or of what has one, that gives arrays of galois where it is given some."""
    return _adapted(method, out=True)


def galois_in(method: Method) -> Method:
    """A method that takes arrays of galois, and whose results are no elements of a field, or uint32 by intent."""
    return _adapted(method, out=False)


def _adapted(method: Method, *, out: bool) -> Method:
    @functools.wraps(method)
    def adapted(own: Any, *args: Any, **kwargs: Any) -> Any:
        if "galois" not in sys.modules:
            return method(own, *args, **kwargs)
        seen: list[Any] = []
        p = getattr(own, "field", own).p
        given = [_plain(one, p, seen) for one in args]
        named = {name: _plain(one, p, seen) for name, one in kwargs.items()}
        result = method(own, *given, **named)
        return _back(result, seen[0]) if out and seen else result

    return cast(Method, adapted)


def _plain(value: Any, p: int, seen: list[Any]) -> Any:
    """The same with uint32 in place of arrays of galois; one of them is added to those that were seen."""
    kind = sys.modules["galois"].FieldArray
    if isinstance(value, kind):
        if type(value).order != p:
            raise UsageError(f"arrays of galois must be of GF({p}), got one of {type(value).name}")
        seen.append(value)
        return value.view(np.ndarray).astype(np.uint32)
    if isinstance(value, list | tuple):
        return type(value)(_plain(one, p, seen) for one in value)
    if isinstance(value, dict):
        return {key: _plain(one, p, seen) for key, one in value.items()}
    if callable(value):  # gives uniform elements, when it is asked
        return lambda *args: _plain(value(*args), p, [])
    return value


def _back(result: Any, like: Any) -> Any:
    """A result as an array like one of those that were given; of several the first."""
    if isinstance(result, tuple):
        return (_back(result[0], like), *result[1:])
    return type(like)(np.asarray(result).astype(like.dtype))
