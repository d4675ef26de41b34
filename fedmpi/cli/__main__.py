"""``python -m fedmpi.cli``: the `fedmpi` command."""

import sys

from fedmpi.cli import main

sys.exit(main())
