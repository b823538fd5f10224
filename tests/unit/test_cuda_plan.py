"""What the role cuda decides: a case per row, a server with two L40S on Debian 12 unless it says otherwise."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import cuda_packages, driver_state
from ansible_collections.ownmetal.codex.plugins.module_utils.cuda_after import (
    fabric_version,
    held_by_role,
    loose,
    newest_keyring,
    reboot_reasons,
)
from ansible_collections.ownmetal.codex.plugins.module_utils.cuda_plan import NOUVEAU_FILE, plan
from ansible_collections.ownmetal.codex.plugins.module_utils.cuda_wants import wants
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "source": "repository",
    "branch": "580",
    "modules": "auto",
    "upgrade": False,
    "toolkit": "auto",
    "toolkit_version": "",
    "fabric_manager": "auto",
    "dcgm": False,
    "container_toolkit": False,
    "tracks": {"cu13-py312": "13.0"},
    "jit": True,
}
BARE = {
    "kernel": "6.1.0-40-amd64",
    "headers": False,
    "gpus": ["26b9", "26b9"],
    "nvswitches": 0,
    "nvlink_bridges": 0,
    "kernels": [],
    "loaded": None,
    "nouveau": False,
    "secure_boot": False,
    "enrolled": False,
    "boot_free": 400 << 20,
    "initramfs": {"program": "update-initramfs", "made": 1.0, "size": 60 << 20},
    "manager": "apt",
    "packages": {},
    "held": [],
    "unfinished": [],
    "available": [],
    "stream": "",
    "runfile": False,
    "toolkits": [],
}
OPEN = {"version": "580.126.20", "open": True}
DRIVER = {"nvidia-driver-cuda": "580.126.20-1", "nvidia-kernel-open-dkms": "580.126.20-1", "dkms": "3.0.10-8"}
HAPPY: dict = {"packages": {**DRIVER, "cuda-nvcc-13-0": "13.0.88-1"}, "loaded": OPEN, "headers": True, "held": list(DRIVER)[:2]}
LISTED = ["595.58.03", "580.126.20", "580.95.05"]
OLD = {**HAPPY, "packages": {**HAPPY["packages"], "nvidia-driver-cuda": "580.95.05-1"}, "available": LISTED}


def planned(settings=None, seen=None, system=("debian", "12", "x86_64"), ours=True):
    name, version, machine = system
    host = {
        "driver": {"nvidia": {**copy.deepcopy(BARE), **(seen or {})}},
        "system": {"name": name, "version": version, "machine": machine},
        "paths": {NOUVEAU_FILE: {"exists": ours}},
    }
    return plan({**SETTINGS, **(settings or {})}, host, "gpu1")


PACKAGES = [
    # system                          variables                                 what is asked for, first to last
    (("debian", "12", "x86_64"), {}, "nvidia-driver-cuda nvidia-kernel-open-dkms cuda-nvcc-13-0 HEADERS"),
    (("debian", "13", "x86_64"), {"toolkit": "none"}, "nvidia-driver-cuda nvidia-kernel-open-dkms HEADERS"),
    (("debian", "13", "x86_64"), {"modules": "proprietary", "jit": False}, "nvidia-driver-cuda nvidia-kernel-dkms HEADERS"),
    (
        ("debian", "12", "aarch64"),
        {"toolkit": "full", "toolkit_version": "12.9", "dcgm": True, "container_toolkit": True},
        "nvidia-driver-cuda nvidia-kernel-open-dkms cuda-toolkit-12-9 datacenter-gpu-manager-4-cuda13 nvidia-container-toolkit HEADERS",
    ),
    (("ubuntu", "22.04", "x86_64"), {"jit": False}, "nvidia-utils-580 nvidia-headless-580-open HEADERS"),
    (
        ("ubuntu", "24.04", "x86_64"),
        {"jit": False, "branch": "595"},
        "nvidia-utils nvidia-dkms-open libnvidia-compute HEADERS",
    ),
    (
        ("ubuntu", "24.04", "x86_64"),
        {"jit": False, "source": "distribution"},
        "nvidia-utils-580-server nvidia-headless-580-server-open HEADERS",
    ),
    (
        ("debian", "13", "x86_64"),
        {"source": "distribution", "toolkit": "compiler", "tracks": {"cu12-py310": "12.9"}},
        "nvidia-smi nvidia-open-kernel-dkms libcuda1 nvidia-persistenced nvidia-cuda-toolkit HEADERS",
    ),
    (("rocky", "9.6", "x86_64"), {}, "nvidia-driver-cuda kmod-nvidia-open-dkms cuda-nvcc-13-0 DEVEL"),
    (("almalinux", "10.1", "x86_64"), {"branch": "590"}, "nvidia-driver-cuda kmod-nvidia-open-dkms cuda-nvcc-13-1 DEVEL"),
]


@pytest.mark.parametrize(("system", "settings", "expected"), PACKAGES)
def test_a_bare_server_gets(system, settings, expected):
    found = planned(settings, system=system)
    assert found["refused"] == []
    kernel = BARE["kernel"]
    assert " ".join(found["packages"]) == expected.replace("HEADERS", f"linux-headers-{kernel}").replace("DEVEL", f"kernel-devel-{kernel}")


def test_what_keeps_the_branch_comes_before_it():
    assert planned()["pin"] == "nvidia-driver-pinning-580"
    assert planned(system=("rhel", "9.6", "x86_64"))["stream"] == "nvidia-driver:580-open"
    assert planned({"modules": "proprietary"}, system=("rhel", "9.6", "x86_64"))["stream"] == "nvidia-driver:580-dkms"
    assert planned(system=("rhel", "10.0", "x86_64"))["stream"] == ""
    # one that is enabled is left alone: resetting it would be a change on each run that may upgrade
    assert planned(seen={"stream": "nvidia-driver:580-open"}, system=("rhel", "9.6", "x86_64"))["stream"] == ""


def test_what_others_left_half_done_is_no_work_for_the_role():
    assert planned(seen={**HAPPY, "unfinished": ["postfix"]})["work"] is False
    assert planned(seen={**HAPPY, "unfinished": ["nvidia-kernel-open-dkms"]})["work"] is True


def test_from_the_distribution_to_the_repository():
    """What the role held of the one goes when the other comes, with leave."""
    packages = {"nvidia-smi": "535.261.03-1", "nvidia-open-kernel-dkms": "535.261.03-1", "libcuda1": "535.261.03-1"}
    found = planned({"upgrade": True}, {"packages": packages, "held": list(packages), "headers": True})
    assert (found["refused"], found["gone"]) == ([], ["libcuda1", "nvidia-open-kernel-dkms", "nvidia-smi"])


def test_a_server_that_has_it_is_left_alone():
    found = planned(seen=HAPPY)
    assert (found["work"], found["changes"], found["notes"], found["hold"]) == (False, [], [], [])


def test_a_newer_driver_of_the_branch_is_told_and_taken_when_it_is_allowed():
    found = planned(seen=OLD)
    assert not found["work"]
    assert found["notes"] == ["driver 580.95.05 stays; 580.126.20 is there: write cuda_driver_upgrade: true to have it"]
    found = planned({"upgrade": True}, OLD)
    assert found["changes"] == ["driver 580.95.05 becomes 580.126.20"]
    assert found["packages"][:2] == ["nvidia-driver-cuda", "nvidia-kernel-open-dkms"]


def test_another_branch_is_told_where_its_newest_is_not_known():
    seen = {**HAPPY, "manager": "dnf", "available": [], "packages": {"nvidia-driver-cuda": "570.172.08-1"}}
    found = planned({"upgrade": True, "tracks": {}}, seen, ("rocky", "9.6", "x86_64"))
    assert "driver 570.172.08 becomes one of branch 580" in found["changes"]


REFUSED = {
    "another system": (
        {},
        {},
        ("fedora", "42", "x86_64"),
        "cuda_driver_source: gpu1 runs fedora 42, for which no driver is known. Known are",
    ),
    "another machine": ({}, {}, ("debian", "12", "riscv64"), "gpu1 is a riscv64 machine"),
    "no GPU": ({}, {"gpus": []}, None, "no NVIDIA GPU is on the PCI bus of gpu1. Write cuda_driver_source: none"),
    "a Volta with open modules": (
        {"modules": "open"},
        {"gpus": ["1db6"]},
        None,
        "cuda_driver_modules: is open, and such modules do not drive all GPUs of gpu1 (1db6). Write cuda_driver_modules: proprietary.",
    ),
    "a Blackwell with proprietary ones": (
        {"modules": "proprietary"},
        {"gpus": ["2bb5"]},
        None,
        "is proprietary, and such modules do not drive all GPUs of gpu1 (2bb5). Write cuda_driver_modules: open.",
    ),
    "proprietary ones from 620 on": ({"modules": "proprietary", "branch": "620"}, {}, None, "branch 620 has open modules alone."),
    "both in one machine": ({}, {"gpus": ["1db6", "2bb5"]}, None, "no kind of kernel modules of branch 580 drives all GPUs of gpu1"),
    "a branch that is too old": (
        {"branch": "570"},
        {},
        None,
        "cuda_driver_branch: is 570, and the track cu13-py312 of gpu1 brings CUDA 13.0",
    ),
    "a driver of the .run file": ({}, {"runfile": True}, None, "gpu1 has a driver that NVIDIA's .run file installed. Run nvidia-uninstall"),
    "a driver that is loaded and in no package": (
        {},
        {"loaded": OPEN},
        None,
        "gpu1 has the driver 580.126.20 loaded, which no package brought. Take it away there, boot it, and run the playbook again",
    ),
    "a driver in somebody else's packages": (
        {},
        {"packages": {"nvidia-smi": "580.95.05-1"}},
        None,
        "cuda_driver_source: is repository, and gpu1 has the driver 580.95.05 in other packages (nvidia-smi). Write",
    ),
    "an older one in somebody else's packages": (
        {},
        {"packages": {"nvidia-utils-535": "535.183.01-0ubuntu1"}},
        ("ubuntu", "24.04", "x86_64"),
        "is 580, and gpu1 has 535.183.01. Write cuda_driver_upgrade: true",
    ),
    "the other kind of modules": (
        {"modules": "proprietary"},
        HAPPY,
        None,
        "cuda_driver_modules: gpu1 has the driver 580.126.20 without nvidia-kernel-dkms. Write cuda_driver_upgrade: true to change it",
    ),
    "a newer branch": (
        {"upgrade": True},
        {"packages": {"nvidia-driver-cuda": "595.58.03-1"}},
        None,
        'gpu1 has the newer 595.58.03: a driver is never taken back. Write cuda_driver_branch: "595".',
    ),
    "a branch that is none": ({"branch": "580-server"}, {}, None, "cuda_driver_branch: is '580-server', and a branch is three digits."),
    "a toolkit that is none": ({"toolkit_version": "13"}, {}, None, "cuda_toolkit_version: is '13', and a version is such as 13.0."),
    "a toolkit that is newer than the driver": (
        {"toolkit_version": "13.0", "branch": "570", "tracks": {}},
        {},
        None,
        "cuda_toolkit_version: is 13.0, whose programs need a driver of 580 or newer, and the branch for gpu1 is 570. "
        'Write cuda_toolkit_version: "12.8", or cuda_driver_branch: "580".',
    ),
    "a fabric manager that is neither": ({"fabric_manager": "ture"}, {}, None, "cuda_fabric_manager: is 'ture', and it is auto, true or"),
    "Debian's driver is too old for the track": (
        {"source": "distribution"},
        {},
        ("debian", "13", "x86_64"),
        "cuda_driver_source: is distribution, whose driver on Debian 13 is of branch 550, and the track cu13-py312 of gpu1 brings CUDA",
    ),
    "back to the distribution's": (
        {"source": "distribution", "upgrade": True, "tracks": {}},
        HAPPY,
        None,
        "is distribution, and gpu1 has the driver 580.126.20 in other packages (nvidia-driver-cuda), which these do not replace. "
        "Take that away (playbooks/uninstall.yml --limit gpu1 -e cuda_uninstall_packages=true) and run the playbook again",
    ),
    "a distribution without a driver": (
        {"source": "distribution"},
        {},
        ("rocky", "9.6", "x86_64"),
        "cuda_driver_source: is distribution, and Rocky Linux 9 has no driver of its own. Write repository, or none.",
    ),
    "Ubuntu's own, taken back": (
        {"source": "distribution", "branch": "535", "tracks": {}, "upgrade": True},
        {"packages": {"nvidia-utils-580-server": "580.126.20-0ubuntu1"}},
        ("ubuntu", "24.04", "x86_64"),
        "gpu1 has the newer 580.126.20: a driver is never taken back.",
    ),
    "an older branch": (
        {"tracks": {}},
        {"packages": {"nvidia-driver-cuda": "570.172.08-1"}},
        None,
        'is 580, and gpu1 has 570.172.08. Write cuda_driver_upgrade: true to change it (a reboot follows), or cuda_driver_branch: "570"',
    ),
    "Secure Boot": ({}, {"secure_boot": True}, None, "mokutil --import /var/lib/dkms/mok.pub; reboot, and enrol the key at the console"),
    "no room in /boot": ({}, {"boot_free": 100 << 20}, None, "/boot of gpu1 has 100 MiB free, and a new initramfs takes up to 120 MiB."),
    "a library that somebody holds": (
        {"upgrade": True},
        {**OLD, "held": [*OLD["held"], "libcuda1"]},
        None,
        "cuda_driver_upgrade: libcuda1 of gpu1 is held at its version by somebody else",
    ),
}


@pytest.mark.parametrize(("settings", "seen", "system", "words"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused(settings, seen, system, words):
    found = planned(settings, seen, system or ("debian", "12", "x86_64"))
    assert words in " ".join(found["refused"])


def test_who_holds_the_driver_matters():
    """The role's own holds give way to an upgrade; the same ones of somebody else, before the role came, do not."""
    assert planned({"upgrade": True}, OLD)["refused"] == []
    assert "held at its version by somebody else" in planned({"upgrade": True}, OLD, ours=False)["refused"][0]


def test_the_modules_that_are_there_stay_where_the_gpus_take_both():
    packages = {"nvidia-driver-cuda": "580.126.20-1", "nvidia-kernel-dkms": "580.126.20-1", "cuda-nvcc-13-0": "13.0.88-1"}
    found = planned(seen={**HAPPY, "packages": packages})
    assert (found["kind"], found["refused"], found["work"]) == ("proprietary", [], False)


def test_the_roles_own_holds_of_what_goes_give_way():
    """Of the other kind of modules, of the fabric manager, of the branch before: each is held by the role."""
    held = [*OLD["held"], "nvidia-fabricmanager"]
    assert planned({"upgrade": True}, {**OLD, "held": held})["refused"] == []
    found = planned({"upgrade": True, "modules": "proprietary"}, {**OLD, "held": held})
    assert (found["refused"], found["gone"]) == ([], ["nvidia-kernel-open-dkms"])
    utils = {"nvidia-utils-580": "580.95.05-0ubuntu1", "nvidia-headless-580-open": "580.95.05-0ubuntu1"}
    seen = {"packages": utils, "held": list(utils), "headers": True}
    assert planned({"upgrade": True, "branch": "595"}, seen, ("ubuntu", "24.04", "x86_64"))["refused"] == []
    assert planned({"upgrade": True}, {**OLD, "held": held}, ours=False)["refused"] != []


def test_each_kernel_that_comes_can_have_a_driver():
    kernels = ["linux-image-amd64", "linux-image-cloud-amd64"]
    there = {"linux-headers-cloud-amd64": "6.1.0-1"}
    found = planned(seen={"kernels": kernels, "packages": there, "headers": True})["packages"]
    assert [name for name in found if name.startswith("linux-headers")] == ["linux-headers-amd64"]
    assert [
        name for name in (*kernels, "linux-image-6.1.0-40-amd64", "linux-image-amd64-dbg") if driver_state.KERNELS.match(name)
    ] == kernels


def test_what_is_let_go_is_what_the_role_held():
    for packages, held, expected in [
        (
            HAPPY["packages"],
            ["libcuda1", "nvidia-driver-cuda", "nvidia-fabricmanager", "cuda-nvcc-13-0"],
            ["nvidia-driver-cuda", "nvidia-fabricmanager"],
        ),
        ({"nvidia-smi": "550.163.01-2"}, ["libcuda1", "nvidia-smi", "bash"], ["libcuda1", "nvidia-smi"]),
        ({}, ["libcuda1"], []),
    ]:
        seen = {"manager": "apt", "packages": packages, "held": held}
        assert held_by_role({"system": {"name": "debian", "version": "12"}, "driver": {"nvidia": seen}}) == expected


def test_dnf_holds_every_part_of_the_drivers_version():
    """With one alone held, its upgrade of all packages would end in an error; and they are the role's own at the next upgrade."""
    version = "580.126.20-1.el10"
    rpms = dict.fromkeys(["nvidia-driver-cuda", "kmod-nvidia-open-dkms", "libnvidia-ml"], version)
    seen = {"manager": "dnf", "packages": {**rpms, "cuda-nvcc-13-0": "13.0.2-1.el10"}, "held": ["libnvidia-ml"], "headers": True}
    system = ("rocky", "10.1", "x86_64")
    found = planned({"upgrade": True}, {**seen, "held": list(rpms)}, system)
    assert found["refused"] == []
    assert loose({"driver": {"nvidia": {**BARE, **seen}}}, found) == ["kmod-nvidia-open-dkms", "nvidia-driver-cuda"]
    refused = planned({"upgrade": True}, {**seen, "held": list(rpms)}, system, ours=False)["refused"]
    assert "dnf versionlock delete" in refused[0]


NOT_REFUSED = [
    {"packages": {"nvidia-driver-cuda": "580.126.20-1"}, "unfinished": ["nvidia-kernel-open-dkms"]},  # a run that ended in the middle
    {"secure_boot": True, "enrolled": True},
    {**HAPPY, "secure_boot": True},  # it works already
    {**HAPPY, "boot_free": 0},  # nothing is to be changed
    {"initramfs": {"program": None, "made": 0.0, "size": 0}, "boot_free": 0},
]


@pytest.mark.parametrize("seen", NOT_REFUSED)
def test_it_is_not_refused(seen):
    assert planned(seen=seen)["refused"] == []


BOTH = ("open", "proprietary")
KINDS = [("1b06", BOTH[1:]), ("1db6", BOTH[1:]), ("1e04", BOTH), ("20b0", BOTH), ("2330", BOTH), ("26b9", BOTH)]
KINDS += [("2901", BOTH[:1]), ("2bb5", BOTH[:1]), ("ffff", None), ("", None)]


@pytest.mark.parametrize(("device", "expected"), KINDS)
def test_the_kernel_modules_of_a_gpu(device, expected):
    assert cuda_packages.kinds(device) == expected


def test_a_switched_machine_gets_the_fabric_manager_and_no_other():
    assert planned(seen={"nvswitches": 4})["fabric_manager"] == "nvidia-fabricmanager"
    assert planned({"branch": "570", "tracks": {}}, {"nvswitches": 4})["fabric_manager"] == "nvidia-fabricmanager-570"
    assert planned()["fabric_manager"] == ""
    assert (
        planned({"branch": "570", "tracks": {}}, {"nvswitches": 4}, ("rhel", "9.6", "x86_64"))["fabric_manager"] == "nvidia-fabric-manager"
    )
    assert "nvidia-fabricmanager" in planned(seen={"nvswitches": 4})["units"]
    assert "nvlsm" not in planned(seen={"nvswitches": 4})["packages"]
    # NVLink 5: no NVSwitch is on the bus, and a manager of its own belongs to the fabric manager
    found = planned(seen={"nvlink_bridges": 2})
    assert (found["fabric_manager"], "nvlsm" in found["packages"]) == ("nvidia-fabricmanager", True)


FABRIC = [
    ({"nvswitches": 4}, {}, "580.126.20"),
    ({"nvswitches": 4}, {"nvidia-fabricmanager": "580.126.20-1"}, ""),
    ({"nvswitches": 4}, {"nvidia-fabricmanager": "580.95.05-1"}, "580.126.20"),
    ({}, {}, ""),
]


@pytest.mark.parametrize(("machine", "packages", "version"), FABRIC)
def test_the_fabric_manager_has_the_drivers_version(machine, packages, version):
    seen = {**HAPPY, **machine, "packages": {**HAPPY["packages"], **packages}}
    found = planned(seen=seen)
    assert fabric_version({"driver": {"nvidia": {**BARE, **seen}}}, found) == version
    assert found["work"] == bool(version)


REBOOT = [
    ({**HAPPY}, ""),
    ({}, ""),  # nothing is installed
    ({**HAPPY, "loaded": None}, ""),
    ({**HAPPY, "loaded": {"version": "580.95.05", "open": True}}, "the driver 580.95.05 is loaded, and 580.126.20 is installed"),
    ({**HAPPY, "loaded": {"version": "580.126.20", "open": False}}, "the other kind of kernel modules is loaded"),
    ({**HAPPY, "loaded": None, "nouveau": True}, "nouveau drives the GPUs"),
]


@pytest.mark.parametrize(("seen", "words"), REBOOT)
def test_why_a_server_has_to_boot(seen, words):
    reasons = reboot_reasons({"driver": {"nvidia": {**BARE, **seen}}}, planned(seen=HAPPY))
    assert (words in reasons[0]) if words else reasons == []


WANTS = [
    # vllm_track   instances                                        gpu    jit    CUDA of its tracks
    ("auto", [], True, True, {}),
    ("cpu-py311", [{"name": "a"}], False, False, {}),
    ("cpu-py311", [{"name": "a", "track": "cu13-py312"}], True, True, {"cu13-py312": "13.0"}),
    ("cu12-py310", [{"name": "a"}], True, True, {"cu12-py310": "12.8"}),
    ("cpu-py311", [{"name": "a", "track": "cu12-py310", "state": "absent"}], False, False, {}),
    ("cpu-py311", "no list", False, False, {}),
]


@pytest.mark.parametrize(("track", "instances", "gpu", "jit", "cuda"), WANTS)
def test_what_a_server_computes_on(track, instances, gpu, jit, cuda):
    assert wants(track, [], [instances]) == {"gpu": gpu, "jit": jit, "tracks": cuda}


def test_the_newest_key_is_found_in_an_index():
    index = "Package: cuda-keyring\nArchitecture: all\nVersion: {}\n\nPackage: other\nVersion: 9\n\n"
    assert newest_keyring(index.format("1.9-1") + index.format("1.10-1") + index.format("1.2-1")) == "1.10-1"
    with pytest.raises(Refused, match="cuda_repository: signs with a key"):
        newest_keyring("Package: other\nVersion: 9\n")


@pytest.fixture
def machine(tmp_path):
    """The files of a server with an H100, an NVSwitch and somebody else's network card."""
    for number, (vendor, kind, device) in enumerate(
        [("0x10de", "0x030200", "0x2330"), ("0x10de", "0x068000", "0x22a3"), ("0x15b3", "0x020700", "0x1021")]
    ):
        place = tmp_path / f"sys/bus/pci/devices/0000:0{number}:00.0"
        place.mkdir(parents=True)
        for name, value in {"vendor": vendor, "class": kind, "device": device}.items():
            (place / name).write_text(f"{value}\n")
    (tmp_path / "boot").mkdir()
    return tmp_path


NVRM = "NVRM version: NVIDIA UNIX {}  {}  Release Build  (root@host)\nGCC version:  gcc version 12.2.0\n"


@pytest.mark.parametrize(
    ("words", "version", "is_open"),
    [
        ("Open Kernel Module for x86_64", "580.95.05", True),
        ("x86_64 Kernel Module", "535.183.01", False),
        ("Open Kernel Module for aarch64", "590.48", True),
    ],
)
def test_a_machine_is_looked_at(machine, words, version, is_open):
    found = driver_state.look(str(machine))
    assert (found["gpus"], found["nvswitches"], found["loaded"], found["nouveau"]) == (["2330"], 1, None, False)
    assert not found["secure_boot"]
    (machine / "proc/driver/nvidia").mkdir(parents=True)
    (machine / "proc/driver/nvidia/version").write_text(NVRM.format(words, version))
    (machine / "sys/module/nouveau").mkdir(parents=True)
    place = machine / driver_state.SECURE_BOOT
    place.parent.mkdir(parents=True)
    place.write_bytes(b"\x06\x00\x00\x00\x01")
    found = driver_state.look(str(machine))
    assert found["loaded"] == {"version": version, "open": is_open}
    assert found["nouveau"]
    assert found["secure_boot"]


def test_switches_of_nvlink_5_are_known_by_the_data_of_what_manages_them(machine):
    assert driver_state.look(str(machine))["nvlink_bridges"] == 0
    (machine / "sys/bus/pci/devices/0000:02:00.0/vpd").write_bytes(b"\x82\x10\x00NVIDIA ConnectX-7\x90SW_MNG\x00")
    assert driver_state.look(str(machine))["nvlink_bridges"] == 1


def test_every_system_of_the_documentation_is_known():
    text = (ROOT / "roles/cuda/README.md").read_text()
    for system in {one.name for one in cuda_packages.SYSTEMS.values()}:
        assert re.search(rf"^\| {re.escape(system)} ", text, re.M), system
