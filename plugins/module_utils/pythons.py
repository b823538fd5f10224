# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a server's Pythons come from: its distribution, builds that uv manages, or an archive of the operator's."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from . import compatibility
from .errors import ManyRefused, Refused, nearest

APT = ("debian", "ubuntu")
SOURCES = ("distribution", "managed", "archive")
DIRECTORY = "/opt/python"  # python_directory's default: this is judged where the role's defaults are not seen
# the builds that the locked uv (roles/vllm/files/locks/uv.txt) knows, one patch release each, so that all servers have the same
MANAGED = {"3.10": "3.10.22", "3.11": "3.11.18", "3.12": "3.12.16", "3.13": "3.13.18"}


@dataclass(frozen=True)
class Source:
    """Where Pythons come from: one of SOURCES; ``archived`` ("3.10") is what an archive holds, ``digest`` its sha256."""

    kind: str = "distribution"
    directory: str = DIRECTORY
    archived: str = ""
    digest: str = ""

    def of(self, version: str) -> str:
        """Return where a version ("3.11") comes from: an archive holds one, the others are the distribution's."""
        if self.kind == "archive" and version != self.archived:
            return "distribution"
        return self.kind

    def interpreter(self, version: str, machine: str = "x86_64") -> str:
        """Return the path on a server of the interpreter of a version ("3.11")."""
        if self.of(version) == "managed":
            # as uv names its builds: moved, they would not know their own headers
            return f"{self.directory}/managed/cpython-{MANAGED.get(version, version)}-linux-{machine}-gnu/bin/python{version}"
        if self.of(version) == "archive":
            return f"{self.directory}/{version}-{self.digest[:12]}/bin/python{version}"
        return f"/usr/bin/python{version}"

    def obstacle(self, version: str) -> Optional[str]:
        """Return why a version cannot come from there, whatever the server; None where it can or only the server knows."""
        if self.of(version) == "managed" and version not in MANAGED:
            return f"there is no managed build of Python {version}: {', '.join(MANAGED)} are pinned"
        return None


PACKAGES = Source()


def source(wanted: Mapping[str, Any]) -> Source:
    """Read python_source, python_directory, python_archive, python_archive_sha256; raise ManyRefused with every mistake.

    The archive is read on the controller: its digest, and which Python it holds.
    """
    kind = str(wanted.get("source") or SOURCES[0])
    directory, path, digest = (wanted.get(key) or "" for key in ("directory", "archive", "sha256"))
    directory = directory or DIRECTORY
    wrong = []
    if kind not in SOURCES:
        wrong.append(Refused("python_source", f"{kind!r} is no source.", nearest(kind, SOURCES, f"Write one of: {', '.join(SOURCES)}.")))
    if not (isinstance(directory, str) and directory.startswith("/")):
        wrong.append(Refused("python_directory", f"{directory!r} is no absolute path.", "Begin it with /."))
    if kind != "archive":
        if wrong:
            raise ManyRefused(wrong)
        return Source(kind, directory)
    if not (isinstance(path, str) and path.startswith("/")):
        wrong.append(Refused("python_archive", "is no absolute path.", "Write the path of a .tar.gz file on the controller."))
    if not re.fullmatch(r"[0-9a-f]{64}", str(digest)):
        wrong.append(Refused("python_archive_sha256", "is not 64 hexadecimal digits.", "Write what `sha256sum FILE` prints."))
    if wrong:
        raise ManyRefused(wrong)
    return Source(kind, directory, archived(path, str(digest)), str(digest))


def archived(path: str, digest: str) -> str:
    """Return which Python ("3.10") an archive on the controller holds; raise Refused where it is not that file."""
    try:
        seen = os.stat(path)
        found, version = _content(path, seen.st_mtime_ns, seen.st_size)
    except (OSError, EOFError, tarfile.TarError) as why:
        raise Refused("python_archive", f"{path} cannot be read on the controller: {why}.", "Write the path of a .tar.gz file.") from why
    if found != digest:
        raise Refused("python_archive_sha256", f"is not that of {path}, which has {found}.", "Fetch the file again, or correct the digest.")
    if not version:
        raise Refused("python_archive", f"{path} has no bin/python3.N.", "Pack one Python's folder, with bin/ and lib/ in it.")
    return version


@functools.lru_cache(maxsize=4)
def _content(path: str, _changed: int, _size: int) -> tuple[str, str]:
    """Return an archive's sha256, and the Python whose bin/python3.N is in it: at the top, or in its one folder."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    with tarfile.open(path) as archive:
        found = (re.fullmatch(r"(?:\./)?(?:[^/]+/)?bin/python(3\.\d+)", member.name) for member in archive)
        return digest.hexdigest(), next((match[1] for match in found if match), "")


def installable() -> list[compatibility.System]:
    """Return the systems that the roles install on: those with apt."""
    return [system for system in compatibility.systems() if system.name.partition(" ")[0] in APT]


def wanted(versions: Sequence[str], where: Source) -> dict[str, Any]:
    """Return what a server needs to have Pythons: ``packages`` of the distribution, and ``trees`` of builds and archives."""
    packages: list[str] = []
    trees = []
    for version in versions:
        kind, interpreter = where.of(version), where.interpreter(version)
        if kind == "distribution":
            # the interpreter, and what `python -m venv` needs
            packages += [f"python{version}", f"python{version}-venv"] if version else []
            continue
        # uv is installed by the system's own Python
        packages += ["python3-venv"] if kind == "managed" and "python3-venv" not in packages else []
        root = interpreter.removesuffix(f"/bin/python{version}")
        trees.append({"version": version, "release": MANAGED.get(version, ""), "interpreter": interpreter, "root": root})
    return {"packages": packages, "trees": trees}


def problems(version: str, host: str, system: Mapping[str, str], where: Source = PACKAGES) -> list[Refused]:
    """Return why ``host`` cannot have Python ``version`` ("3.11"); nothing when it can.

    ``system`` has name and version as in /etc/os-release ("debian", "12").
    """
    if not version:
        return [Refused("python_version", "is not set, and no track says it.", 'Write it in quotes, such as python_version: "3.11".')]
    place, name = f"python_version {version}", f"{system['name']} {system['version']}"
    if where.obstacle(version):
        return [Refused(place, f"{where.obstacle(version)}.", "Write one of these, or bring it by python_source: archive.")]
    if where.of(version) == "archive":
        return []
    known = compatibility.system(name)
    if known is None or known not in installable():
        names = ", ".join(row.name for row in installable())
        return [Refused(place, f"{host} runs {name}, which this role does not know.", f"It knows {names}.")]
    if where.of(version) == "distribution" and version not in known.pythons:
        others = [row.name for row in installable() if version in row.pythons]
        instead = f'Write python_version: "{known.pythons[0]}", python_source: managed or archive' + (
            f", or use a host with {' or '.join(others)}." if others else "."
        )
        return [Refused(place, f"{host} runs {name}, whose packages have {', '.join(known.pythons)}.", instead)]
    return []
