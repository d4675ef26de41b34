"""Facts about this process that the operating system knows."""

import os
import time
from pathlib import Path


def process_age_seconds() -> float:
    """Seconds since this process was started; 0 where the operating system does not tell."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, AttributeError, ValueError):
        return 0.0
