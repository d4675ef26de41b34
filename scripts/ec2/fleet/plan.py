"""What is asked for, and what it costs."""

import ipaddress
import json
import re
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from fleet import Failure

TTL_LIMIT_MINUTES = 7 * 24 * 60
PRICING_REGION = "us-east-1"
"""Where the price list of all regions is served."""


@dataclass(frozen=True)
class Plan:
    """A cluster as it should be."""

    name: str
    count: int
    type: str
    ttl_minutes: int
    """The instances end themselves after so long."""
    spot: bool = False
    placement_group: bool = False
    efa: bool = False
    """With an Elastic Fabric Adapter in place of the usual interface."""
    address: str = ""
    """Of the caller: the only one that may use ssh."""
    subnet: str | None = None
    """Default: the default subnets of the zones that offer the type, one after the other."""
    image: str | None = None
    """Default: the newest Amazon Linux 2023."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if not 1 <= self.count <= 1000:
            raise Failure(f"-n must be from 1 to 1000, got {self.count}")
        if not re.fullmatch(r"[a-z0-9-]+\.[a-z0-9-]+", self.type):
            raise Failure(f"--type must be like c6i.xlarge, got {self.type!r}")


def check_name(name: str) -> str:
    """The name of a cluster, which is also that of a folder of keys.

    Raises
    ------
    Failure
        If it is anything else, such as a path.
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", name):
        raise Failure(f"--name must be lower-case letters, digits and dashes, got {name!r}")
    return name


def parse_ttl(text: str) -> int:
    """Minutes of ``4h`` or ``90m``."""
    found = re.fullmatch(r"(\d+)([hm])", text)
    minutes = int(found[1]) * (60 if found[2] == "h" else 1) if found else 0
    if not 5 <= minutes <= TTL_LIMIT_MINUTES:
        raise Failure(f"--ttl must be from 5m to {TTL_LIMIT_MINUTES // 60}h, like 4h or 90m, got {text!r}")
    return minutes


def parse_address(text: str) -> str:
    """One address, as a network: 198.51.100.7/32."""
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        raise Failure(f"--address must be one IP address, got {text.strip()!r}") from None
    return f"{address}/{address.max_prefixlen}"


def on_demand_price(session: Any, region: str, instance_type: str) -> float | None:
    """List price of a Linux instance in USD per hour; None where the price list does not tell."""
    wanted = {
        "regionCode": region,
        "instanceType": instance_type,
        "operatingSystem": "Linux",
        "preInstalledSw": "NA",
        "tenancy": "Shared",
        "capacitystatus": "Used",
    }
    filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]
    try:
        pricing = session.client("pricing", region_name=PRICING_REGION)
        products = pricing.get_products(ServiceCode="AmazonEC2", Filters=filters)["PriceList"]
        for product in products:
            for term in json.loads(product)["terms"]["OnDemand"].values():
                for dimension in term["priceDimensions"].values():
                    if price := float(dimension["pricePerUnit"]["USD"]):
                        return price
    except (BotoCoreError, ClientError, KeyError, ValueError):
        return None
    return None


def spot_price(ec2: Any, instance_type: str) -> float | None:
    """The lowest present spot price of a Linux instance in USD per hour, over the zones; None where unknown."""
    try:
        history = ec2.describe_spot_price_history(
            InstanceTypes=[instance_type], ProductDescriptions=["Linux/UNIX"], MaxResults=20
        )["SpotPriceHistory"]
        return min((float(entry["SpotPrice"]) for entry in history), default=None)
    except (BotoCoreError, ClientError, KeyError, ValueError):
        return None


def describe(plan: Plan, region: str, image: str, present: int, price: float | None) -> list[str]:
    """The plan for people, with its price."""
    kind = "spot" if plan.spot else "on demand"
    hours = plan.ttl_minutes / 60
    cost = (
        "price unknown: see the price list of EC2"
        if price is None
        else f"{price:.4g} USD per hour and instance, {price * plan.count:.2f} USD per hour for all, "
        f"at most {price * plan.count * hours:.2f} USD until they end"
    )
    return [
        f"cluster {plan.name} in {region}: {plan.count} x {plan.type}, {kind}, image {image}",
        f"there are {present} instances, {max(plan.count - present, 0)} will be launched",
        f"ssh from {plan.address} only, all ports within the group; "
        f"{'a cluster placement group' if plan.placement_group else 'no placement group'}{', EFA' if plan.efa else ''}",
        f"the instances terminate themselves after {hours:g} h",
        f"{cost} (without disks, public addresses and traffic)",
    ]
