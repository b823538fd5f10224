"""The network of a lab: a bridge with a subnet of its own, and address translation to the outside.

Names carry the lab's identity (ID, at most 8 characters): bridge om-ID, table om_ID, a host's link om-ID-OCTET.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import shutil
from pathlib import Path

from . import firewall
from .proc import LabError, attempt, run
from .state import MACHINE_STATE, Host, Lab, machine_lock, replace

RANGE = ipaddress.IPv4Network("198.18.0.0/15")  # set apart for tests of networks: no one's real addresses
FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
FORWARD_WAS = MACHINE_STATE / "ip_forward"
FIRST, LAST = 11, 250  # the hosts' part of a subnet


def up(lab: Lab) -> ipaddress.IPv4Network:
    """Makes the bridge where it is not there, and returns the lab's subnet."""
    with machine_lock():
        subnet = subnet_of(lab)
        if subnet is None:
            attempt(["ip", "link", "del", lab.bridge])  # half made by a run that was killed
            subnet = _free_subnet(lab)
            if not FORWARD_WAS.exists():
                MACHINE_STATE.mkdir(exist_ok=True)
                replace(FORWARD_WAS, FORWARD.read_text())
            firewall.up(lab, subnet)
            # a fixed address: a bridge's own follows its ports, and neighbours would remember the wrong one
            gateway = subnet[1]
            mac = mac_of(str(gateway))
            commands = f"link add {lab.bridge} address {mac} type bridge\nlink set {lab.bridge} up\n"
            # the address comes last: a bridge that has it is complete
            run(["ip", "-batch", "-"], text=commands + f"address add {gateway}/24 dev {lab.bridge}\n")
        if FORWARD.read_text().strip() != "1":
            FORWARD.write_text("1\n")
    return subnet


def down(lab: Lab) -> None:
    """Removes the bridge and its rules; with the last lab of the machine, forwarding is as it was before the first."""
    with machine_lock():
        attempt(["ip", "link", "del", lab.bridge])
        firewall.down(lab)
        if FORWARD_WAS.exists() and not _bridges():
            FORWARD.write_text(FORWARD_WAS.read_text())
            shutil.rmtree(MACHINE_STATE)


def subnet_of(lab: Lab) -> ipaddress.IPv4Network | None:
    """The subnet the lab has now."""
    listed = json.loads(run(["ip", "-json", "-4", "address", "show"]))
    # iproute2 prints an empty object for each link without an address
    addresses = [address for link in listed if link.get("ifname") == lab.bridge for address in link["addr_info"]]
    return ipaddress.IPv4Network(f"{addresses[0]['local']}/24", strict=False) if addresses else None


def connect(lab: Lab, host: Host, namespace: Path) -> None:
    """Makes a host's network namespace, held by the file `namespace`, and connects it to the bridge."""
    gateway = ipaddress.IPv4Network(f"{host.address}/24", strict=False)[1]
    link = link_of(lab, host)
    attempt(["ip", "link", "del", link])
    namespace.touch()
    run(["unshare", f"--net={namespace}", "true"])
    run(["ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(namespace)])
    run(["ip", "link", "set", link, "master", lab.bridge, "up"])
    inside = f"""\
        link set lo up
        link set eth0 address {mac_of(host.address)}
        address add {host.address}/24 dev eth0
        link set eth0 up
        route add default via {gateway}
        """
    run(["nsenter", f"--net={namespace}", "ip", "-batch", "-"], text=inside)


def link_of(lab: Lab, host: Host) -> str:
    """The machine's end of a host's link."""
    return f"{lab.bridge}-{host.address.rsplit('.', 1)[1]}"


def connected(lab: Lab, host: Host) -> bool:
    """Whether a host's link is on the lab's bridge."""
    return Path(f"/sys/class/net/{link_of(lab, host)}/master").resolve().name == lab.bridge


def free_address(lab: Lab, subnet: ipaddress.IPv4Network, taken: set[str]) -> str:
    """An address no host has, in turn: the operator's ssh and the neighbour tables may still know the last owner of one.

    The caller holds the lab's lock.
    """
    counter = lab.cache / "last-address"
    last = int(counter.read_text()) if counter.exists() else LAST
    size = LAST - FIRST + 1
    for step in range(1, size + 1):
        octet = FIRST + (last - FIRST + step) % size
        if str(subnet[octet]) not in taken:
            replace(counter, f"{octet}\n")
            return str(subnet[octet])
    raise LabError(f"this lab has {size} hosts, as many as its subnet holds; remove some with 'down NAME'")


def mac_of(address: str) -> str:
    """The hardware address that goes with an address, always the same: no neighbour table is ever wrong."""
    return "02:00:" + ":".join(f"{int(octet):02x}" for octet in address.split("."))


def _bridges() -> list[str]:
    """The bridges of every lab on this machine."""
    listed = json.loads(run(["ip", "-json", "link", "show", "type", "bridge"]) or "[]")
    return [link["ifname"] for link in listed if link.get("ifname", "").startswith("om-")]


def _free_subnet(lab: Lab) -> ipaddress.IPv4Network:
    """A /24 that no interface or route of this machine touches; the search starts where the lab's identity says."""
    routes = json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"]))
    named = [ipaddress.IPv4Network(route["dst"], strict=False) for route in routes if route["dst"] != "default"]
    # what is wider than the range is a way to everywhere, as the two halves of a default route are that a VPN sets
    used = [network for network in named if network.prefixlen >= RANGE.prefixlen]
    subnets = list(RANGE.subnets(new_prefix=24))
    start = int(hashlib.sha256(lab.id.encode()).hexdigest(), 16) % len(subnets)
    for subnet in subnets[start:] + subnets[:start]:
        if not any(subnet.overlaps(other) for other in used):
            return subnet
    raise LabError(f"every part of {RANGE} has a route on this machine, so a lab finds no subnet; remove one of the routes")
