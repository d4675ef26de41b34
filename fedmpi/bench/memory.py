"""How much memory a job takes, all its ranks together."""

import threading
from pathlib import Path


class PeakMemory:
    """Samples the proportional set size (PSS: shared pages counted once) of a process and all its children.

    Parameters
    ----------
    pid : int
    """

    def __init__(self, pid: int):
        self.pid, self.peak_bytes = pid, 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the sampling."""
        self._end.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._end.wait(0.5):
            self.peak_bytes = max(self.peak_bytes, sum(map(_pss_bytes, _family(self.pid))))


def _family(pid: int) -> list[int]:
    """A process and its descendants. mpirun's ranks are its children."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        parents.setdefault(int(fields[1]), []).append(int(entry.name))
    family, new = [], [pid]
    while new:
        member = new.pop()
        family.append(member)
        new += parents.get(member, [])
    return family


def _pss_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
