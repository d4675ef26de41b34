"""Figure 3 of the CodedPrivateML paper: all its runs on one cluster, which is taken down in any case."""

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path

from fleet import Failure, commands
from fleet.commands import cloud_of, one_line, parser, reaching, say
from fleet.plan import on_demand_price, parse_ttl, spot_price

LATENCY_SECONDS = 0.5e-3
BANDWIDTH_BYTES = 1e9 / 8
SETUP_SECONDS = 420.0
"""Until the instances run, and fedmpi is installed on them."""
START_SECONDS = 15.0
"""Of each run: ssh, mpirun, and reading the data."""


@one_line
def main(argv: Sequence[str]) -> int:
    """Create, push, run everything, fetch, and destroy."""
    made = reaching(parser("run_codedml_figure3", "All runs of Figure 3, N = 10 to 50, with the real CIFAR-10."))
    made.add_argument("--type", default="c6i.xlarge", help="default: c6i.xlarge")
    made.add_argument("--ttl", default="3h", help="default: 3h")
    made.add_argument("--spot", action="store_true")
    made.add_argument("--placement-group", action="store_true")
    made.add_argument("--address", help="the one address that may use ssh (default: this machine's)")
    made.add_argument("--data", type=Path, required=True, help="folder with cifar10/, as fedmpi data fetch makes it")
    made.add_argument("--to", type=Path, default=Path("runs/figure3-ec2"), help="default: runs/figure3-ec2")
    made.add_argument("--dry-run", action="store_true", help="the plan, the time and the price, and nothing else")
    options = made.parse_args(argv)
    if not (options.data / "cifar10").is_dir():
        raise Failure(f"--data must hold cifar10/, got {options.data}: fedmpi data fetch cifar10")
    from fedmpi.reproduce.codedml import FULL, figure3_runs

    runs = figure3_runs(FULL)
    forecast(options, len(runs))
    shared = ["--name", options.name, "--keys", str(options.keys)]
    shared += ["--region", options.region] if options.region else []
    create = ["-n", str(max(FULL.workers) + 1), "--type", options.type, "--ttl", options.ttl, *shared]
    create += [f"--{flag}" for flag in ("spot", "placement-group", "dry-run") if vars(options)[flag.replace("-", "_")]]
    create += ["--address", options.address] if options.address else []
    if (code := commands.create(create)) or options.dry_run:
        return code
    ssh = [*shared, "--user", options.user, "--folder", options.folder, *(["--private"] if options.private else [])]
    ssh += ["--ssh-config", str(options.ssh_config)] if options.ssh_config else []
    try:
        code = commands.push([*ssh, "--data", str(options.data), "--sets", "cifar10"])
        for number, (name, (workers, own)) in enumerate(runs.items(), 1):
            if code:
                break
            say(f"[{number}/{len(runs)}] {name}")
            out = ["--quiet", "--out", f"runs/{name}"]
            code = commands.run([*ssh, "-n", str(workers + 1), "--", "codedml", *own, *out])
        with contextlib.suppress(Exception):  # what is there is worth having, whatever went wrong
            commands.fetch([*ssh, "--to", str(options.to)])
    finally:
        left = commands.destroy(shared)
    if not (code or left):
        say(f"fedmpi reproduce codedml --from {options.to / 'runs'}")
    return code or left


def forecast(options: argparse.Namespace, runs: int) -> None:
    """Print the time and the price to be expected, by the cost model."""
    from fedmpi.bench.projection import PROTOCOLS, project
    from fedmpi.bench.rates import calibrate
    from fedmpi.bench.steps import Machines
    from fedmpi.reproduce.codedml.settings import CIFAR10, FULL

    rates, machines = calibrate(), Machines(BANDWIDTH_BYTES, LATENCY_SECONDS, 1.0)
    points = [(protocol, workers) for workers in FULL.workers for protocol in PROTOCOLS]
    training = sum(sum(project(p, n, CIFAR10.size, machines, rates).seconds.values()) for p, n in points)
    seconds = SETUP_SECONDS + START_SECONDS * runs + training
    cloud = cloud_of(options)
    price = (
        spot_price(cloud.ec2, options.type)
        if options.spot
        else on_demand_price(cloud.session, cloud.region, options.type)
    )
    cost = "unknown" if price is None else f"{price * (max(FULL.workers) + 1) * seconds / 3600:.2f} USD"
    say(f"{runs} runs, about {seconds / 60:.0f} minutes with what is around them; price about {cost}")
    parse_ttl(options.ttl)
