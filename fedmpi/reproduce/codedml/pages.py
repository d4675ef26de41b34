"""The figures and tables, with the paper's numbers beside ours, and the page that joins them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedmpi.bench.projection import PROTOCOLS, Projection, compare
from fedmpi.bench.rates import Rates
from fedmpi.pages import figures
from fedmpi.pages.tables import markdown, write_csv
from fedmpi.reproduce.codedml import paper
from fedmpi.reproduce.codedml.gram import seconds_with_gram
from fedmpi.reproduce.codedml.settings import CIFAR10, FULL, Curve, DataSet, Scale, Timed
from fedmpi.reproduce.shared import introduced, write_report

BREAKDOWN = {
    "encode": ("encode", "encode weights"),
    "communicate": ("distribute", "send", "reduce", "gather"),
    "compute": ("compute",),
    "prepare + decode": ("prepare", "decode"),
    "total": ("total",),
    "offline": ("offline",),
}
"""Columns of Table II and the steps of the model that they add up."""
MEASURED = {name: tuple(name.split(" + ")) for name in BREAKDOWN}
"""The same, and the phases of result.json."""


def write(
    out: Path, scale: Scale, timed: Sequence[Timed], curves: Sequence[Curve], rates: Rates, integers: float
) -> Path:
    """PNG and CSV files, and report.md.

    Parameters
    ----------
    integers : float
        As `integer_rate` has it.
    """
    sections = [introduction(scale)]
    for data in dict.fromkeys(point.data for point in timed):
        points = [point for point in timed if point.data is data]
        sections += [training_time(out, scale, data, points), breakdown(out, data, points)]
        sections += [speed_ups(data, points, rates, integers)]
    sections += [accuracy(out, curve) for curve in curves]
    sections.append(check(out, timed, rates))
    sections.append(
        "## Rates of one core\n\n"
        + markdown([{"rate": name, "value": f"{value:.3g}"} for name, value in vars(rates).items()])
    )
    return write_report(out, sections)


def write_figure3(out: Path, timed: Sequence[Timed], machines: int) -> Path:
    """Figure 3 of CIFAR-10 alone, from runs that were made on so many machines."""
    figure = training_time(out, FULL, CIFAR10, timed, f"measured elsewhere, on {machines} machines")
    return write_report(out, [f"# CodedPrivateML: Figure 3 from runs on {machines} machines", figure])


def introduction(scale: Scale) -> str:
    """What was run, and how the numbers may be read."""
    what, bgw = introduced(scale, FULL), paper.SPEED_UPS["cifar10", "bgw"]
    return f"""# CodedPrivateML: the paper's comparison, from runs on this machine

`fedmpi reproduce codedml`. {what} All runs are with `--paper`: one exchange an iteration, with a polynomial of
degree 1 in place of the sigmoid. What `fedmpi run codedml` does without that option is another protocol.

Two kinds of time, never to be mixed:

- **measured here**: N + 1 ranks share {os.cpu_count()} cores and the memory of one machine, so the work of all workers
  adds up, and the network costs nearly nothing. Good for checking, not for comparing protocols on a cluster.
- **projected**: one machine per rank, by the cost model (docs/cost-model.md): 1 Gbit/s, 0.5 ms, cores like this one.

All protocols use the same kernels: two matrix-vector products per iteration, 2md/K multiplications at a worker. The
paper's complexity analysis has the workers form X̃ᵀX̃, md²/K of them, and its baselines process 1/3 of the rows where
CodedPrivateML processes 1/K. With equal kernels computing is a small part for everybody, and what is left is mostly
the data set's way through the master's link: 1/K of it to each worker, against 1/3. So the speed-up tends to K/3 as far
as the data dominates, and BGW's n² messages cost little, because they carry vectors of m/3 elements only: the paper's
{bgw} × over BGW is not to be expected. Nor do more workers make CodedPrivateML faster, as they do in the paper: N/K
times the data set leaves the master, and N/K hardly changes with N (about 3 in case 1, 6 in case 2)."""


def training_time(out: Path, scale: Scale, data: DataSet, points: Sequence[Timed], where: str | None = None) -> str:
    """Figure 3; `where` it was measured, if not here."""
    where = where or f"measured here, N+1 ranks on {os.cpu_count()} cores"
    measured = where.partition(",")[0]
    name = f"figure3-{data.key}"
    size = points[0].result["dataset"]["m"]
    left = f"{where}\n{size} rows, {scale.iterations} iterations"
    right = f"projected, one machine per rank\n{data.size.rows} rows, {data.size.iterations} iterations"
    panels = {
        left: lines(points, [p.measured["total"] for p in points]),
        right: lines(points, [p.paper.seconds["total"] for p in points]),
    }
    figures.training_time(out / f"{name}.png", data.title, panels)
    rows = [
        {
            "N": p.workers,
            "protocol": p.protocol,
            measured: p.measured["total"],
            "projected": p.same.seconds["total"],
            f"projected, {data.size.rows} rows, {data.size.iterations} iterations": p.paper.seconds["total"],
        }
        for p in points
    ]
    write_csv(out / f"{name}.csv", rows)
    note = "" if data.key in paper.ACCURACIES else "\n\nCIFAR-10 is not on this machine: digits stand in for it."
    return (
        f"## {data.title}: training time (Figure 3){note}\n\n![training time over N]({name}.png)\n\n"
        f"Seconds, without BH08's offline phase and without evaluations; the first two columns are of {size} rows and "
        f"{scale.iterations} iterations. [CSV]({name}.csv)\n\n{markdown(rows)}"
    )


def lines(points: Sequence[Timed], values: Sequence[float]) -> dict[str, figures.Line]:
    """Protocol → workers and values."""
    found: dict[str, figures.Line] = {}
    for protocol in PROTOCOLS:
        chosen = [(p.workers, value) for p, value in zip(points, values, strict=True) if p.protocol == protocol]
        found[protocol] = ([x for x, _ in chosen], [y for _, y in chosen])
    return found


def breakdown(out: Path, data: DataSet, points: Sequence[Timed]) -> str:
    """Table II."""
    most = max(p.workers for p in points)
    rows = []
    for p in (p for p in points if p.workers == most):
        kinds = (
            ("measured here", p.measured, MEASURED),
            ("projected", p.same.seconds, BREAKDOWN),
            (f"projected, {data.size.rows} rows, {data.size.iterations} it.", p.paper.seconds, BREAKDOWN),
        )
        for kind, seconds, columns in kinds:
            cells = {name: sum(seconds.get(key, 0.0) for key in keys) for name, keys in columns.items()}
            rows.append({"protocol": p.protocol, "time": kind, **cells})
            if p.protocol != "bh08":
                rows[-1]["offline"] = ""
    name = f"table2-{data.key}"
    write_csv(out / f"{name}.csv", rows)
    return (
        f"### Breakdown for N = {most} (Table II)\n\nSeconds; the total is without offline. "
        f"{paper.TABLE_2} [CSV]({name}.csv)\n\n{markdown(rows)}"
    )


def speed_ups(data: DataSet, points: Sequence[Timed], rates: Rates, integers: float) -> str:
    """CodedPrivateML against the baselines, for the largest N."""
    most = max(p.workers for p in points)
    by_name = {p.protocol: p for p in points if p.workers == most}
    size = f"projected, {data.size.rows} rows, {data.size.iterations} iterations"
    gram = {
        once: {name: seconds_with_gram(p.paper, data.size, rates, integers, once=once) for name, p in by_name.items()}
        for once in (True, False)
    }
    rows = []
    for case in ("coded case 1", "coded case 2"):
        for baseline in ("bh08", "bgw"):
            slow, fast = by_name[baseline], by_name[case]
            rows.append(
                {
                    "speed-up": f"{case} over {baseline}",
                    "measured here": slow.measured["total"] / fast.measured["total"],
                    "projected": slow.same.seconds["total"] / fast.same.seconds["total"],
                    size: slow.paper.seconds["total"] / fast.paper.seconds["total"],
                    "with X̃ᵀX̃ once": gram[True][baseline] / gram[True][case],
                    "in each iteration": gram[False][baseline] / gram[False][case],
                    "paper: up to, in some case": paper.SPEED_UPS.get((data.key, baseline), ""),
                }
            )
    coded, bh08 = by_name["coded case 2"].paper, by_name["bh08"].paper
    K, G = coded.layout["K"], bh08.layout["G"]
    return (
        f"### Speed-up for N = {most}\n\n{markdown(rows)}\n\nProjected, encoding and distributing the data set takes "
        f"{data_share(coded):.0%} of coded case 2 and {data_share(bh08):.0%} of BH08; K/G = {K}/{G} = {K / G:.1f}. The "
        "next two columns are the same projection for workers that form X̃ᵀX̃ in integers as the paper's analysis has it "
        f"(md²/K multiplications, {integers / 1e9:.2f} billion a second in numpy here), while a baseline "
        f"reduces the degree of its d² numbers: {case} takes {gram[True][case]:.0f} and {gram[False][case]:.0f} s "
        f"then, BGW {gram[True]['bgw']:.0f} and {gram[False]['bgw']:.0f} s."
    )


def data_share(projection: Projection) -> float:
    """Part of the time that encoding and distributing the data takes."""
    return (projection.seconds["encode"] + projection.seconds["distribute"]) / projection.seconds["total"]


def accuracy(out: Path, curve: Curve) -> str:
    """Figures 4 and 5."""
    data, both = curve.data, {"CodedPrivateML, r = 1": curve.coded, "conventional": curve.conventional}
    name4, name5 = f"figure4-{data.key}", f"figure5-{data.key}"
    for name, key, label in (
        (name4, "test_accuracy", "test accuracy"),
        (name5, "train_loss", "cross entropy on the training rows"),
    ):
        drawn = {who: ([v["iteration"] for v in values], [v[key] for v in values]) for who, values in both.items()}
        figures.curves(out / f"{name}.png", data.title, label, drawn)
        pairs = zip(curve.coded, curve.conventional, strict=True)
        write_csv(
            out / f"{name}.csv",
            [{"iteration": a["iteration"], "coded": a[key], "conventional": b[key]} for a, b in pairs],
        )
    ours = f"{curve.coded[-1]['test_accuracy']:.2%} and {curve.conventional[-1]['test_accuracy']:.2%}"
    theirs = ""
    if data.key in paper.ACCURACIES:
        coded, conventional = paper.ACCURACIES[data.key]
        theirs = f" The paper has {coded:.2%} and {conventional:.2%}"
        theirs += " on the real GISETTE; l_w = 5 here and there." if "stand-in" in data.key else "."
    return (
        f"## {data.title}: accuracy and loss (Figures 4 and 5)\n\nCase 2, N = {curve.workers}: the weights are the "
        f"same to the bit for every N. After {curve.coded[-1]['iteration']} iterations {ours} (conventional) of the "
        f"test rows are right.{theirs}\n\n![test accuracy]({name4}.png)\n\n![cross entropy]({name5}.png)\n\n"
        f"CSV: [accuracy]({name4}.csv), [loss]({name5}.csv)"
    )


def check(out: Path, timed: Sequence[Timed], rates: Rates) -> str:
    """The model, set to this machine, against the runs."""
    rows = []
    for p in timed:
        values: dict[str, Any] = dict(compare(p.protocol, p.result, rates))
        values["error"] = f"{values['error']:+.0%}"
        rows.append({"data": p.data.key, "N": p.workers, "protocol": p.protocol, **values})
    write_csv(out / "check.csv", rows)
    return (
        f"## The cost model against these runs\n\nThe model of this machine ({os.cpu_count()} cores for all ranks), "
        f"and the bytes that the master sent. Whatever else ran here at the time counts as an error, and so does what "
        f"workers computed while the master evaluated. "
        f"[CSV](check.csv)\n\n{markdown(rows)}"
    )
