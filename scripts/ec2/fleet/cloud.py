"""The requests to EC2. Everything of a cluster carries its tag, and is found by it again."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from botocore.config import Config
from botocore.exceptions import ClientError

from fleet import Failure
from fleet.plan import Plan

TAG = "fedmpi-cluster"
COUNT_TAG = "fedmpi-count"
EXPIRES_TAG = "fedmpi-expires"
IMAGE = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{architecture}"
LIVE = ("pending", "running", "shutting-down", "stopping", "stopped")
RETRIES = Config(retries={"mode": "standard", "max_attempts": 8})
"""Requests that EC2 throttles are sent again, with the same client token, so that they take effect once."""

NO_CAPACITY = ("InsufficientInstanceCapacity", "InsufficientReservedInstanceCapacity", "SpotMaxPriceTooLow")
DELETE_SECONDS = 300.0
_POLL_SECONDS = 2.0


@dataclass(frozen=True, order=True)
class Instance:
    """One machine; in the order of their launch the first is the head."""

    launched: datetime
    index: int
    id: str
    state: str
    type: str
    zone: str
    subnet: str
    private_address: str
    public_address: str
    tags: tuple[tuple[str, str], ...]

    def tag(self, key: str) -> str | None:
        """The value of a tag."""
        return dict(self.tags).get(key)


class Cloud:
    """What there is in one region for one cluster.

    Parameters
    ----------
    session : boto3.Session
    name : str
        Of the cluster.
    """

    def __init__(self, session: Any, name: str):
        self.session, self.name = session, name
        self.ec2 = session.client("ec2", config=RETRIES)
        self.region = self.ec2.meta.region_name

    # -- looking ----------------------------------------------------------------------------------------------

    def instances(self, states: Sequence[str] = LIVE) -> list[Instance]:
        """The cluster's instances in these states, the head first."""
        filters = [*self._mine(), {"Name": "instance-state-name", "Values": list(states)}]
        pages = self.ec2.get_paginator("describe_instances").paginate(Filters=filters)
        return sorted(
            _instance(raw) for page in pages for reservation in page["Reservations"] for raw in reservation["Instances"]
        )

    def whole(self) -> list[Instance]:
        """All instances of the cluster, running.

        Raises
        ------
        Failure
            If there is none, or one is missing.
        """
        running = self.instances(["running"])
        wanted = max((int(instance.tag(COUNT_TAG) or 0) for instance in running), default=0)
        if not running:
            raise Failure(f"cluster {self.name} must have running instances in {self.region}, got none: create it")
        if len(running) < wanted:
            gone = [f"{i.id} {i.state}" for i in self.instances(["terminated", *LIVE]) if i.state != "running"]
            raise Failure(
                f"{wanted} instances must run, got {len(running)} ({', '.join(gone) or 'the others are gone'}): "
                "repeat create, then push"
            )
        return running

    def group(self) -> dict[str, Any] | None:
        """The security group."""
        return _only(self.ec2.describe_security_groups(Filters=self._mine())["SecurityGroups"])

    def key(self) -> dict[str, Any] | None:
        """The key pair; EC2 has its public half."""
        return _only(self.ec2.describe_key_pairs(Filters=self._mine())["KeyPairs"])

    def placement_group(self) -> dict[str, Any] | None:
        """The placement group."""
        return _only(self.ec2.describe_placement_groups(Filters=self._mine())["PlacementGroups"])

    def facts(self, instance_type: str) -> dict[str, Any]:
        """What EC2 says of a type."""
        try:
            found: dict[str, Any] = self.ec2.describe_instance_types(InstanceTypes=[instance_type])["InstanceTypes"][0]
        except ClientError as error:
            if error.response["Error"]["Code"] != "InvalidInstanceType":
                raise
            raise Failure(f"--type must be offered in {self.region}, got {instance_type}") from None
        return found

    def image(self, instance_type: str) -> str:
        """The newest Amazon Linux 2023 for the architecture of a type."""
        architecture = self.facts(instance_type)["ProcessorInfo"]["SupportedArchitectures"][0]
        ssm = self.session.client("ssm", config=RETRIES)
        return str(ssm.get_parameter(Name=IMAGE.format(architecture=architecture))["Parameter"]["Value"])

    def subnets(self, instance_type: str) -> list[tuple[str, str]]:
        """(subnet, its VPC) of the default subnets in zones that offer a type."""
        offerings = self.ec2.describe_instance_type_offerings(
            LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": [instance_type]}]
        )["InstanceTypeOfferings"]
        zones = {offering["Location"] for offering in offerings}
        if not zones:
            raise Failure(f"--type must be offered in {self.region}, got {instance_type}")
        subnets = self.ec2.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])["Subnets"]
        found = sorted(
            (s["AvailabilityZone"], s["SubnetId"], s["VpcId"]) for s in subnets if s["AvailabilityZone"] in zones
        )
        if not found:
            raise Failure(f"{self.region} must have a default subnet in a zone with {instance_type}, or use --subnet")
        return [(subnet, vpc) for _, subnet, vpc in found]

    def vpc_of(self, subnet: str) -> str:
        """The VPC of a subnet."""
        return str(self.ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["VpcId"])

    # -- making -----------------------------------------------------------------------------------------------

    def ensure_group(self, vpc: str, address: str) -> str:
        """A group with ssh from one address, and everything between its members; its id."""
        group = self.group()
        if group is None:
            made = self.ec2.create_security_group(
                GroupName=self._name(),
                Description=f"fedmpi cluster {self.name}",
                VpcId=vpc,
                TagSpecifications=self._tags("security-group"),
            )
            group = {"GroupId": made["GroupId"], "IpPermissions": []}
        family = ("Ipv6Ranges", "CidrIpv6") if ":" in address else ("IpRanges", "CidrIp")
        ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, family[0]: [{family[1]: address}]}
        inside = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group["GroupId"]}]}
        wanted = {_rule(rule): rule for rule in (ssh, inside)}
        present = {_rule(rule): rule for whole in group["IpPermissions"] for rule in _single_rules(whole)}
        if stale := [rule for key, rule in present.items() if key not in wanted]:
            self.ec2.revoke_security_group_ingress(GroupId=group["GroupId"], IpPermissions=stale)
        if missing := [rule for key, rule in wanted.items() if key not in present]:
            self.ec2.authorize_security_group_ingress(GroupId=group["GroupId"], IpPermissions=missing)
        return str(group["GroupId"])

    def ensure_efa_rule(self, group: str) -> None:
        """Let members of the group send to one another by EFA, for which a rule to all addresses is not enough."""
        inside = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
        found = self.ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissionsEgress"]
        if not any(pair["GroupId"] == group for rule in found for pair in rule.get("UserIdGroupPairs", [])):
            self.ec2.authorize_security_group_egress(GroupId=group, IpPermissions=[inside])

    def ensure_key(self, public: Path, *, replace: bool) -> str:
        """The key pair with this public half, in place of one whose private half is lost; its name."""
        if replace and (lost := self.key()) is not None:
            self.ec2.delete_key_pair(KeyName=lost["KeyName"])
        if self.key() is None:
            self.ec2.import_key_pair(
                KeyName=self._name(), PublicKeyMaterial=public.read_bytes(), TagSpecifications=self._tags("key-pair")
            )
        return self._name()

    def ensure_placement_group(self) -> str:
        """A group of machines near one another; its name."""
        if self.placement_group() is None:
            self.ec2.create_placement_group(
                GroupName=self._name(), Strategy="cluster", TagSpecifications=self._tags("placement-group")
            )
        return self._name()

    def launch(
        self, plan: Plan, count: int, image: str, subnet: str, group: str, key: str, placement_group: str | None
    ) -> list[str]:
        """Launch so many instances in one zone, all or none; their ids."""
        expires = int(time.time()) + 60 * plan.ttl_minutes
        tags = {EXPIRES_TAG: datetime.fromtimestamp(expires, UTC).isoformat(), COUNT_TAG: str(plan.count)}
        options: dict[str, Any] = {}
        if plan.spot:
            spot = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
            options["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": spot}
        if placement_group is not None:
            options["Placement"] = {"GroupName": placement_group}
        network: dict[str, Any] = {"SubnetId": subnet, "SecurityGroupIds": [group]}
        if plan.efa:  # an interface of this kind must be described whole
            card = {"DeviceIndex": 0, "SubnetId": subnet, "Groups": [group], "InterfaceType": "efa"}
            network = {"NetworkInterfaces": [card | {"AssociatePublicIpAddress": True, "DeleteOnTermination": True}]}
        reservation = self.ec2.run_instances(
            MinCount=count,
            MaxCount=count,
            ImageId=image,
            InstanceType=plan.type,
            KeyName=key,
            UserData=user_data(expires),
            InstanceInitiatedShutdownBehavior="terminate",
            MetadataOptions={"HttpTokens": "required", "HttpEndpoint": "enabled"},
            TagSpecifications=self._tags("instance", **tags),
            **network,
            **options,
        )
        return [instance["InstanceId"] for instance in reservation["Instances"]]

    def set_count(self, instances: Sequence[str], count: int) -> None:
        """Write down how many instances the cluster should have."""
        self.ec2.create_tags(Resources=list(instances), Tags=[{"Key": COUNT_TAG, "Value": str(count)}])

    def wait_until_running(self, instances: Sequence[str]) -> None:
        """Wait for instances to run."""
        self.ec2.get_waiter("instance_running").wait(InstanceIds=list(instances))

    # -- taking down ------------------------------------------------------------------------------------------

    def destroy(self) -> Iterator[str]:
        """Delete whatever has the tag, and yield a line for each; what is gone already is no error."""
        instances = [instance.id for instance in self.instances()]
        if instances:
            self.ec2.terminate_instances(InstanceIds=instances)
            self.ec2.get_waiter("instance_terminated").wait(InstanceIds=instances)
            yield f"{len(instances)} instances terminated"
        if (key := self.key()) is not None:
            self.ec2.delete_key_pair(KeyName=key["KeyName"])
            yield f"key pair {key['KeyName']} deleted"
        if (group := self.group()) is not None:
            self._delete_when_unused(lambda: self.ec2.delete_security_group(GroupId=group["GroupId"]))
            yield f"security group {group['GroupId']} deleted"
        if (placement := self.placement_group()) is not None:
            self._delete_when_unused(lambda: self.ec2.delete_placement_group(GroupName=placement["GroupName"]))
            yield f"placement group {placement['GroupName']} deleted"

    def left(self) -> list[str]:
        """What there is of the cluster."""
        parts = [f"instance {instance.id} {instance.state}" for instance in self.instances()]
        if (group := self.group()) is not None:
            parts.append(f"security group {group['GroupId']}")
        if (key := self.key()) is not None:
            parts.append(f"key pair {key['KeyName']}")
        if (placement := self.placement_group()) is not None:
            parts.append(f"placement group {placement['GroupName']}")
        return parts

    def _delete_when_unused(self, delete: Any) -> None:
        """EC2 lets go of a terminated instance's network some time later."""
        end = time.monotonic() + DELETE_SECONDS
        while True:
            try:
                delete()
                return
            except ClientError as error:
                in_use = error.response["Error"]["Code"] in ("DependencyViolation", "InvalidPlacementGroup.InUse")
                if not in_use or time.monotonic() > end:
                    raise
            time.sleep(_POLL_SECONDS)

    def _name(self) -> str:
        return f"fedmpi-{self.name}"

    def _mine(self) -> list[dict[str, Any]]:
        return [{"Name": f"tag:{TAG}", "Values": [self.name]}]

    def _tags(self, kind: str, **more: str) -> list[dict[str, Any]]:
        tags = {TAG: self.name, "Name": self._name(), **more}
        return [{"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}]


def user_data(expires: int) -> str:
    """What an instance runs at its first start: first of all its own end, then what the installation needs.

    The end outlives a restart; the deadline is a Unix time.
    """
    return f"""#!/bin/bash
expire=/var/lib/cloud/scripts/per-boot/expire
cat > $expire <<'END'
#!/bin/bash
left=$(( ({expires} - $(date +%s)) / 60 ))
shutdown -h "+$(( left > 0 ? left : 0 ))"
END
chmod 0755 $expire && $expire
dnf install -yq python3.11 python3.11-devel gcc tar
"""


def _instance(raw: dict[str, Any]) -> Instance:
    return Instance(
        raw["LaunchTime"],
        raw.get("AmiLaunchIndex", 0),
        raw["InstanceId"],
        raw["State"]["Name"],
        raw["InstanceType"],
        raw["Placement"]["AvailabilityZone"],
        raw.get("SubnetId", ""),
        raw.get("PrivateIpAddress", ""),
        raw.get("PublicIpAddress", ""),
        tuple((tag["Key"], tag["Value"]) for tag in raw.get("Tags", [])),
    )


def _only(found: list[dict[str, Any]]) -> dict[str, Any] | None:
    return found[0] if found else None


def _single_rules(rule: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A rule for several sources, as one for each."""
    ports: dict[str, Any] = {key: rule[key] for key in ("IpProtocol", "FromPort", "ToPort") if key in rule}
    for kind, name in (("IpRanges", "CidrIp"), ("Ipv6Ranges", "CidrIpv6"), ("UserIdGroupPairs", "GroupId")):
        for source in rule.get(kind, []):
            yield {**ports, kind: [{name: source[name]}]}


def _rule(rule: dict[str, Any]) -> tuple[Any, ...]:
    """What makes two rules the same."""
    (source,) = (entry for kind, entries in rule.items() if isinstance(entries, list) for entry in entries)
    ports = None if rule["IpProtocol"] == "-1" else (rule["FromPort"], rule["ToPort"])
    return rule["IpProtocol"], ports, tuple(source.values())
