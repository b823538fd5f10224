"""Synthetic machines as the reader meets them: programs that answer from files, and a /sys laid out in a folder."""

import json
import struct
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

from ansible_collections.ownmetal.codex.plugins.module_utils import gpu_smi, gpu_xid
from ansible_collections.ownmetal.codex.plugins.module_utils.gpu_ask import Answer
from ansible_collections.ownmetal.codex.plugins.module_utils.gpu_info import collect

MACHINES = Path(__file__).parent / "fixtures/gpu_machines"
FILES = {
    tuple(gpu_smi.QUERY): "smi.xml",
    tuple(gpu_smi.CAPABILITIES): "caps.csv",
    tuple(gpu_smi.TOPOLOGY): "topo.txt",
    tuple(gpu_smi.P2P): "p2p.txt",
    tuple(gpu_xid.JOURNAL): "kernel.log",
}


def programs(name):
    """Return what runs this machine's programs."""

    def run(command, seconds):
        path = MACHINES / name / FILES.get(tuple(command), "absent")
        if not path.exists():
            raise FileNotFoundError(command[0])
        code = path.with_name(f"{path.name}.exit")
        return Answer(int(code.read_text()) if code.exists() else 0, path.read_text())

    return run


def config(acs):
    """Return 4096 bytes: an AER capability, and after it ACS with this control word, unless it is None."""
    data = bytearray(4096)
    struct.pack_into("<I", data, 0x100, 0x0001 | 1 << 16 | (0x148 << 20 if acs is not None else 0))
    if acs is not None:
        struct.pack_into("<IHH", data, 0x148, 0x000D | 1 << 16, 0x5F, acs)
    return bytes(data)


def lay_out(name, root):
    """Write the machine's /sys below a folder, with the links that the kernel has there."""
    for folder in ("sys/bus/pci/devices", "sys/class/iommu/dmar0", "sys/kernel/iommu_groups", "sys/bus/pci/drivers"):
        (root / folder).mkdir(parents=True)
    for path, told in json.loads((MACHINES / name / "pci.json").read_text()).items():
        device = root / "sys/devices" / path
        device.mkdir(parents=True, exist_ok=True)
        for file in ("vendor", "device", "class", "numa_node"):
            (device / file).write_text(f"{told[file]}\n")
        (device / "config").write_bytes(config(told.get("acs")))
        (root / "sys/bus/pci/devices" / device.name).symlink_to(device)
        if told.get("driver"):
            driver = root / "sys/bus/pci/drivers" / told["driver"]
            driver.mkdir(exist_ok=True)
            (device / "driver").symlink_to(driver)
        if "iommu_group" in told:
            group = root / f"sys/kernel/iommu_groups/{told['iommu_group']}"
            group.mkdir()
            (group / "type").write_text(f"{told['iommu_type']}\n")
            (device / "iommu_group").symlink_to(group)
    return root


def read(name, tmp_path, nvml=None):
    """Return what gpu_info tells of a machine."""
    return collect(str(lay_out(name, tmp_path / name)), programs(name), nvml)


class NVMLError(Exception):
    """What the package raises where a GPU does not tell."""


def fake_nvml(name):
    """Return a stand-in for the package nvidia-ml-py that tells the same as the machine's XML."""
    root = ElementTree.parse(MACHINES / name / "smi.xml").getroot()  # noqa: S314 - our own file
    cards = root.findall("gpu")
    caps = gpu_smi.capabilities((MACHINES / name / "caps.csv").read_text())

    def raw(card, path):
        value = card.findtext(path)
        if value is None or value.strip() in ("N/A", ""):
            raise NVMLError("Not Supported")
        return value.strip()

    def whole(card, path):
        return int(float(raw(card, path).split()[0]))

    def flag(card, path):
        return int(raw(card, path) in ("Enabled", "Yes"))

    def memory(card, *_):
        return SimpleNamespace(**{one: whole(card, f"fb_memory_usage/{one}") << 20 for one in ("total", "used", "free")})

    def errors(card, kind, counter):
        word, since = ("_uncorrectable", "_correctable")[1 - kind], ("volatile", "aggregate")[counter]
        tags = [one.tag for one in card.find(f"ecc_errors/{since}") if word in one.tag]
        return sum(whole(card, f"ecc_errors/{since}/{tag}") for tag in tags)

    def rows(card):
        names = ("corr", "unc")
        return [whole(card, f"remapped_rows/remapped_row_{one}") for one in names] + [
            flag(card, f"remapped_rows/remapped_row_{one}") for one in ("pending", "failure")
        ]

    def running(kind):
        def answer(card):
            known = [one for one in card.findall("processes/process_info") if one.findtext("type") == kind]
            return [SimpleNamespace(pid=whole(one, "pid"), usedGpuMemory=whole(one, "used_memory") << 20) for one in known]

        return answer

    def process_name(pid):
        return next(one.findtext("process_name") for one in root.iter("process_info") if one.findtext("pid") == str(pid))

    def part(card, index):
        parts = card.findall("mig_devices/mig_device")
        if index >= len(parts):
            raise NVMLError("Not Found")
        return parts[index]

    def retired(card, cause):
        raise NVMLError("Not Supported")

    cuda = [int(one) for one in root.findtext("cuda_version").split(".")]
    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlMemory_v2=0x02000028,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlSystemGetDriverVersion=lambda: root.findtext("driver_version"),
        nvmlSystemGetCudaDriverVersion_v2=lambda: cuda[0] * 1000 + cuda[1] * 10,
        nvmlDeviceGetCount=lambda: len(cards),
        nvmlDeviceGetHandleByIndex=lambda index: cards[index],
        nvmlDeviceGetUUID=lambda card: raw(card, "uuid"),
        nvmlDeviceGetSerial=lambda card: raw(card, "serial"),
        nvmlDeviceGetName=lambda card: raw(card, "product_name"),
        nvmlDeviceGetPciInfo=lambda card: SimpleNamespace(busId=raw(card, "pci/pci_bus_id").encode()),
        nvmlDeviceGetCudaComputeCapability=lambda card: tuple(int(one) for one in caps[raw(card, "uuid")].split(".")),
        nvmlDeviceGetMemoryInfo=memory,
        nvmlDeviceGetEccMode=lambda card: [flag(card, "ecc_mode/current_ecc"), flag(card, "ecc_mode/pending_ecc")],
        nvmlDeviceGetTotalEccErrors=errors,
        nvmlDeviceGetRemappedRows=rows,
        nvmlDeviceGetRetiredPages=retired,
        nvmlDeviceGetRetiredPagesPendingStatus=lambda card: flag(card, "retired_pages/pending_retirement"),
        nvmlDeviceGetMigMode=lambda card: [flag(card, "mig_mode/current_mig"), flag(card, "mig_mode/pending_mig")],
        nvmlDeviceGetMaxMigDeviceCount=lambda card: 7,
        nvmlDeviceGetMigDeviceHandleByIndex=part,
        nvmlDeviceGetGpuInstanceId=lambda one: whole(one, "gpu_instance_id"),
        nvmlDeviceGetComputeInstanceId=lambda one: whole(one, "compute_instance_id"),
        nvmlDeviceGetPersistenceMode=lambda card: flag(card, "persistence_mode"),
        nvmlDeviceGetPowerUsage=lambda card: round(float(raw(card, "gpu_power_readings/power_draw").split()[0]) * 1000),
        nvmlDeviceGetEnforcedPowerLimit=lambda card: whole(card, "gpu_power_readings/current_power_limit") * 1000,
        nvmlDeviceGetTemperature=lambda card, _: whole(card, "temperature/gpu_temp"),
        nvmlDeviceGetComputeRunningProcesses=running("C"),
        nvmlDeviceGetGraphicsRunningProcesses=running("G"),
        nvmlSystemGetProcessName=process_name,
    )
