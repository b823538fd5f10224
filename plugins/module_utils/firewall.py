# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who reaches the instances' ports, as an nftables table of our own or as a firewalld policy.

vLLM's key does not guard all its routes, so an instance that listens for other machines says which ones. Only the ports of
instances are touched, and loopback never is. What is let in here can still be stopped by the host's other rules.

Guarded is what the inventory has, and what is on the server besides: releases that an instance may go back to, by itself even, and
instances that the inventory does not name any more. ``seen`` is that, as ownmetal.codex.tree observed it (releases).
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional
from xml.sax.saxutils import quoteattr

from .catalogue import EVERYWHERE, is_local
from .errors import Refused
from .instance_rules import change
from .networks import bad_sources, network

Seen = Mapping[str, Mapping[str, Any]]

NFTABLES, FIREWALLD, NONE = KINDS = ("nftables", "firewalld", "none")
TABLE = "inet ownmetal_vllm"
VARIABLE = "vllm_allowed_sources"


def problems(instances: Sequence[Mapping[str, Any]], everyone: Any, kind: Any) -> list[Refused]:
    """Return what is wrong with who may reach these instances (present ones, completed)."""
    if kind not in KINDS:
        return [Refused("vllm_firewall", f"cannot be {kind!r}.", f"Write one of: {', '.join(KINDS)}.")]
    found = [Refused(VARIABLE, why, f"Write {VARIABLE}: [192.0.2.0/24].") for why in bad_sources(everyone)]
    if found or kind == NONE:
        return found
    for instance in instances:
        if not is_local(instance) and not _allowed(instance, everyone):
            where = f"vllm_instances {instance['name']}: host"
            why = f"it listens on {instance['host']}, and nobody is allowed to reach it: vLLM's key does not guard all its routes."
            instead = (
                f"Write {VARIABLE}: [192.0.2.0/24] with your developers' network, allowed_sources of this instance, or host: 127.0.0.1. "
                "Where another firewall guards the port: vllm_firewall: none."
            )
            found.append(Refused(where, why, instead, change(instance["name"], host="127.0.0.1")))
    return found


def host_problems(server: str, kind: str, active: Optional[str]) -> list[Refused]:
    """Return the refusal of a firewall that does not rule on this server; ``active`` is the ActiveState of firewalld.service."""
    if kind == NFTABLES and active == "active":
        why = f"firewalld rules on {server}, and would close the ports that are opened beside it."
        return [Refused("vllm_firewall nftables", why, "Write vllm_firewall: firewalld.", {"vllm_firewall": FIREWALLD})]
    if kind == FIREWALLD and active != "active":
        why = f"firewalld does not run on {server}."
        return [Refused("vllm_firewall firewalld", why, "Write vllm_firewall: nftables.", {"vllm_firewall": NFTABLES})]
    return []


def _allowed(instance: Mapping[str, Any], everyone: Sequence[str]) -> Sequence[str]:
    own = instance.get("allowed_sources")
    return everyone if own is None else own


def guarded(
    instances: Sequence[Mapping[str, Any]], everyone: Sequence[str], seen: Optional[Seen] = None, absent: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return name, port, address (None: all) and the networks of each port that other machines may reach; ``absent`` are names that go."""
    rows = [_row(one, one["host"], one["port"], everyone) for one in instances if not is_local(one)]
    by_name = {one["name"]: one for one in instances}
    for name, host, port in _there(seen or {}, absent):
        row = _row(by_name.get(name, {"name": name}), host, port, everyone)
        if not any(one["port"] == port and one["address"] in (None, row["address"]) for one in rows):
            rows.append(row)
    return rows


def _there(seen: Seen, absent: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    """Yield instance, host and port of the releases on the server that listen for other machines."""
    for home in sorted(seen):
        name = os.path.basename(home)
        for host, port in seen[home].get("listens", []):
            if name not in absent and not is_local({"host": host}):
                yield name, host, port


def _row(instance: Mapping[str, Any], host: str, port: int, everyone: Sequence[str]) -> dict[str, Any]:
    return {"name": instance["name"], "port": port, "address": _address(host), "networks": _joined(_allowed(instance, everyone))}


def _address(host: str) -> Optional[str]:
    try:
        return None if host in EVERYWHERE else str(ipaddress.ip_address(host))
    except ValueError:
        return None  # a name may be any address


def _joined(sources: Sequence[str]) -> dict[str, list[str]]:
    """Return the networks by family (ip, ip6), without overlaps, which an nftables set refuses."""
    four = [found for found in map(network, sources) if isinstance(found, ipaddress.IPv4Network)]
    six = [found for found in map(network, sources) if isinstance(found, ipaddress.IPv6Network)]
    joined = {"ip": [*map(str, ipaddress.collapse_addresses(four))], "ip6": [*map(str, ipaddress.collapse_addresses(six))]}
    return {family: networks for family, networks in joined.items() if networks}


def nftables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the file for `nft -f`, which replaces the table in one step; ``rows`` are those of :func:`guarded`."""
    lines = [f"table {TABLE}", f"delete table {TABLE}", f"table {TABLE} {{", "\tchain input {"]
    lines += ["\t\ttype filter hook input priority filter; policy accept;", '\t\tiifname "lo" accept']
    for row in rows:
        family = "ip6" if row["address"] and ":" in row["address"] else "ip"
        where = f"{family} daddr {row['address']} " if row["address"] else ""
        lines.append(f"\t\t{where}tcp dport {row['port']} jump instance_{row['name']}")
    lines.append("\t}")
    for row in {row["name"]: row for row in rows}.values():
        lines.append(f"\tchain instance_{row['name']} {{")
        lines += [f"\t\t{family} saddr {{ {', '.join(found)} }} counter accept" for family, found in row["networks"].items()]
        # at once and in words, where a silent drop would look like a slow network
        lines += ["\t\tcounter reject with tcp reset", "\t}"]
    return "\n".join([*lines, "}", ""])


def firewalld(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the policy's file: it judges the instances' ports before any zone does."""
    lines = ['<?xml version="1.0" encoding="utf-8"?>', '<policy priority="-100" target="CONTINUE">', "  <short>ownmetal vllm</short>"]
    lines += ['  <ingress-zone name="ANY"/>', '  <egress-zone name="HOST"/>']
    for row in rows:
        port = f'<port port="{row["port"]}" protocol="tcp"/>'
        for family, networks in row["networks"].items():
            name = {"ip": "ipv4", "ip6": "ipv6"}[family]
            for found in networks:
                lines += [f'  <rule family="{name}" priority="-10"><source address={quoteattr(found)}/>{port}<accept/></rule>']
        lines.append(f'  <rule priority="10">{port}<reject/></rule>')
    return "\n".join([*lines, "</policy>", ""])


def files(rows: Sequence[Mapping[str, Any]], kind: str, paths: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the tree's entries: ``rows`` are those of :func:`guarded`, ``paths`` has rules (for nft), unit (that loads them), check (that
    they are still there), and policy (firewalld's)."""
    wanted = kind if rows else NONE
    entries = {name: {"dest": path, "state": "absent"} for name, path in paths.items()}
    if wanted == NFTABLES:
        entries["rules"] = {"dest": paths["rules"], "content": nftables(rows), "validate": "nft --check --file %s"}
        entries["unit"] = {"dest": paths["unit"], "template": "etc/systemd/system/ownmetal-firewall.service.j2"}
        entries["check"] = {"dest": paths["check"], "template": "etc/systemd/system/ownmetal-firewall-check.service.j2"}
    if wanted == FIREWALLD:
        entries["policy"] = {"dest": paths["policy"], "content": firewalld(rows)}
    return list(entries.values())
