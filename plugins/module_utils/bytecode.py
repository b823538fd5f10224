# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bytecode of an environment: compiled once for each source and Python of a host, and shared by its environments.

To compile is most of what a build takes, and an upgrade changes few sources. So each compiled file has a second name in the cache,
SOURCE.BYTECODE (both SHA-256), and is linked from there into the next environment that has the same source. Where a source lies does
not matter: Python puts the path of the file that it imports into what it loads (``importlib._bootstrap_external``).

Python 3.9, standard library alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from .children import run, spawn
from .environment_manifest import sha256
from .errors import Refused
from .progress import Progress

_ASK = "import importlib.util as util, sys; print(sys.implementation.cache_tag, util.MAGIC_NUMBER.hex())"


def add(python: str, final: str, sources: Mapping[str, str], cache: str, what: str, progress: Progress) -> dict[str, str]:
    """Give each source its bytecode; return the files that came (relative path -> SHA-256).

    ``python`` is the environment's, PREFIX/bin/python; ``final`` where the environment will be; ``sources`` are paths relative to
    PREFIX with their SHA-256. A hardened unit cannot write bytecode, and without it a start takes minutes.
    """
    prefix = os.path.dirname(os.path.dirname(python))
    tag, magic = run([python, "-c", _ASK]).splitlines()[-1].split()
    store = f"{cache}/bytecode/{tag}-{magic}"
    os.makedirs(store, exist_ok=True)
    beside = {path: _beside(path, tag) for path in sources}
    for path in beside.values():  # what a wheel brings may be of another source, or checked by its time
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{prefix}/{path}")
    ready = _stored(store, set(sources.values()))
    missing = {digest: path for path, digest in sources.items() if digest not in ready}
    _compile(python, prefix, final, missing.values(), what, progress)
    ready.update(_kept(prefix, store, {digest: beside[path] for digest, path in missing.items()}))
    found = {}
    for path, digest in sources.items():
        if digest in ready:
            file, found[beside[path]] = ready[digest]
            _link(file, f"{prefix}/{beside[path]}")
    for entry in os.scandir(store):
        if entry.stat().st_nlink == 1:  # no environment has it any more
            os.unlink(entry.path)
    return found


def _beside(path: str, tag: str) -> str:
    """Return where Python looks for the bytecode of a source (PEP 3147)."""
    folder, name = os.path.split(path)
    return f"{folder}/__pycache__/{name[: -len('.py')]}.{tag}.pyc"


def _stored(store: str, wanted: set[str]) -> dict[str, tuple[str, str]]:
    """Return file and SHA-256 of the bytecode that is stored, by source; what is not what its name says goes."""
    named = {name.partition(".")[0]: name for name in os.listdir(store)}
    paths = {source: f"{store}/{name}" for source, name in named.items() if source in wanted}
    ready = {}
    for source, (path, digest) in _digests(paths).items():
        if path.endswith(f".{digest}"):
            ready[source] = (path, digest)
        else:
            os.unlink(path)
    return ready


def _digests(paths: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing leaves the interpreter's lock
        return dict(zip(paths, zip(paths.values(), pool.map(sha256, paths.values()))))


def _kept(prefix: str, store: str, compiled: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Give what was compiled its name in the store; return file and SHA-256 by source. What has no valid syntax was not compiled."""
    there = {source: f"{prefix}/{path}" for source, path in compiled.items() if os.path.exists(f"{prefix}/{path}")}
    ready = {}
    for source, (path, digest) in _digests(there).items():
        with contextlib.suppress(OSError):  # another file system has no names for files of this one
            os.link(path, f"{store}/{source}.{digest}")
        ready[source] = (path, digest)
    return ready


def _link(file: str, target: str) -> None:
    if os.path.exists(target):  # just compiled there
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        os.link(file, target)
    except OSError:  # another file system, or as many names as a file can have
        shutil.copy2(file, target)


def _compile(python: str, prefix: str, final: str, sources: Iterable[str], what: str, progress: Progress) -> None:
    """Compile modules, side by side.

    unchecked-hash: it stays valid when times change on the way to another host.
    """
    at_once = os.cpu_count() or 1
    ordered = sorted((f"{prefix}/{path}" for path in sources), key=os.path.getsize)
    shares = [share for share in (ordered[start :: at_once * 4] for start in range(at_once * 4)) if share]
    command = [python, "-m", "compileall", "-q", "--invalidation-mode=unchecked-hash", "-s", prefix, "-p", final, "-i", "-"]
    running: list[subprocess.Popen[str]] = []
    for number, share in enumerate(shares):
        progress.say(f"{what}, {100 * number // len(shares)} %")
        child = spawn(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
        if child.stdin:
            child.stdin.write("".join(f"{path}\n" for path in share))
            child.stdin.close()
        running.append(child)
        if len(running) == at_once:
            _wait(running.pop(0))
    for child in running:
        _wait(child)


def _wait(child: subprocess.Popen[str]) -> None:
    if child.wait() not in (0, 1):  # 1: a wheel ships a file in a newer Python's syntax, which nothing imports
        why = f"bytecode was not compiled: Python ended with {child.returncode}."
        raise Refused("vllm_directory", why, "Look for a full disk or too little memory, and run it again.")
