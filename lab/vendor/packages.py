"""What the vendor's repositories hold: names, versions, dependencies and conflicts as on its servers, in the shape of Debian packages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .debs import Package

FILES = Path(__file__).parent / "files"
DRIVERS = ("570.172.08", "570.195.03", "580.95.05", "580.126.20", "590.48.01", "595.58.03")
TOOLKITS = {"12-9": "12.9.1", "13-0": "13.0.2", "13-1": "13.1.1"}
COMPAT = {"12-9": "575.57.08", "13-0": "580.95.05", "13-1": "590.48.01"}
DCGM, CONTAINER, SUBNET = "1:4.4.1-1", "1.18.0-1", "2025.06.10-1"
SOURCE = "nvidia-graphics-drivers"
SERVER = "https://vendor.invalid/compute/cuda/repos"  # what is written there as the vendor's own; nobody answers


def unit(description: str, program: str) -> str:
    """A service that starts one program."""
    return f"[Unit]\nDescription={description}\n\n[Service]\nExecStart={program}\n\n[Install]\nWantedBy=multi-user.target\n"


def daemon(name: str) -> str:
    """A program that needs the driver's module, as the real one, and then stays."""
    return f'#!/bin/sh\n[ -e /proc/driver/nvidia/version ] || {{ echo "{name}: no driver is loaded" >&2; exit 1; }}\nexec sleep infinity\n'


def driver(version: str) -> Iterator[Package]:
    """One version of the driver: its libraries, programs and both kinds of kernel modules."""
    whole = f"{version}-1"
    own = f"(= {whole})"
    for library in ("libcuda1", "libnvidia-ml1", "libnvidia-ptxjitcompiler1", "libnvidia-nvvm4", "libnvidia-cfg1"):
        yield Package(library, whole, SOURCE)
    for part in ("firmware-nvidia-gsp", "nvidia-kernel-support"):
        yield Package(part, whole, SOURCE)
    for name, kind, other in (("open-", "open", ""), ("", "proprietary", "open-")):
        yield Package(
            f"nvidia-kernel-{name}dkms",
            whole,
            SOURCE,
            {
                "Depends": f"dkms, firmware-nvidia-gsp {own}, nvidia-kernel-support {own}",
                "Conflicts": f"nvidia-kernel-{other}dkms",
                "Replaces": f"nvidia-kernel-{other}dkms",
                "Provides": f"nvidia-kernel-{version}",
            },
            {f"/usr/src/nvidia-{version}/dkms.conf": f"PACKAGE_NAME=nvidia\nPACKAGE_VERSION={version}\nKIND={kind}\n"},
            {
                "postinst": f"dkms install nvidia/{version}\n",
                "prerm": f"dkms remove nvidia/{version} || true\n",
            },
        )
    libraries = ", ".join(f"{name} {own}" for name in ("libcuda1", "libnvidia-ml1", "libnvidia-ptxjitcompiler1", "libnvidia-cfg1"))
    yield Package(
        "nvidia-driver-cuda",
        whole,
        SOURCE,
        {
            "Depends": f"{libraries}, nvidia-persistenced (>= {version}), nvidia-modprobe (>= {version}), "
            f"nvidia-kernel-open-dkms {own} | nvidia-kernel-dkms {own}",
            "Conflicts": "nvidia-smi",
        },
        {"/usr/bin/nvidia-smi": (FILES / "nvidia-smi").read_text().replace("@VERSION@", version)},
    )
    yield Package(
        "nvidia-persistenced",
        whole,
        "nvidia-persistenced",
        {},
        {
            "/usr/bin/nvidia-persistenced": daemon("nvidia-persistenced"),
            "/lib/systemd/system/nvidia-persistenced.service": unit("NVIDIA Persistence Daemon", "/usr/bin/nvidia-persistenced"),
        },
    )
    yield Package("nvidia-modprobe", whole, "nvidia-modprobe", {}, {"/usr/bin/nvidia-modprobe": "#!/bin/sh\nexec modprobe nvidia\n"})
    yield from fabric_manager(version)
    for name, modules in (("nvidia-open", "nvidia-kernel-open-dkms"), ("cuda-drivers", "nvidia-kernel-dkms")):
        # as the vendor has it: a lower bound alone, so that only the pin keeps a branch
        needs = ", ".join(f"{part} (>= {version})" for part in ("nvidia-driver-cuda", modules))
        yield Package(name, whole, "cuda-drivers" if name == "cuda-drivers" else SOURCE, {"Depends": needs}, architecture="all")


def fabric_manager(version: str) -> Iterator[Package]:
    """The fabric manager: up to branch 570 the branch is in its name."""
    branch = version.partition(".")[0]
    named = int(branch) < 580
    fields = {"Provides": "nvidia-fabricmanager", "Conflicts": "nvidia-fabricmanager", "Replaces": "nvidia-fabricmanager"}
    yield Package(
        f"nvidia-fabricmanager-{branch}" if named else "nvidia-fabricmanager",
        f"{version}-1",
        "nvidia-fabricmanager",
        fields if named else {},
        {
            "/usr/bin/nv-fabricmanager": daemon("nv-fabricmanager").replace("exec", f"echo version {version}\nexec"),
            "/lib/systemd/system/nvidia-fabricmanager.service": unit("NVIDIA fabric manager service", "/usr/bin/nv-fabricmanager"),
        },
    )


def pinning(branch: str) -> Package:
    """The vendor's way to stay on a branch."""
    shared = {"Provides": "nvidia-driver-pinning", "Conflicts": "nvidia-driver-pinning", "Replaces": "nvidia-driver-pinning"}
    pin = f"Package: src:*nvidia*:any src:cuda-drivers:any src:cuda-compat:any\nPin: version {branch}.*\nPin-Priority: 1000\n"
    path = "/etc/apt/preferences.d/nvidia-driver-pinning"
    return Package(f"nvidia-driver-pinning-{branch}", f"{branch}-1", "nvidia-driver-pinning", shared, {path: pin}, architecture="all")


def toolkit(dashed: str, version: str) -> Iterator[Package]:
    """One version of the toolkit, beside which others may be."""
    dotted, major = dashed.replace("-", "."), dashed.partition("-")[0]
    home, whole = f"/usr/local/cuda-{dotted}", f"{version}-1"
    nvcc = f'#!/bin/sh\necho "nvcc: NVIDIA (R) Cuda compiler driver"\necho "Cuda compilation tools, release {dotted}, V{version}"\n'
    rank = f"{major}{dashed.partition('-')[2]}"
    yield Package(
        f"cuda-toolkit-{dashed}-config-common",
        whole,
        "",
        {},
        {f"/etc/ld.so.conf.d/{rank}_cuda-{dashed}.conf": f"{home}/targets/x86_64-linux/lib\n"},
        {
            "postinst": f"for name in cuda cuda-{major}; do\n"
            f"    update-alternatives --install /usr/local/$name $name {home} {rank}\ndone\n",
            "prerm": f"for name in cuda cuda-{major}; do update-alternatives --remove $name {home}; done\n",
        },
        "all",
    )
    needs = {"Depends": f"cuda-toolkit-{dashed}-config-common"}
    yield Package(f"cuda-cudart-dev-{dashed}", whole, "", needs, {f"{home}/include/cuda_runtime.h": "\n"})
    yield Package(f"cuda-nvcc-{dashed}", whole, "", {"Depends": f"cuda-cudart-dev-{dashed}"}, {f"{home}/bin/nvcc": nvcc})
    yield Package(f"cuda-libraries-dev-{dashed}", whole, "", needs)
    full = {"Depends": f"cuda-nvcc-{dashed}, cuda-libraries-dev-{dashed}"}
    yield Package(f"cuda-toolkit-{dashed}", whole, "", full, architecture="all")


def keyring(version: str, public: bytes, distribution: str) -> Package:
    """The package that brings the repository's key and its line, which names the vendor's own server, as the real one's does."""
    line = f"deb [signed-by=/usr/share/keyrings/cuda-archive-keyring.gpg] {SERVER}/{distribution}/x86_64/ /\n"
    return Package(
        "cuda-keyring",
        version,
        files={
            "/usr/share/keyrings/cuda-archive-keyring.gpg": public,
            f"/etc/apt/sources.list.d/cuda-{distribution}-x86_64.list": line,
        },
        architecture="all",
    )


def vendor() -> Iterator[Package]:
    """The CUDA repository, but for its keyring."""
    for version in DRIVERS:
        yield from driver(version)
    for branch in sorted({version.partition(".")[0] for version in DRIVERS}):
        yield pinning(branch)
    for dashed, version in TOOLKITS.items():
        yield from toolkit(dashed, version)
        yield Package(f"cuda-compat-{dashed}", f"{COMPAT[dashed]}-1", "cuda-compat")
    yield Package("nvlsm", SUBNET)
    yield Package("datacenter-gpu-manager-4-core", DCGM)
    for major in ("12", "13"):
        program = f"/usr/bin/nv-hostengine-{major}"
        yield Package(
            f"datacenter-gpu-manager-4-cuda{major}",
            DCGM,
            "",
            {"Depends": f"datacenter-gpu-manager-4-core (= {DCGM})"},
            {program: daemon("nv-hostengine"), "/lib/systemd/system/nvidia-dcgm.service": unit("NVIDIA DCGM service", program)},
        )


def containers() -> Iterator[Package]:
    """The container toolkit's own repository."""
    parts = ("libnvidia-container1", "libnvidia-container-tools", "nvidia-container-toolkit-base")
    for name in parts:
        yield Package(name, CONTAINER)
    needs = {"Depends": ", ".join(f"{name} (= {CONTAINER})" for name in parts)}
    yield Package("nvidia-container-toolkit", CONTAINER, "", needs, {"/usr/bin/nvidia-ctk": "#!/bin/sh\necho ctk\n"})


def distribution(kernel: str) -> Iterator[Package]:
    """What the distribution has for a real kernel, and not for this machine's: headers, dkms, initramfs.

    The real dkms would bring a compiler and then compile nothing, for want of headers of the machine's kernel.
    """
    yield Package(f"linux-headers-{kernel}", "1", architecture="all")
    programs = {"/usr/sbin/dkms": (FILES / "dkms").read_text(), "/usr/lib/dkms/common.postinst": (FILES / "common.postinst").read_text()}
    yield Package("dkms", "99", files=programs, architecture="all")
    initramfs = "#!/bin/sh\nset -e\n[ \"$*\" = '-u -k all' ]\necho made >>/boot/initrd.img-$(uname -r)\n"
    yield Package("initramfs-tools", "99", files={"/usr/sbin/update-initramfs": initramfs}, architecture="all")
    yield Package(
        "stand-in-machine",
        "1",
        files={
            "/usr/libexec/stand-in-machine": (FILES / "stand-in-machine").read_text(),
            "/usr/local/sbin/modprobe": '#!/bin/sh\ncase " $*" in *" nvidia"*) exec /usr/libexec/stand-in-machine modprobe ;; esac\n',
            "/usr/bin/mokutil": "#!/bin/sh\n[ -e /etc/stand-in/secure-boot ] && echo SecureBoot enabled || echo SecureBoot disabled\n",
            "/lib/systemd/system/stand-in-machine.service": (FILES / "stand-in-machine.service").read_text(),
        },
        architecture="all",
    )
