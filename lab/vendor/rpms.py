"""The vendor's repositories for the Red Hat family, built by rpmbuild and createrepo_c: version 9 with module streams, version 10 without.

python3 -m vendor.rpms KERNEL    makes rhel9/x86_64, rhel10/x86_64 and the container toolkit's below the folder `www`
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from .packages import COMPAT, DCGM, DRIVERS, FILES, SERVER, SUBNET, TOOLKITS, daemon, unit
from .repository import Key

WWW = Path("/srv/vendor/www")
EPOCH = 3  # of everything that belongs to the driver
KINDS = {"open": "kmod-nvidia-open-dkms", "dkms": "kmod-nvidia-latest-dkms"}


@dataclass(frozen=True)
class Rpm:
    """A package; mostly without files, for what counts here is what it requires."""

    name: str
    version: str
    requires: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    epoch: int = 0
    files: Mapping[str, str] = field(default_factory=dict)
    scripts: str = ""  # sections of a spec

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
            "AutoReqProv: no",
        ]
        laid = [
            f"mkdir -p %{{buildroot}}{Path(path).parent}\ncat >%{{buildroot}}{path} <<'EOF'\n{text}EOF" for path, text in self.files.items()
        ]
        listed = [f"%attr({'755' if {'bin', 'sbin'} & set(Path(path).parts) else '644'},root,root) {path}" for path in self.files]
        return "\n".join([*lines, "%description", "stand-in", "%install", *laid, self.scripts, "%files", *listed, ""])


def service(name: str, description: str, program: str) -> dict[str, str]:
    """The files of a service that needs the driver."""
    return {program: daemon(Path(program).name), f"/usr/lib/systemd/system/{name}.service": unit(description, program)}


def driver(version: str) -> Iterator[Rpm]:
    """One version of the driver, both kinds of kernel modules."""
    own = f"= {EPOCH}:{version}"

    def part(name: str, *requires: str) -> Rpm:
        return Rpm(name, version, requires, epoch=EPOCH)

    for name in ("libnvidia-ml", "libnvidia-cfg", "nvidia-modprobe", "nvidia-kmod-common"):
        yield part(name)
    persistence = service("nvidia-persistenced", "NVIDIA Persistence Daemon", "/usr/bin/nvidia-persistenced")
    yield Rpm("nvidia-persistenced", version, (f"libnvidia-cfg {own}",), epoch=EPOCH, files=persistence)
    yield part("nvidia-driver-cuda-libs", f"libnvidia-ml {own}")
    needs = ("nvidia-driver-cuda-libs", "nvidia-persistenced", "nvidia-modprobe", "nvidia-kmod-common", "nvidia-kmod")
    smi = {"/usr/bin/nvidia-smi": (FILES / "nvidia-smi").read_text().replace("@VERSION@", version)}
    yield Rpm("nvidia-driver-cuda", version, tuple(f"{need} {own}" for need in needs), epoch=EPOCH, files=smi)
    for kind, name in KINDS.items():
        other = KINDS["dkms" if kind == "open" else "open"]
        yield Rpm(
            name,
            version,
            ("dkms",),
            (other,),
            (f"nvidia-kmod {own}",),
            EPOCH,
            {f"/usr/src/nvidia-{version}/dkms.conf": f"KIND={'open' if kind == 'open' else 'proprietary'}\n"},
            f"%post\ndkms install nvidia/{version}\n%preun\ndkms remove nvidia/{version} || true",
        )
    yield part("nvidia-open", f"nvidia-driver-cuda {own}", f"{KINDS['open']} {own}")
    yield part("cuda-drivers", f"nvidia-driver-cuda {own}", f"{KINDS['dkms']} {own}")
    manager = service("nvidia-fabricmanager", "NVIDIA fabric manager service", "/usr/bin/nv-fabricmanager")
    yield Rpm("nvidia-fabricmanager" if int(version.partition(".")[0]) >= 580 else "nvidia-fabric-manager", version, files=manager)


def others(kernel: str) -> Iterator[Rpm]:
    """What is in no module, and what the distribution would have, a system's own parts included."""
    for dashed, version in TOOLKITS.items():
        home = f"/usr/local/cuda-{dashed.replace('-', '.')}"
        nvcc = {f"{home}/bin/nvcc": f'#!/bin/sh\necho "Cuda compilation tools, release {dashed.replace("-", ".")}, V{version}"\n'}
        yield Rpm(f"cuda-nvcc-{dashed}", version, files=nvcc)
        yield Rpm(f"cuda-toolkit-{dashed}", version, (f"cuda-nvcc-{dashed}",))
        yield Rpm(f"cuda-compat-{dashed}", COMPAT[dashed], epoch=1)
    dcgm = DCGM.partition(":")[2].partition("-")[0]
    for major in ("12", "13"):
        files = service("nvidia-dcgm", "NVIDIA DCGM service", f"/usr/bin/nv-hostengine-{major}")
        yield Rpm(f"datacenter-gpu-manager-4-cuda{major}", dcgm, epoch=1, files=files)
    yield Rpm("nvlsm", SUBNET.partition("-")[0])
    yield Rpm("dkms", "3.3.0", files={"/usr/sbin/dkms": (FILES / "dkms").read_text()})
    yield Rpm("kernel-devel-matched", "5.14.0", provides=(f"kernel-devel-{kernel}",))
    yield Rpm("kernel-headers", "5.14.0")
    yield Rpm("python3-dnf-plugin-versionlock", "4.3.0")
    yield Rpm("bash", "5.1", provides=("/bin/sh",))


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


def publish(folder: Path, rpms: list[Rpm], release: str, key: Key) -> None:
    """Build packages into a folder, sign them, list them and sign the list."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as work:
        specs = []
        for rpm in rpms:
            spec = Path(work, f"{rpm.name}-{rpm.version}.spec")
            spec.write_text(rpm.spec(release))
            specs.append(str(spec))
        quiet = ["--quiet", "--target", "x86_64", "--define", f"_topdir {work}", "--define", f"_rpmdir {folder}"]
        flat = ["--define", "_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm", "--define", "_binary_payload w.ufdio"]
        subprocess.run(["rpmbuild", "-bb", *quiet, *flat, *specs], check=True, capture_output=True)
    built = sorted(str(path) for path in folder.glob("*.rpm"))
    subprocess.run(
        ["rpmsign", "--define", f"_gpg_path {key.home}", "--define", "_gpg_name Lab first", "--addsign", *built],
        check=True,
        capture_output=True,
    )
    subprocess.run(["createrepo_c", "--quiet", str(folder)], check=True)


def build(kernel: str) -> None:
    """Build the repositories of both releases, and the container toolkit's."""
    key = Key(WWW.parent / "keys/first")
    for release, modular in (("9", True), ("10", False)):
        folder = WWW / f"rhel{release}/x86_64"
        publish(folder, [*others(kernel), *(rpm for version in DRIVERS for rpm in driver(version))], release, key)
        if modular:
            listed = folder.parent / "modules.yaml"
            listed.write_text(modules(release))
            subprocess.run(["modifyrepo_c", "--mdtype=modules", str(listed), str(folder / "repodata")], check=True, capture_output=True)
        name, place = f"cuda-rhel{release}", f"{SERVER}/rhel{release}/x86_64"
        (folder / "D42D0685.pub").write_bytes(key.public(armour=True))
        settings = f"name={name}\nbaseurl={place}\nenabled=1\ngpgcheck=1\ngpgkey={place}/D42D0685.pub\n"
        (folder / f"{name}.repo").write_text(f"[{name}-x86_64]\n{settings}")
    containers = WWW / "libnvidia-container/stable/rpm/x86_64"
    publish(containers, [Rpm("nvidia-container-toolkit", "1.18.0")], "9", key)
    (containers / "repodata/repomd.xml.asc").write_bytes(key.sign((containers / "repodata/repomd.xml").read_bytes(), "--detach-sign"))


if __name__ == "__main__":
    build(*sys.argv[1:])
