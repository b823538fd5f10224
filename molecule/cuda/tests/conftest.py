"""What the scenario's tests share: two servers, the host with the repositories, and ways to bring a server into a state."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lab import testing
from lab.testing import ROOT

INVENTORY = ROOT / "molecule/cuda/inventory"
OLD, NEW, NEXT = "580.95.05", "580.126.20", "595.58.03"  # what the repository has: see lab/vendor/packages.py
BOOTED = "cut -d' ' -f22 /proc/1/stat"  # when process 1 began
UP = ("running", "degraded")
SERVERS = ("server1", "server2")

BLANK = r"""
set -e
umount /boot 2>/dev/null || true
rm -rf /etc/stand-in/nouveau /etc/stand-in/secure-boot /etc/stand-in/enrolled /etc/apt/preferences.d/test /etc/stand-in/pci/0000:a1:00.0
for place in /etc/stand-in/pci/*; do echo 0x26b9 >"$place/device"; done
dpkg --configure -a >/dev/null
held=$(apt-mark showhold)
[ -z "$held" ] || apt-mark unhold $held >/dev/null
ours=$(dpkg-query -W -f '${Package}\n' | grep -E '^(nvidia-|libnvidia-|libcuda|cuda-|firmware-nvidia|datacenter-gpu|nvlsm$|dkms$)' || true)
[ -z "$ours" ] || dpkg --purge --force-all $ours >/dev/null 2>&1
cd /etc/apt && rm -rf sources.list.d/*cuda* sources.list.d/*nvidia* sources.list.d/*ownmetal* keyrings/* preferences.d/*nvidia* \
    preferences.d/*cuda* preferences.d/*ownmetal* apt.conf.d/*ownmetal* apt.conf.d/*nvidia* /var/lib/apt/lists/mirror1*debian1?*
rm -rf /usr/share/keyrings/*cuda* /usr/share/keyrings/*nvidia* \
    /etc/modprobe.d/*nouveau* /etc/modprobe.d/*nvidia* /etc/modprobe.d/*ownmetal* \
    /usr/local/bin/nvcc /usr/local/cuda* /etc/profile.d/*cuda* /boot/initrd*
apt-get clean
systemctl daemon-reload
systemctl restart stand-in-machine
"""
# the keyring's line names the vendor's own server
AIM = "sed -i 's|https://.*/repos/|http://mirror1/|' /etc/apt/sources.list.d/cuda-*.list"
# as somebody did it before, by the vendor's page: the key's package, a pin, the two packages; then the machine was booted
BEFORE = r"""
set -e
distribution=$(. /etc/os-release && echo $ID$VERSION_ID)
curl -fsSo /tmp/keyring.deb http://mirror1/$distribution/x86_64/cuda-keyring_1.1-1_all.deb
dpkg -i /tmp/keyring.deb >/dev/null
AIM
printf 'Package: src:*nvidia*:any src:cuda-drivers:any\nPin: version WANTED-1\nPin-Priority: 1001\n' >/etc/apt/preferences.d/test
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -qqy nvidia-driver-cuda nvidia-kernel-open-dkms >/dev/null
rm /etc/apt/preferences.d/test
systemctl restart stand-in-machine
""".replace("AIM", AIM)


@pytest.fixture(scope="session")
def servers():
    """Debian 12 and Debian 13."""
    return {name: testing.host(name, INVENTORY) for name in SERVERS}


@pytest.fixture(scope="session")
def mirror():
    return testing.host("mirror1", INVENTORY)


@pytest.fixture(scope="session")
def built(mirror):
    """The host with the repositories, with dnf on it, and the vendor's repositories for dnf."""
    mirror.check_output("DEBIAN_FRONTEND=noninteractive apt-get install -qqy --no-install-recommends dnf rpm createrepo-c dnf-plugins-core")
    mirror.check_output("cd /srv/vendor && python3 -m vendor.rpms $(uname -r)")
    return mirror


@pytest.fixture(scope="session")
def play():
    """Run the role with extra variables on both servers; return exit code and output, ready to read."""
    run = testing.playbook(INVENTORY)

    def role(*options, **variables):
        return run("molecule/cuda/converge.yml", *options, **variables)

    return role


@pytest.fixture
def blank(servers):
    """Servers with GPUs on which nobody installed anything."""
    everywhere(servers, BLANK)
    return servers


@pytest.fixture
def driven(blank):
    """A function: servers on which somebody installed a driver by hand."""

    def install(version):
        everywhere(blank, BEFORE.replace("WANTED", version))
        return blank

    return install


@pytest.fixture
def away(mirror):
    """A function: the repository loses what a shell pattern matches, until the test ends."""

    def lose(pattern):
        mirror.check_output(f"cd /srv/vendor/www && tar -cf ../lost.tar {pattern} && rm {pattern}")

    def back():
        mirror.check_output("cd /srv/vendor/www && [ ! -e ../lost.tar ] || { tar -xf ../lost.tar && rm ../lost.tar; }")

    lose.back = back
    yield lose
    back()


@pytest.fixture
def rotated(mirror):
    """A function: the repository is signed with the key of a name from now on, until the test ends."""

    def sign(name):
        mirror.check_output(f"cd /srv/vendor && python3 -m vendor sign {name}")

    yield sign
    sign("first")


def everywhere(servers, command):
    """Run a command on all servers at once; return what each said."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(servers, pool.map(lambda server: server.check_output(command), servers.values()), strict=True))


def reboot(servers):
    """Boot them again, and wait until they are up."""
    before = everywhere(servers, BOOTED)
    everywhere(servers, "systemd-run --quiet --on-active=1 systemctl reboot")  # after the answer, or ssh takes it for a failure
    deadline = time.monotonic() + 60
    for name, server in servers.items():
        while not _booted_since(server, before[name]):
            assert time.monotonic() < deadline, f"{name} is not up"
            time.sleep(0.5)


def _booted_since(server, began):
    with contextlib.suppress(RuntimeError):  # nobody answers yet
        return server.run(BOOTED).stdout.strip() != began and server.run("systemctl is-system-running").stdout.strip() in UP
    return False


def installed(server, package="nvidia-driver-cuda"):
    """A package's upstream version, or nothing."""
    status, _, version = server.run(f"dpkg-query -W -f '${{db:Status-Status}} ${{Version}}' {package}").stdout.partition(" ")
    return version.strip().rpartition("-")[0] if status == "installed" else ""


def loaded(server):
    """The version of the loaded driver, or nothing."""
    return server.run("cat /sys/module/nvidia/version").stdout.strip()


def state(server):
    """Everything that a refused or repeated run could have changed."""
    return server.check_output(
        "dpkg-query -W; apt-mark showhold; find /etc/apt /etc/modprobe.d /etc/profile.d /usr/share/keyrings /usr/local /boot "
        "-printf '%p %m %u %s %T@ %l\\n' | grep -v '^/etc/apt ' | sort; systemctl list-unit-files --state=enabled --no-legend"
    )
