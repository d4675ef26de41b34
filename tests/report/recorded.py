"""Twelve runs that were recorded once: what is drawn of them is the same at any time and on any machine."""

import json
import sys
from pathlib import Path
from typing import Any

import tomli_w

FILE = Path(__file__).with_suffix(".json")

PICTURED = ("niss", "dp-fedavg", "fedavg")
"""Those of the picture in the README."""


def write(base: Path, names: tuple[str, ...] = ()) -> list[Path]:
    """Run folders of these names, or of all that were recorded."""
    recorded: dict[str, Any] = json.loads(FILE.read_text())
    for name in names or recorded:
        folder, run = base / name, recorded[name]
        folder.mkdir(parents=True)
        (folder / "config.toml").write_text(tomli_w.dumps(run["config"]))
        for file in ("metrics", "frames"):
            (folder / f"{file}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in run[file]))
        for file in ("result", "start"):
            if run[file]:
                (folder / f"{file}.json").write_text(json.dumps(run[file]))
    return [base / name for name in names or recorded]


def read(folder: Path) -> dict[str, Any]:
    """What is kept of a run: numbers to six digits, and what happened first in frames.jsonl."""
    from fedmpi.runs.reading import read_runs

    (run,) = read_runs([folder])
    kinds = {(f["by"] == 0, f["step"], f["type"], f["from"], f["to"]): f for f in run.frames if f["by"] < 2}
    late = sorted({step for _, step, *_ in kinds if isinstance(step, int)})[2:]
    frames = [frame for (_, step, *_), frame in kinds.items() if step not in late]
    parts = {"config": run.config, "metrics": run.metrics, "result": run.result, "start": run.start, "frames": frames}
    rounded = json.loads(json.dumps(parts), parse_float=lambda text: float(f"{float(text):.6g}"))
    for known in (rounded["result"], rounded["start"]):
        for key in ("environment", "erased"):
            known.pop(key, None)
    return dict(rounded)


if __name__ == "__main__":  # python tests/report/recorded.py RUN … records them anew
    kept = {Path(name).name: read(Path(name)) for name in sys.argv[1:]}
    FILE.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in kept.items()) + "\n}\n")
