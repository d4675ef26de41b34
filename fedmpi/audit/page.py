"""The report of an audit as one HTML page: the table by method, with its pictures in the page itself."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from fedmpi.audit.finding import PARTLY, Finding
from fedmpi.pages.html import Markup, card, facts, image, page, table

_BAD = ("DOES NOT SURVIVE", "THE CONTROL FAILED", "broken", PARTLY)
_HEAD = ("saw", "attack", "to get", "successes", "median", "ε printed", "ε is at least", "claim", "verdict")

INTRODUCTION = (
    "Adversaries use what their ranks received, as recorded with --record-views, and what is public. A judge who has "
    "the data says how good they were. Each line counts attempts (clients, coalitions or units, over all seeds). It "
    "counts as broken where guessing would have as many successes in fewer than 1 of 100 audits. That a method "
    "“survives this attack” is no proof that it is safe. Where a run prints an ε, the column beside it has a lower "
    "bound on the true one, from guesses which of two inputs was there, with a confidence of 99 %: a bound above the "
    "printed ε refutes it, and one below it proves nothing. The more attempts, the larger the ε that they can show."
)


def html(findings: Sequence[Finding], pictures: Mapping[int, str], how: str, folder: Path) -> str:
    """The page.

    Parameters
    ----------
    findings : sequence of Finding
    pictures : mapping
        Number of a finding → the file of its picture in the folder.
    how : str
        The command, and what was run.
    folder : Path
        Where the pictures are.
    """
    methods: dict[str, list[int]] = {}
    for k, one in enumerate(findings):
        methods.setdefault(f"{one.system}: {one.method}", []).append(k)
    body = [
        "<h1>Privacy audit</h1>",
        f'<p>{escape(INTRODUCTION)}</p><p class="soft">{escape(how.replace("`", ""))}</p>',
        "<h2>At a glance</h2>",
        f'<div class="card">{facts({name: _best([findings[k] for k in own]) for name, own in methods.items()})}'
        '<p class="note">The share of attempts in which the best attack on each secret succeeded. Red is what a '
        "paper says cannot happen, or a control that failed.</p></div>",
    ]
    if any(one.curves for one in findings):
        roc = image(folder / "pictures" / "membership.png", "true over false positives of membership inference")
        body.append(card("Membership by loss", roc))
    for name, own in methods.items():
        body.append(f"<h2>{escape(name)}</h2>")
        body.append(f'<div class="card">{_table([findings[k] for k in own])}</div>')
        for k in own:
            if findings[k].images:
                title = f"{findings[k].adversary}: {findings[k].attack}"
                body.append(card(title, image(folder / pictures[k], "what was hidden, seen and found")))
    return page("fedmpi: privacy audit", body)


def _best(findings: Sequence[Finding]) -> Markup:
    """The best attack of each adversary on each secret, on one line."""
    best: dict[str, Finding] = {}
    for one in findings:
        name = f"{one.adversary} → {one.target}"
        known = best.get(name)
        if known is None or one.part > known.part:
            best[name] = one
    chips = (
        f"<span{' class=bad' * (one.verdict in _BAD)}>{escape(name)} {one.part:.0%}</span>"
        for name, one in best.items()
    )
    return Markup(f'<div class="chips">{" ".join(chips)}</div>')


def _table(findings: Sequence[Finding]) -> str:
    rows = []
    for one in findings:
        verdict = Markup(f'<span class="bad">{one.verdict}</span>') if one.verdict in _BAD else one.verdict
        rows.append((one.adversary, [*(one.cells[name] for name in _HEAD[:-1]), verdict]))
    return table(_HEAD, rows, corner="adversary")
