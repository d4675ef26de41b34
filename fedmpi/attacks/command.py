"""The leader's side of the command line: data, attacks, and the folder of the results."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedmpi.attacks.case import Finding, flat_of
from fedmpi.attacks.gradients import trained
from fedmpi.attacks.metrics import PSNR, SSIM, match, mean_squared_errors, psnr, relative_errors, spread_of, ssim
from fedmpi.attacks.params import DESCRIPTION, Params
from fedmpi.attacks.protocol import FRESH, lead
from fedmpi.data import Dataset, load
from fedmpi.errors import UsageError
from fedmpi.learn import build_model
from fedmpi.learn.devices import device_here
from fedmpi.learn.inputs import divisor_of, input_shape
from fedmpi.learn.trial import try_own
from fedmpi.net import Channel
from fedmpi.rules import printable_lines
from fedmpi.runs.folder import RunFolder, finite
from fedmpi.runs.model import read_arrays
from fedmpi.runs.options import RunOptions, parse, to_toml
from fedmpi.runs.result import result

OTHERS = (
    "before a first fully connected layer (--model mlp) --attack spear finds whole batches, where ReLU follows, and "
    "--attack cocktail images of them nearly"
)
"""Attacks on batches, for who tried another one."""

Batches = dict[int, tuple[NDArray[np.float64], NDArray[np.int64]]]


def run(ch: Channel, argv: list[str]) -> None:
    """Attack as the command line says."""
    params, options = parse(Params, argv, "fedmpi attack --", DESCRIPTION)
    options.check_own(argv, params.model)
    device_here(params.device)
    ch.timeout_seconds = max(options.timeout, 3600.0)  # an attack is long, and says nothing before its end
    data = load(options.dataset or "digits", seed=options.seed, **options.scaled_load_arguments())
    batches, spread = batches_of(params, data), spread_of(data)
    shape, classes = input_shape(data), len(data.classes)
    model = build_model(params.model, shape, classes, params.first)
    try_own(model, params.model, shape, classes)
    weights = weights_of(params, model)
    if options.dry_run:
        print(printable_lines(heading(params, data, ch.size)))
        return
    folder = RunFolder(options.out, f"attack-{params.attack}", to_toml(params, options))
    quiet = options.quiet or options.json
    if not quiet:
        print(printable_lines(heading(params, data, ch.size)), flush=True)
    lines: list[dict[str, Any]] = []

    def watch(seed: int, finding: Finding) -> None:
        lines.append(line_of(seed, finding, *batches[seed], spread, params.success))
        folder.append_metrics({"iteration": seed, **lines[-1]})
        if not quiet:
            print(text_of(lines[-1]), flush=True)

    findings = lead(ch, params, batches, len(data.classes), watch, weights)
    summary = summarize(params, options, data, ch.size, sorted(lines, key=lambda line: int(line["case"])))
    numbers = sum(parameter.numel() for parameter in trained(model))
    if reason := why_not(params, summary, int(np.prod(shape)), numbers):
        summary["why_not"] = reason
    folder.write_arrays("images.npz", **pictures(findings, batches))
    folder.write_json("result.json", summary)
    print(json.dumps(summary) if options.json else f"{closing_line(summary)}\n{reason}written to {folder.path}")


def weights_of(params: Params, model: nn.Module) -> NDArray[np.float64]:
    """What the run of --weights has trained, if it fits the model; empty without that option."""
    if params.weights is None:
        return FRESH
    arrays = read_arrays(Path(params.weights))
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if {name: array.shape for name, array in arrays.items()} != own:
        raise UsageError(
            f"--weights must be a run with --model {params.model} on such rows and classes, got {params.weights}"
        )
    return flat_of(arrays[name] for name in own)


def batches_of(params: Params, data: Dataset) -> Batches:
    """Case → rows as a model gets them, of images in [0, 1], and labels."""
    if not data.classes:
        raise UsageError(f"the data set must have classes, got {data.name}")
    size, last = params.batch_size, (params.first + params.cases) * params.batch_size
    if last > len(data.X_test):
        raise UsageError(f"the cases must be in the {len(data.X_test)} test rows, got row {last - 1}")
    X = data.X_test[:last].astype(np.float64) / divisor_of(data)
    X = X.reshape(len(X), *input_shape(data))
    return {
        case: (X[case * size : (case + 1) * size], data.y_test[case * size : (case + 1) * size])
        for case in range(params.first, params.first + params.cases)
    }


def line_of(
    seed: int,
    finding: Finding,
    X: NDArray[np.float64],
    y: NDArray[np.int64],
    spread: NDArray[np.float64],
    success: float,
) -> dict[str, Any]:
    """What one attack came to, with features in units of their spread."""
    r = finding.reconstruction
    X, found = X / spread, r.images / spread
    order = match(found, X)
    images, labels = found[order], r.labels[order].argmax(1)
    errors = mean_squared_errors(images, X)
    line = {
        "case": seed,
        "mse": errors.tolist(),
        "rmse": relative_errors(images, X).tolist(),
        "psnr": psnr(images, X).tolist(),
        "recovered": int((errors < success).sum()),
        "labels_right": int((labels == y).sum()),
        "idlg_right": bool(finding.label == y[0]) if len(y) == 1 else None,
        "ratio": finding.ratio,
        "distance": r.distance,
        "steps": r.steps,
        "evaluations": r.evaluations,
        "restarts": r.restarts,
        "seconds": r.seconds,
    }
    if X.ndim == 4:
        line["ssim"] = ssim(np.clip(images, 0, 1), X).tolist()
    return line


def summarize(
    params: Params, options: RunOptions, data: Dataset, ranks: int, lines: list[dict[str, Any]]
) -> dict[str, Any]:
    """The contents of result.json."""
    rows = params.cases * params.batch_size
    recovered, seconds = sum(line["recovered"] for line in lines), sum(line["seconds"] for line in lines)
    rmse = np.concatenate([line["rmse"] for line in lines])
    metrics = {
        "rows": rows,
        "recovered": recovered,
        "success_rate": recovered / rows,
        "mean_rmse": float(rmse.mean()),
        "mean_rmse_clipped": float(np.minimum(rmse, 1).mean()),
        "membership_distance": 1 - sum(line["labels_right"] for line in lines) / rows,
        "idlg_labels_right": sum(bool(line["idlg_right"]) for line in lines) if params.batch_size == 1 else None,
        "seconds_per_success": seconds / recovered if recovered else None,
    }
    summary = result(
        "attacks",
        params.attack,
        {"attacker": ranks},
        params=asdict(params),
        data=data,
        metrics=metrics,
        measured={"seconds": {"total": seconds}},
        seed=options.seed,
        cases=lines,
    )
    found: dict[str, Any] = finite(summary)
    return found


def pictures(findings: dict[int, Finding], batches: Batches) -> dict[str, NDArray[Any]]:
    """Originals and reconstructions of all cases, shape (rows, *input_shape)."""
    found = []
    for seed, (X, _) in batches.items():
        images = findings[seed].reconstruction.images
        found.append(images[match(images, X)])
    return {"original": np.concatenate([X for X, _ in batches.values()]), "found": np.concatenate(found)}


def heading(params: Params, data: Dataset, ranks: int) -> str:
    """What is about to be attacked, for people."""
    defence = {
        "none": "no defence",
        "dp": f"{params.noise_kind} noise σ = {params.noise_std:g}",
        "ppdl": f"the largest {params.share_fraction:.0%} of the gradient, noise σ = {params.noise_std:g}",
        "spn": f"a secret polarization network, α₂ = {params.alpha2:g}, {params.bits} bits",
    }[params.defence]
    cases, rows, places = (
        f"{count} {what}{'s' if count > 1 else ''}"
        for count, what in ((params.cases, "case"), (params.batch_size, "row"), (ranks, "rank"))
    )
    return f"{params.attack} on {params.model}, {defence}\n{data.name}: {cases} with {rows} each, on {places}"


def text_of(line: dict[str, Any]) -> str:
    """One case, for people."""
    return (
        f"case {line['case']:>3}  MSE {np.mean(line['mse']):.2e}  rMSE {np.mean(line['rmse']):.3f}  "
        f"labels {line['labels_right']}/{len(line['mse'])}  ‖B‖/‖E‖ {line['ratio']:.3g}  "
        f"{line['steps']} steps, {line['restarts']} restarts, {line['seconds']:.2f} s"
    )


def why_not(params: Params, summary: dict[str, Any], size: int, numbers: int) -> str:
    """Why rows of batches were not recovered, one line; empty where they were, or batches have one row."""
    rows, m = params.batch_size, summary["metrics"]
    if rows == 1 or m["recovered"] == m["rows"]:
        return ""
    if params.defence != "none":
        return f"not all recovered: --defence {params.defence} changes the gradient\n"
    if params.attack == "spear":
        return (
            f"not all recovered: the {rows} rows are there as soon as all their directions are, and the search "
            "ended before; --steps allows more starts, and a smaller --batch-size needs fewer\n"
        )
    if params.attack == "cocktail":
        near, alike = (np.concatenate([line[name] for line in summary["cases"]]) for name in ("psnr", "ssim"))
        seen = np.sum((near >= PSNR) & (alike >= SSIM))
        return f"images are found nearly: a person would recognize {seen} of {len(near)}, by PSNR and SSIM\n"
    if rows * size > numbers:
        return (
            f"not all recovered: {rows} rows are {rows * size} unknown numbers, and their gradient has {numbers}: "
            f"many batches have it; {OTHERS}\n"
        )
    if params.attack == "inverting":
        return (
            f"not all recovered: the gradient of {rows} rows is their mean, and a search for images whose mean has its "
            f"direction or their features ends near them, or in mixtures; {OTHERS}\n"
        )
    return (
        f"not all recovered: {rows} rows are {rows * size} unknown numbers, and their gradient has {numbers}, so that "
        f"it may tell them, but the search ended at another point; more --steps may find them; {OTHERS}\n"
    )


def closing_line(summary: dict[str, Any]) -> str:
    """The end, for people."""
    m = summary["metrics"]
    each = m["seconds_per_success"]
    return (
        f"{m['recovered']} of {m['rows']} recovered, mean rMSE {m['mean_rmse']:.3f}, "
        f"membership distance {m['membership_distance']:.2f}, "
        + ("" if m["idlg_labels_right"] is None else f"iDLG's labels {m['idlg_labels_right']}, ")
        + (f"{each:.2f} s for each recovered" if each else "none recovered")
    )
