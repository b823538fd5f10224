# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""GPUs as NVML tells them, where the Python package nvidia-ml-py is. The same shape as gpu_smi reads."""

from __future__ import annotations

from typing import Any, Callable, Optional

from .gpu_shape import Gpu, bus_id, told

MIB = 1 << 20


def gpus(nvml: Any) -> tuple[Optional[str], Optional[str], list[Gpu]]:
    """Return driver, CUDA version and GPUs, but for those that give no answer. Raise the package's NVMLError where NVML does not start."""
    nvml.nvmlInit()
    try:
        cuda = _ask(nvml, nvml.nvmlSystemGetCudaDriverVersion_v2)
        cards = [(index, _ask(nvml, nvml.nvmlDeviceGetHandleByIndex, index)) for index in range(nvml.nvmlDeviceGetCount())]
        found = [_gpu(nvml, index, card) for index, card in cards if card is not None]
        return _text(_ask(nvml, nvml.nvmlSystemGetDriverVersion)), f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else None, found
    finally:
        nvml.nvmlShutdown()


def _ask(nvml: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the answer, None where the GPU has none."""
    try:
        return function(*arguments)
    except nvml.NVMLError:
        return None


def _text(value: Any) -> Optional[str]:
    return told(value.decode() if isinstance(value, bytes) else value)  # bytes before nvidia-ml-py 12


def _bool(value: Any) -> Optional[bool]:
    return None if value is None else bool(value)


def _gpu(nvml: Any, index: int, card: Any) -> Gpu:
    def ask(name: str, *arguments: Any) -> Any:
        function = getattr(nvml, name, None)  # an older package lacks the newer ones
        return _ask(nvml, function, card, *arguments) if function else None

    memory = ask("nvmlDeviceGetMemoryInfo", nvml.nvmlMemory_v2) if hasattr(nvml, "nvmlMemory_v2") else ask("nvmlDeviceGetMemoryInfo")
    capability, place = ask("nvmlDeviceGetCudaComputeCapability"), ask("nvmlDeviceGetPciInfo")
    ecc, mig, rows = ask("nvmlDeviceGetEccMode"), ask("nvmlDeviceGetMigMode"), ask("nvmlDeviceGetRemappedRows") or [None] * 4
    draw, limit = ask("nvmlDeviceGetPowerUsage"), ask("nvmlDeviceGetEnforcedPowerLimit")
    single, double = ask("nvmlDeviceGetRetiredPages", 0), ask("nvmlDeviceGetRetiredPages", 1)
    return {
        "index": index,
        "uuid": _text(ask("nvmlDeviceGetUUID")),
        "serial": _text(ask("nvmlDeviceGetSerial")),
        "name": _text(ask("nvmlDeviceGetName")),
        "bus_id": bus_id(_text(place.busId)) if place else None,
        "compute_capability": f"{capability[0]}.{capability[1]}" if capability else None,
        "memory_total": memory.total // MIB if memory else None,
        "memory_used": memory.used // MIB if memory else None,
        "memory_free": memory.free // MIB if memory else None,
        "ecc": {
            "enabled": _bool(ecc[0]) if ecc else None,
            "volatile_corrected": ask("nvmlDeviceGetTotalEccErrors", 0, 0),
            "volatile_uncorrected": ask("nvmlDeviceGetTotalEccErrors", 1, 0),
            "aggregate_corrected": ask("nvmlDeviceGetTotalEccErrors", 0, 1),
            "aggregate_uncorrected": ask("nvmlDeviceGetTotalEccErrors", 1, 1),
        },
        "remapped_rows": {"corrected": rows[0], "uncorrected": rows[1], "pending": _bool(rows[2]), "failure": _bool(rows[3])},
        "retired_pages": {
            "single_bit": None if single is None else len(single),
            "double_bit": None if double is None else len(double),
            "pending": _bool(ask("nvmlDeviceGetRetiredPagesPendingStatus")),
        },
        "mig": {"enabled": _bool(mig[0]) if mig else None, "devices": _slices(nvml, card) if mig and mig[0] else []},
        "persistence": _bool(ask("nvmlDeviceGetPersistenceMode")),
        "power_draw": None if draw is None else draw / 1000,
        "power_limit": None if limit is None else limit / 1000,
        "temperature": ask("nvmlDeviceGetTemperature", 0),
        "processes": _processes(nvml, card),
        "numa_node": None,
    }


def _slices(nvml: Any, card: Any) -> list[dict[str, Any]]:
    found = []
    for index in range(_ask(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, card) or 0):
        part = _ask(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, card, index)
        if part is not None:
            memory = _ask(nvml, nvml.nvmlDeviceGetMemoryInfo, part)
            found.append(
                {
                    "index": index,
                    "gpu_instance": _ask(nvml, nvml.nvmlDeviceGetGpuInstanceId, part),
                    "compute_instance": _ask(nvml, nvml.nvmlDeviceGetComputeInstanceId, part),
                    "memory_total": memory.total // MIB if memory else None,
                }
            )
    return found


def _processes(nvml: Any, card: Any) -> list[dict[str, Any]]:
    found = {}
    for question in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
        for one in _ask(nvml, question, card) or []:
            used = one.usedGpuMemory
            name = _text(_ask(nvml, nvml.nvmlSystemGetProcessName, one.pid))
            found[one.pid] = {"pid": one.pid, "name": name, "memory": None if used is None else used // MIB}
    return [found[pid] for pid in sorted(found)]
