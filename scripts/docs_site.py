"""A hook of MkDocs: pages that lie beside the code become pages of the site, and links between all of them stay right.

The files are written for whoever reads them in the repository. What a link names there and the site does not have, such
as a script, is shown as its name.
"""

import importlib.util
import os
import posixpath
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BESIDE = (
    *("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"),
    *("tests/README.md", "docker/README.md", "examples/README.md"),
)

_BLOCK = re.compile(r"(^```.*?^```$|`[^`\n]*`)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def place(path: Path) -> str:
    """Where the site has a file of the repository."""
    name = path.relative_to(ROOT).as_posix()
    return {"README.md": "about.md"}.get(name, name.removeprefix("docs/"))


def source(uri: str) -> Path:
    """Where the repository has a page of the site."""
    if uri == "about.md":
        return ROOT / "README.md"
    return ROOT / "docs" / uri if (ROOT / "docs" / uri).exists() else ROOT / uri


def on_files(files: Any, config: Any) -> Any:
    """Add the pages beside the code."""
    from mkdocs.structure.files import File

    for path in [*(ROOT / name for name in BESIDE), *sorted(ROOT.glob("fedmpi/*/README.md"))]:
        if path.exists():
            files.append(File.generated(config, place(path), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Let each link lead to where the site has what it names."""
    here = source(page.file.src_uri)

    def link(found: re.Match[str]) -> str:
        image, text, target = found.groups()
        name, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:") or not name:
            return found[0]
        path = Path(os.path.normpath(here.parent / name))
        if files.get_file_from_path(place(path)) is None:
            return text
        way = posixpath.relpath(place(path), posixpath.dirname(page.file.src_uri) or ".")
        return f"{image}[{text}]({way}{'#' + anchor if anchor else ''})"

    parts = _BLOCK.split(markdown)
    # Links may have code in their text, and code may look like a link: code is put away, and back when links are done.
    kept = parts[1::2]
    text = "".join(part if k % 2 == 0 else f"\x00{k // 2}\x00" for k, part in enumerate(parts))
    text = _LINK.sub(link, text)
    return re.sub(r"\x00(\d+)\x00", lambda number: kept[int(number[1])], text)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """The page of the Python interface leads to the reference, which the repository does not have."""
    if page.file.src_uri != "api.md" or not _can_refer():
        return html
    return html + '<p>On this site: <a href="../reference/index.html">the reference</a>.</p>'


def on_post_build(config: Any) -> None:
    """Write the reference, where the packages are installed whose names it documents; it takes longer than all else."""
    if _can_refer() and "WITHOUT_REFERENCE" not in os.environ:
        command = [sys.executable, str(ROOT / "scripts" / "reference.py"), str(Path(config["site_dir"]) / "reference")]
        subprocess.run(command, check=True, cwd=ROOT)


def _can_refer() -> bool:
    return all(importlib.util.find_spec(name) for name in ("pdoc", "torch", "fedmpi"))
