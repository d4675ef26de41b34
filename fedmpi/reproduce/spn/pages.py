"""The figures and tables, with the paper's numbers beside ours, and the page that joins them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedmpi.pages import figures
from fedmpi.pages.tables import markdown, write_csv
from fedmpi.reproduce.shared import introduced, write_report
from fedmpi.reproduce.spn import paper
from fedmpi.reproduce.spn.gradients import Layer
from fedmpi.reproduce.spn.members import PARTICIPANTS, SHARED, Told
from fedmpi.reproduce.spn.ratios import ATTACKED, IMAGES, Perturbed
from fedmpi.reproduce.spn.settings import FULL, Federation, Panel, Scale


def write(
    out: Path,
    scale: Scale,
    panels: Sequence[Panel],
    federated: Mapping[Federation, Mapping[str, Sequence[float]]],
    layers: Sequence[Layer],
    ratios: Mapping[str, Perturbed],
    members: Sequence[Told],
) -> Path:
    """PNG and CSV files, and report.md."""
    sections = [introduction(scale)]
    for panel in panels:
        sections += [curves(out, panel), caps(out, panel), accuracies(out, panel), gallery(out, panel)]
    sections += [
        membership(out, members),
        figure4(out, layers),
        perturbations(out, ratios),
        federations(out, federated),
    ]
    return write_report(out, sections)


def introduction(scale: Scale) -> str:
    """What was run."""
    return (
        f"# SPN: privacy and accuracy\n\n`fedmpi reproduce spn`. {introduced(scale, FULL)}\n\n"
        "DLNet, 10 clients, round-robin, Adam 0.001; attacks on fresh models. ‖B‖/‖E‖: over the gradients of all "
        "biases. α₁ = 1.\n\nThe secret-head attack is not in the paper: it knows that there is a secret head, and "
        "takes the gradient at the features as one more unknown."
    )


def curves(out: Path, panel: Panel) -> str:
    """Figure 5: the PPCs."""
    name = f"figure5-{panel.dataset}"
    rows = [
        {
            "mechanism": a.mechanism,
            "batch": a.batch_size,
            "setting": a.reconstruction.setting,
            "‖B‖/‖E‖": a.reconstruction.ratio,
            "log10(‖B‖/‖E‖ + 1)": a.reconstruction.control,
            "accuracy": a.reconstruction.accuracy,
            "rMSE": a.reconstruction.distance,
            "membership distance": a.membership.distance,
            "tracing distance": a.tracing.distance,
            "iDLG labels": "" if a.idlg is None else a.idlg,
        }
        for a in panel.attacked
    ]
    write_csv(out / f"{name}.csv", rows)
    lines: dict[str, dict[str, figures.Line]] = {}
    for mechanism in dict.fromkeys(a.mechanism for a in panel.attacked):
        own = sorted(
            (a for a in panel.attacked if a.mechanism == mechanism and a.batch_size == 1),
            key=lambda a: a.reconstruction.control,
        )
        x = [a.reconstruction.control for a in own]
        lines[mechanism] = {
            "accuracy": (x, [a.reconstruction.accuracy for a in own]),
            "rMSE (at most 2)": (x, [min(a.reconstruction.distance, 2.0) for a in own]),
            "tracing distance": (x, [a.tracing.distance for a in own]),
            "membership distance": (x, [a.membership.distance for a in own]),
        }
    figures.panels(out / f"{name}.png", f"PPC, {panel.dataset}, batch 1", lines, "log10(‖B‖/‖E‖ + 1)", "")
    return (
        f"## {panel.dataset}: privacy-preserving characteristics (Figure 5)\n\n![PPC]({name}.png)\n\n"
        f"{markdown(rows)}\n\niDLG labels: the share that the sign of the last bias gradient gives away. SPN's public "
        "head is trained on cross-entropy alone, so that its labels are never hidden."
    )


def caps(out: Path, panel: Panel) -> str:
    """Tables 1 and 7 to 10."""
    rows: list[dict[str, Any]] = []
    for row in panel.caps():
        of_theirs = paper.CAP.get(panel.dataset, {}).get(row["mechanism"], ())
        theirs = [values[(1, 4, 8).index(row["batch"])] for values in of_theirs]
        rows.append(row | {"paper (rec. / mem. / trac.)": " / ".join(f"{v:.2f}" for v in theirs)})
    write_csv(out / f"cap-{panel.dataset}.csv", rows)
    ones = {row["mechanism"]: row for row in rows if row["batch"] == 1}
    orders = []
    for column in ("reconstruction", "rMSE at most 1", "tracing"):
        order = sorted(ones, key=lambda name: -float(ones[name][column]))
        orders.append(f"{column}: {' > '.join(order)}")
    return (
        f"## {panel.dataset}: calibrated averaged performance (Tables 1, 7 to 10)\n\n{markdown(rows)}\n\n"
        f"Order for batches of one. {'; '.join(orders)}. An attack that diverges raises the first column; the second "
        "counts every rMSE as 1 at most."
    )


def accuracies(out: Path, panel: Panel) -> str:
    """Table 11."""
    rows: list[dict[str, Any]] = [
        {"mechanism": "FedAvg", "setting": "", "accuracy": panel.fedavg, "points below FedAvg": 0.0, "paper": ""}
    ]
    theirs = paper.ACCURACY.get(panel.dataset, {})
    for a in panel.attacked:
        if a.batch_size == 1 and "attack" not in a.mechanism:
            p = a.reconstruction
            row = {"mechanism": a.mechanism, "setting": p.setting, "accuracy": p.accuracy}
            row["points below FedAvg"] = 100 * (panel.fedavg - p.accuracy)
            rows.append(row | {"paper": theirs.get((a.mechanism, p.setting), "")})
    write_csv(out / f"table11-{panel.dataset}.csv", rows)
    note = "The paper's are after 300 rounds on all rows; it prints none for FedAvg without a defence."
    return f"## {panel.dataset}: accuracies (Table 11)\n\n{markdown(rows)}\n\n{note}"


def gallery(out: Path, panel: Panel) -> str:
    """Figure 6: originals and reconstructions."""
    rows: dict[str, np.ndarray] = {}
    for a in panel.attacked:
        if a.batch_size == 1:
            with np.load(a.folder / "images.npz") as z:
                rows.setdefault("original", z["original"][:6])
                p = a.reconstruction
                rows[f"{a.mechanism} {p.setting:g}: rMSE {p.distance:.2f} ({p.ratio:.3g})"] = z["found"][:6]
    figures.gallery(out / f"figure6-{panel.dataset}.png", rows)
    return (
        f"## {panel.dataset}: reconstructions (Figure 6)\n\nIn brackets ‖B‖/‖E‖; the mean over the cases.\n\n"
        f"![reconstructions](figure6-{panel.dataset}.png)"
    )


def figure4(out: Path, layers: Sequence[Layer]) -> str:
    """Distributions and cosines of the two gradients."""
    rows = [
        {
            "parameters": layer.name,
            "cosine": layer.cosine,
            "rms of α₂·polarization": float(np.sqrt((layer.polarization**2).mean())),
            "rms of cross-entropy": float(np.sqrt((layer.cross_entropy**2).mean())),
        }
        for layer in layers
    ]
    write_csv(out / "figure4.csv", rows)
    figures.histograms(
        out / "figure4.png",
        "Gradients of a backbone after training",
        {
            f"{layer.name}, cosine {layer.cosine:.3f}": {
                "α₂·polarization": layer.polarization,
                "cross-entropy": layer.cross_entropy,
            }
            for layer in layers
        },
    )
    least, largest = paper.COSINES
    return (
        f"## Gradients of the two losses (Figure 4)\n\nThe paper has cosines from {least} to {largest}.\n\n"
        f"![gradients](figure4.png)\n\n{markdown(rows)}"
    )


def perturbations(out: Path, ratios: Mapping[str, Perturbed]) -> str:
    """Figures 26 and 27, and the caption of Figure 28: how large the perturbations are, and what is found."""
    rows = [
        {"figure and setting": name, "‖B‖/‖E‖": one.ratio, "rMSE": "" if one.rmse is None else one.rmse}
        for name, one in ratios.items()
    ]
    write_csv(out / "ratios.csv", rows)
    return (
        "## Size of the perturbation (Figures 26 and 27, caption of Figure 28)\n\nOver fresh models: the mean ratio of "
        f"{IMAGES} images, and the median rMSE of deep leakage of {ATTACKED}. The paper: Laplace noise of the same "
        "scale is almost identical to Gaussian noise, in both (it deviates √2 times as far); from 32 to 128 bits the "
        "ratio grows, and the rMSE with it (a larger ratio is a smaller perturbation, and should protect less); SPN "
        f"with α₂ = 0.1 and DP with σ = 0.1 have about 1 on AlexNet and VGG16.\n\n{markdown(rows)}"
    )


def membership(out: Path, members: Sequence[Told]) -> str:
    """1000 rows, asked for among all: the paper's membership and tracing without a search."""
    rows = [
        {
            "mechanism": one.mechanism,
            "setting": one.setting,
            "labels wrong": one.labels,
            "traced to another": one.tracing,
            "named among all": one.named,
            "members found at 1 % false ones": one.membership.true_positive_at(0.01),
            "area under the ROC": one.membership.area,
        }
        for one in members
    ]
    write_csv(out / "members.csv", rows)
    return (
        f"## {SHARED} rows, asked for among all of the test part (membership and tracing)\n\nGradients of "
        f"{SHARED} rows in batches of one, of {PARTICIPANTS} participants, of one fresh model. Labels by iDLG's rule "
        "(the paper's membership distance). Rows by the gradients that they would have, and the size of the noise: "
        "traced to the participant of the gradient that is likeliest to be theirs, wrong for 9 of 10 by guessing; "
        "named: of all rows, a gradient's own is the likeliest; members: rows whose gradients were shared, told from "
        "those whose were not. Of SPN the public head's part of a gradient is compared, which the secret does not "
        f"change. The paper traces by reconstructed images, as the tables above do for fewer.\n\n{markdown(rows)}"
    )


def federations(out: Path, accuracies: Mapping[Federation, Mapping[str, Sequence[float]]]) -> str:
    """Accuracy over the number of clients."""
    rows = [
        {
            "setting": federation.title,
            "clients": count,
            **{name: f"{100 * values[i]:.1f} %" for name, values in own.items()},
        }
        for federation, own in accuracies.items()
        for i, count in enumerate(federation.clients)
    ]
    lines = {
        federation.title: {name: (list(federation.clients), list(values)) for name, values in own.items()}
        for federation, own in accuracies.items()
    }
    write_csv(out / "figure28.csv", rows)
    figures.panels(out / "figure28.png", "Accuracy over clients", lines, "clients", "test accuracy")
    return (
        "## Number of clients (Figures 7, 28 and 29)\n\nFigure 28: IID, of which Figure 7 shows a part; Figure 29: "
        "non-IID, Dirichlet(0.9) for each label. standalone: the mean of models that are trained alone.\n\n"
        f"![accuracy](figure28.png)\n\n{markdown(rows)}"
    )
