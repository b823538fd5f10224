# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The models on a host: one read-only folder each, shared by all instances, complete from the moment it has its name.

DIRECTORY/ID/         the model's files, and .ownmetal-manifest.json
DIRECTORY/.ID.part/   what came so far; the next run goes on with it
Python 3.9, standard library alone.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import os
import shutil
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional

from .download import HttpRefused, Source, download, in_bytes, part_size, read
from .errors import Refused
from .hub import Hub
from .model_folder import INDEX, read_folder
from .model_manifest import NAME, File, Manifest, agree, chosen, parse
from .progress import Progress, alone

AT_ONCE = 4  # files
SPARE = 0.01  # of the space, beyond what is fetched
SMALL = ("config.json", "params.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", INDEX)


@dataclass(frozen=True)
class Wanted:
    """A model of the hub that an instance wants, under the name of its folder."""

    id: str
    instance: str
    repository: str
    revision: str
    patterns: Sequence[str] = ()
    lock: Optional[Manifest] = None

    @property
    def where(self) -> str:
        """Return what a refusal begins with."""
        return f"vllm_instances {self.instance}: model_repository"


@dataclass(frozen=True)
class Pool:
    """A neighbour that has models already: ``url``/ID/PATH."""

    url: str
    fingerprint: str = ""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    stall_seconds: float = 60

    def file(self, model: str, path: str) -> Source:
        """Return where a file of a model is."""
        return Source(f"{self.url.rstrip('/')}/{model}/{urllib.parse.quote(path)}", self.headers, self.fingerprint)


def offered(wanted: Wanted, hub: Hub, pool: Optional[Pool], progress: Progress) -> list[File]:
    """Return the files to fetch, as the pool, the team's lock or the hub tells them. Raises Refused."""
    if pool:
        body, _ = read(pool.file(wanted.id, NAME), progress, pool.stall_seconds)
        files = list(parse(body.decode("utf-8", "replace"), f"the pool's {NAME} of {wanted.id}").files)
        if wanted.lock:
            agree(files, wanted.lock, wanted.where.replace("_repository", "_manifest"))
        return files
    manifest = wanted.lock or hub.manifest(wanted.repository, wanted.revision, wanted.where, progress)
    return chosen(manifest.files, wanted.patterns, wanted.where)


def look(wanted: Wanted, hub: Hub, directory: str, progress: Progress) -> dict[str, Any]:
    """Return what model_folder.read_folder will see when the model is there, and its ``download_bytes``; fetch small files only."""
    files = offered(wanted, hub, None, progress)
    with tempfile.TemporaryDirectory() as aside:
        for file in files:
            if file.path in SMALL:
                _fetch(file, wanted, hub, None, os.path.join(aside, file.path), progress, lambda _: None)
        seen = read_folder(aside)
    weights = sum(file.size for file in files if file.path.endswith(".safetensors"))
    if seen["weight_bytes"] is None and weights and not any(file.path == INDEX for file in files):
        seen["weight_bytes"] = weights  # the files' headers, some kilobytes, are in it
    room(wanted, files, directory)
    return {**seen, "download_bytes": sum(file.size for file in files)}


def fetch(wanted: Wanted, directory: str, hub: Hub, pool: Optional[Pool], progress: Progress) -> bool:
    """Bring a model, if it is not there; return whether it was not. Raises Refused."""
    with alone(f"model-{wanted.id}", progress):
        if os.path.isdir(f"{directory}/{wanted.id}"):
            return False
        files = offered(wanted, hub, pool, progress)
        room(wanted, files, directory)
        part = f"{directory}/.{wanted.id}.part"
        os.makedirs(part, mode=0o755, exist_ok=True)
        _clean(part, files)
        whole = _Fetch(wanted, part, hub, pool, files, progress).run()
        with open(f"{part}/{NAME}", "w", encoding="utf-8") as stream:
            stream.write(Manifest(wanted.repository, wanted.revision, tuple(whole)).text())
        put(part, f"{directory}/{wanted.id}")
        return True


def room(wanted: Wanted, files: Iterable[File], directory: str) -> None:
    """Raise Refused where there is no space for what is still missing."""
    part = f"{directory}/.{wanted.id}.part"
    missing = sum(file.size - _have(part, file) for file in files)
    place = directory
    while not os.path.exists(place):
        place = os.path.dirname(place) or "/"
    free = shutil.disk_usage(place).free
    if missing * (1 + SPARE) > free:
        why = f"{in_bytes(missing)} are still to come, and {directory} has {in_bytes(free)} free."
        raise Refused(
            wanted.where, why, "Free some space (playbooks/collect.yml lists models that nothing uses), or mount a larger disk there."
        )


def _have(part: str, file: File) -> int:
    path = os.path.join(part, file.path)
    try:
        return min(os.stat(path).st_size, file.size)
    except OSError:
        return min(part_size(path), file.size)


def _clean(part: str, files: Sequence[File]) -> None:
    """Remove what an earlier run with other files left."""
    known = {os.path.join(part, name) for file in files for name in (file.path, f"{file.path}.part")}
    for folder, _, names in os.walk(part):
        for name in names:
            if os.path.join(folder, name) not in known:
                os.unlink(os.path.join(folder, name))


class _Stopped(Exception):
    """Another file was refused."""


class _Fetch:
    """The files of one model, some at once, and how far they are."""

    def __init__(self, wanted: Wanted, part: str, hub: Hub, pool: Optional[Pool], files: Sequence[File], progress: Progress) -> None:
        self._wanted, self._part, self._hub, self._pool = wanted, part, hub, pool
        # small ones first: a repository that is closed to us says so at once
        self._files = sorted(files, key=lambda file: (file.size > 1 << 20, -file.size))
        self._speaker = _Speaker(wanted.id, sum(_have(part, file) for file in files), sum(file.size for file in files), progress)
        self._progress = progress

    def run(self) -> list[File]:
        """Return the files with the digests of what came."""
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            jobs = [pool.submit(self._one, file) for file in self._files]
            try:
                return [job.result() for job in concurrent.futures.as_completed(jobs)]
            except BaseException:
                self._speaker.stopped = True
                for job in jobs:
                    job.cancel()
                raise

    def _one(self, file: File) -> File:
        dest = os.path.join(self._part, file.path)
        if os.path.exists(dest) and os.stat(dest).st_size == file.size:  # it got its name when it was verified
            return dataclasses.replace(file, sha256=file.sha256 or _digest(dest))
        if self._speaker.stopped:
            raise _Stopped
        os.makedirs(os.path.dirname(dest), mode=0o755, exist_ok=True)
        found = _fetch(file, self._wanted, self._hub, self._pool, dest, self._speaker.progress, self._speaker.count)
        return dataclasses.replace(file, sha256=found)


def _digest(path: str) -> str:
    total = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            total.update(chunk)
    return total.hexdigest()


def _fetch(file: File, wanted: Wanted, hub: Hub, pool: Optional[Pool], dest: str, progress: Progress, count: Callable[[int], None]) -> str:
    source = pool.file(wanted.id, file.path) if pool else hub.file(wanted.repository, wanted.revision, file.path)
    stall = pool.stall_seconds if pool else hub.stall_seconds
    try:
        return download(source, dest, file.size, file.sha256, progress, stall, file.git_sha1, count)
    except HttpRefused as refused:
        if pool:
            raise
        raise hub.explained(refused, wanted.repository, wanted.revision, wanted.where) from refused


class _Locked(Progress):
    """Several threads say something."""

    def __init__(self, progress: Progress, lock: threading.Lock) -> None:
        super().__init__()
        self._inner, self._lock = progress, lock

    def say(self, line: str) -> None:
        with self._lock:
            self._inner.say(line)


class _Speaker:
    """Says how far a model is, at most once a second."""

    def __init__(self, model: str, have: int, size: int, progress: Progress) -> None:
        self._model, self._have, self._size = model, have, size
        self._lock = threading.Lock()
        self.progress = _Locked(progress, threading.Lock())
        self.stopped = False
        self._window, self._said = 0, time.monotonic()
        self._tell(0)

    def count(self, number: int) -> None:
        """Take note of bytes; end the thread that tells of them when another one failed."""
        if self.stopped:
            raise _Stopped
        with self._lock:
            self._have += number
            self._window += number
            now = time.monotonic()
            passed = now - self._said
            if passed < 1:
                return
            rate, self._window, self._said = self._window / passed, 0, now
        self._tell(max(rate, 0))

    def _tell(self, rate: float) -> None:
        speed = f", {in_bytes(rate)}/s" if rate else ""
        self.progress.say(f"model {self._model}: {in_bytes(self._have)} of {in_bytes(self._size)}{speed}")


def put(part: str, dest: str) -> None:
    """Make a folder read-only and give it its name."""
    for folder, _, names in os.walk(part, topdown=False):
        for name in names:
            os.chmod(os.path.join(folder, name), 0o444)
        os.chmod(folder, 0o555)  # noqa: S103 (every instance's user reads it, nobody writes)
    os.rename(part, dest)
    handle = os.open(os.path.dirname(dest), os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
