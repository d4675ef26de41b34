"""Making a cluster, or what is missing of it."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from botocore.exceptions import ClientError

from fleet import Failure
from fleet.cloud import NO_CAPACITY, Cloud, Instance
from fleet.plan import Plan, describe, on_demand_price, spot_price

Say = Callable[[str], None]


def create(cloud: Cloud, plan: Plan, folder: Path, say: Say, *, dry_run: bool = False) -> None:
    """Make the cluster as planned; what is there already is kept.

    Parameters
    ----------
    folder : Path
        Of the cluster's key on this machine.
    say : callable
        Prints a line.
    dry_run : bool
        Show the plan and its price, and change nothing.

    Raises
    ------
    Failure
        If it can't be made; then nothing is left of it, unless instances had been running.
    """
    present = cloud.instances()
    check_present(plan, present, folder)
    if plan.efa and not cloud.facts(plan.type)["NetworkInfo"].get("EfaSupported"):
        raise Failure(f"--efa must be used with a type that has an Elastic Fabric Adapter, got {plan.type}")
    image = plan.image or cloud.image(plan.type)
    price = spot_price(cloud.ec2, plan.type) if plan.spot else on_demand_price(cloud.session, cloud.region, plan.type)
    subnets = subnets_of(cloud, plan, present)
    for line in describe(plan, cloud.region, image, len(present), price):
        say(line)
    if dry_run:
        return
    try:
        launched = fill(cloud, plan, image, subnets, len(present), folder)
        everybody = [instance.id for instance in present] + launched
        if launched and present:
            cloud.set_count(everybody, plan.count)
        cloud.wait_until_running(everybody)
    except BaseException:
        running = cloud.instances()
        if running:
            say(f"{len(running)} of {plan.count} instances are there: repeat create, or destroy")
        else:
            for line in cloud.destroy():
                say(line)
        raise
    say(f"{plan.count} instances run, {len(launched)} of them new; the next step is push")


def check_present(plan: Plan, present: list[Instance], folder: Path) -> None:
    """Refuse to turn a cluster into another one."""
    if len(present) > plan.count:
        raise Failure(
            f"-n must be at least the {len(present)} instances that there are (destroy first), got {plan.count}"
        )
    ending = [f"{instance.id} {instance.state}" for instance in present if instance.state not in ("pending", "running")]
    if ending:
        raise Failure(f"the instances must be pending or running, got {', '.join(ending)}: wait, or destroy")
    other = sorted({instance.type for instance in present} - {plan.type})
    if other:
        raise Failure(f"--type must stay {other[0]} while there are instances, got {plan.type}")
    if present and not (folder / "key").exists():
        raise Failure(f"the key of running instances must be in {folder}, got none: destroy, and create again")


def subnets_of(cloud: Cloud, plan: Plan, present: list[Instance]) -> list[tuple[str, str]]:
    """(subnet, VPC) where instances may go: all of a cluster are in one zone."""
    subnet = present[0].subnet if present else plan.subnet
    return [(subnet, cloud.vpc_of(subnet))] if subnet else cloud.subnets(plan.type)


def fill(cloud: Cloud, plan: Plan, image: str, subnets: list[tuple[str, str]], present: int, folder: Path) -> list[str]:
    """Launch what is missing in the first zone that has room for all of it; the new instances' ids."""
    group = cloud.ensure_group(subnets[0][1], plan.address)
    if plan.efa:
        cloud.ensure_efa_rule(group)
    new = not (folder / "key").exists()
    key = cloud.ensure_key(make_key(folder), replace=new)
    placement_group = cloud.ensure_placement_group() if plan.placement_group else None
    if (missing := plan.count - present) == 0:
        return []
    reasons = []
    for subnet, vpc in subnets:
        if vpc != subnets[0][1]:
            continue
        try:
            return cloud.launch(plan, missing, image, subnet, group, key, placement_group)
        except ClientError as error:
            if error.response["Error"]["Code"] not in NO_CAPACITY:
                raise
            reasons.append(f"{subnet}: {error.response['Error']['Code']}")
    raise Failure(f"{cloud.region} must have room for {missing} x {plan.type} in one zone, got {'; '.join(reasons)}")


def make_key(folder: Path) -> Path:
    """A key pair for this cluster alone, if there is none; its public half. The private half never leaves the folder
    but for the head.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    private, public = folder / "key", folder / "key.pub"
    if not private.exists():
        call = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"fedmpi-{folder.name}", "-f", str(private)]
        subprocess.run(call, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    private.chmod(0o600)
    return public
