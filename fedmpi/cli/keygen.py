"""`keygen`: a key for encrypted links."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro


@dataclasses.dataclass(frozen=True)
class Keygen:
    """Make a cluster key, for --cluster-key FILE: who holds it can take part in a job."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """A new file, which its owner alone may read."""

    def __call__(self, options: list[str]) -> int:
        """Make it."""
        from fedmpi.crypto.keys import create_key_file

        create_key_file(self.file)
        print(f"written to {self.file}, mode 0600")
        return 0
