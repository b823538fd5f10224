"""The lab itself, for real: hosts that boot, reach one another, survive a reboot, and leave nothing behind.

Needs root. Takes about a minute once the roots are cached. Every lab made here has an identity of its own.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
LAB, OTHER = f"t{secrets.token_hex(2)}", f"u{secrets.token_hex(2)}"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
UV = Path(sys.executable).parent / "uv"  # the development environment's
SUITES = {"one": "bookworm", "two": "trixie"}
HOSTS = pytest.mark.parametrize("host", SUITES)

pytestmark = pytest.mark.lab


def lab(*words: str, lab_id: str = LAB, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "lab", *words],
        cwd=CHECKOUT,
        env=os.environ | {"LAB_ID": lab_id} | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert not check or done.returncode == 0, f"lab {' '.join(words)}: {done.stdout}{done.stderr}"
    return done


def inside(host: str, command: str, lab_id: str = LAB, check: bool = True) -> str:
    return lab("exec", host, "sh", "-c", command, lab_id=lab_id, check=check).stdout.strip()


def connections(lab_id: str = LAB) -> dict[str, dict[str, str]]:
    return {row["name"]: row for row in json.loads(lab("list", "--json", lab_id=lab_id).stdout)}


def ssh(host: str, command: str) -> str:
    row = connections()[host]
    options = [f"UserKnownHostsFile={row['known_hosts']}", "StrictHostKeyChecking=yes", "BatchMode=yes", "ConnectTimeout=5"]
    words = ["ssh", "-F", "none", "-i", row["key"], *(word for option in options for word in ("-o", option))]
    return subprocess.run([*words, f"{row['user']}@{row['address']}", command], capture_output=True, text=True, check=True).stdout.strip()


def eventually(what, seconds: float = 30):
    """Waits until `what()` is true and returns that."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)
    return found


def processes(words: str) -> set[int]:
    """The processes whose command line holds these words."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if words in path.read_text().replace("\0", " "):
                found.add(int(path.parent.name))
    return found


def output(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def snapshot() -> dict[str, object]:
    """What a lab could leave on this machine, without what belongs to labs that others may run meanwhile."""

    def ours(text: str) -> bool:
        named = re.search(r"\bom[-_]([a-z0-9]+)|ownmetal/lab/labs/([a-z0-9]+)", text)
        return named is None or (named[1] or named[2]) in (LAB, OTHER)

    # systemd-nspawn names a lock by the root it is for: these are roots of hosts that are up in other labs
    roots = [root.stat() for root in CACHE.glob("ownmetal/lab/labs/*/*/root") if not ours(str(root))]
    inodes = {f"inode-{root.st_dev}:{root.st_ino}" for root in roots}
    links = [link["ifname"] for link in json.loads(output("ip", "-json", "link"))]
    seen = {
        "links": links,
        "namespaces": output("ip", "netns", "list").splitlines(),
        "tables": output("nft", "list", "tables").splitlines(),
        "mounts": [line.split()[4] + line.partition(" - ")[2] for line in Path("/proc/self/mountinfo").read_text().splitlines()],
        "cgroups": [str(Path(folder, name)) for folder, names, _ in os.walk("/sys/fs/cgroup") for name in names if name.startswith("om-")],
        "nspawn": [str(path) for path in Path("/run/systemd/nspawn").glob("*/*") if path.name not in inodes],
        "cache": [str(path) for path in CACHE.glob("ownmetal/lab/labs/*")],
        "processes": sorted(processes(f"om-{LAB}") | processes(f"om-{OTHER}")),
    }
    kept: dict[str, object] = {key: sorted(str(item) for item in items if ours(str(item))) for key, items in seen.items()}
    # another lab on this machine keeps forwarding on, and rightly so
    alone = all(ours(link) for link in links)
    kept["forwarding"] = (Path("/proc/sys/net/ipv4/ip_forward").read_text(), Path("/run/ownmetal-lab").exists()) if alone else None
    return kept


def wheel(folder: Path) -> str:
    """A package that only this folder has; returns its name."""
    folder.mkdir()
    name, info = "labproof", "labproof-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return name


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("lab")
    wheel(base / "wheels")
    for name in ("read", "write"):
        (base / name).mkdir()
    (base / "read" / "file").write_text("from the operator\n")
    shutil.copy(UV, base / "read")
    return {path.name: path for path in base.iterdir()}


@pytest.fixture(scope="module")
def before() -> dict[str, object]:
    return snapshot()


@pytest.fixture(scope="module", autouse=True)
def up(before: dict[str, object], folders: dict[str, Path]) -> Iterator[None]:
    """Two hosts, made with a caller's environment and an operator's package folder that they are to meet again, or not."""
    binds = ["--bind", f"{folders['read']}:/srv/read", "--bind-rw", f"{folders['write']}:/srv/write"]
    links = f"{os.environ.get('PIP_FIND_LINKS', '')} {folders['wheels']}"
    try:
        lab("up", *binds, *(f"{name}:{suite}" for name, suite in SUITES.items()), PIP_FIND_LINKS=links, CALLERS_OWN="1")
        yield
    finally:
        for lab_id in (LAB, OTHER):
            lab("down", "--all", lab_id=lab_id)


@HOSTS
def test_a_host_is_a_debian_whose_systemd_runs(host: str) -> None:
    assert inside(host, "systemctl is-system-running") == "running"
    assert inside(host, "systemctl --failed --no-legend") == ""
    assert inside(host, ". /etc/os-release; echo $VERSION_CODENAME") == SUITES[host]
    assert inside(host, "cat /proc/1/comm; hostname").split() == ["systemd", host]


@HOSTS
def test_a_host_does_not_see_the_callers_environment(host: str) -> None:
    assert "CALLERS_OWN" not in inside(host, "tr '\\0' '\\n' </proc/1/environ; env")


def test_each_host_has_an_identity_of_its_own() -> None:
    for path in ("/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub"):
        assert inside("one", f"cat {path}") != inside("two", f"cat {path}") != ""


@HOSTS
def test_ssh_by_key_to_a_host_that_is_known_beforehand(host: str) -> None:
    assert ssh(host, "hostname") == host
    assert stat.S_IMODE(Path(connections()[host]["key"]).stat().st_mode) == 0o600


def test_hosts_reach_one_another_by_name() -> None:
    for here, there in (("one", "two"), ("two", "one")):
        assert inside(here, f"bash -c 'exec 3<>/dev/tcp/{there}/22; head -c 4 <&3'") == "SSH-"
        assert inside(here, f"getent hosts {there}").split() == [connections()[there]["address"], there]


@HOSTS
def test_apt_reaches_the_archive_and_its_lists_count_as_old_before(host: str) -> None:
    assert inside(host, "find /var/lib/apt/lists -maxdepth 0 -mtime +1") == "/var/lib/apt/lists"
    inside(host, "apt-get update -q --error-on=any")


def test_pip_and_uv_find_the_operators_index_and_folder() -> None:
    inside("one", "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends python3-venv")
    inside("one", "python3 -m venv v")
    inside("one", "v/bin/pip download -q --no-deps --dest d labproof six")
    assert inside("one", "ls d | cut -d- -f1").split() == ["labproof", "six"]
    assert "+ labproof==1.0\n + six==" in inside("one", "/srv/read/uv pip install --python v --dry-run labproof six 2>&1") + "\n"


@pytest.mark.parametrize("words", [["uv-settings"], ["uv-settings", "--toml"]])
def test_the_controllers_uv_gets_the_same_settings(words: list[str], folders: dict[str, Path], tmp_path: Path) -> None:
    settings = tmp_path / "settings"
    settings.write_text(lab(*words, PIP_FIND_LINKS=str(folders["wheels"])).stdout)
    read = {1: f". {settings}; set -- --no-config", 2: f"set -- --config-file {settings}"}[len(words)]
    install = f'{read}; exec {UV} pip install "$@" --python {sys.executable} --no-deps --dry-run labproof'
    done = subprocess.run(["sh", "-euc", install], capture_output=True, text=True, check=True)
    assert "+ labproof==1.0" in done.stderr


def test_folders_of_the_operator(folders: dict[str, Path]) -> None:
    assert inside("one", "cat /srv/read/file") == "from the operator"
    assert inside("one", "touch /srv/read/file 2>&1", check=False).endswith("Read-only file system")
    inside("two", "echo from two >/srv/write/file")
    assert (folders["write"] / "file").read_text() == "from two\n"


@HOSTS
@pytest.mark.parametrize(("limit", "code"), [("400M", 0), ("30M", 255)])
def test_memory_limits_of_units_are_enforced(host: str, limit: str, code: int) -> None:
    words = ["systemd-run", "-q", "--wait", "--collect", "-p", f"MemoryMax={limit}", "-p", "MemorySwapMax=0"]
    assert lab("exec", host, *words, "python3", "-c", "bytearray(200 << 20)", check=False).returncode == code


def test_exec_hands_on_the_exit_code() -> None:
    assert lab("exec", "one", "sh", "-c", "exit 7", check=False).returncode == 7


def test_up_leaves_a_host_alone_that_is_up() -> None:
    pids = processes(f"om-{LAB}")
    assert "up already" in lab("up", "one").stdout
    assert processes(f"om-{LAB}") == pids


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["up", "one:trixie"], "one is up, but not as asked for now; 'down one' first"),
        (["up", "Bad_Name"], "'Bad_Name' can't name a host"),
        (["up", "new:sid"], "there is no suite 'sid'; use one of bookworm, trixie"),
        (["up", "--bind", "/no/such", "new"], "/no/such is no folder of this machine"),
        (["exec", "three", "true"], "three: this lab has no such host (it has: one, two)"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_sentence(words: list[str], sentence: str) -> None:
    done = lab(*words, check=False)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert sorted(connections()) == ["one", "two"]


def test_inventory_is_one_for_ansible() -> None:
    hosts = yaml.safe_load(lab("inventory").stdout)["all"]["hosts"]
    assert {name: host["ansible_host"] for name, host in hosts.items()} == {name: row["address"] for name, row in connections().items()}


@HOSTS
def test_a_reboot(host: str) -> None:
    started = "systemctl show -P UserspaceTimestampMonotonic"
    first = inside(host, started)
    inside(host, "echo kept >/root/kept; systemctl reboot", check=False)
    eventually(lambda: inside(host, started, check=False) not in ("", first))
    eventually(lambda: connections()[host]["state"] == "running")
    assert ssh(host, "cat /root/kept") == "kept"
    assert "Reached target" in lab("logs", host).stdout


def test_two_labs_have_a_subnet_each_and_do_not_meet() -> None:
    lab("up", "one", "other", lab_id=OTHER)
    subnets = [{ipaddress.ip_network(f"{row['address']}/24", strict=False) for row in connections(name).values()} for name in (LAB, OTHER)]
    assert [len(subnet) for subnet in subnets] == [1, 1]
    assert subnets[0] != subnets[1]
    assert inside("one", "getent hosts other", check=False) == ""
    theirs = connections(OTHER)["one"]["address"]
    assert "0 received" in inside("one", f"ping -c1 -W1 {theirs}", check=False)
    lab("down", "--all", lab_id=OTHER)
    assert connections(OTHER) == {}
    assert ssh("one", "hostname") == "one"  # the other's end took nothing of ours with it


@pytest.mark.parametrize("seconds", [0.3, 0.7, 1.1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_was_ended_is_cleaned_up(seconds: float, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "lab", "up", "three", "four:trixie"],
        cwd=CHECKOUT,
        env=os.environ | {"LAB_ID": OTHER},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(seconds)
    process.send_signal(number)
    process.wait(30)
    if number == signal.SIGTERM:  # it had time to undo what was half made: nothing is left but hosts that are up
        assert all(row["state"] == "running" for row in connections(OTHER).values())
    if seconds > 1:
        lab("up", "three", lab_id=OTHER)
        assert inside("three", "systemctl is-system-running --wait", lab_id=OTHER) == "running"
    lab("down", "--all", lab_id=OTHER)
    assert not processes(f"om-{OTHER}")


def test_a_host_whose_keeper_was_killed_is_made_anew() -> None:
    lab("up", "three", lab_id=OTHER)
    for pid in processes(f"om-{OTHER}-three"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: connections(OTHER)["three"]["state"] in ("orphaned", "down"))
    lab("up", "three", lab_id=OTHER)
    assert connections(OTHER)["three"]["state"] == "running"


def test_down_finds_hosts_whose_records_are_lost() -> None:
    lab("up", "three", lab_id=OTHER)
    record = Path(connections(OTHER)["three"]["known_hosts"]).parent / "three.json"
    record.unlink()
    assert "three is gone" in lab("down", "--all", lab_id=OTHER).stdout
    assert not processes(f"om-{OTHER}")


# A machine of another kind, in namespaces of the test's own: $1 is the lab, run with the Python $2.
VERSION_2 = """
umount -R /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
export LAB_ID=$1
trap '"$2" -m lab down --all >/dev/null' EXIT
"$2" -m lab up three four:trixie >/dev/null
"$2" -m lab exec three stat -f -c %T /sys/fs/cgroup
"$2" -m lab exec three sh -c 'touch /run/before; systemctl reboot'
for second in $(seq 30); do
  "$2" -m lab exec three sh -c '[ ! -e /run/before ] && systemctl is-system-running -q' 2>/dev/null && break
  sleep 1
done
"$2" -m lab exec three sh -c 'ls /run/before 2>/dev/null; systemctl is-system-running'
"$2" -m lab exec four systemctl is-system-running
"""
FIREWALL = """
mount -t tmpfs none /run && mkdir /run/lock /run/netns
ip netns add outside
ip link add up0 type veth peer name eth0 netns outside
ip address add 203.0.113.1/24 dev up0 && ip link set up0 up
ip -n outside address add 203.0.113.2/24 dev eth0 && ip -n outside link set eth0 up
nft add table ip filter && nft add chain ip filter FORWARD '{ type filter hook forward priority 0; policy drop; }'
nft add table inet other && nft add chain inet other forwarded '{ type filter hook forward priority 9; }'
nft add rule inet other forwarded reject
echo 0 >/proc/sys/net/ipv4/ip_forward
state() { nft list ruleset; cat /proc/sys/net/ipv4/ip_forward; ls -d /run/ownmetal-lab 2>/dev/null || :; }
before=$(state)
export LAB_ID=$1 LAB_NAMESERVERS=203.0.113.2
trap '"$2" -m lab down --all >/dev/null' EXIT
"$2" -m lab up three >/dev/null
"$2" -m lab exec three ping -q -c1 -W2 203.0.113.2 | grep -o '1 received'
"$2" -m lab down --all >/dev/null
[ "$before" = "$(state)" ] && echo as before
"""


@pytest.mark.parametrize(
    ("script", "namespaces", "expected"),
    [
        pytest.param(VERSION_2, [], "cgroup2fs\nrunning\nrunning\n", id="cgroups of version 2 alone"),
        pytest.param(FIREWALL, ["--net"], "1 received\nas before\n", id="firewalls that drop and reject what is forwarded"),
    ],
)
def test_a_machine_of_another_kind(script: str, namespaces: list[str], expected: str) -> None:
    words = ["unshare", "--mount", "--propagation=private", *namespaces, "sh", "-euc", script, "sh", OTHER, sys.executable]
    done = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=120)
    assert (done.stdout, done.returncode) == (expected, 0), done.stderr


def test_down_leaves_nothing(before: dict[str, object]) -> None:
    assert processes(f"om-{LAB}")
    for lab_id in (LAB, OTHER):
        lab("down", "--all", lab_id=lab_id)
    after = snapshot()
    if None in (before["forwarding"], after["forwarding"]):
        del before["forwarding"], after["forwarding"]
    assert after == before
