"""An EC2 that moto plays, every request to which is written down, and can be made to fail."""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import botocore.session
import pytest
from botocore.awsrequest import AWSResponse
from fleet import commands
from moto import mock_aws
from moto.core.botocore_stubber import MockRawResponse

THROTTLED = b"""<?xml version="1.0"?><Response><Errors><Error><Code>RequestLimitExceeded</Code>
<Message>Request limit exceeded.</Message></Error></Errors><RequestID>0</RequestID></Response>"""

_LOADER = botocore.session.get_session().get_component("data_loader")  # keeps what it has read: EC2 is large
READS = re.compile("Describe|Get")
Call = Callable[..., int]


class Aws:
    """What the commands asked for, and what goes wrong next."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.faults: defaultdict[str, list[str | BaseException]] = defaultdict(list)
        self.throttles: defaultdict[str, int] = defaultdict(int)
        self.sent: list[tuple[str, str]] = []
        self.placement_groups: dict[str, dict[str, Any]] = {}
        self.price: str | None = "0.1700000000"

    def session(self, **options: Any) -> boto3.Session:
        """A session of boto3 with all of this in its way."""
        session = botocore.session.get_session()
        session.register_component("data_loader", _LOADER)
        session = boto3.Session(botocore_session=session, **options)
        session.events.register("before-parameter-build.*.*", self._note)
        session.events.register_first("before-send.*.*", self._send)
        session.events.register("before-call.*.*", self._call)
        return session

    def changes(self) -> list[str]:
        """The requests that change something, since the last call."""
        made, self.requests = [name for name, _ in self.requests if not READS.match(name)], []
        return made

    def parameters(self, name: str) -> dict[str, Any]:
        """Those of the last request of a name."""
        return next(parameters for request, parameters in reversed(self.requests) if request == name)

    def fail(self, name: str, *faults: str | BaseException) -> None:
        """Let the next requests of a name fail, with an error code or by raising."""
        self.faults[name] += faults

    def _note(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        self.requests.append((model.name, dict(params)))

    def _send(self, request: Any, event_name: str, **_: Any) -> AWSResponse | None:
        name = event_name.rpartition(".")[2]
        self.sent.append((name, request.body.decode() if isinstance(request.body, bytes) else str(request.body)))
        if self.throttles[name] == 0:
            return None
        self.throttles[name] -= 1
        return AWSResponse(request.url, 503, {}, MockRawResponse(THROTTLED))

    def _call(self, model: Any, params: Any, **_: Any) -> tuple[Any, dict[str, Any]] | None:
        if self.faults[model.name]:
            fault = self.faults[model.name].pop(0)
            if isinstance(fault, BaseException):
                raise fault
            return SimpleNamespace(status_code=400), {"Error": {"Code": fault, "Message": "as the test asks for"}}
        answer = getattr(self, model.name, None)  # what moto does not play
        if answer is None:
            return None
        return SimpleNamespace(status_code=200), answer(self.requests[-1][1])

    def CreatePlacementGroup(self, parameters: dict[str, Any]) -> dict[str, Any]:
        name = parameters["GroupName"]
        tags = parameters["TagSpecifications"][0]["Tags"]
        self.placement_groups[name] = {"GroupName": name, "Strategy": parameters["Strategy"], "Tags": tags}
        return {}

    def DescribePlacementGroups(self, parameters: dict[str, Any]) -> dict[str, Any]:
        wanted = {(f["Name"].removeprefix("tag:"), value) for f in parameters["Filters"] for value in f["Values"]}
        groups = self.placement_groups.values()
        return {"PlacementGroups": [g for g in groups if wanted & {(t["Key"], t["Value"]) for t in g["Tags"]}]}

    def DeletePlacementGroup(self, parameters: dict[str, Any]) -> dict[str, Any]:
        del self.placement_groups[parameters["GroupName"]]
        return {}

    def GetProducts(self, parameters: dict[str, Any]) -> dict[str, Any]:
        dimension = {"pricePerUnit": {"USD": self.price}}
        terms = {"OnDemand": {"a": {"priceDimensions": {"b": dimension}}}}
        return {"PriceList": [json.dumps({"terms": terms})] if self.price else []}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """An account with nothing but its default network, in us-east-1."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    made = Aws()
    monkeypatch.setattr(commands, "boto3", SimpleNamespace(Session=made.session))
    with mock_aws():
        yield made


@pytest.fixture
def ec2(aws: Aws, tmp_path: Path) -> Call:
    """``ec2("create", "-n", 3, …)`` runs a command and returns its exit code."""

    def run(command: str, *arguments: Any) -> int:
        own = [*map(str, arguments)]
        at = own.index("--") if "--" in own else len(own)
        argv = [*own[:at], "--keys", str(tmp_path / "keys"), *own[at:]]
        return int(getattr(commands, command)(argv))

    return run
