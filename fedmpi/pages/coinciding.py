"""Lines that lie on one another: which ones, and how to say and to show it."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Line = tuple[Sequence[float], Sequence[float]]
"""x and y."""

DASH = 7.0
"""Length of the dashes that lines on one another share their way with."""

_NEAR = 0.006
"""Of the height, or the width, of a chart: about the width of a line."""


def groups(lines: Mapping[str, Line], width: float, height: float, *, log: bool = False) -> list[list[str]]:
    """Names of lines that can't be told apart in a chart that spans so much in x and y; of two lines at least each."""
    found: list[list[str]] = []
    places = {name: _placed(line, width, height, log) for name, line in lines.items()}
    for name, place in places.items():
        for group in found:
            if _together(places[group[0]], place):
                group.append(name)
                break
        else:
            found.append([name])
    return [group for group in found if len(group) > 1]


def _placed(line: Line, width: float, height: float, log: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y = np.log(np.asarray(line[1], float)) if log else np.asarray(line[1], float)
    return np.asarray(line[0], float) / (width or 1.0), y / (height or 1.0)


def _together(
    one: tuple[NDArray[np.float64], NDArray[np.float64]], other: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> bool:
    (x, y), (u, v) = one, other
    if abs(x[0] - u[0]) > _NEAR or abs(x[-1] - u[-1]) > _NEAR or (np.diff(x) < 0).any() or (np.diff(u) < 0).any():
        return False
    there, back = np.abs(np.interp(u, x, y) - v), np.abs(np.interp(x, u, v) - y)
    return bool(max(there.max(), back.max()) <= _NEAR)


def dashes(found: Sequence[Sequence[str]]) -> dict[str, tuple[float, float, float]]:
    """Name → length of its dash, of the gap behind it, and its offset: together they make one whole line."""
    return {name: (DASH, DASH * (len(group) - 1), -DASH * k) for group in found for k, name in enumerate(group)}


def sentence(group: Sequence[str], lines: Mapping[str, Line]) -> str:
    """What is to be said of lines that lie on one another."""
    names = f"{', '.join(group[:-1])} and {group[-1]}"
    first, *others = (lines[name] for name in group)
    if all(list(other[1]) == list(first[1]) for other in others):
        return f"{names} are the same to the last bit: their dashes take turns along one line."
    if all(len(other[1]) == len(first[1]) for other in others):
        apart = max(float(np.abs(np.subtract(other[1], first[1])).max()) for other in others)
        return f"{names} differ by at most {apart:.1g}: their dashes take turns along one line."
    return f"{names} can't be told apart here: their dashes take turns along one line."
