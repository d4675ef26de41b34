"""Flags that several commands have; where one may be left out, its help says what then holds, not None."""

from pathlib import Path
from typing import Annotated

import tyro

Folder = Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")]
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
Text = Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")]
Json = Annotated[bool, tyro.conf.arg(help="Print JSON only.")]
Loggers = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME …", help_behavior_hint="")]
