"""Who may reach an instance: what is refused, and what nftables and firewalld are told."""

import shutil
import subprocess
import xml.etree.ElementTree as ET

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import firewall
from ansible_collections.ownmetal.codex.plugins.module_utils.catalogue import instances
from ansible_collections.ownmetal.codex.plugins.module_utils.tracks import track


def some(**keys):
    return instances([[{"name": "coder", "model": "/srv/coder", **keys}]], track("cpu-py311"))


REFUSED = [
    # the instance                                      everyone              kind          words of the refusal, or none
    ({}, [], "nftables", None),  # loopback alone
    ({"host": "localhost"}, [], "nftables", None),
    ({"host": "10.0.0.5"}, [], "nftables", "Write vllm_allowed_sources: [192.0.2.0/24]"),
    ({"host": "::"}, [], "firewalld", "nobody is allowed to reach it"),
    ({"host": "10.0.0.5"}, [], "none", None),
    ({"host": "10.0.0.5"}, ["10.0.0.0/8"], "nftables", None),
    ({"host": "10.0.0.5", "allowed_sources": ["10.0.0.9"]}, [], "nftables", None),
    ({"host": "10.0.0.5", "allowed_sources": []}, ["10.0.0.0/8"], "nftables", "nobody is allowed to reach it"),
    ({}, ["10.0.0.5/8"], "nftables", "write 10.0.0.0/8, or 10.0.0.5 alone"),
    ({}, ["developers.example"], "none", "is neither an address nor a network"),
    ({}, "10.0.0.0/8", "nftables", "is not a list"),
    ({}, [10], "nftables", "write it in quotes"),
    ({}, [], "ufw", "Write one of: nftables, firewalld, none."),
]


@pytest.mark.parametrize(("keys", "everyone", "kind", "words"), REFUSED)
def test_an_open_port_without_sources_is_refused(keys, everyone, kind, words):
    found = " ".join(map(str, firewall.problems(some(**keys), everyone, kind)))
    assert bool(found) == bool(words), found
    assert words is None or words in found


HOSTS = [("nftables", "active", "firewalld"), ("nftables", "inactive", ""), ("firewalld", "active", ""), ("firewalld", None, "nftables")]


@pytest.mark.parametrize(("kind", "active", "right"), HOSTS)
def test_the_firewall_that_rules_is_named(kind, active, right):
    found = firewall.host_problems("gpu1", kind, active)
    assert [one.proposal for one in found] == ([{"vllm_firewall": right}] if right else [])


def test_only_ports_of_instances_are_touched_and_loopback_never():
    four = some(host="10.0.0.5", allowed_sources=["10.0.0.0/8", "10.1.0.0/16", "2001:db8::/64"])
    six = [{**some(host="2001:db8::5", port=8001)[0], "name": "6"}]
    text = firewall.nftables(firewall.guarded([*four, *six, *some(port=8002)], ["2001:db8::/64"]))
    assert "8002" not in text
    assert text.index('iifname "lo" accept') < text.index("dport")
    assert "ip daddr 10.0.0.5 tcp dport 8000 jump instance_coder" in text
    assert "ip6 daddr 2001:db8::5 tcp dport 8001 jump instance_6" in text
    assert "ip saddr { 10.0.0.0/8 } counter accept" in text  # the second is within the first, which a set would refuse
    assert text.count("ip6 saddr { 2001:db8::/64 } counter accept") == 2
    if shutil.which("nft"):
        checked = subprocess.run(["nft", "--check", "--file", "-"], input=text, capture_output=True, text=True, check=False)
        assert checked.returncode == 0 or "Operation not permitted" in checked.stderr, checked.stderr
    rules = ET.fromstring(firewall.firewalld(firewall.guarded([*four, *six], ["2001:db8::/64"]))).findall("rule")  # noqa: S314 - our own text
    assert [(rule.get("family"), rule.find("reject") is not None) for rule in rules] == [
        ("ipv4", False),
        ("ipv6", False),
        (None, True),
        ("ipv6", False),
        (None, True),
    ]


PATHS = {"rules": "/r", "unit": "/u", "check": "/c", "policy": "/p"}
FILES = [
    ("nftables", {"host": "0.0.0.0"}, {"/p"}),
    ("firewalld", {"host": "0.0.0.0"}, {"/r", "/u", "/c"}),
    ("nftables", {}, {"/r", "/u", "/c", "/p"}),
]


@pytest.mark.parametrize(("kind", "keys", "absent"), FILES)
def test_what_is_not_wanted_is_taken_away(kind, keys, absent):
    entries = firewall.files(firewall.guarded(some(**keys), ["10.0.0.0/8"]), kind, PATHS)
    assert {entry["dest"] for entry in entries} == set(PATHS.values())
    assert {entry["dest"] for entry in entries if entry.get("state") == "absent"} == absent


ALL, NETWORK = "0.0.0.0", {"ip": ["10.0.0.0/8"]}
SEEN = [
    # the inventory's instance      where releases on the server listen               port and address of what is guarded
    ({"host": ALL, "port": 8003}, {"coder": [[ALL, 8002], [ALL, 8003]]}, [(8003, None), (8002, None)]),  # it may go back
    ({}, {"coder": [[ALL, 8002], ["127.0.0.1", 8000]]}, [(8002, None)]),
    ({"host": ALL}, {"coder": [["10.0.0.5", 8000]]}, [(8000, None)]),  # all addresses: this one too
    ({"host": "10.0.0.5"}, {"coder": [[ALL, 8000]]}, [(8000, "10.0.0.5"), (8000, None)]),
    ({}, {"forgotten": [[ALL, 8001]]}, [(8001, None)]),  # no entry in the inventory
    ({}, {"going": [[ALL, 8001]]}, []),  # state: absent
]


@pytest.mark.parametrize(("keys", "listens", "guarded"), SEEN)
def test_what_the_server_may_run_besides_is_guarded_too(keys, listens, guarded):
    seen = {f"/var/lib/vllm/{name}": {"listens": places} for name, places in listens.items()}
    rows = firewall.guarded(some(**keys), ["10.0.0.0/8"], seen, ["going"])
    assert [(row["port"], row["address"]) for row in rows] == guarded
    assert all(row["networks"] == NETWORK for row in rows)
    assert firewall.nftables(rows).count("chain instance_coder") <= 1
