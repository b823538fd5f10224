"""The stand-in behaves as the vendor's repository does: what the role has to cope with is really there."""

from __future__ import annotations

import pytest
from conftest import AIM, NEW, NEXT, OLD, everywhere, installed, loaded, reboot

HEADLESS = "nvidia-driver-cuda nvidia-kernel-open-dkms"


@pytest.mark.parametrize(("first", "version"), [("true", NEXT), ("apt-get install -qqy nvidia-driver-pinning-580", NEW)])
def test_apt_takes_the_newest_driver_but_for_a_pin(driven, first, version):
    for server in driven(OLD).values():
        said = server.check_output(f"{first} >/dev/null; apt-get install -s {HEADLESS}")
        assert f"Inst nvidia-driver-cuda [{OLD}-1] ({version}-1" in said


def test_the_driver_is_there_after_a_boot_and_its_programs_say_what_is_loaded(driven):
    for server in driven(OLD).values():
        assert (installed(server), loaded(server)) == (OLD, OLD)
        said = server.check_output("nvidia-smi --query-gpu=index,name,driver_version --format=csv,noheader")
        assert said.splitlines() == [f"{index}, NVIDIA L40S, {OLD}" for index in (0, 1)]
        server.check_output(f"apt-get install -qqy nvidia-driver-pinning-580 && apt-get install -qqy {HEADLESS}")
        assert (installed(server), loaded(server)) == (NEW, OLD)
        mismatch = server.run("nvidia-smi")
        assert (mismatch.rc, "Driver/library version mismatch" in mismatch.stdout) == (18, True)


def test_the_two_kinds_of_modules_exclude_each_other(driven):
    for server in driven(OLD).values():
        said = server.check_output(
            f"apt-get install -s nvidia-kernel-dkms={OLD}-1 firmware-nvidia-gsp={OLD}-1 nvidia-kernel-support={OLD}-1"
        )
        assert f"Remv nvidia-kernel-open-dkms [{OLD}-1]" in said


def test_apt_goes_on_with_an_old_list_when_the_key_is_another_one(driven, rotated):
    """And says 0: whoever wants to know must ask for it."""
    servers = driven(OLD)
    rotated("second")
    everywhere(servers, "apt-get update && ! apt-get update --error-on=any")
    get = "curl -fsSo /tmp/keyring.deb http://mirror1/$(. /etc/os-release && echo $ID$VERSION_ID)/x86_64/cuda-keyring_1.2-1_all.deb"
    everywhere(servers, f"{get} && dpkg -i /tmp/keyring.deb && {AIM} && apt-get update --error-on=any")


def test_apt_changes_nothing_when_one_package_cannot_be_had(driven, away):
    servers = driven(OLD)
    away("debian1?/x86_64/libcuda1_*.deb")
    everywhere(servers, f"apt-get install -qqy nvidia-driver-pinning-580 && ! apt-get install -qqy {HEADLESS}")
    assert {installed(server) for server in servers.values()} == {OLD}


def test_a_reboot_takes_nouveau_away_where_it_is_forbidden(driven):
    servers = driven(OLD)
    everywhere(servers, "touch /etc/stand-in/nouveau && systemctl restart stand-in-machine")
    assert {(loaded(server), server.file("/sys/module/nouveau").exists) for server in servers.values()} == {("", True)}
    everywhere(servers, "echo 'blacklist nouveau' >/etc/modprobe.d/nouveau-test.conf")
    reboot(servers)
    assert {(loaded(server), server.file("/sys/module/nouveau").exists) for server in servers.values()} == {(OLD, False)}
