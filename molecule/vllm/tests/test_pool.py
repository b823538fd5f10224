"""Two servers, one pool: what comes over the uplink comes once, and the second server needs no way out.

Everything is built and taken at a place of its own, so that the instances that run are left alone.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import time

import pytest
from conftest import INVENTORY, ROOT

from lab import testing

HOME = "/srv/pool-test"
PLACES = {"vllm_directory": HOME, "vllm_cache_directory": f"{HOME}/cache", "vllm_pool_directory": f"{HOME}/pool"}
INSTALL = ("--tags", "vllm_install")
PORT = 8765
TABLE = f"pool_test_{os.getpid()}"


@pytest.fixture(scope="module")
def addresses():
    listing = subprocess.run([sys.executable, "-m", "lab", "list", "--json"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {host["name"]: host["address"] for host in json.loads(listing)}


@pytest.fixture(scope="module")
def uplink(addresses):
    """Count what this machine forwards to each host from elsewhere than its neighbours."""
    bridged = ", ".join(addresses.values())
    names = [name for name in addresses if name.startswith("server")]
    rules = "".join(f"counter {name} {{}}\n" for name in names)
    rules += "chain count { type filter hook forward priority -200; policy accept;\n"
    rules += "".join(f"ip saddr != {{ {bridged} }} ip daddr {addresses[name]} counter name {name}\n" for name in names)
    subprocess.run(["nft", "-f", "-"], input=f"table inet {TABLE} {{\n{rules}}}\n}}\n", text=True, check=True)

    def read():
        said = subprocess.run(["nft", "-j", "list", "counters", "table", "inet", TABLE], capture_output=True, text=True, check=True).stdout
        return {row["counter"]["name"]: row["counter"]["bytes"] for row in json.loads(said)["nftables"] if "counter" in row}

    yield read
    subprocess.run(["nft", "delete", "table", "inet", TABLE], check=True)


@pytest.fixture(scope="module", autouse=True)
def gone_afterwards(server, server2):
    yield
    for host in (server, server2):
        host.run(f"rm -rf {HOME}")


@pytest.fixture(scope="module")
def killed(server, uplink):
    """A build that was killed on its host in the middle, with what the play said and what each server got over the uplink."""
    before = uplink()
    words = testing.command("gpu_servers", INVENTORY, *INSTALL, **PLACES)
    with subprocess.Popen(words, cwd=ROOT, env=testing.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as play:
        end = time.monotonic() + 240
        while server.run(f"ls {HOME}/environments/.*.part/lib/python3*/site-packages/torch").rc and time.monotonic() < end:
            time.sleep(1)
        server.check_output("pkill -9 -f AnsiballZ_vllm_environment")
        time.sleep(1)
        left = server.run(f"pgrep -af {HOME}/uv").stdout
        said = " ".join(play.communicate()[0].split())
    return {"left": left, "said": said, "code": play.returncode, "before": before}


@pytest.fixture(scope="module")
def fetched(killed, playbook, uplink):
    """Both servers have what they need, from nothing: return what each of them got over the uplink."""
    before = killed["before"]
    code, said = playbook("gpu_servers", *INSTALL, **PLACES)
    assert code == 0, said[-3000:]
    return {name: count - before[name] for name, count in uplink().items()}


def test_a_killed_build_leaves_no_half_environment_and_no_process(killed, server):
    assert killed["code"] != 0
    assert "was ended from outside" in killed["said"]
    assert killed["left"] == ""
    # the second server's run failed with the job that it waited for; the first one's own, after it, has cleared and built
    assert server.run(f"ls -d {HOME}/environments/.*.part").rc != 0


def environments(host):
    return sorted(host.check_output(f"ls -A {HOME}/environments").split())


def test_each_byte_comes_once(fetched, server, server2):
    ratio = sum(fetched.values()) / fetched["server1"]
    print(f"\nuplink bytes: server1 {fetched['server1']:,}, server2 {fetched['server2']:,}; both against one: {ratio:.4f}")
    assert fetched["server1"] > 50e6
    assert ratio <= 1.05
    assert environments(server) == environments(server2)
    assert len(environments(server)) == 1


def test_what_was_taken_is_what_was_built(fetched, server, server2):
    """Every byte: the manifests are equal, and the second server's files are what its manifest says."""
    name = environments(server)[0]
    manifest = f"{HOME}/environments/{name}/ownmetal-manifest.json"
    assert server.check_output(f"sha256sum {manifest}") == server2.check_output(f"sha256sum {manifest}")
    assert server2.check_output(f"find {HOME}/environments/{name} ! -type l -perm /222 | wc -l") == "0"
    assert server2.check_output(f"find {HOME}/environments/{name} -name '*.pyc' | wc -l") != "0"
    assert "0.32.0" in server2.check_output(f"VLLM_NO_USAGE_STATS=1 {HOME}/environments/{name}/bin/vllm --version")
    assert not server2.file(f"{HOME}/uv").exists


def test_a_second_run_does_nothing(fetched, playbook):
    _code, said = playbook("gpu_servers", *INSTALL, **PLACES)
    assert re.findall(r"changed=(\d+)", said) == ["0", "0"]
    assert "from the pool" not in said


def lab_ip(host, *words):
    """Change a host's network: from outside, for it may not do so itself."""
    subprocess.run([sys.executable, "-m", "lab", "exec", host, "ip", *words], cwd=ROOT, check=True)


def route(*words):
    lab_ip("server2", "route", *words)


@pytest.fixture
def emptied(fetched, server2):
    """The second server, without the environment and without a way out."""
    server2.check_output(f"rm -rf {HOME}/environments")
    default = server2.check_output("ip route show default").split()
    route("del", "default")
    yield server2
    route("add", *default)


def test_a_server_without_a_way_out_alone(emptied, playbook, uplink):
    before = uplink()["server2"]
    code, said = playbook("gpu_servers", *INSTALL, "--limit", "server2", **PLACES)
    assert code == 0, said[-3000:]
    assert len(environments(emptied)) == 1
    assert uplink()["server2"] - before == 0


@pytest.fixture
def by_ipv6(emptied, server):
    """The two servers know each other by IPv6, too."""
    addresses = {"server1": "fd00:6f77::1", "server2": "fd00:6f77::2"}
    for name, address in addresses.items():
        lab_ip(name, "-6", "address", "add", f"{address}/64", "dev", "eth0", "nodad")
    yield addresses["server1"]
    for name, address in addresses.items():
        lab_ip(name, "-6", "address", "del", f"{address}/64", "dev", "eth0")


def test_a_pool_by_ipv6(by_ipv6, emptied, playbook):
    code, said = playbook("gpu_servers", *INSTALL, "--limit", "server2", vllm_pool_address=by_ipv6, **PLACES)
    assert code == 0, said[-3000:]
    assert len(environments(emptied)) == 1


def test_a_server_that_does_not_reach_the_pool_says_what_to_open(emptied, playbook, addresses):
    pool = addresses["server1"]
    route("add", "prohibit", pool)
    try:
        code, said = playbook("gpu_servers", *INSTALL, "--limit", "server2", **PLACES)
    finally:
        route("del", "prohibit", pool)
    assert code != 0
    assert f"Let it reach TCP port {PORT} of {pool}" in said
    assert emptied.check_output(f"ls -A {HOME}/environments") == ""


def test_a_pool_host_that_is_away_is_named(emptied, playbook):
    code, said = playbook("gpu_servers", *INSTALL, "--limit", "server2", vllm_pool_host="server9", **PLACES)
    assert code != 0
    assert "vllm_pool_host: server9 was not reached, and server2 takes its environments from it." in said


def test_check_mode_takes_nothing(emptied, playbook):
    code, said = playbook("gpu_servers", *INSTALL, "--check", "--limit", "server2", **PLACES)
    assert code == 0, said[-3000:]
    assert not emptied.file(f"{HOME}/environments").exists


def test_the_token_is_not_shown(emptied, playbook, server):
    code, said = playbook("gpu_servers", *INSTALL, "--limit", "server2", "-vvv", **PLACES)
    assert code == 0, said[-3000:]
    assert "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER" in said
    known = set(server.check_output("ls /run/ownmetal-pool/tokens").split())
    words = set(re.findall(r"[\w-]{43}", said))
    assert known
    assert not known & {hashlib.sha256(word.encode()).hexdigest() for word in words}


def test_the_pool_ends_by_itself_and_is_nobodys(fetched, server):
    """It runs for some minutes after it was used; what it is then is unprivileged."""
    show = server.check_output("systemctl show --property=DynamicUser,ProtectSystem,NoNewPrivileges ownmetal-pool.service").splitlines()
    assert sorted(show) == ["DynamicUser=yes", "NoNewPrivileges=yes", "ProtectSystem=strict"]
    known = set(server.check_output("ls /run/ownmetal-pool/tokens").split())  # a token's SHA-256 is its file's name
    told = server.check_output("journalctl --no-pager; systemctl status --no-pager --full ownmetal-pool.service; ps -eo args")
    assert known
    assert not known & {hashlib.sha256(word.encode()).hexdigest() for word in re.findall(r"[\w-]{20,}", told)}


@pytest.fixture
def small_disk(emptied):
    """Environments lie on a disk of their own, which is too small for one."""
    emptied.check_output(f"mkdir -p {HOME}/environments && mount -t tmpfs -o size=900m small {HOME}/environments")
    yield emptied
    emptied.check_output(f"umount {HOME}/environments")


def test_a_disk_that_becomes_full_has_its_space_back_and_the_next_run_heals(small_disk, playbook):
    code, said = playbook("gpu_servers", *INSTALL, "--limit", "server2", **PLACES)
    assert code != 0
    assert "vllm_directory: the disk became full while" in said, said[-2000:]
    assert small_disk.check_output(f"ls -A {HOME}/environments") == ""
    small_disk.check_output(f"mount -o remount,size=5g {HOME}/environments")
    code, said = playbook("gpu_servers", *INSTALL, "--limit", "server2", **PLACES)
    assert code == 0, said[-3000:]
    assert len(environments(small_disk)) == 1


def carry(path):
    """Take a file from the first server to the second, as on a disk."""
    lab = [sys.executable, "-m", "lab", "exec"]
    with subprocess.Popen([*lab, "server1", "cat", path], cwd=ROOT, stdout=subprocess.PIPE) as reader:
        subprocess.run([*lab, "server2", "tee", path], cwd=ROOT, stdin=reader.stdout, stdout=subprocess.DEVNULL, check=True)
    assert reader.returncode == 0


def test_a_bundle_fills_a_pool_that_has_no_way_out(emptied, playbook, uplink):
    archive = f"{HOME}/bundle.tar"
    code, said = playbook("bundle", bundle_file=archive, **PLACES)
    assert code == 0, said[-3000:]
    carry(archive)
    alone = {**PLACES, "vllm_pool_host": "server2", "bundle_file": archive}
    before = uplink()["server2"]
    code, said = playbook("unbundle", "--limit", "server2", **alone)
    assert code == 0, said[-3000:]
    emptied.check_output(f"mkdir -p {HOME}/environments && mount -t tmpfs -o size=900m small {HOME}/environments")
    code, said = playbook("gpu_servers", *INSTALL, "--limit", "server2", **alone)
    left = emptied.check_output(f"ls -A {HOME}/environments")
    emptied.check_output(f"umount {HOME}/environments")
    assert code != 0
    assert "the disk became full" in said, said[-2000:]
    assert left == ""
    code, said = playbook("gpu_servers", *INSTALL, "--limit", "server2", **alone)
    assert code == 0, said[-3000:]
    assert len(environments(emptied)) == 1
    assert uplink()["server2"] - before == 0
    assert emptied.file(f"{HOME}/uv").exists
    _code, said = playbook("unbundle", "--limit", "server2", **alone)
    assert re.findall(r"changed=(\d+)", said) == ["0"]
