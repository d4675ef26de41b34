"""The tables and Figure 3, with the paper's numbers beside ours, and the page that joins them."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedmpi.pages import figures
from fedmpi.pages.tables import markdown
from fedmpi.reproduce.pbpfl import paper
from fedmpi.reproduce.pbpfl.settings import FULL, Key, Lines, Scale
from fedmpi.reproduce.shared import introduced, write_report


def write(
    out: Path,
    scale: Scale,
    bank: Mapping[Key, dict[str, Any]],
    images: Mapping[Key, Lines],
    times: Mapping[str, Mapping[str, float]],
) -> Path:
    """PNG files, and report.md.

    Parameters
    ----------
    bank : mapping
        Result.json of each run on bank.
    times : mapping
        As `fedmpi.bench.pbpfl.measure` has them.
    """
    sections = [introduction(scale), table_1(bank), table_2(images), table_3(times, scale, bank)]
    return write_report(out, [*sections, *(figure_3(out, resnet, images) for resnet in scale.resnets)])


def introduction(scale: Scale) -> str:
    """What was run, and how the numbers may be read."""
    small = (
        " On bank the methods can be compared. On images so few rounds teach hardly more than the most frequent class, "
        "two thirds of the rows: Table 2 and Figure 3 show that the runs work, not how good the methods are."
        if scale.name == "quick"
        else ""
    )
    return (
        f"# PBPFL: the paper's tables and figure, from runs on this machine\n\n`fedmpi reproduce pbpfl`. "
        f"{introduced(scale, FULL)}{small}\n\nImages of HAM10000 are 28x28 here, 64x64 in the paper; the networks are "
        "described in docs/pbpfl.md. APTOS, of Table 1, is not here."
    )


def table_1(bank: Mapping[Key, dict[str, Any]]) -> str:
    """Test MSE on bank."""
    rows = []
    for model, clients in dict.fromkeys((model, clients) for model, clients, _ in bank):
        fedavg, pbpfl = (bank[model, clients, method]["metrics"]["test_mse"] for method in ("fedavg-mse", "pbpfl"))
        theirs = paper.MSE[model, clients]
        rows.append(
            {
                "model": model,
                "k": clients,
                "FedAvg": f"{fedavg:.4f}",
                "PBPFL": f"{pbpfl:.4f}",
                "difference": f"{pbpfl - fedavg:+.1e}",
                "paper FedAvg": theirs[0],
                "paper PBPFL": theirs[1],
            }
        )
    return "## Table 1: bank, test MSE\n\n" + markdown(rows)


def table_2(images: Mapping[Key, Lines]) -> str:
    """Accuracy on images."""
    rows = []
    for (model, clients, method), lines in images.items():
        values = [100 * line[-1]["test_accuracy"] for line in lines]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        theirs = f"{paper.ACCURACY[method, clients]:.2f}" if model == "resnet20" else ""
        mean = f"{statistics.mean(values):.2f} ± {spread:.2f}"
        epochs = f"{lines[0][-1]['epochs']:.3g}"
        rows.append(
            {"model": model, "k": clients, "method": method, "epochs": epochs, "accuracy %": mean, "paper": theirs}
        )
    note = "The paper's are after 200 epochs."
    return f"## Table 2: HAM10000, accuracy on the test rows\n\n{markdown(rows)}\n\n{note}"


def table_3(times: Mapping[str, Mapping[str, float]], scale: Scale, bank: Mapping[Key, dict[str, Any]]) -> str:
    """Time of a round by part, and bytes."""
    model, side, _ = scale.bench
    rows = [
        {"": method, **{f"{part} ms": round(value, 1) for part, value in times[method].items()}}
        for method in ("fedavg", "pbpfl")
    ]
    traffic = []
    for method in ("fedavg-mse", "pbpfl"):
        result = next(result for key, result in bank.items() if key[2] == method)
        numbers = result["metrics"]["communication"]
        traffic.append(
            {
                "": method,
                "server → client": f"{numbers['server_to_client']:.2f} x the model",
                "client → server": f"{numbers['client_to_server']:.2f} x the model",
            }
        )
    return (
        f"## Table 3: processor time of a round, {model}, {side}x{side}, batch 32, one thread\n\n{markdown(rows)}\n\n"
        f"The client's time is {times['ratio']['client']:.2f} times that of FedAvg "
        f"(paper: {paper.CLIENT_RATIO:.2f}).\n\n"
        f"{markdown(traffic)}"
    )


def figure_3(out: Path, model: str, images: Mapping[Key, Lines]) -> str:
    """Accuracy over the epochs, with standard deviations as error bars."""
    panels: dict[str, dict[str, figures.Bars]] = {}
    for (network, clients, method), lines in images.items():
        if network != model:
            continue
        curves = [line[:-1] for line in lines]
        epochs = [entry["epochs"] for entry in curves[0]]
        values = [[entry["validation_accuracy"] for entry in at] for at in zip(*curves, strict=True)]
        spread = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in values]
        panels.setdefault(f"k = {clients}", {})[method] = (epochs, [statistics.mean(v) for v in values], spread)
    name = f"figure-3-{model}.png"
    figures.bars(out / name, f"{model} on HAM10000", "epoch", "validation accuracy", panels)
    return (
        f"## Figure 3: {model}\n\n![accuracy over the epochs]({name})\n\nBars: standard deviation. Of the validation "
        "rows, where the paper has the test rows after every epoch; Table 2 has ours in the end."
    )
