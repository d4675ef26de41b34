"""Runs as jobs of Slurm: one is submitted, waited for, and cancelled where it is no longer wanted."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

_SUBMIT = """\
folder=$1
options=(--parsable --wait --job-name=fedmpi --ntasks="$2" --output="$folder/slurm.out")
sbatch "${options[@]}" --wrap="$3" > "$folder/slurm.job" &
waiting=$!
trap 'scancel "$(cut -d ";" -f 1 "$folder/slurm.job")"; kill "$waiting"' TERM INT
wait "$waiting"
code=$?
cat "$folder/slurm.out" 2> /dev/null
exit "$code"
"""

_JOB = """\
hosts=$(mktemp) && {fedmpi} hostfile --slurm > "$hosts" && \\
{fedmpi} run {system} -n {ranks} --hostfile "$hosts" -- {options}
code=$?
rm -f "$hosts"
exit "$code"
"""


def submission(folder: Path, system: str, ranks: int, options: Sequence[str]) -> list[str]:
    """The command that submits a run and waits for its end, with what it printed and its exit code.

    What sbatch needs to know besides (partition, account, time limit) it reads from its own variables, such as
    SBATCH_PARTITION.

    Parameters
    ----------
    folder : Path
        Of the run; what the job prints goes there.
    system : str
    ranks : int
        Tasks of the job.
    options : sequence of str
        Of the system.
    """
    fedmpi = shlex.join([sys.executable, "-m", "fedmpi.cli"])
    job = _JOB.format(fedmpi=fedmpi, system=shlex.quote(system), ranks=ranks, options=shlex.join(options))
    return ["bash", "-c", _SUBMIT, "fedmpi", str(folder), str(ranks), job]
