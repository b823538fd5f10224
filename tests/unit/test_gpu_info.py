"""What gpu_info tells of each synthetic machine, and that it says why where it tells nothing."""

import copy
import json
import os
import shutil
import subprocess
import sys
import time
from xml.etree import ElementTree

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import gpu_smi, gpu_xid
from ansible_collections.ownmetal.codex.plugins.module_utils.gpu_ask import Answer, ask
from ansible_collections.ownmetal.codex.plugins.module_utils.gpu_info import collect
from ansible_collections.ownmetal.codex.plugins.module_utils.gpu_pci import acs_control
from ansible_collections.ownmetal.codex.plugins.module_utils.gpu_shape import bus_id

from tests.unit.fixtures.gpu_machines import make
from tests.unit.gpu_machines import MACHINES, config, fake_nvml, lay_out, programs, read

ANSWERING = ["h100-8-nvswitch", "a100-mig", "l40s-4-pcie", "workstation", "gh200", "xid", "ecc"]


def test_the_machines_are_what_make_writes(tmp_path):
    make.main(tmp_path)
    written = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    lying = {path.relative_to(MACHINES): path.read_bytes() for path in MACHINES.glob("*/*") if path.parent.name != "__pycache__"}
    assert written == lying


# machine: GPUs, name of the first, compute capability, MiB, NUMA nodes, how pairs are linked, what reading gives, NVSwitches
WHAT = [
    ("h100-8-nvswitch", 8, "NVIDIA H100 80GB HBM3", "9.0", 81559, {0, 1}, {"NV18"}, {"OK"}, 4),
    ("a100-mig", 2, "NVIDIA A100-SXM4-80GB", "8.0", 81920, {0}, {"NV12"}, {"OK"}, 0),
    ("l40s-4-pcie", 4, "NVIDIA L40S", "8.9", 46068, {0, 1}, {"NODE", "SYS"}, {"CNS"}, 0),
    ("workstation", 1, "NVIDIA GeForce RTX 4090", "8.9", 24564, {None}, set(), set(), 0),
    ("gh200", 1, "NVIDIA GH200 480GB", "9.0", 97871, {0}, set(), set(), 0),
]


@pytest.mark.parametrize(("machine", "count", "name", "capability", "memory", "nodes", "links", "p2p", "switches"), WHAT)
def test_a_sound_machine(machine, count, name, capability, memory, nodes, links, p2p, switches, tmp_path):
    told = read(machine, tmp_path)
    assert (told["source"], told["driver"], told["cuda"], told["faults"], told["xids"]) == ("nvidia-smi", "580.95.05", "13.0", [], [])
    assert [gpu["index"] for gpu in told["gpus"]] == list(range(count))
    assert {(gpu["name"], gpu["compute_capability"], gpu["memory_total"]) for gpu in told["gpus"]} == {(name, capability, memory)}
    assert {gpu["numa_node"] for gpu in told["gpus"]} == nodes
    assert ({link["link"] for link in told["links"]}, {link["p2p"] for link in told["links"]}) == (links, p2p)
    assert len(told["links"]) == count * (count - 1) // 2
    assert told["nvswitches"] == switches


@pytest.mark.parametrize("machine", ANSWERING)
def test_nvml_and_nvidia_smi_tell_the_same(machine, tmp_path):
    by_smi, by_nvml = read(machine, tmp_path / "smi"), read(machine, tmp_path / "nvml", fake_nvml(machine))
    assert (by_smi["source"], by_nvml["source"]) == ("nvidia-smi", "nvml")
    for key in ("driver", "cuda", "gpus", "links", "xids", "faults"):
        assert by_nvml[key] == by_smi[key], key


def test_a_divided_card_and_one_in_use(tmp_path):
    divided, other = read("a100-mig", tmp_path)["gpus"]
    assert [(one["gpu_instance"], one["memory_total"]) for one in divided["mig"]["devices"]] == [(1, 40448), (2, 40448)]
    assert (divided["mig"]["enabled"], other["mig"]) == (True, {"enabled": False, "devices": []})
    first = read("h100-8-nvswitch", tmp_path)["gpus"][0]
    assert first["processes"] == [{"pid": 4242, "name": "VLLM::Worker", "memory": 69990}]
    assert (first["memory_used"], first["memory_free"], first["power_limit"]) == (70000, 10959, 700.0)


def test_a_card_without_ecc_is_not_said_to_be_sound(tmp_path):
    gpu = read("workstation", tmp_path)["gpus"][0]
    assert set(gpu["ecc"].values()) | set(gpu["remapped_rows"].values()) | {gpu["serial"], gpu["mig"]["enabled"]} == {None}
    assert gpu["persistence"] is False


def test_what_turns_peer_traffic_aside(tmp_path):
    shut, open_ = read("l40s-4-pcie", tmp_path), read("h100-8-nvswitch", tmp_path)
    assert [device["acs_redirects"] for device in shut["pci"]] == [[f"0000:00:01.{number}"] for number in range(4)]
    assert {device["iommu_type"] for device in shut["pci"]} == {"DMA-FQ"}
    assert all(device["acs_redirects"] == [] and device["iommu_type"] == "identity" for device in open_["pci"])
    assert shut["iommu"] is True


def test_configuration_space():
    assert [acs_control(config(word)) for word in (None, 0, 0x1D)] == [None, 0, 0x1D]
    assert acs_control(b"\xff" * 4096) is None
    with pytest.raises(ValueError, match="first 64 bytes"):
        acs_control(bytes(64))
    endless = bytearray(4096)
    endless[0x100:0x104] = (0x0001 | 0x100 << 20).to_bytes(4, "little")
    assert acs_control(bytes(endless)) is None


def test_xids(tmp_path):
    told = read("xid", tmp_path)
    assert [(one["xid"], one["gpu"], one["reset"]) for one in told["xids"]] == [(31, 1, False), (79, 2, True), (154, 2, True)]
    assert [(fault["gpu"], fault["kind"]) for fault in told["faults"]] == [(2, "xid"), (2, "xid")]
    assert "Node Reboot Required" in told["faults"][1]["text"]
    assert all(f"GPU 2 (serial {told['gpus'][2]['serial']})" in fault["text"] for fault in told["faults"])


def test_xids_of_a_part_of_a_gpu_and_of_one_that_was_reset():
    """The driver names the part of a MIG card, and says when a GPU needs nothing any more."""
    line = "[ {}.000000] synthetic kernel: NVRM: Xid (PCI:0000:{}:00{}): {}"
    log = "\n".join([
        line.format(1, "81", " GPU-I:05", "95, pid=1, name=x, an error"),
        line.format(2, "81", " GPU-I:05 GPU-CI:00", "31, pid=1"),
        line.format(3, "41", "", "119, pid=1"),
        line.format(4, "41", "", "154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)"),
        line.format(5, "41", "", "154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)"),
    ])  # fmt: skip
    told = gpu_xid.read(log, [{"bus_id": "0000:81:00.0", "index": 3}, {"bus_id": "0000:41:00.0", "index": 1}])
    assert [(one["xid"], one["gpu"], one["reset"]) for one in told] == [
        (95, 3, True), (31, 3, False), (119, 1, False), (154, 1, False), (154, 1, False),
    ]  # fmt: skip


def test_a_reset_is_asked_for_where_the_catalogue_asks_for_one():
    """NVIDIA's catalogue, by its first action: RESET_GPU and RESTART_BM; RESTART_APP and IGNORE; what depends on more than the number."""
    resets = {code: reset for code, (_, reset) in gpu_xid.MEANINGS.items()}
    assert {code for code in resets if resets[code]} - {48, 61, 74} == {
        46,
        62,
        64,
        79,
        95,
        109,
        110,
        119,
        120,
        136,
        140,
        143,
        155,
        156,
        158,
    }
    assert {code for code in resets if resets[code] is False} == {13, 31, 32, 43, 45, 63, 92, 94, 121, 137, 157, 160, 161}
    assert {code for code in resets if resets[code] is None} == {*range(144, 151), 171, 172}


def test_memory_that_goes_bad(tmp_path):
    told = read("ecc", tmp_path)
    assert [(fault["gpu"], fault["kind"]) for fault in told["faults"]] == [(1, "ecc"), (1, "remap"), (3, "remap")]
    assert all(told["gpus"][fault["gpu"]]["serial"] in fault["text"] for fault in told["faults"])


# machine: what is said of its GPUs, faults
UNANSWERED = [
    ("mismatch", "ended with 18: Failed to initialize NVML: Driver/library version mismatch NVML library version: 580.95", 1),
    ("no-driver", "there is no nvidia-smi", 2),
    ("driver-not-loaded", "ended with 9: NVIDIA-SMI has failed because it couldn't communicate", 2),
    ("no-gpu", "there is no nvidia-smi", 0),
    ("truncated", "is cut off", 1),
    ("malformed", "is malformed", 1),
]


@pytest.mark.parametrize(("machine", "why", "faults"), UNANSWERED)
def test_why_there_are_no_gpus(machine, why, faults, tmp_path):
    told = read(machine, tmp_path)
    assert why in told["missing"]["gpus"]
    assert (told["source"], told["gpus"], len(told["faults"])) == (None, [], faults)
    assert told["xids"] == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "malformed|cut off"),
        ("<html></html>", "not <nvidia_smi_log>"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><nvidia_smi_log>&b;</nvidia_smi_log>', "entity"),
        ("<nvidia_smi_log><attached_gpus>2</attached_gpus></nvidia_smi_log>", "speaks of 2 GPUs and describes 0"),
        (" " * (gpu_smi.LARGEST + 1), "characters"),
    ],
)
def test_what_is_not_nvidia_smis(text, why):
    with pytest.raises(gpu_smi.Unreadable, match=why):
        gpu_smi.gpus(text)


def test_a_lost_gpu_does_not_hide_the_others(tmp_path):
    """It makes nvidia-smi end without a word of any; NVML gives no handle of it."""
    said = "Unable to determine the device handle for GPU2: 0000:0B:00.0: Unknown Error"
    whole = read("l40s-4-pcie", tmp_path / "whole")
    lost = whole["gpus"][2]["bus_id"]
    tree = ElementTree.parse(MACHINES / "l40s-4-pcie/smi.xml").getroot()  # noqa: S314 - our own file

    def run(command, seconds):
        if command[0] != "nvidia-smi" or command[1] == "topo":
            return programs("l40s-4-pcie")(command, seconds)
        if "-i" not in command or command[-1] == lost:
            return Answer(255, said)
        gpu = next(gpu for gpu in whole["gpus"] if gpu["bus_id"] == command[-1])
        if command[:-2] == gpu_smi.INDEX:
            return Answer(0, f"{gpu['index']}, {gpu['uuid']}, {gpu['compute_capability']}\n")
        one = copy.deepcopy(tree)
        for place, node in enumerate(one.findall("gpu")):
            if place != gpu["index"]:
                one.remove(node)
        return Answer(0, ElementTree.tostring(one, encoding="unicode"))

    class Nvml:
        def __init__(self, real):
            self.real = real

        def __getattr__(self, name):
            return getattr(self.real, name)

        def nvmlDeviceGetHandleByIndex(self, index):
            if index == 2:
                raise self.real.NVMLError("GPU is lost")
            return self.real.nvmlDeviceGetHandleByIndex(index)

    for way, nvml in (("nvidia-smi", None), ("nvml", Nvml(fake_nvml("l40s-4-pcie")))):
        told = collect(str(lay_out("l40s-4-pcie", tmp_path / way)), run, nvml)
        assert (told["source"], told["driver"]) == (way, whole["driver"])
        assert told["gpus"] == [gpu for gpu in whole["gpus"] if gpu["index"] != 2]
        assert [(fault["gpu"], fault["kind"]) for fault in told["faults"]] == [(None, "driver")]
        assert lost in told["faults"][0]["text"]


def test_what_a_gpu_does_not_tell_has_a_reason(tmp_path):
    told = read("workstation", tmp_path)
    assert {"serial", "ecc", "remapped_rows", "mig", "numa_node"} <= set(told["missing"])
    assert told["missing"]["serial"] == "GPU 0: the driver has no such value, or not all of it"


def test_older_cards_count_other_errors():
    old = "<ecc_errors><volatile><double_bit><total>2</total></double_bit></volatile></ecc_errors>"
    ecc = gpu_smi.gpus(f"<nvidia_smi_log><gpu>{old}</gpu></nvidia_smi_log>")[2][0]["ecc"]
    assert (ecc["volatile_uncorrected"], ecc["volatile_corrected"], ecc["aggregate_uncorrected"]) == (2, None, None)


def test_a_driver_that_hangs_is_waited_for_once(tmp_path):
    asked = []

    def run(command, seconds):
        asked.append(command[0])
        if command[0] == "nvidia-smi":
            raise subprocess.TimeoutExpired(command, seconds)
        return programs("xid")(command, seconds)

    told = collect(str(lay_out("xid", tmp_path / "root")), run)
    assert told["missing"]["gpus"] == "nvidia-smi did not answer in 30 s"
    assert [fault["kind"] for fault in told["faults"]] == ["hung", "xid", "xid"]
    assert asked.count("nvidia-smi") == 1


def test_a_log_that_may_not_be_read_is_not_a_log_without_xids(tmp_path):
    def run(command, seconds):
        return Answer(1, "dmesg: read kernel buffer failed: Operation not permitted") if command[0] == "dmesg" else Answer(0, "")

    told = collect(str(lay_out("no-gpu", tmp_path / "root")), run)
    assert told["xids"] is None
    assert "Operation not permitted" in told["missing"]["xids"]


def test_a_real_program_is_ended_in_time():
    start = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        ask(["sleep", "60"], 0.2)
    assert time.monotonic() - start < 5
    said = ask([sys.executable, "-c", "import os, sys; print(os.environ['LC_ALL']); sys.exit(3)"], 20)
    assert said == (3, f"C{os.linesep}")


def test_addresses():
    assert bus_id("00000000:1B:00.0") == bus_id("PCI:0000:1b:00") == "0000:1b:00.0"
    assert bus_id("00010000:1B:00.0") == "10000:1b:00.0"
    assert bus_id("1B:00.0") is None


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this host has a driver")
def test_the_module_answers_where_there_is_nothing(tmp_path):
    """The example of docs/gpu_info.md, on a host without a GPU."""
    command = ["ansible", "localhost", "-c", "local", "-m", "ownmetal.codex.gpu_info", "--check", "-o"]
    environment = {**os.environ, "ANSIBLE_LOCAL_TEMP": str(tmp_path), "ANSIBLE_REMOTE_TMP": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.partition("=> ")[2])
    assert (told["changed"], told["gpus"], told["links"], told["source"]) == (False, [], [], None)
    assert told["missing"]["gpus"] == "there is no nvidia-smi"
