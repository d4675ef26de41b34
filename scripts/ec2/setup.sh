#!/bin/sh
# Run by push on every instance, in the folder with the source archive and constraints.txt: installs fedmpi beside them.
set -eu
python=${FEDMPI_PYTHON:-python3.11}
[ -d venv ] || "$python" -m venv venv
venv/bin/pip install -q --disable-pip-version-check -c constraints.txt "$(echo fedmpi-*.tar.gz)[mpi]"
