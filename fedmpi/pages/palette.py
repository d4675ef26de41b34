"""Twelve colours and twelve marks, the same on pages and in PNG files.

The colours stay apart for the colour-blind too, and have a contrast of 3 with the card that they are drawn on
(`tests/report/test_colours.py` measures both). Twelve greys cannot be told apart: the marks are for that.
"""

LIGHT = (
    *("#0072b2", "#d55e00", "#006644", "#7777ff", "#aa8855", "#442266"),
    *("#669988", "#883300", "#002299", "#776688", "#552211", "#004444"),
)
DARK = (
    *("#5cb3ee", "#ff9a57", "#22ffcc", "#aa66aa", "#ffdd44", "#5577ff"),
    *("#bbee99", "#997744", "#33eeff", "#cc99bb", "#448877", "#55bb88"),
)
COUNT = len(LIGHT)

MARKS = (
    ("o", "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z"),
    ("s", "M-2.7-2.7h5.4v5.4h-5.4z"),
    ("^", "M0-3.6L3.5 2.6H-3.5z"),
    ("D", "M0-3.9L3.9 0L0 3.9L-3.9 0z"),
    ("v", "M0 3.6L3.5-2.6H-3.5z"),
    ("P", "M-1.2-3.6h2.4v2.4h2.4v2.4h-2.4v2.4h-2.4v-2.4h-2.4v-2.4h2.4z"),
    ("X", "M-3.4-1.7L-1.7-3.4L0-1.7L1.7-3.4L3.4-1.7L1.7 0L3.4 1.7L1.7 3.4L0 1.7L-1.7 3.4L-3.4 1.7L-1.7 0z"),
    ("*", "M0-4.2L1.1-1.4L4-1.3L1.7 0.5L2.5 3.4L0 1.7L-2.5 3.4L-1.7 0.5L-4-1.3L-1.1-1.4z"),
    ("<", "M-3.6 0L2.6-3.5V3.5z"),
    (">", "M3.6 0L-2.6-3.5V3.5z"),
    ("H", "M-1.9-3.3h3.8L3.8 0L1.9 3.3h-3.8L-3.8 0z"),
    ("d", "M0-4.2L2.3 0L0 4.2L-2.3 0z"),
)
"""Of matplotlib, and the same as a path around the origin."""


def style(number: int) -> tuple[int, int]:
    """Numbers of the colour and the mark: of 144 runs no two have both."""
    return number % COUNT, (number + number // COUNT) % COUNT


def css() -> str:
    """The colours as variables --c0 to --c11, and a class for each that sets --c."""

    def names(colors: tuple[str, ...]) -> str:
        return " ".join(f"--c{k}: {color};" for k, color in enumerate(colors))

    classes = " ".join(f".s{k} {{ --c: var(--c{k}); }}" for k in range(COUNT))
    return (
        f":root {{ {names(LIGHT)} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {names(DARK)} }} }}\n"
        f"@media print {{ :root {{ {names(LIGHT)} }} }}\n{classes}\n"
    )
