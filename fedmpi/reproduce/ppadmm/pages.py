"""The figures and tables, with what the paper says beside ours, and the page that joins them."""

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

from fedmpi.pages import figures
from fedmpi.pages.tables import markdown, write_csv
from fedmpi.reproduce.ppadmm import paper
from fedmpi.reproduce.ppadmm.settings import ACCURACY, EPSILONS, FULL, TIME, Line, Scale, slug
from fedmpi.reproduce.shared import introduced, write_report

KEYS = {"test_rmse": "RMSE on the test rows", "mped": "MPED"}
"""Metrics and their labels."""


Turn = Mapping[str, float]
"""Method → seconds of its run."""


def write(
    out: Path,
    scale: Scale,
    lines: Mapping[str, Mapping[str, Line]],
    turns: Mapping[str, Sequence[Turn]],
    departures: Mapping[int, float],
) -> Path:
    """PNG and CSV files, and report.md.

    Parameters
    ----------
    lines : mapping
        Data set → method → its run.
    turns : mapping
        Data set → the turns in which the methods were timed.
    departures : mapping
        Iteration after which a participant leaves → distance of what S1 guesses.
    """
    sections = [introduction(scale)]
    for data, of_methods in lines.items():
        sections += [accuracy(out, data, of_methods), times(out, data, of_methods, turns[data])]
    return write_report(out, [*sections, departure(out, departures)])


def introduction(scale: Scale) -> str:
    """What was run."""
    return f"""# PPADMM: accuracy and time, from runs on this machine

`fedmpi reproduce ppadmm`. {introduced(scale, FULL)}

The first pages of the paper are missing from our transcript, with them the size of its data, λ, ρ and DSSGD's
settings: ours are the defaults, and for DSSGD about the best of 24 settings at each ε, which costs it no privacy here;
σ = {paper.SIGMA} is the paper's. What its text says can be compared: PPADMM's error is ADMM's, close to σ and the same
for every ε; DSSGD's is above {paper.DSSGD_RMSE} at ε = {paper.DSSGD_EPSILON} and falls as ε grows."""


def accuracy(out: Path, data: str, lines: Mapping[str, Line]) -> str:
    """Figures 3 and 4."""
    rows = [
        {"iteration": int(steps[0]["iteration"])}
        | {f"{name} {key}": step[key] for name, step in zip(ACCURACY, steps, strict=True) for key in KEYS}
        for steps in zip(*(lines[name].steps for name in ACCURACY), strict=True)
    ]
    write_csv(out / f"figures34-{slug(data)}.csv", rows)
    for number, key in ((3, "test_rmse"), (4, "mped")):
        drawn = {name: lines[name].over_iterations(key) for name in ACCURACY}
        figures.over_iterations(out / f"figure{number}-{slug(data)}.png", data, KEYS[key], drawn, log=True)
    table = [{"method": name} | {label: lines[name].steps[-1][key] for key, label in KEYS.items()} for name in ACCURACY]
    central = lines["ADMM"].result["metrics"]["centralized"]
    table.append({"method": "scikit-learn, all rows in one place"} | {KEYS[key]: central[key] for key in KEYS})
    errors = [lines[f"DSSGD, ε = {epsilon}"].steps[-1]["test_rmse"] for epsilon in EPSILONS]
    falls = "falls" if all(more >= less for more, less in pairwise(errors)) else "does not fall steadily"
    difference = abs(lines["PPADMM"].steps[-1]["test_rmse"] - lines["ADMM"].steps[-1]["test_rmse"])
    return (
        f"## {data}: accuracy (Figures 3 and 4)\n\n![RMSE](figure3-{slug(data)}.png)\n\n"
        f"![MPED](figure4-{slug(data)}.png)\n\nAfter the last iteration "
        f"([CSV](figures34-{slug(data)}.csv)); PPADMM's RMSE differs from ADMM's by {difference:.1e}; "
        f"DSSGD's {falls} as ε grows.\n\n"
        f"{markdown(table)}"
    )


def times(out: Path, data: str, lines: Mapping[str, Line], turns: Sequence[Turn]) -> str:
    """Figure 5."""
    drawn = {name: lines[name].over_iterations("training_seconds") for name in TIME}
    figures.over_iterations(out / f"figure5-{slug(data)}.png", data, "seconds", drawn, log=False)
    rows = [
        {"iteration": int(steps[0]["iteration"])}
        | {name: step["training_seconds"] for name, step in zip(TIME, steps, strict=True)}
        for steps in zip(*(lines[name].steps for name in TIME), strict=True)
    ]
    write_csv(out / f"figure5-{slug(data)}.csv", rows)
    table = []
    for name in TIME:
        ratios = sorted(turn[name] / turn[TIME[0]] for turn in turns)
        seconds = {"seconds": median(turn[name] for turn in turns), f"over {TIME[0]}": median(ratios)}
        table.append({"method": name, **seconds, "least": ratios[0], "most": ratios[-1]})
    return (
        f"## {data}: computation time (Figure 5)\n\n![seconds](figure5-{slug(data)}.png)\n\nSeconds since the first "
        f"iteration, without the measuring, all ranks on {os.cpu_count()} cores "
        f"([CSV](figure5-{slug(data)}.csv) of the first turn). Medians of {len(turns)} turns, each a run of every "
        f"method; ratios are those of two runs of one turn.\n\n{markdown(table)}"
    )


def departure(out: Path, distances: Mapping[int, float]) -> str:
    """What a set that shrinks shows S1."""
    rows = [{"left after iteration": it, "distance of the guess": distance} for it, distance in distances.items()]
    write_csv(out / "departures.csv", rows)
    return (
        "## A participant that leaves\n\nS1 subtracts the sum of those who stay from the sum before, and guesses the "
        "update of the one who left; the distance is relative to that of the mean of all: 1 is nothing learned, 0 all. "
        "Close to convergence S1 knows the update: `--on-dropout stop` closes this, at the price of the run "
        f"([CSV](departures.csv)).\n\n{markdown(rows)}"
    )
