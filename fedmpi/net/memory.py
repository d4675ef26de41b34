"""Memory that a rank frees, and needs again at once."""

import contextlib
import ctypes

MMAP_THRESHOLD, TRIM_THRESHOLD = 32 << 20, 64 << 20
"""Bytes. glibc's malloc raises its own thresholds up to the first, and to twice that, as large arrays are freed."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed_memory() -> None:
    """Let this process keep up to 64 MiB that it has freed, and take arrays of up to 32 MiB from that.

    Otherwise every message and every slice of the data gets new pages from the system, which are cleared first: that
    took half of the time of encoding. Elsewhere than with glibc nothing is changed.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD)
