# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A model that is packed in one file. Nothing in it may lead out of the folder that it is unpacked into.

Python 3.9, standard library alone; .tar.zst wants the program zstd.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

from .download import in_bytes
from .errors import Refused
from .model_store import put
from .progress import Progress, alone

CHUNK = 1 << 20


def unpack(archive: str, kind: str, sha256: str, directory: str, model: str, where: str, progress: Progress) -> bool:
    """Unpack an archive into ``directory/model`` and remove it; return whether it was not there. Raises Refused.

    ``kind`` is the ending of its name; ``sha256`` what it should be.
    """
    with alone(f"model-{model}", progress):
        dest, part = f"{directory}/{model}", f"{directory}/.{model}.part"
        if os.path.isdir(dest):
            return False
        if _digest(archive) != sha256:
            raise Refused(where, f"{archive} came damaged.", "Run the playbook again.")
        shutil.rmtree(part, ignore_errors=True)
        os.makedirs(part, mode=0o755)
        try:
            _extract(archive, kind, part, model, where, progress)
            put(_top(part, where), dest)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        os.unlink(archive)
        return True


def _digest(path: str) -> str:
    total = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(CHUNK):
            total.update(chunk)
    return total.hexdigest()


def _top(part: str, where: str) -> str:
    """Return the folder with config.json: the archive's root, or the one folder in it."""
    names = os.listdir(part)
    for folder in [part, *(os.path.join(part, name) for name in names if len(names) == 1)]:
        if os.path.isfile(os.path.join(folder, "config.json")):
            return folder
    raise Refused(where, "the archive holds no model: it has no config.json at its top.", "Pack the model's own folder.")


def _extract(archive: str, kind: str, part: str, model: str, where: str, progress: Progress) -> None:
    done = 0
    try:
        for name, size, stream in _members(archive, kind, where):
            free = shutil.disk_usage(part).free
            if size > free:
                raise Refused(where, f"{name} takes {in_bytes(size)}, and {in_bytes(free)} are free on the server.", "Free some space.")
            dest = os.path.join(part, _inside(name, where))
            os.makedirs(os.path.dirname(dest), mode=0o755, exist_ok=True)
            with open(dest, "xb") as out:
                shutil.copyfileobj(stream, out, CHUNK)
                os.fsync(out.fileno())
            done += size
            progress.say(f"model {model}: {in_bytes(done)} unpacked")
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, FileExistsError) as error:
        raise Refused(where, f"the archive cannot be read: {error}.", "Pack it anew, and try to unpack it yourself.") from error
    except OSError as error:
        raise Refused(where, f"unpacking failed: {error.strerror or error}.", "Look at the server's disk, and at the archive.") from error


def _inside(name: str, where: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or not parts or "\\" in name:
        raise Refused(where, f"the archive holds {name!r}, which leads out of the model's folder.", "Do not use it.")
    return "/".join(parts)


def _members(archive: str, kind: str, where: str) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Return name, size and content of each file, one after the other."""
    if kind == ".zip":
        with zipfile.ZipFile(archive) as packed:
            for entry in packed.infolist():
                mode = entry.external_attr >> 16
                _plain(entry.filename, stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR), where)
                if not entry.is_dir():
                    with packed.open(entry) as stream:
                        yield entry.filename, entry.file_size, stream
        return
    with _tar(archive, kind, where) as tar:
        for member in tar:
            _plain(member.name, member.isreg() or member.isdir(), where)
            content = tar.extractfile(member)
            if content:
                yield member.name, member.size, content


def _plain(name: str, plain: bool, where: str) -> None:
    if not plain:
        instead = "Pack it anew with tar --dereference, which writes the files that links name."
        raise Refused(where, f"the archive holds {name!r}, which is a link or a device.", instead)


@contextlib.contextmanager
def _tar(archive: str, kind: str, where: str) -> Iterator[tarfile.TarFile]:
    if kind != ".tar.zst":
        with tarfile.open(archive, "r:gz" if kind in (".tar.gz", ".tgz") else "r:") as tar:
            yield tar
        return
    program = shutil.which("zstd")
    if not program:
        raise Refused(where, "the server has no program zstd to unpack it with.", "Install the package zstd there, or pack a .tar.")
    with subprocess.Popen([program, "-dcq", "--long=31", archive], stdout=subprocess.PIPE) as process:
        with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
            yield tar
        while process.stdout and process.stdout.read(CHUNK):  # what follows the last file, so that zstd ends by itself
            pass
    if process.returncode:
        raise tarfile.ReadError("zstd says that it is damaged")
