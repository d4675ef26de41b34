"""What the pages of README and docs hold: links, programs and commands.

A test runs every line of a block marked `sh`, page by page, in a folder of its own, where the page's `python` blocks
lie under the name in their first line. What would take long or can't be run here (`NOT_HERE`) is parsed, so that a
flag which does not exist is found in any case. Blocks without a language are output.
"""

import re
import shlex
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[2]

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "fedmpi/*/README.md", "docker/*.md", "examples/*.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"
)

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

NOT_HERE = (
    "git clone",
    "cd fedmpi",
    "pip install",  # tests/product/test_wheels.py
    "python3 -m venv",
    "pytest",
    ".ci/run",
    "docker ",
    "ssh-keygen",
    "scripts/ec2/",  # tests/machines/ec2
    "launch/virtual-cluster",  # tests/machines/cluster
    "fedmpi reproduce",  # minutes to days: tests/experiments/test_reproduce*
    "fedmpi compare",  # minutes: tests/product/test_compare.py
    "fedmpi audit",  # tests/privacy/test_audit.py
    "fedmpi bench",
    "fedmpi data fetch",  # tests/data/test_data_fetch.py
    "fedmpi keygen ~",
    "fedmpi run mysystem",  # tests/product/test_new.py
    "fedmpi report runs/mysystem",
    "python -m pytest mysystem",
    "python scripts/reference.py",  # tests/docs/test_docs.py
)
"""Commands that other tests run, or that belong on another machine."""

HERE = ("digits", "synthetic", "diabetes", "patients.csv")
"""Data sets that need no download."""


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: Path
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Lines of a shell block, continued ones joined, without comments."""
        text = self.text.replace("\\\n", " ")
        if text.count("'") % 2 or "sh -c '" in text:  # a quoted script in it
            return [text]
        lines = (re.sub(r"\s+#.*", "", line).strip() for line in text.splitlines())
        return [line for line in lines if line]

    @property
    def file_name(self) -> str | None:
        """Of a program that other blocks use."""
        found = re.match(r"# (\w+\.py)\n", self.text)
        return found[1] if found else None


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
    return [Block(page, language, text) for language, text in BLOCK.findall(page.read_text())]


def transcripts(page: Path) -> list[tuple[str, str]]:
    """Shell blocks behind which stands what they print: (commands, output)."""
    return [
        ("\n".join(shown.commands), output.text)
        for shown, output in pairwise(blocks(page))
        if shown.language == "sh" and not output.language
    ]


def command_lines(page: Path) -> list[str]:
    """Every fedmpi command line that a page shows: in shell blocks, and after `$`."""
    found = [line for block in blocks(page) if block.language == "sh" for line in block.commands]
    found += re.findall(r"^\$ (.*)$", page.read_text(), re.MULTILINE)
    starts = [(line, re.search(r"(?<!/)\bfedmpi (?!-)|\bpython -m fedmpi\.", line)) for line in found]
    return [line[start.start() :].split("\n")[0] for line, start in starts if start and "docker" not in line]


def mentions(page: Path) -> list[str]:
    """Every command that stands within the text, perhaps a part of one only."""
    return re.findall(r"`(fedmpi (?!doctor:)[^`\n]+)`", BLOCK.sub("", page.read_text()))


def runnable(command: str) -> str | None:
    """A command as a test runs it, with one round where none are named and few ranks; None where it can't run here."""
    if command.startswith(NOT_HERE) or "--hostfile" in command or "--cluster-key" in command:
        return None
    words = shlex.split(command)
    if words[:2] in (["fedmpi", "run"], ["fedmpi", "attack"]):
        system = words[2] if words[1] == "run" else "attack"
    elif words[0] == "mpirun" and "-m" in words:
        system = words[words.index("-m") + 1].removeprefix("fedmpi.")
    else:
        return command
    data = words[words.index("--dataset") + 1] if "--dataset" in words else "digits"
    ranks = int(words[words.index("-n") + 1]) if "-n" in words else 1
    if ranks > (21 if system == "codedml" else 6) or not data.startswith(HERE):
        return None
    text = " ".join(word for word in command.split() if word != "…")
    few = ranks
    if system == "codedml" and not {"-K", "--method"} & {*words}:  # as many blocks as the workers allow
        few = 5
    elif "--clients" in words:  # clients live on however many ranks there are; each of these loads torch
        few = 3 if system == "niss" else 2
    if few < ranks:
        text = text.replace(f"-n {ranks}", f"-n {few}", 1)
    return text if system in ("codedml", "copml", "ppadmm", "attack") or "--rounds" in words else f"{text} --rounds 1"


def anchors(page: Path) -> set[str]:
    """What a link to a heading of this page may end with."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text()), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        number = next(k for k in range(100) if (f"{slug}-{k}" if k else slug) not in found)
        found.add(f"{slug}-{number}" if number else slug)
    return found


def links(page: Path) -> list[str]:
    """Targets of all links and pictures that are no web addresses."""
    text = re.sub(r"`[^`\n]*`", "", BLOCK.sub("", page.read_text()))
    found = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text)
    return [target for target in found if "://" not in target]


def broken(page: Path, target: str) -> bool:
    """Whether a link leads nowhere."""
    name, _, anchor = target.partition("#")
    path = (page.parent / name).resolve() if name else page
    return not path.exists() or (bool(anchor) and anchor not in anchors(path))
