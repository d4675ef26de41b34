"""Memory that a rank frees is there when it needs it again."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from fedmpi.net.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()

def work():
    arrays = [np.ones(14 << 20, np.uint8) for _ in range(4)]

work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() >> 20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_freed_memory_is_used_again() -> None:
    def new_pages(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert new_pages("as it is") > 50, "MB: else the system does what is done here"
    assert new_pages("kept") < 10
