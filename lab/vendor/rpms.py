"""The vendor's repositories for the Red Hat family, built by rpmbuild and createrepo_c: version 9 with module streams, version 10 without.

python3 -m vendor.rpms    makes rhel9/x86_64 and rhel10/x86_64 below the folder `www`
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from .packages import COMPAT, DCGM, DRIVERS, TOOLKITS

WWW = Path("/srv/vendor/www")
EPOCH = 3  # of everything that belongs to the driver
KINDS = {"open": "kmod-nvidia-open-dkms", "dkms": "kmod-nvidia-latest-dkms"}


@dataclass(frozen=True)
class Rpm:
    """A package without files; what counts here is what it requires."""

    name: str
    version: str
    requires: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    epoch: int = 0

    def full(self, release: str) -> str:
        """The name with epoch, version, release and architecture, as module metadata and locks have it."""
        return f"{self.name}-{self.epoch}:{self.version}-1.el{release}.x86_64"

    def spec(self, release: str) -> str:
        """What rpmbuild reads."""
        lines = [
            f"Name: {self.name}",
            f"Epoch: {self.epoch}",
            f"Version: {self.version}",
            f"Release: 1.el{release}",
            f"Summary: stand-in for {self.name}",
            "License: none",
            *(f"Requires: {need}" for need in self.requires),
            *(f"Conflicts: {other}" for other in self.conflicts),
            *(f"Provides: {what}" for what in self.provides),
        ]
        return "\n".join([*lines, "%description", "stand-in", "%files", ""])


def driver(version: str) -> Iterator[Rpm]:
    """One version of the driver, both kinds of kernel modules."""
    own = f"= {EPOCH}:{version}"

    def part(name: str, *requires: str, **more: tuple[str, ...]) -> Rpm:
        return Rpm(name, version, requires, epoch=EPOCH, **more)

    for name in ("libnvidia-ml", "libnvidia-cfg", "nvidia-modprobe", "nvidia-kmod-common"):
        yield part(name)
    yield part("nvidia-persistenced", f"libnvidia-cfg {own}")
    yield part("nvidia-driver-cuda-libs", f"libnvidia-ml {own}")
    yield part(
        "nvidia-driver-cuda",
        f"nvidia-driver-cuda-libs {own}",
        f"nvidia-persistenced {own}",
        f"nvidia-modprobe {own}",
        f"nvidia-kmod-common {own}",
        f"nvidia-kmod {own}",
    )
    for kind, name in KINDS.items():
        other = KINDS["dkms" if kind == "open" else "open"]
        yield part(name, "dkms", provides=(f"nvidia-kmod {own}",), conflicts=(other,))
    yield part("nvidia-open", f"nvidia-driver-cuda {own}", f"{KINDS['open']} {own}")
    yield part("cuda-drivers", f"nvidia-driver-cuda {own}", f"{KINDS['dkms']} {own}")
    yield Rpm("nvidia-fabric-manager", version)
    yield Rpm("nvidia-fabricmanager", version)


def others() -> Iterator[Rpm]:
    """What is in no module, and what the distribution would have."""
    for dashed, version in TOOLKITS.items():
        yield Rpm(f"cuda-nvcc-{dashed}", version)
        yield Rpm(f"cuda-toolkit-{dashed}", version, (f"cuda-nvcc-{dashed}",))
        yield Rpm(f"cuda-compat-{dashed}", COMPAT[dashed], epoch=1)
    dcgm = DCGM.partition(":")[2].partition("-")[0]
    for major in ("12", "13"):
        yield Rpm(f"datacenter-gpu-manager-4-cuda{major}", dcgm, epoch=1)
    yield Rpm("nvidia-container-toolkit", "1.18.0")
    yield Rpm("dkms", "3.3.0")
    yield Rpm("kernel-devel-matched", "5.14.0")
    yield Rpm("kernel-headers", "5.14.0")


def streams() -> Iterator[tuple[str, list[Rpm]]]:
    """The module's streams: each branch, with each kind of kernel modules."""
    for branch in sorted({version.partition(".")[0] for version in DRIVERS}):
        rpms = [rpm for version in DRIVERS if version.startswith(branch) for rpm in driver(version)]
        for kind, name in KINDS.items():
            out = {KINDS["dkms" if kind == "open" else "open"], "cuda-drivers" if kind == "open" else "nvidia-open"}
            yield f"{branch}-{kind}", [rpm for rpm in rpms if rpm.name == name or rpm.name not in out]


def modules(release: str) -> str:
    """The module's metadata, one document per stream."""
    texts = []
    for number, (stream, rpms) in enumerate(streams(), 1):
        listed = "".join(f"      - {rpm.full(release)}\n" for rpm in rpms)
        texts.append(
            "---\ndocument: modulemd\nversion: 2\ndata:\n  name: nvidia-driver\n"
            f'  stream: "{stream}"\n  version: {number}\n  context: "00000000"\n  arch: x86_64\n  summary: driver\n  description: driver\n'
            "  license:\n    module: [none]\n  profiles:\n    default:\n      rpms:\n      - nvidia-driver-cuda\n"
            f"  artifacts:\n    rpms:\n{listed}...\n"
        )
    return "".join(texts)


def build(release: str, modular: bool) -> None:
    """Build a release's repository."""
    folder = WWW / f"rhel{release}/x86_64"
    folder.mkdir(parents=True, exist_ok=True)
    rpms = [*others(), *(rpm for version in DRIVERS for rpm in driver(version))]
    with TemporaryDirectory() as work:
        specs = []
        for rpm in rpms:
            spec = Path(work, f"{rpm.name}-{rpm.version}.spec")
            spec.write_text(rpm.spec(release))
            specs.append(str(spec))
        quiet = ["--quiet", "--target", "x86_64", "--define", f"_topdir {work}", "--define", f"_rpmdir {folder}"]
        flat = ["--define", "_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm", "--define", "_binary_payload w.ufdio"]
        subprocess.run(["rpmbuild", "-bb", *quiet, *flat, *specs], check=True, capture_output=True)
    subprocess.run(["createrepo_c", "--quiet", str(folder)], check=True)
    if modular:
        listed = folder.parent / "modules.yaml"
        listed.write_text(modules(release))
        subprocess.run(["modifyrepo_c", "--mdtype=modules", str(listed), str(folder / "repodata")], check=True, capture_output=True)


if __name__ == "__main__":
    build("9", modular=True)
    build("10", modular=False)
