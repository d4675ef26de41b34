"""The reference of the Python interface, as HTML: ``python scripts/reference.py FOLDER``.

pdoc looks for the names of a module in the module itself, and fedmpi imports many of them when they are first used. So
each public name is asked for before pdoc comes.
"""

import sys
from importlib import import_module
from pathlib import Path

MODULES = (
    *("fedmpi", "fedmpi.api", "fedmpi.study", "fedmpi.codedml", "fedmpi.ppadmm", "fedmpi.learn"),
    *("fedmpi.core", "fedmpi.net", "fedmpi.mpc", "fedmpi.data", "fedmpi.errors"),
)


def write(folder: Path) -> None:
    """index.html, and a page for each module."""
    import pdoc

    for name in MODULES:
        module = import_module(name)
        for public in getattr(module, "__all__", ()):
            vars(module).setdefault(public, getattr(module, public))
    pdoc.render.configure(docformat="numpy")
    pdoc.pdoc(*MODULES, output_directory=folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
