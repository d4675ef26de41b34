"""Options that every system has, and one parser for all command lines. Only rank 0 imports this."""

import dataclasses
import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from fedmpi.errors import UsageError
from fedmpi.files import read_file
from fedmpi.machines.encryption import key_file_of
from fedmpi.rules import at_least, positive, printable
from fedmpi.runs.checkpoint import holds_checkpoint
from fedmpi.runs.commandline import read
from fedmpi.runs.flags import command_of, values_of
from fedmpi.runs.own_options import own_options

P = TypeVar("P")

_LARGEST_CONFIG = 1 << 20

_OF_ONE_RUN = (
    "cluster_key",
    "config",
    "dry_run",
    "inject",
    "out",
    "own_rows",
    "record_views",
    "resume",
    "strict_placement",
)


@dataclass(frozen=True)
class RunOptions:
    """What is trained on, and where the results go."""

    dataset: str | None = None
    """A set of `fedmpi data list`, such as digits, mnist or synthetic:m=6000,d=5000,density=0.13, or a file: .npz,
    .csv, .svm. Default: digits (of codedml its classes 4 and 9), of ppadmm synthetic-lasso."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of the data sets. Default: $FEDMPI_DATA, else the cache that `fedmpi data fetch` fills."""
    classes: tuple[str, ...] = ()
    """Train on these classes only, the negative one first. Default: all."""
    max_rows: int | None = None
    """Use only the first N training rows. Default: all."""
    test_fraction: float = 0.2
    """Part of the rows to test on, where a data set has no test part; 0: train on all rows, and measure nothing."""
    label_column: str | None = None
    """Column of the labels or targets: a name or number in a table, an array in a .npz. Default: the last,
    or y."""
    class_weight: Literal["balanced"] | None = None
    """codedml, niss, spn: rows count the more, the rarer their class is among the rows of their owner. Default: all
    count the same."""
    test_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File of the test rows, of the same kind as --dataset. Default: a part of the rows is drawn."""
    categorical: tuple[str, ...] = ()
    """Columns of a table whose numbers are names of categories. Default: none; columns of text always are."""
    impute: Literal["mean", "median", "most_frequent"] | None = None
    """What stands in for missing values. Default: they are refused."""
    statistics: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """What is done to the columns of a table, published by somebody: docs/data.md. Default: what the
    training rows say."""
    own_rows: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """With --schema, not in codedml: the file of a rank's own rows, which no other rank reads; each rank believes its
    own command line. {rank} and {host} in it stand for the rank and its machine. Default: all ranks read --dataset."""
    schema: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """The columns, label and classes of tables that lie apart, of --own-rows: docs/data.md. Default: none."""
    image_shape: tuple[int, ...] = ()
    """Channels, height and width of rows that are flattened images, where their file does not say so. Default: none."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of this run. Default: runs/<system>-<method>-<time>."""
    seed: int = 0
    """Public randomness: splits, synthetic data, initial models, rounding. Never masks, keys or noise."""
    timeout: float = 600.0
    """Seconds that a rank waits for another, at most."""
    evaluate_every: int = 1
    """Iterations or rounds between two evaluations."""
    compare: bool = True
    """codedml, ppadmm: train in the clear too, and print both."""
    record_views: bool = False
    """Write every message that a rank received to views/rank-<r>.npz; with --out or --resume."""
    checkpoint_every: int = 0
    """Iterations or rounds between two checkpoints; 0: only when the run is stopped, by SIGTERM, SIGUSR1 or a
    failure."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Go on with the run of this folder, from its last whole checkpoint; its options hold, but for those of one start
    (--encrypt, --cluster-key, --strict-placement, --inject, --record-views, an own --model, the ranks and hosts), which
    must be given again. auto: with that of --out if it has one, else begin. Default: begin."""
    encrypt: bool = False
    """Encrypt and authenticate every link; with --cluster-key, or as an option of `fedmpi run` itself."""
    cluster_key: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The key to encrypt under, of `fedmpi keygen`: the same on every host. Default: none, links are in the clear."""
    inject: str | None = None
    """codedml: faults for experiments, such as slow=3:0.5s,kill=7@12,lie=4@20,drop=0.01 (rank: what, @ from which
    iteration). Default: none."""
    strict_placement: bool = False
    """Refuse to run where ranks that must not collude share a machine, instead of a warning."""
    dry_run: bool = False
    """Print the roles, and the bytes of a round: train nothing, write nothing."""
    quiet: bool = False
    """Print the closing lines only."""
    json: bool = False
    """Print result.json only."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE.toml")] = None
    """Options from a file, such as the config.toml of another run; those given here win. Default: none."""

    def check_own(self, argv: list[str], model: str = "") -> None:
        """Refuse what every rank must see on its own command line, and which a configuration file says.

        Parameters
        ----------
        argv : list of str
        model : str, optional
            Of the run; one that names code must stand there.

        Raises
        ------
        UsageError
        """
        own = own_options(argv)
        if self.record_views and own.views is None:
            raise UsageError("--record-views must stand on the command line, together with --out")
        if ":" in model and own.model != model:
            raise UsageError(f"--model {model} must stand on the command line, where every rank sees it")

    def load_arguments(self) -> dict[str, Any]:
        """For `fedmpi.data.load`, beside the name of the set and the seed: JSON values, which other ranks are told."""
        return {
            "data_dir": str(self.data_dir) if self.data_dir else None,
            "classes": list(self.classes),
            "max_rows": self.max_rows,
            "test_fraction": self.test_fraction,
            "label_column": self.label_column,
            "test_file": str(self.test_file) if self.test_file else None,
            "categorical": list(self.categorical),
            "impute": self.impute,
            "statistics": str(self.statistics) if self.statistics else None,
            "image_shape": list(self.image_shape),
        }

    def scaled_load_arguments(self) -> dict[str, Any]:
        """The same for systems on whose tables each column is scaled, unless --statistics says what is done to it."""
        given = self.load_arguments()
        return given if given["statistics"] else given | {"scale": "standard"}

    def schema_argument(self) -> dict[str, Any]:
        """The schema of tables that lie apart, for the job; nothing where there is none."""
        if self.schema is None:
            return {}
        from fedmpi.data.schema import Schema

        return {"schema": Schema.read(self.schema).to_json()}

    def __post_init__(self) -> None:
        if self.own_rows is not None and self.schema is None:
            raise UsageError("--own-rows must be given with --schema, got none")
        if self.schema is not None and (self.dataset or self.test_file or self.classes or self.categorical):
            raise UsageError("--schema must be given without --dataset, --test-file, --classes and --categorical")
        at_least(self, evaluate_every=1, checkpoint_every=0, seed=0)
        positive(self, "timeout")
        if self.resume is not None and self.out is not None:
            raise UsageError("--out must not be given with --resume, which goes on in the folder of the run")


def parse(cls: type[P], argv: list[str], prog: str, description: str) -> tuple[P, RunOptions]:
    """Read a system's parameters and the run's options from a command line.

    Parameters
    ----------
    cls : dataclass
        The system's parameters.
    argv : list of str
    prog, description : str
        For --help.

    Raises
    ------
    UsageError
        If there is no such option, a value breaks a rule, or a configuration file has an unknown key.
    SystemExit
        After --help.
    """
    if _value(argv, "--resume") == "auto":
        argv = _resolve_auto(argv)
    path = _value(argv, "--config")
    if path is None and (run := _value(argv, "--resume")) is not None:
        path = str(Path(run) / "config.toml")
        if not Path(path).is_file():
            raise UsageError(f"--resume must name the folder of a run, with its config.toml, got {run}")
    arguments = _arguments(cls, Path(path)) if path else []

    for_help = not {"-h", "--help"}.isdisjoint(argv)
    command = read(
        command_of(cls, RunOptions, for_help=for_help),
        ["--help"] if for_help else arguments + argv,  # of an option given twice the last one wins
        prog,
        description,
    )
    params, options = cls(**values_of(command, cls)), RunOptions(**values_of(command, RunOptions))
    if (options.encrypt or options.cluster_key) and key_file_of(argv) is None:
        kept = f"; {path} is of an encrypted run (--no-encrypt: in the clear)" if path and options.encrypt else ""
        raise UsageError(
            f"--encrypt and --cluster-key must stand on the command line, where every rank sees them{kept}"
        )
    return params, dataclasses.replace(options, encrypt=options.encrypt or options.cluster_key is not None)


def _value(argv: list[str], flag: str) -> str | None:
    for position, argument in enumerate(argv):
        if argument == flag and position + 1 < len(argv):
            return argv[position + 1]
        if argument.startswith(f"{flag}="):
            return argument.removeprefix(f"{flag}=")
    return None


def _without(argv: list[str], flag: str) -> list[str]:
    """A command line without a flag and its value."""
    left, skip = [], False
    for argument in argv:
        if not skip and argument != flag and not argument.startswith(f"{flag}="):
            left.append(argument)
        skip = argument == flag
    return left


def _resolve_auto(argv: list[str]) -> list[str]:
    """What --resume auto stands for: the same command goes on with a run, however often it is stopped."""
    out = _value(argv, "--out")
    if out is None:
        raise UsageError("--resume auto must be given with --out, where it looks for the run, got none")
    argv, run = _without(argv, "--resume"), Path(out)
    if holds_checkpoint(run):
        return [*_without(argv, "--out"), "--resume", out]
    if (run / "metrics.jsonl").exists() and not (run / "result.json").exists():
        # a run that was stopped before its first checkpoint begins again
        for name in ("config.toml", "metrics.jsonl"):
            (run / name).unlink(missing_ok=True)
    return argv


def _arguments(cls: type[P], path: Path) -> list[str]:
    """The command line that says what a configuration file says."""
    try:
        values = tomllib.loads(read_file(path, _LARGEST_CONFIG).decode())
    except OSError as error:
        raise UsageError(f"--config must be a readable file, got {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits is no TOMLDecodeError
        raise UsageError(f"--config must be TOML, got {path}: {error}") from None
    known = {field.name for kind in (cls, RunOptions) for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    arguments = []
    for key, value in values.items():
        if key not in known - {"config", "resume"}:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"the keys of {path} must be options, got {key}{hint}")
        if key == "out":
            raise UsageError(f"--out must stand on the command line, got it in {path}")
        words = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]
        if wrong := [one for one in words if one.startswith("--")]:
            raise UsageError(f"{key} in {path} must be a value, got {printable(wrong[0], 80)}")
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{flag}" if value else f"--no-{flag}")
        elif value != []:
            arguments += [f"--{flag}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return arguments


def to_toml(*options: Any) -> str:
    """All options, fully resolved, as a file that --config reads; without those that belong to one run only."""
    import tomli_w

    values = {}
    for option in options:
        for name, value in dataclasses.asdict(option).items():
            if value is not None and name not in _OF_ONE_RUN:
                values[name] = str(value) if isinstance(value, Path) else value
    return tomli_w.dumps(values)
