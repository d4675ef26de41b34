"""What a study leaves for people: the table as HTML, CSV, LaTeX and text, and the page with the picture."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from fedmpi.pages.html import page, table
from fedmpi.pages.tables import write_csv
from fedmpi.runs.folder import write_atomically
from fedmpi.study import picture
from fedmpi.study.plan import Study
from fedmpi.study.table import AXES, DASH, Row, compared, fronts, remarks, size, winners
from fedmpi.version import __version__

HTML, CSV, LATEX = "compare.html", "compare.csv", "compare.tex"

GAP = (
    "Gap to plain: the score minus that of the same model, trained with the same options, rows and seed but without "
    "protection. A negative gap, or a positive one of an error, is the cost of privacy. codedml and ppadmm train in "
    "the clear themselves; the federated systems are compared with runs of their methods fedavg and fedavg-mse."
)
EPSILON = (
    "ε: what differential privacy promises for all uploads of one client, against a server that sees each of them, and "
    "for the models that are published; ∞ where there is no bound. Systems without noise have none: they rest on "
    "cryptography, on who colludes, or on nothing."
)
SECONDS = (
    "Seconds are wall time of the protocol on rank 0, {where}; processor time and "
    "bytes sent are of one rank of each role, of several ranks the mean."
)


def write(study: Study, rows: Sequence[Row], out: Path, at_once: int, *, slurm: bool = False) -> Path:
    """Write compare.html, compare.csv, compare.tex and the pictures; each appears whole or not at all."""
    from tempfile import TemporaryDirectory

    beside = "one run" if at_once == 1 else f"up to {at_once} runs"
    where = "as jobs of Slurm" if slurm else f"with {beside} side by side on this machine"
    with TemporaryDirectory(dir=out, prefix=".writing.") as folder:
        new = Path(folder)
        write_csv(new / CSV, [row.record() for row in rows])
        (new / LATEX).write_text(latex(study, rows), encoding="utf-8")
        picture.draw(rows, title(study), new)
        (new / HTML).write_text(html(study, rows, new, where), encoding="utf-8")
        for path in sorted(new.iterdir(), key=lambda path: path.name == HTML):  # the page last
            write_atomically(out / path.name, path.read_bytes())
    return out / HTML


def title(study: Study) -> str:
    """Of page and picture."""
    return f"{count(len(study.systems), 'method')} on {Path(study.dataset).name}, {count(study.seeds, 'seed')}"


def count(number: int, what: str) -> str:
    """1 seed, 2 seeds."""
    return f"{number} {what}{'s' * (number != 1)}"


def columns(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The table, for people: name of a column → its cells."""
    found: dict[str, list[str]] = {
        name: [row.settings[name] for row in rows] for name in (rows[0].settings if rows else {})
    }
    scores = list(dict.fromkeys(row.score_name for row in rows if row.score_name))
    found[scores[0] if len(scores) == 1 else "score"] = [_score(row, rows, several=len(scores) > 1) for row in rows]
    found["gap to plain"] = [row.gap.text(sign=True) if row.gap else DASH for row in rows]
    found["ε"] = [row.epsilon_text for row in rows]
    found["seconds"] = [f"{row.seconds.mean:.3g}" if row.seconds else DASH for row in rows]
    found["bytes sent"] = [size(row.bytes_sent.mean) if row.bytes_sent else DASH for row in rows]
    if any(row.findings is not None for row in rows):
        found["the audit recovered"] = [row.audit_text for row in rows]
    return found


def _score(row: Row, rows: Sequence[Row], *, several: bool) -> str:
    """Mean and deviation, and of how many seeds where some have failed."""
    if row.score is None:
        return "failed"
    parts = [row.score.text(), *([row.score_name] if several else [])]
    fewer = row.runs < max(other.runs for other in rows)
    return " ".join([*parts, *([f"({count(row.runs, 'seed')} only)"] if fewer else [])])


def text(rows: Sequence[Row]) -> str:
    """The table for a terminal, and below it who learns what."""
    cells = {"method": [row.label for row in rows], **columns(rows)}
    audit = cells.pop("the audit recovered", None)
    widths = {name: max(len(name), *(len(cell) for cell in column)) for name, column in cells.items()}
    lines = ["  ".join(name.ljust(width) for name, width in widths.items())]
    lines += [
        "  ".join(cells[name][k].ljust(width) for name, width in widths.items()).rstrip() for k in range(len(rows))
    ]
    learns = dict.fromkeys(f"{row.label}: {row.learns}" for row in rows if row.learns)
    found = [f"{row.name}: {said}" for row, said in zip(rows, audit or (), strict=False)]
    parts = [*lines, "", "Who learns what", *learns]
    return "\n".join([*parts, *(["", "What the audit recovered", *found] if found else [])])


def html(study: Study, rows: Sequence[Row], folder: Path, where: str) -> str:
    """The page."""
    on = fronts(rows)
    cells = columns(rows)
    marks = [", ".join(axis.short for axis in AXES if row.name in on[axis.title]) or DASH for row in rows]
    second = {
        "bytes sent by role": [
            _roles({role: size(value) for role, value in row.bytes_by_role.items()}) for row in rows
        ],
        "processor seconds by role": [
            _roles({role: f"{value:.3g}" for role, value in row.cpu_by_role.items()}) for row in rows
        ],
        "runs": [str(row.runs) for row in rows],
        "best trade-off with": marks,
    }
    audit = {name: cells.pop(name) for name in list(cells) if "audit" in name}
    first = {**cells, "who learns what": [row.learns or DASH for row in rows], **audit}
    body = [
        f"<h1>{escape(title(study))}</h1>",
        f'<p class="soft">fedmpi {escape(__version__)} compare. All methods have the same rows, the same split into '
        "training and test rows for each seed, and the same columns; numbers are means over the seeds ± the standard "
        "deviation of one seed.</p>",
        "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in winners(rows)) + "</ul>",
        _picture(folder, rows),
        "<h2>The table</h2>",
        _table(rows, first),
        "<h2>By role</h2>",
        _table(rows, second),
    ]
    body += [f'<p class="bad">{escape(row.name)}: {escape(row.failure)}</p>' for row in rows if row.failure]
    said = [*remarks(study, rows), GAP, EPSILON, SECONDS.format(where=where)]
    body.append("<h2>How to read it</h2>" + "".join(f"<p>{escape(line)}</p>" for line in said))
    body.append(f"<h2>The study</h2><pre>{escape(study.to_toml())}</pre>")
    return page(f"fedmpi: {title(study)}", body)


def _table(rows: Sequence[Row], cells: Mapping[str, Sequence[str]]) -> str:
    lines = {row.name: [column[k] for column in cells.values()] for k, row in enumerate(rows)}
    return f'<div class="study">{table(list(cells), lines, corner="method")}</div>'


def _picture(folder: Path, rows: Sequence[Row]) -> str:
    path = folder / "picture.svg"
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    drawn = ", ".join(dict.fromkeys(row.label for row in compared(rows)))
    return (
        '<figure class="card"><div class="wide"><a href="picture.svg">'
        f'<img alt="Scores of {escape(drawn)} against privacy, bytes and seconds; the table has the numbers" '
        f'src="data:image/svg+xml;base64,{data}"></a></div>'
        "<figcaption>Rings: no other method is better in both. Each panel about privacy measures another kind of it, "
        "and they cannot be weighed against each other: ε bounds what noise lets through, T/N says how many workers "
        "may collude, and an attack’s success is what this attack got, no bound.</figcaption></figure>"
    )


def _roles(values: Mapping[str, str]) -> str:
    return ", ".join(f"{role} {value}" for role, value in values.items()) or DASH


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "−": "$-$",
    "ε": r"$\varepsilon$",
    "τ": r"$\tau$",
    "σ": r"$\sigma$",
    "²": "$^2$",
    "∞": r"$\infty$",
    "≥": r"$\geq$",
    "–": "--",
    "\u00a0": "~",
}


def escaped(value: str) -> str:
    """For LaTeX."""
    return "".join(_LATEX.get(letter, letter) for letter in value)


def latex(study: Study, rows: Sequence[Row]) -> str:
    """The table as a float that needs no package."""
    cells = {"method": [row.label for row in rows], **columns(rows), "who learns what": [row.learns for row in rows]}
    wide = {"who learns what", "the audit recovered"}
    layout = "".join("p{0.3\\linewidth}" if name in wide else "l" for name in cells)
    lines = [" & ".join(map(escaped, line)) + r" \\" for line in zip(*cells.values(), strict=True)]
    return "\n".join(
        [
            f"% fedmpi {__version__} compare",
            r"\begin{table}",
            r"\centering\small",
            rf"\begin{{tabular}}{{{layout}}}",
            r"\hline",
            " & ".join(map(escaped, cells)) + r" \\",
            r"\hline",
            *lines,
            r"\hline",
            r"\end{tabular}",
            rf"\caption{{{escaped(title(study))}: mean $\pm$ standard deviation over the seeds. {escaped(GAP)}}}",
            r"\end{table}",
            "",
        ]
    )
