"""What the system does by itself leaves the driver alone; and what the role leaves behind when it goes."""

from __future__ import annotations

import pytest
from conftest import INVENTORY, NEW, OLD, everywhere, installed

from lab import testing

# what its nightly run would do, with every repository allowed to it
NIGHT = (
    "echo 'Unattended-Upgrade::Origins-Pattern { \"origin=*\"; };' >/etc/apt/apt.conf.d/99test; unattended-upgrade --dry-run --debug 2>&1"
)
OWN = "cd / && find etc/apt etc/modprobe.d usr/share/keyrings usr/local/bin | grep -E 'own|nvidia|cuda|nvcc' | sort"
ALL = {"cuda_dcgm": True, "cuda_container_toolkit": True}


@pytest.fixture
def uninstall():
    run = testing.playbook(INVENTORY)

    def leave(*options, **variables):
        return run("uninstall", *options, **variables)

    return leave


def test_the_nightly_upgrade_leaves_the_driver_alone(driven, play):
    servers = driven(OLD)
    everywhere(servers, "DEBIAN_FRONTEND=noninteractive apt-get install -qqy --no-install-recommends unattended-upgrades >/dev/null")
    code, said = play()
    assert code == 0, said
    own = "/etc/apt/apt.conf.d/51ownmetal-cuda"
    try:
        # without the holds: each of the two is enough
        everywhere(servers, "apt-mark unhold $(apt-mark showhold) >/dev/null")
        for said in everywhere(servers, NIGHT).values():
            assert "nvidia-driver-cuda" not in said.partition("Packages that will be upgraded:")[2]
        for said in everywhere(servers, f"mv {own} /root/own; {NIGHT}; mv /root/own {own}").values():
            assert "nvidia-driver-cuda" in said.partition("Packages that will be upgraded:")[2]
    finally:
        everywhere(servers, "rm -f /etc/apt/apt.conf.d/99test")


def test_what_is_left_works_and_belongs_to_nobody(blank, play, uninstall):
    everywhere(blank, "touch /etc/stand-in/nouveau")
    before = everywhere(blank, OWN)
    code, said = play(**ALL)
    assert code == 0, said
    everywhere(blank, "apt-mark hold cuda-nvcc-13-0 && systemctl restart stand-in-machine && ! test -e /sys/module/nouveau")
    code, said = uninstall()
    assert code == 0, said
    assert everywhere(blank, OWN) == before
    for server in blank.values():
        assert installed(server) == NEW
        assert server.check_output("apt-mark showhold") == "cuda-nvcc-13-0"  # somebody else's
        assert server.service("nvidia-persistenced").is_running
        server.check_output("apt-get update --error-on=any && apt-get check")
        server.check_output("systemctl restart stand-in-machine && test -d /sys/module/nouveau")
    code, said = uninstall()
    assert (code, said.count("changed=0")) == (0, 2), said


def test_all_of_it_goes_when_that_is_asked_for(blank, play, uninstall):
    packages = "dpkg-query -W | grep -vE '^(dkms|linux-headers-)'"  # the distribution's stay
    before = everywhere(blank, packages), everywhere(blank, OWN)
    code, said = play(**ALL)
    assert code == 0, said
    code, said = uninstall("--check", cuda_uninstall_packages=True)
    assert code == 0, said
    assert {installed(server) for server in blank.values()} == {NEW}
    code, said = uninstall(cuda_uninstall_packages=True)
    assert code == 0, said
    assert (everywhere(blank, packages), everywhere(blank, OWN)) == before
    everywhere(blank, "systemctl restart stand-in-machine")  # the module is loaded until the next boot
    code, said = play()  # and comes again
    assert code == 0, said
