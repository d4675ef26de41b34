"""The C kernels, where a compiler was there to build them."""

from typing import Any

from numpy.typing import NDArray

compiled: Any
try:
    from fedmpi.core import _compiled  # type: ignore[attr-defined]  # no stubs: made by cffi

    compiled = _compiled
except ImportError:  # no compiler at install time: the numpy twins take over
    compiled = None


def pointer(array: NDArray[Any], ctype: str = "uint32_t") -> Any:
    """To the first element, for a kernel. Keep a reference to the array for as long as the kernel runs."""
    return compiled.ffi.from_buffer(f"{ctype}[]", array)
