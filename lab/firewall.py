"""The packet filter of a lab: a table of its own, and a way through the tables of others that filter what is forwarded."""

from __future__ import annotations

import ipaddress
import json
import sys
from typing import Any

from .proc import attempt, run
from .state import Lab


def up(lab: Lab, subnet: ipaddress.IPv4Network) -> None:
    """Translates the hosts' addresses on the way out; lets nothing in, neither from outside nor from another lab."""
    rules = f"""\
        table ip {lab.table}
        delete table ip {lab.table}
        table ip {lab.table} {{
          chain forward {{
            type filter hook forward priority 0; policy accept;
            iifname {lab.bridge} oifname {lab.bridge} accept
            iifname {lab.bridge} accept
            oifname {lab.bridge} ct state established,related accept
            oifname {lab.bridge} reject
          }}
          chain postrouting {{
            type nat hook postrouting priority 100;
            ip saddr {subnet} oifname != {lab.bridge} masquerade
          }}
        }}
        """
    run(["nft", "-f", "-"], text=rules)
    _take_back(lab)
    for chain in _foreign_chains():
        where = [chain["family"], chain["table"], chain["name"]]
        for end in ("iifname", "oifname"):
            if not attempt(["nft", "insert", "rule", *where, end, lab.bridge, "accept"]):
                print(f"lab: the firewall's chain '{' '.join(where)}' can't be changed from here: should the hosts find"
                      f" no network, let the interface {lab.bridge} through it", file=sys.stderr)  # fmt: skip
                break


def down(lab: Lab) -> None:
    """Removes every rule of the lab."""
    attempt(["nft", "delete", "table", "ip", lab.table])
    _take_back(lab)


def _foreign_chains() -> list[dict[str, Any]]:
    """Chains of other programs that may drop what is forwarded.

    Container engines and firewalls have them, and a packet must pass every one: accepting it in ours isn't enough.
    """
    ruleset = _ruleset()
    filled = {(rule["family"], rule["table"], rule["chain"]) for rule in _of_kind(ruleset, "rule")}
    return [
        chain
        for chain in _of_kind(ruleset, "chain")
        if chain.get("hook") == "forward"
        and chain["family"] in ("ip", "inet")
        and not chain["table"].startswith("om_")
        and (chain.get("policy") == "drop" or (chain["family"], chain["table"], chain["name"]) in filled)
    ]


def _take_back(lab: Lab) -> None:
    """Removes the lab's rules from the chains of others."""
    for rule in _of_kind(_ruleset(), "rule"):
        if rule["table"] != lab.table and f'"{lab.bridge}"' in json.dumps(rule["expr"]):
            where = [rule["family"], rule["table"], rule["chain"]]
            attempt(["nft", "delete", "rule", *where, "handle", str(rule["handle"])])


def _ruleset() -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(run(["nft", "--json", "list", "ruleset"]))["nftables"]
    return listed


def _of_kind(ruleset: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [item[kind] for item in ruleset if kind in item]
