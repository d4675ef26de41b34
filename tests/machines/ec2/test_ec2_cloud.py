"""scripts/ec2: the requests that create, status and destroy make, and what is left when they fail."""

import json
import re
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from fleet import Failure, cloud, plan
from fleet.plan import Plan, parse_address, parse_ttl
from machines.ec2.conftest import Aws, Call

CREATE = ("create", "--type", "c6i.xlarge", "--ttl", "4h", "--address", "198.51.100.7", "-n")
SSH = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "198.51.100.7/32"}]}


class Killed(BaseException):
    """As if by kill -9: nothing is cleaned up."""


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud, "DELETE_SECONDS", 0.05)
    monkeypatch.setattr(cloud, "_POLL_SECONDS", 0.01)


def instances(*states: str) -> list[dict[str, Any]]:
    filters = [{"Name": "instance-state-name", "Values": list(states or ("pending", "running"))}]
    found = boto3.client("ec2").describe_instances(Filters=filters)["Reservations"]
    return [instance for reservation in found for instance in reservation["Instances"]]


def tags(thing: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in thing["Tags"]}


def nothing_left() -> bool:
    client = boto3.client("ec2")
    groups = [group["GroupName"] for group in client.describe_security_groups()["SecurityGroups"]]
    return not instances() and groups == ["default"] and not client.describe_key_pairs()["KeyPairs"]


# -- create -------------------------------------------------------------------------------------------------------


def test_create_makes_a_closed_tagged_cluster_that_ends_itself(aws: Aws, ec2: Call, tmp_path: Path) -> None:
    before = datetime.now(UTC)
    assert ec2(*CREATE, 3) == 0
    launch = aws.parameters("RunInstances")
    assert (launch["MinCount"], launch["MaxCount"], launch["InstanceType"]) == (3, 3, "c6i.xlarge")
    assert launch["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert launch["MetadataOptions"]["HttpTokens"] == "required"
    assert launch["ImageId"].startswith("ami-")
    assert "InstanceMarketOptions" not in launch
    assert "Placement" not in launch
    image = aws.parameters("GetParameter")["Name"]
    assert image == "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
    (group,) = boto3.client("ec2").describe_security_groups(GroupIds=launch["SecurityGroupIds"])["SecurityGroups"]
    rules = aws.parameters("AuthorizeSecurityGroupIngress")["IpPermissions"]
    assert rules == [SSH, {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group["GroupId"]}]}]
    for instance in instances():
        marks = tags(instance)
        assert (marks["fedmpi-cluster"], marks["fedmpi-count"]) == ("fedmpi", "3")
        expires = datetime.fromisoformat(marks["fedmpi-expires"])
        assert timedelta(hours=3.9) < expires - before < timedelta(hours=4.1)
    assert tags(group)["fedmpi-cluster"] == "fedmpi"
    deadline = int(expires.timestamp())
    _, *script = launch["UserData"].splitlines()
    assert f"left=$(( ({deadline} - $(date +%s)) / 60 ))" in script
    assert 'shutdown -h "+$(( left > 0 ? left : 0 ))"' in script
    key = tmp_path / "keys" / "fedmpi" / "key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    assert aws.parameters("ImportKeyPair")["PublicKeyMaterial"] == key.with_suffix(".pub").read_bytes()
    assert b"PRIVATE" not in aws.parameters("ImportKeyPair")["PublicKeyMaterial"]


def test_the_users_data_is_a_script_that_ends_the_instance_first(tmp_path: Path) -> None:
    """Run with `shutdown` and `dnf` that write down what they are asked for, in a folder instead of /var."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("shutdown", "dnf"):
        program = folder / name
        program.write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/said\n')
        program.chmod(0o755)
    expires = int(datetime.now(UTC).timestamp()) + 3600
    script = cloud.user_data(expires).replace("/var/lib/cloud/scripts/per-boot", str(tmp_path))
    environment = {"PATH": f"{folder}:/usr/bin:/bin"}
    subprocess.run(["bash", "-c", script], env=environment, check=True, timeout=60)
    first, second = (tmp_path / "said").read_text().splitlines()
    assert re.fullmatch(r"shutdown -h \+(59|60)", first)
    assert second.startswith("dnf install")
    late = cloud.user_data(1).replace("/var/lib/cloud/scripts/per-boot", str(tmp_path))
    subprocess.run(["bash", "-c", late], env=environment, check=True, timeout=60)
    assert (tmp_path / "said").read_text().splitlines()[2] == "shutdown -h +0"


def test_repeating_create_changes_nothing(aws: Aws, ec2: Call) -> None:
    ec2(*CREATE, 3)
    expected = ["CreateSecurityGroup", "AuthorizeSecurityGroupIngress", "ImportKeyPair", "RunInstances"]
    assert aws.changes() == expected
    assert ec2(*CREATE, 3) == 0
    assert aws.changes() == []
    assert len(instances()) == 3


def test_create_fills_up_what_is_missing_in_the_same_zone(aws: Aws, ec2: Call) -> None:
    ec2(*CREATE, 2)
    first = {instance["InstanceId"] for instance in instances()}
    aws.changes()
    assert ec2(*CREATE, 5) == 0
    assert aws.parameters("RunInstances")["MinCount"] == 3
    assert aws.changes() == ["RunInstances", "CreateTags"]
    assert len({instance["SubnetId"] for instance in instances()}) == 1
    assert {tags(instance)["fedmpi-count"] for instance in instances()} == {"5"}
    assert first < {instance["InstanceId"] for instance in instances()}


def test_spot_and_placement_group(aws: Aws, ec2: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert ec2(*CREATE, 2, "--spot", "--placement-group") == 0
    launch = aws.parameters("RunInstances")
    assert launch["InstanceMarketOptions"]["MarketType"] == "spot"
    assert launch["InstanceMarketOptions"]["SpotOptions"]["InstanceInterruptionBehavior"] == "terminate"
    assert launch["Placement"] == {"GroupName": "fedmpi-fedmpi"}
    assert aws.parameters("CreatePlacementGroup")["Strategy"] == "cluster"
    assert "spot" in capsys.readouterr().out
    assert ec2("destroy") == 0
    assert aws.placement_groups == {}
    assert nothing_left()


def test_an_elastic_fabric_adapter(aws: Aws, ec2: Call, capsys: pytest.CaptureFixture[str]) -> None:
    """Its interface is described whole, its group may send to itself, and a type without one is refused at once."""
    create = ("create", "--type", "c5n.18xlarge", *CREATE[3:])
    for _ in range(2):
        assert ec2(*create, 2, "--efa", "--placement-group") == 0
    assert [name for name, _ in aws.requests].count("AuthorizeSecurityGroupEgress") == 1
    launch = aws.parameters("RunInstances")
    (card,) = launch["NetworkInterfaces"]
    assert (card["InterfaceType"], card["DeviceIndex"], card["AssociatePublicIpAddress"]) == ("efa", 0, True)
    assert launch["Placement"] == {"GroupName": "fedmpi-fedmpi"}
    assert not {"SubnetId", "SecurityGroupIds"} & set(launch), "EC2 takes them in one place only"
    group = boto3.client("ec2").describe_security_groups(GroupIds=card["Groups"])["SecurityGroups"][0]
    pairs = [pair["GroupId"] for rule in group["IpPermissionsEgress"] for pair in rule.get("UserIdGroupPairs", [])]
    assert pairs == card["Groups"]
    assert {instance["SubnetId"] for instance in instances()} == {card["SubnetId"]}
    assert ec2("destroy") == 0
    assert nothing_left()
    capsys.readouterr()
    assert ec2(*CREATE, 2, "--efa") == 2
    assert error_of(capsys) == "--efa must be used with a type that has an Elastic Fabric Adapter, got c6i.xlarge"


def test_two_clusters_do_not_see_each_other(aws: Aws, ec2: Call) -> None:
    ec2(*CREATE, 1, "--name", "a")
    ec2(*CREATE, 2, "--name", "b")
    assert ec2("destroy", "--name", "a") == 0
    assert [tags(instance)["fedmpi-cluster"] for instance in instances()] == ["b", "b"]


def test_another_address_takes_the_place_of_the_old_one(aws: Aws, ec2: Call) -> None:
    ec2(*CREATE, 1)
    aws.changes()
    assert ec2(*CREATE[:6], "203.0.113.9", "-n", 1) == 0
    assert aws.changes() == ["RevokeSecurityGroupIngress", "AuthorizeSecurityGroupIngress"]
    groups = boto3.client("ec2").describe_security_groups(GroupNames=["fedmpi-fedmpi"])["SecurityGroups"]
    ranges = [r["CidrIp"] for rule in groups[0]["IpPermissions"] for r in rule.get("IpRanges", [])]
    assert ranges == ["203.0.113.9/32"]


def test_dry_run_shows_the_plan_and_its_price_and_changes_nothing(
    aws: Aws, ec2: Call, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert ec2(*CREATE, 51, "--dry-run") == 0
    assert aws.changes() == []
    out = capsys.readouterr().out
    assert "51 x c6i.xlarge, on demand" in out
    assert "0.17 USD per hour and instance, 8.67 USD per hour for all, at most 34.68 USD until they end" in out
    assert "ssh from 198.51.100.7/32 only" in out
    assert nothing_left()
    assert not (tmp_path / "keys").exists()
    aws.price = None
    assert ec2(*CREATE, 51, "--dry-run") == 0
    assert "price unknown" in capsys.readouterr().out


# -- faults -------------------------------------------------------------------------------------------------------


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("ec2: error: ")
    return lines[0].removeprefix("ec2: error: ")


def test_where_one_zone_has_no_room_the_next_is_taken(aws: Aws, ec2: Call) -> None:
    aws.fail("RunInstances", "InsufficientInstanceCapacity", "InsufficientInstanceCapacity")
    assert ec2(*CREATE, 3) == 0
    tried = [parameters["SubnetId"] for name, parameters in aws.requests if name == "RunInstances"]
    assert len(set(tried)) == len(tried) == 3
    assert [instance["SubnetId"] for instance in instances()] == [tried[-1]] * 3


def test_without_room_anywhere_nothing_is_left(aws: Aws, ec2: Call, capsys: pytest.CaptureFixture[str]) -> None:
    aws.fail("RunInstances", *["InsufficientInstanceCapacity"] * 6)
    assert ec2(*CREATE, 3) == 2
    assert "us-east-1 must have room for 3 x c6i.xlarge in one zone, got" in error_of(capsys)
    assert nothing_left()


def test_no_room_for_the_rest_leaves_what_runs(aws: Aws, ec2: Call, capsys: pytest.CaptureFixture[str]) -> None:
    ec2(*CREATE, 2)
    aws.fail("RunInstances", "InsufficientInstanceCapacity")
    assert ec2(*CREATE, 5) == 2
    out, err = capsys.readouterr()
    assert "2 of 5 instances are there: repeat create, or destroy" in out
    assert "room for 3 x c6i.xlarge" in err
    assert len(instances()) == 2
    assert ec2(*CREATE, 5) == 0
    assert len(instances()) == 5


@pytest.mark.parametrize(
    ("code", "advice"),
    [("VcpuLimitExceeded", "ask for a higher limit"), ("UnauthorizedOperation", "the credentials must allow this")],
)
def test_other_refusals_are_one_line_and_cleaned_up(
    aws: Aws, ec2: Call, capsys: pytest.CaptureFixture[str], code: str, advice: str
) -> None:
    aws.fail("RunInstances", code)
    assert ec2(*CREATE, 3) == 4
    line = error_of(capsys)
    assert line.startswith(f"RunInstances must succeed, got {code}")
    assert advice in line
    assert nothing_left()


def test_throttled_requests_are_repeated_with_the_same_token(aws: Aws, ec2: Call) -> None:
    """By the token EC2 knows that it is one request; moto does not, and counts each."""
    aws.throttles["RunInstances"] = 2
    aws.throttles["DescribeInstances"] = 1
    assert ec2(*CREATE, 3) == 0
    bodies = [body for name, body in aws.sent if name == "RunInstances"]
    tokens = {re.search(r"ClientToken=([^&]+)", body)[1] for body in bodies}  # type: ignore[index]
    assert (len(bodies), len(tokens)) == (3, 1)


STEPS = ["CreateSecurityGroup", "AuthorizeSecurityGroupIngress", "ImportKeyPair", "RunInstances"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("then", ["create", "destroy"])
def test_killed_at_any_step_it_is_resumed_or_cleaned(
    aws: Aws, ec2: Call, step: str, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(cloud.Cloud, "destroy", lambda self: iter(()))
        aws.fail(step, Killed())
        with pytest.raises(Killed):
            ec2(*CREATE, 2)
    if then == "create":
        assert ec2(*CREATE, 2) == 0
        assert len(instances()) == 2
    assert ec2("destroy") == 0
    assert nothing_left()


@pytest.mark.parametrize("step", [*STEPS, "DescribeInstanceTypes"])
def test_ctrl_c_at_any_step_leaves_nothing(aws: Aws, ec2: Call, step: str) -> None:
    aws.fail(step, KeyboardInterrupt())
    assert ec2(*CREATE, 2) == 130
    assert nothing_left()


def test_a_cluster_does_not_shrink_or_change_its_type(aws: Aws, ec2: Call, capsys: pytest.CaptureFixture[str]) -> None:
    ec2(*CREATE, 3)
    capsys.readouterr()
    assert ec2(*CREATE, 2) == 2
    assert "-n must be at least the 3 instances that there are (destroy first), got 2" in error_of(capsys)
    assert ec2("create", "--type", "c6i.large", *CREATE[3:], 3) == 2
    assert "--type must stay c6i.xlarge while there are instances, got c6i.large" in error_of(capsys)


def test_a_lost_key_of_running_instances_is_an_error_and_of_none_replaced(
    aws: Aws, ec2: Call, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ec2(*CREATE, 1)
    capsys.readouterr()
    (tmp_path / "keys" / "fedmpi" / "key").unlink()
    assert ec2(*CREATE, 1) == 2
    assert "the key of running instances must be in" in error_of(capsys)
    boto3.client("ec2").terminate_instances(InstanceIds=[instance["InstanceId"] for instance in instances()])
    (tmp_path / "keys" / "fedmpi" / "key.pub").unlink()
    aws.changes()
    assert ec2(*CREATE, 1) == 0
    assert aws.changes() == ["DeleteKeyPair", "ImportKeyPair", "RunInstances"]


def test_a_type_that_does_not_exist_or_is_not_offered(aws: Aws, ec2: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert ec2("create", "--type", "c99.huge", *CREATE[3:], 1) == 2
    assert error_of(capsys) == "--type must be offered in us-east-1, got c99.huge"
    aws.DescribeInstanceTypeOfferings = lambda parameters: {"InstanceTypeOfferings": []}  # type: ignore[attr-defined]
    assert ec2(*CREATE, 1) == 2
    assert error_of(capsys) == "--type must be offered in us-east-1, got c6i.xlarge"
    assert aws.changes() == []


def test_without_credentials_one_line_says_so(
    ec2: Call, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ec2("status") == 2
    assert "AWS credentials must be there, got none" in error_of(capsys)
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert ec2("status") == 2
    assert "--region must be given" in error_of(capsys)


@pytest.mark.parametrize("command", ["push", "run", "fetch"])
def test_a_terminated_instance_is_named_before_anything_is_done(
    aws: Aws, ec2: Call, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    ec2(*CREATE, 3)
    capsys.readouterr()
    lost = instances()[1]["InstanceId"]
    boto3.client("ec2").terminate_instances(InstanceIds=[lost])
    assert ec2(command, *(["--", "codedml"] if command == "run" else [])) == 2
    assert f"3 instances must run, got 2 ({lost} terminated): repeat create, then push" in error_of(capsys)
    assert ec2(*CREATE, 3) == 0
    assert len(instances()) == 3


def test_a_cluster_that_is_not_there(ec2: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert ec2("run", "--", "codedml") == 2
    assert "cluster fedmpi must have running instances in us-east-1, got none: create it" in error_of(capsys)


# -- status and destroy -------------------------------------------------------------------------------------------


def test_status_lists_the_head_first(ec2: Call, capsys: pytest.CaptureFixture[str]) -> None:
    ec2(*CREATE, 3)
    capsys.readouterr()
    assert ec2("status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["head", "worker", "worker"]
    assert all(" running us-east-1" in line and " until 2" in line for line in lines[:3])
    assert re.fullmatch(r"security group sg-\w+; key pair fedmpi-fedmpi", lines[3])
    assert ec2("status", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["head"] for row in rows] == [True, False, False]
    ec2("destroy")
    capsys.readouterr()
    assert ec2("status") == 0
    assert capsys.readouterr().out == "there is no cluster fedmpi in us-east-1\n"


def test_destroy_leaves_nothing_and_may_be_repeated(
    aws: Aws, ec2: Call, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ec2(*CREATE, 3)
    for _ in range(2):
        assert ec2("destroy") == 0
        assert nothing_left()
        assert capsys.readouterr().out.splitlines()[-1] == "nothing is left of cluster fedmpi in us-east-1"
    assert not (tmp_path / "keys" / "fedmpi").exists()


def test_destroy_waits_for_networks_and_says_what_is_left(
    aws: Aws, ec2: Call, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ec2(*CREATE, 2)
    aws.fail("DeleteSecurityGroup", "UnauthorizedOperation")
    assert ec2("destroy") == 4
    out, err = capsys.readouterr()
    assert re.search(r"left: security group sg-", out)
    assert "DeleteSecurityGroup must succeed, got UnauthorizedOperation" in err
    assert instances() == []
    monkeypatch.setattr(cloud, "DELETE_SECONDS", 60.0)
    aws.fail("DeleteSecurityGroup", "DependencyViolation", "DependencyViolation")
    assert ec2("destroy") == 0
    assert nothing_left()


@pytest.mark.parametrize("name", ["../../.ssh", "..", "a/b", "", "/tmp", "~"])
def test_the_name_of_a_cluster_is_no_path(
    aws: Aws, ec2: Call, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    """Destroy --name ../../.ssh deleted that folder."""
    ssh = tmp_path / ".ssh"
    ssh.mkdir()
    (ssh / "key").touch()
    for command in ("destroy", "status", "fetch"):
        assert ec2(command, "--name", name) == 2
        assert "--name must be lower-case letters" in error_of(capsys)
    assert (ssh / "key").exists()
    assert aws.requests == []


# -- what is refused before anything is asked ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--ttl", "4"], "--ttl must be from 5m to 168h, like 4h or 90m, got '4'"),
        (["--ttl", "1m"], "--ttl must be"),
        (["--ttl", "900h"], "--ttl must be"),
        (["--address", "0.0.0.0/0"], "--address must be one IP address, got '0.0.0.0/0'"),
        (["--name", "A b"], "--name must be"),
        (["--type", "large"], "--type must be like c6i.xlarge"),
        (["-n", "0"], "-n must be from 1 to 1000, got 0"),
    ],
)
def test_wrong_options_are_one_line(
    aws: Aws, ec2: Call, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert ec2(*CREATE, 3, *arguments) == 2
    assert says in error_of(capsys)
    assert aws.requests == []


def test_units() -> None:
    assert (parse_ttl("90m"), parse_ttl("4h")) == (90, 240)
    assert (parse_address(" 198.51.100.7\n"), parse_address("2001:db8::1")) == ("198.51.100.7/32", "2001:db8::1/128")
    with pytest.raises(Failure):
        Plan("x", 1001, "c6i.large", 60)
    assert plan.describe(Plan("x", 2, "c6i.large", 30), "r", "ami", 3, 0.5)[1].endswith("0 will be launched")
