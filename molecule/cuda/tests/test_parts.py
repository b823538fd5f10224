"""What comes beside the driver: the fabric manager where GPUs are joined by switches, DCGM, the container toolkit; the kind of modules."""

from __future__ import annotations

import pytest
from conftest import NEW, OLD, everywhere, installed, loaded, state

SWITCHES = {
    # of NVLink 4: devices of NVIDIA's own
    "server1": "echo 0x10de >vendor && echo 0x068000 >class && echo 0x22a3 >device",
    # of NVLink 5: a network card's function manages them, and says so in its product data
    "server2": "echo 0x15b3 >vendor && echo 0x020700 >class && echo 0x1021 >device && printf 'ConnectX-7 SW_MNG' >vpd",
}
DEVICE = "cd /etc/stand-in/pci && mkdir -p 0000:a1:00.0 && cd 0000:a1:00.0 && {} && systemctl restart stand-in-machine"


def test_the_fabric_manager_has_the_drivers_version_and_goes_with_it(driven, play):
    servers = driven(OLD)
    for name, server in servers.items():
        server.check_output(DEVICE.format(SWITCHES[name]))
    for options, version in (({}, OLD), ({"cuda_driver_upgrade": True}, NEW)):
        code, said = play(**options)
        assert code == 0, said
        for server in servers.values():
            assert {installed(server), installed(server, "nvidia-fabricmanager")} == {version}
            assert server.service("nvidia-fabricmanager").is_enabled
            assert "nvidia-fabricmanager" in server.check_output("apt-mark showhold")
        assert [bool(installed(server, "nvlsm")) for server in servers.values()] == [False, True]
    code, said = play()
    assert (code, said.count("changed=0")) == (0, 2), said


def test_dcgm_and_the_container_toolkit_come_when_they_are_asked_for(blank, play):
    asked = {"cuda_dcgm": True, "cuda_container_toolkit": True, "cuda_toolkit_version": "12.9"}
    code, said = play(**asked)
    assert code == 0, said
    for server in blank.values():
        # of the driver's CUDA, not of the toolkit's
        assert installed(server, "datacenter-gpu-manager-4-cuda13")
        assert server.service("nvidia-dcgm").is_running
        assert server.service("nvidia-dcgm").is_enabled
        assert "http://mirror1/libnvidia-container/stable/deb" in server.check_output("apt-cache policy nvidia-container-toolkit")
        assert "release 12.9" in server.check_output("nvcc --version")
        assert not installed(server, "nvidia-fabricmanager")
    code, said = play(**asked)
    assert (code, said.count("changed=0")) == (0, 2), said


def test_the_container_toolkits_own_repository_is_named_where_it_is_not_reached(blank, play):
    code, said = play(cuda_container_toolkit=True, cuda_libnvidia_container_repository="http://mirror1/nowhere")
    assert code != 0, said
    assert "cuda_libnvidia_container_repository: server1 got no trustworthy lists from http://mirror1/nowhere" in said
    assert {installed(server) for server in blank.values()} == {""}


def test_proprietary_modules_and_back_again(blank, play):
    def kinds(server):
        """The modules' packages (open, proprietary), and whether open ones are loaded."""
        packages = (installed(server, f"nvidia-kernel-{name}dkms") for name in ("open-", ""))
        return (*packages, "Open" in server.check_output("cat /proc/driver/nvidia/version"))

    code, said = play(cuda_driver_modules="proprietary")
    assert code == 0, said
    assert {kinds(server) for server in blank.values()} == {("", NEW, False)}
    code, said = play()  # auto: what is there, and fits, stays
    assert (code, said.count("changed=0")) == (0, 2), said
    before = {name: state(server) for name, server in blank.items()}
    code, said = play(cuda_driver_modules="open")
    assert code != 0, said
    assert "cuda_driver_modules: server1 has the driver" in said
    assert {name: state(server) for name, server in blank.items()} == before
    code, said = play(cuda_driver_modules="open", cuda_driver_upgrade=True)
    assert code == 0, said
    assert {kinds(server) for server in blank.values()} == {(NEW, "", False)}
    assert "the other kind of kernel modules is loaded" in said
    assert {"nvidia-kernel-open-dkms" in server.check_output("apt-mark showhold") for server in blank.values()} == {True}


@pytest.mark.parametrize(
    ("device", "variables", "words"),
    [
        (
            "0x2bb5",
            {"cuda_driver_modules": "proprietary"},
            "do not drive all GPUs of server1 (2bb5, 2bb5). Write cuda_driver_modules: open.",
        ),
        (
            "0x1db6",
            {"cuda_driver_modules": "open"},
            "do not drive all GPUs of server1 (1db6, 1db6). Write cuda_driver_modules: proprietary.",
        ),
        ("0x26b9", {"cuda_driver_modules": "proprietary", "cuda_driver_branch": "620"}, "branch 620 has open modules alone."),
    ],
    ids=["Blackwell", "Volta", "branch 620"],
)
def test_modules_that_cannot_be_are_refused(blank, play, device, variables, words):
    everywhere(blank, f"for place in /etc/stand-in/pci/*; do echo {device} >$place/device; done; systemctl restart stand-in-machine")
    before = {name: state(server) for name, server in blank.items()}
    code, said = play(**variables)
    assert code != 0, said
    assert words in said
    assert {name: state(server) for name, server in blank.items()} == before


def test_a_module_that_does_not_load_is_told(blank, play):
    code, said = play()
    assert code == 0, said
    everywhere(blank, "rm /lib/modules/$(uname -r)/updates/dkms/nvidia.ko; systemctl restart stand-in-machine")
    assert {loaded(server) for server in blank.values()} == {""}
    code, said = play()
    assert code != 0, said
    assert f"cuda_driver_source: the driver {NEW}-1 is installed on server1, and its module does not load" in said
