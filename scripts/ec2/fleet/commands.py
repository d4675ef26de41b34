"""The command lines."""

import argparse
import json
import re
import sys
import urllib.request
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError, WaiterError

from fleet import Failure, jobs
from fleet.cloud import EXPIRES_TAG, Cloud
from fleet.creating import create as make
from fleet.jobs import Fleet
from fleet.plan import Plan, check_name, parse_address, parse_ttl
from fleet.remote import Remote

WHO_AM_I = "https://checkip.amazonaws.com"
LEFT = 4
"""Exit code of destroy where something is left."""

ADVICE = {
    "AuthFailure": "check the credentials",
    "ExpiredToken": "renew the credentials",
    "InvalidClientTokenId": "check the credentials",
    "UnauthorizedOperation": "the credentials must allow this",
    "VcpuLimitExceeded": "ask for a higher limit, or take fewer or smaller instances",
    "MaxSpotInstanceCountExceeded": "ask for a higher limit, or take fewer instances",
    "RequestLimitExceeded": "EC2 is asked too often: repeat this later",
}

Command = Callable[[Sequence[str]], int]


def one_line(command: Command) -> Command:
    """Turn every expected error into one line and an exit code."""

    @wraps(command)
    def run(argv: Sequence[str]) -> int:
        try:
            return command(argv)
        except Failure as failure:
            return complain(str(failure), failure.exit_code)
        except NoCredentialsError:
            return complain("AWS credentials must be there, got none: aws configure, or AWS_ACCESS_KEY_ID and …", 2)
        except NoRegionError:
            return complain("--region must be given, or AWS_DEFAULT_REGION be set, got none", 2)
        except ClientError as error:
            code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
            advice = f": {ADVICE[code]}" if code in ADVICE else ""
            return complain(f"{error.operation_name} must succeed, got {code} ({message.strip()}){advice}", 4)
        except WaiterError as error:
            return complain(f"the instances must get there, got: {error}", 4)
        except BotoCoreError as error:
            return complain(f"AWS must answer, got: {' '.join(str(error).split())}", 4)
        except KeyboardInterrupt:
            return complain("stopped", 130)

    return run


def complain(text: str, code: int) -> int:
    """Print the line of an error; the exit code."""
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)  # hosts said some of it
    print(f"ec2: error: {line}", file=sys.stderr)
    return code


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """The options that all commands have."""
    made = argparse.ArgumentParser(prog=f"scripts/ec2/{name}", description=description, allow_abbrev=False)
    made.add_argument("--name", default="fedmpi", help="of the cluster (default: fedmpi)")
    made.add_argument("--region", help="default: $AWS_DEFAULT_REGION, or that of your profile")
    made.add_argument(
        "--keys", type=Path, default=Path("~/.fedmpi/ec2"), help="folder of keys (default: ~/.fedmpi/ec2)"
    )
    return made


def reaching(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The options of commands that use ssh."""
    made.add_argument("--user", default="ec2-user", help="there (default: ec2-user)")
    made.add_argument("--private", action="store_true", help="use the private addresses, from within the network")
    made.add_argument("--ssh-config", type=Path, help="for a way through another host")
    made.add_argument("--folder", default="fedmpi", help="there (default: fedmpi in the home directory)")
    return made


def cloud_of(options: argparse.Namespace) -> Cloud:
    """The cluster that the options name."""
    return Cloud(boto3.Session(region_name=options.region), check_name(options.name))


def keys_of(options: argparse.Namespace) -> Path:
    """Its folder on this machine."""
    return Path(options.keys).expanduser() / check_name(options.name)


def fleet_of(options: argparse.Namespace) -> Fleet:
    """Its instances, all of them running."""
    for flag, pattern in (("user", r"\w[\w.-]*"), ("folder", r"[\w~/][\w~/.-]*")):
        if not re.fullmatch(pattern, value := getattr(options, flag), re.ASCII):
            raise Failure(f"--{flag} must be letters, digits and ._-{'/~' if flag == 'folder' else ''}, got {value!r}")
    instances, keys = cloud_of(options).whole(), keys_of(options)
    if not (keys / "key").exists():
        raise Failure(f"the cluster's key must be in {keys}, got none: use the machine that created it")
    addresses = [i.private_address if options.private else i.public_address for i in instances]
    if not all(addresses):
        raise Failure("every instance must have a public address, or use --private, got one without")
    remotes = [Remote(address, options.user, keys, options.ssh_config) for address in addresses]
    return Fleet(instances, remotes, options.folder)


@one_line
def create(argv: Sequence[str]) -> int:
    """Make a cluster, or what is missing of it."""
    made = parser("create", "Make a cluster, or what is missing of it. Repeating it changes nothing.")
    made.add_argument("-n", type=int, required=True, help="instances; the first is the head, where rank 0 runs")
    made.add_argument("--type", required=True, help="such as c6i.xlarge")
    made.add_argument("--ttl", required=True, help="the instances end themselves after so long: 4h, 90m")
    made.add_argument("--spot", action="store_true", help="cheaper, and may be taken away at any time")
    made.add_argument("--placement-group", action="store_true", help="machines near one another")
    made.add_argument("--efa", action="store_true", help="with an Elastic Fabric Adapter, which your MPI must know")
    made.add_argument("--address", help="the one address that may use ssh (default: this machine's)")
    made.add_argument("--subnet", help="default: the default subnet of a zone with room")
    made.add_argument("--image", help="an AMI (default: the newest Amazon Linux 2023)")
    made.add_argument("--dry-run", action="store_true", help="show the plan and the price, and do nothing")
    options = made.parse_args(argv)
    ttl = parse_ttl(options.ttl)
    plan = Plan(
        options.name,
        options.n,
        options.type,
        ttl,
        spot=options.spot,
        placement_group=options.placement_group,
        efa=options.efa,
        address=parse_address(options.address or own_address()),
        subnet=options.subnet,
        image=options.image,
    )
    make(cloud_of(options), plan, keys_of(options), say, dry_run=options.dry_run)
    return 0


def own_address() -> str:
    """The address of this machine, as the internet sees it."""
    try:
        with urllib.request.urlopen(WHO_AM_I, timeout=10) as answer:
            return str(answer.read(100).decode())
    except OSError as error:
        raise Failure(f"{WHO_AM_I} must tell this machine's address, or use --address, got {error}") from None


@one_line
def status(argv: Sequence[str]) -> int:
    """Show what there is."""
    made = parser("status", "Show what there is of a cluster.")
    made.add_argument("--json", action="store_true", help="the instances only, as JSON")
    options = made.parse_args(argv)
    cloud = cloud_of(options)
    instances = cloud.instances()
    if options.json:
        print(json.dumps([as_json(instance, head=not position) for position, instance in enumerate(instances)]))
        return 0
    for position, instance in enumerate(instances):
        role = "head  " if position == 0 else "worker"
        expires = instance.tag(EXPIRES_TAG) or "never"
        addresses = f"{instance.public_address or '-'} {instance.private_address}"
        print(f"{role} {instance.id} {instance.type} {instance.state} {instance.zone} {addresses} until {expires}")
    others = [part for part in cloud.left() if not part.startswith("instance")]
    print("; ".join(others) if instances or others else f"there is no cluster {options.name} in {cloud.region}")
    return 0


def as_json(instance: Any, *, head: bool) -> dict[str, Any]:
    """One instance for programs."""
    shown = ("id", "state", "type", "zone", "private_address", "public_address")
    return {"head": head, **{key: getattr(instance, key) for key in shown}, "expires": instance.tag(EXPIRES_TAG)}


@one_line
def push(argv: Sequence[str]) -> int:
    """Install fedmpi."""
    made = reaching(parser("push", "Install this project's fedmpi on every instance."))
    made.add_argument("--data", type=Path, help="folder of data sets for the head, as fedmpi data fetch makes it")
    made.add_argument("--sets", nargs="+", default=[""], metavar="NAME", help="those of --data to copy (default: all)")
    made.add_argument("--slots", type=int, default=1, help="ranks per instance (default: 1)")
    made.add_argument(
        "--setup", type=Path, default=jobs.PROJECT / "scripts/ec2/setup.sh", help="the script that installs"
    )
    made.add_argument(
        "--run", type=Path, action="append", default=[], metavar="DIR", help="a run that the head is to go on with"
    )
    made.add_argument("--wait", type=float, default=300.0, help="seconds until ssh must work (default: 300)")
    options = made.parse_args(argv)
    fleet = fleet_of(options)
    jobs.push(
        fleet,
        keys_of(options),
        say,
        setup=options.setup,
        data=options.data,
        sets=options.sets,
        slots=options.slots,
        wait=options.wait,
        runs=options.run,
    )
    return 0


@one_line
def run(argv: Sequence[str]) -> int:
    """Run a system on all instances."""
    made = reaching(parser("run", "Run a system on all instances: run -- codedml --dataset mnist --classes 4 9"))
    made.add_argument("-n", type=int, help="ranks (default: one per instance)")
    made.add_argument("--interface", help="the network between the hosts, as for fedmpi run")
    made.add_argument(
        "--attach", nargs="?", const="", metavar="RUN", help="follow a run that goes on (default: the last)"
    )
    made.add_argument("--to", type=Path, default=Path(), help="where runs/ goes if EC2 takes the head (default: here)")
    made.add_argument("system", nargs="?")
    own, system_options = split(argv)
    options = made.parse_args(own)
    fleet = fleet_of(options)
    if options.attach is not None:
        if not re.fullmatch(r"[\d-]*", options.attach):
            raise Failure(f"--attach must be the name of a run in jobs/, got {options.attach!r}")
        return followed(fleet, options.attach or jobs.newest_job(fleet), options.to)
    system = options.system or (system_options.pop(0) if system_options else None)
    if system is None:
        raise Failure("a system must be named, as in run -- codedml --dataset digits, got none")
    job = jobs.start(fleet, system, options.n or len(fleet.instances), options.interface, system_options)
    return followed(fleet, job, options.to)


def followed(fleet: Fleet, job: str, to: Path) -> int:
    """Print what a run prints, until its end; its exit code. If EC2 takes the head away, its files are saved."""
    code = jobs.follow(fleet, job, say)
    if code and (notice := jobs.notice_of(fleet, job)):
        say(f"EC2 takes the head away: {notice}")
        jobs.fetch(fleet, to)
        say(f"runs and logs are in {to.resolve()}; go on: create, push --run DIR, run -- … --resume runs/…")
    return code


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before -- and behind it."""
    at = list(argv).index("--") if "--" in argv else len(argv)
    return list(argv[:at]), list(argv[at + 1 :])


@one_line
def fetch(argv: Sequence[str]) -> int:
    """Copy the results here."""
    made = reaching(parser("fetch", "Copy all run folders and logs from the head."))
    made.add_argument("--to", type=Path, default=Path(), help="default: this folder; runs/ is made in it")
    options = made.parse_args(argv)
    paths = jobs.fetch(fleet_of(options), options.to)
    say(f"{len(paths)} files fetched to {options.to.resolve()}")
    return 0


@one_line
def destroy(argv: Sequence[str]) -> int:
    """Take everything down."""
    options = parser("destroy", "Terminate the instances and delete all else; repeat it as you like.").parse_args(argv)
    cloud = cloud_of(options)
    try:
        for line in cloud.destroy():
            say(line)
    finally:
        left = cloud.left()
        for line in left:
            say(f"left: {line}")
    if left:
        return LEFT
    jobs.clean_up(keys_of(options))
    say(f"nothing is left of cluster {options.name} in {cloud.region}")
    return 0
