"""Run folders: real ones, from threads, and one that an enemy wrote."""

import json
from pathlib import Path

from protocol.codedml_threads import command_on_threads

EVIL = "\"'><script>alert(1)</script><img src=http://127.0.0.1:9/x onerror=alert(2)>"


def coded(path: Path) -> Path:
    """CodedPrivateML with ten workers."""
    command_on_threads(10, "--out", path, "--iterations", 6)
    return path


def bgw(path: Path) -> Path:
    """The baseline whose workers talk to one another."""
    command_on_threads(6, "--out", path, "--iterations", 4, "--method", "bgw", "-G", 2, "--data-bits", 1)
    return path


def evil(path: Path) -> Path:
    """Every text in it tries to become a part of the page."""
    path.mkdir()
    (path / "config.toml").write_text(f"method = '''{EVIL}'''\n{json.dumps(EVIL)} = 1\n")
    lines = [{"iteration": k, "train_loss": 1 / (k + 1), EVIL: k, "test_accuracy": EVIL} for k in range(3)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = {
        "system": EVIL,
        "method": EVIL,
        "ranks": EVIL,
        "roles": {EVIL: 1, "worker": 3},
        "seconds": {EVIL: 1.0, "total": 2.0},
        "bytes": {"sent": {EVIL: 5}, "received": {"master": 7}},
        "messages": {"sent": {EVIL: 3}},
        "failures": [{"rank": 1, EVIL: EVIL, "reason": EVIL}, EVIL],
        "params": {EVIL: [EVIL, {EVIL: EVIL}]},
        "dataset": {"name": EVIL, "m": EVIL},
        "environment": {"hosts": [EVIL]},
        "metrics": {EVIL: 1.0, "train_loss": 0.3},
        "privacy": {"model": {EVIL: 1.0}},
        "version": EVIL,
    }
    (path / "result.json").write_text(json.dumps(result))
    frames = [{"by": 0, "step": 0, "type": EVIL, "from": "worker", "to": "worker", "bytes": 4}]
    frames += [{"by": 0, "step": 0, "type": "Weights", "from": "worker", "to": EVIL, "bytes": 4}]
    frames += [{"by": 0, "step": 0, "type": "Weights", "from": "boss", "to": "worker", "bytes": 4}]
    (path / "frames.jsonl").write_text("".join(json.dumps(frame) + "\n" for frame in frames))
    return path


def damaged(path: Path) -> Path:
    """Nothing in it is of the type that it should be."""
    path.mkdir()
    (path / "config.toml").write_bytes(b"\xff = [\n")
    deep = "[" * 100_000
    big = '{"iteration": 1, "loss": ' + "9" * 400 + ', "accuracy": NaN, "x": Infinity, "y": true, "z": [1], "w": 1e308}'
    (path / "metrics.jsonl").write_text(
        f'{{"iteration": null, "w": -1e308}}\n[]\n7\n{deep}\n{big}\n{{"iteration": 2, "lo'
    )
    nested: list[object] = []
    for _ in range(800):  # json reads so many
        nested = [{"x": nested}, 1 << 10_000] if not nested else [nested]
    result = {"roles": {"a": -1, "b": 1 << 40, "c": "x"}, "seconds": [1], "failures": {"x": 1}, "metrics": None}
    result |= {"params": {"deep": nested}, "system": nested}
    (path / "result.json").write_text(json.dumps(result))
    (path / "frames.jsonl").write_text(
        '{"by": 0, "step": [], "type": "A", "from": "a", "to": "b"}\n{"by": {}, "type": 1}\n'
    )
    return path
