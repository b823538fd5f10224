# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The pool: one host packs what it built or fetched, and the other servers take it from there.

What a server is told comes over ssh, from the pool host: where, a token for this one thing, the certificate to expect, size and
digest. So neither the way nor who listens at that port has to be trusted.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import platform
import secrets
import shutil
import ssl
import stat
import subprocess
import sys
import tempfile
import time
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, Optional

from . import environment_manifest
from .children import Failed, run, spawn
from .environment_build import Site, build, check_space, finish, prepare
from .errors import Refused
from .progress import Progress, alone

RUN = "/run/ownmetal-pool"
UNIT = "ownmetal-pool.service"
IDLE = 300  # seconds without a request after which the server ends, and its tokens with it
BLOCK = 4 << 20
PACKED = 0.6  # of its size: what an archive takes at most, of what was seen 0.35
TRIES = 6
FULL = 1 << 20  # bytes free, below which a disk counts as full
TIMEOUT = 60


# -- packing


def record_path(pool: str, name: str) -> str:
    """Return the file that says what the archive of an environment is. It is written last: with it the archive is whole."""
    return f"{pool}/environments/{name}.json"


def packed(pool: str, name: str) -> Optional[dict[str, Any]]:
    """Return name, file, sha256, size and bytes (unpacked) of an environment's archive; None when it is not in the pool."""
    try:
        with open(record_path(pool, name), encoding="utf-8") as stream:
            found: dict[str, Any] = json.load(stream)
        return found if os.path.getsize(f"{pool}/environments/{found['file']}") == found["size"] else None
    except (OSError, ValueError, KeyError):
        return None


def pack(site: Site, name: str, pool: str, progress: Progress) -> dict[str, Any]:
    """Pack a finished environment for others, once; return its record."""
    if found := packed(pool, name):
        return found
    total = environment_manifest.read(site.final(name))["bytes"]
    os.makedirs(f"{pool}/environments", exist_ok=True)
    check_space("vllm_pool_directory", pool, total * PACKED, f"packing {name} for the other servers")
    file = f"{name}.tar.gz"
    part = f"{pool}/environments/.{file}.part"
    digest = hashlib.sha256()
    # equal sources share their bytecode: each file whole, as whatever unpacks them may put them elsewhere
    command = ["tar", "--create", "--sort=name", "--hard-dereference", "--owner=0", "--group=0", "--numeric-owner", "-C", site.environments]
    command.append(name)
    child = spawn(command, stdout=subprocess.PIPE)
    try:
        with open(part, "wb") as out:
            for block in compressed(_blocks(child.stdout, total, f"{name}: packing for the other servers", progress)):
                digest.update(block)
                out.write(block)
            out.flush()
            os.fsync(out.fileno())
        if child.wait() != 0:
            raise OSError(f"tar ended with {child.returncode}")
    except OSError as error:
        child.kill()
        child.communicate()
        with contextlib.suppress(OSError):
            os.unlink(part)
        why = f"{name} could not be packed for the other servers: {error}."
        raise Refused("vllm_pool_directory", why, "Look for a full disk, or name a directory on a larger one.") from error
    os.rename(part, f"{pool}/environments/{file}")
    found = {"id": name, "file": file, "sha256": digest.hexdigest(), "size": os.path.getsize(f"{pool}/environments/{file}"), "bytes": total}
    with open(f"{record_path(pool, name)}.part", "w", encoding="utf-8") as stream:
        json.dump(found, stream)
    os.rename(f"{record_path(pool, name)}.part", record_path(pool, name))
    return found


def _blocks(stream: Optional[IO[bytes]], total: int, what: str, progress: Progress) -> Iterator[bytes]:
    done = 0
    while stream and (block := stream.read(BLOCK)):
        yield block
        done += len(block)
        progress.say(f"{what}, {min(10 * done // max(total, 1), 10) * 10} %")


def compressed(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Return blocks as gzip, compressed side by side: several members in a row are one archive to every gzip."""
    at_once = os.cpu_count() or 1
    with ThreadPoolExecutor(at_once) as workers:  # zlib leaves the interpreter's lock
        waiting: deque[Future[bytes]] = deque()
        for block in blocks:
            waiting.append(workers.submit(_member, block))
            if len(waiting) > 2 * at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _member(block: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return packer.compress(block) + packer.flush()


# -- serving


def share(roots: Mapping[str, str], port: int, allowed: list[str], token: str) -> dict[str, Any]:
    """Open ``allowed`` (ROOT/FILE, or ROOT/FOLDER/) for one more taker, who shows ``token``: return port and fingerprint.

    The token is the caller's: at -vvv Ansible prints whatever a host answers. One server serves all takers: it is started when none
    runs, and ends by itself.
    """
    with alone("pool-server", Progress()):  # two jobs that find no server would each clear what the other one writes
        if not _runs(port):
            _start(port)
    path = f"{RUN}/tokens/{hashlib.sha256(token.encode()).hexdigest()}"
    with open(f"{path}.part", "w", encoding="utf-8") as stream:
        json.dump({"roots": dict(roots), "paths": allowed}, stream)
    os.chmod(f"{path}.part", 0o644)  # it holds no secret, and the server is nobody's user
    os.rename(f"{path}.part", path)
    with open(f"{RUN}/certificate.pem", encoding="ascii") as stream:
        certificate = ssl.PEM_cert_to_DER_cert(stream.read())
    source = {"port": port, "fingerprint": hashlib.sha256(certificate).hexdigest()}
    _await({**source, "token": token})
    return source


def _runs(port: int) -> bool:
    done = subprocess.run(["systemctl", "is-active", "--quiet", UNIT], check=False)
    try:
        with open(f"{RUN}/settings.json", encoding="utf-8") as stream:
            same: bool = json.load(stream)["port"] == port
    except (OSError, ValueError):
        return False
    return same and done.returncode == 0


def _start(port: int) -> None:
    subprocess.run(["systemctl", "stop", UNIT], check=False, capture_output=True)
    subprocess.run(["systemctl", "reset-failed", UNIT], check=False, capture_output=True)
    shutil.rmtree(RUN, ignore_errors=True)
    os.makedirs(f"{RUN}/tokens", mode=0o755)
    with open(f"{RUN}/server.py", "w", encoding="utf-8") as stream:
        stream.write(_program())
    with open(f"{RUN}/settings.json", "w", encoding="utf-8") as stream:
        json.dump({"port": port, "tokens": f"{RUN}/tokens", "idle": IDLE}, stream)
    os.close(os.open(f"{RUN}/key.pem", os.O_CREAT | os.O_WRONLY, 0o600))
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "7"]
    try:
        run([*make, "-subj", "/CN=ownmetal-pool", "-keyout", f"{RUN}/key.pem", "-out", f"{RUN}/certificate.pem"])
    except (Failed, OSError) as error:
        raise Refused("vllm_pool_host", f"no certificate could be made on it: {error}", "Install the package openssl there.") from None
    properties = [
        "DynamicUser=yes", "ProtectSystem=strict", "ProtectHome=yes", "PrivateTmp=yes", "PrivateDevices=yes", "NoNewPrivileges=yes",
        "CapabilityBoundingSet=", "RestrictAddressFamilies=AF_INET AF_INET6", "SystemCallFilter=@system-service", "MemoryMax=512M",
        f"LoadCredential=certificate:{RUN}/certificate.pem", f"LoadCredential=key:{RUN}/key.pem", f"ExecStopPost=+/bin/rm -rf {RUN}",
        "Description=Pool of environments and models for the other GPU servers",
    ]  # fmt: skip
    unit = [f"--unit={UNIT}", "--quiet", "--collect", *(f"--property={one}" for one in properties)]
    try:
        run(["systemd-run", *unit, "--", sys.executable, "-I", "-B", f"{RUN}/server.py", f"{RUN}/settings.json"])
    except Failed as failed:
        raise Refused("vllm_pool_host", f"its file server did not start: {failed.said}", f"Look at: journalctl -u {UNIT}") from None


def _program() -> str:
    from . import pool_server  # noqa: PLC0415 - what is sent to a host comes as an archive: the loader knows the text

    # the loader of a module that was imported is never None, and those of files and of archives have get_source
    text = pool_server.__loader__.get_source(pool_server.__name__)  # type: ignore[union-attr]
    return str(text)


def _await(source: Mapping[str, Any]) -> None:
    """Wait until the server answers; that also counts as a use, so it does not end before the taker comes."""
    for left in reversed(range(50)):
        try:
            connection = connect("localhost", source)
            connection.request("GET", "/", headers={"Authorization": f"Bearer {source['token']}"})
            connection.getresponse().read()
            connection.close()
        except OSError as error:
            if not left:
                why = f"its file server does not answer at port {source['port']}: {error}."
                instead = f"Look at journalctl -u {UNIT} there; if another program has that port, write another vllm_pool_port."
                raise Refused("vllm_pool_host", why, instead) from None
            time.sleep(0.1)
        else:
            return


# -- taking


def connect(address: str, source: Mapping[str, Any], timeout: float = TIMEOUT) -> http.client.HTTPSConnection:
    """Connect to a pool, and to no other: its certificate is the one that was named over ssh. An address of IPv6 may have brackets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # instead of an authority, the certificate itself is compared, before anything is sent
    connection = http.client.HTTPSConnection(address.strip("[]"), source["port"], timeout=timeout, context=context)
    connection.connect()
    seen = hashlib.sha256(connection.sock.getpeercert(True) or b"").hexdigest()
    if not secrets.compare_digest(seen, source["fingerprint"]):
        connection.close()
        why = f"who answers at {address} port {source['port']} is not the pool: its certificate is another one."
        raise Refused("vllm_pool_host", why, "Write vllm_pool_address or vllm_pool_port as the servers reach the pool host.")
    return connection


class Taken:
    """A file of the pool, read once from begin to end; a connection that breaks is made again, and goes on where it was."""

    def __init__(self, source: Mapping[str, Any], pause: float = 2.0) -> None:
        """Take address, port, path, fingerprint, token, size and sha256."""
        self.source = source
        self.pause = pause
        self.done = 0
        self.digest = hashlib.sha256()
        self._answer: Optional[http.client.HTTPResponse] = None

    def blocks(self) -> Iterator[bytes]:
        """Return the content; raise Refused when it cannot be had whole."""
        tries, size = 0, self.source["size"]
        while self.done < size:
            try:
                block = self._open().read(BLOCK)
                if not block:
                    raise ConnectionError(f"the connection ended after {self.done} of {size} bytes")
            except (OSError, http.client.HTTPException) as error:
                self._answer, tries = None, tries + 1
                if tries == TRIES or (not self.done and tries == 2):
                    raise self._refused(error) from None
                time.sleep(self.pause)
                continue
            tries, self.done = 0, self.done + len(block)
            self.digest.update(block)
            yield block
        if self.digest.hexdigest() != self.source["sha256"]:
            why = f"what came of {self.source['path']} is not what it has: the digest is another one."
            instead = "Remove that file and its .json from vllm_pool_directory there, and run it again."
            raise Refused("vllm_pool_host", why, instead)

    def _open(self) -> http.client.HTTPResponse:
        if self._answer is None:
            connection = connect(self.source["address"], self.source)
            headers = {"Authorization": f"Bearer {self.source['token']}", "Range": f"bytes={self.done}-"}
            connection.request("GET", f"/{self.source['path']}", headers=headers)
            answer = connection.getresponse()
            if answer.status != 206:
                raise ConnectionError(f"it answered {answer.status}")
            self._answer = answer
        return self._answer

    def _refused(self, error: BaseException) -> Refused:
        address, port = self.source["address"], self.source["port"]
        cause = str(error).rstrip(".") or type(error).__name__
        why = f"this server did not get {self.source['path']} from the pool at {address} port {port}: {cause}."
        instead = f"Let it reach TCP port {port} of {address}, or write vllm_pool_address and vllm_pool_port as it can reach them."
        return Refused("vllm_pool_host", why, instead)


def _not_unpacked(name: str, wrong: str, free: int) -> Refused:
    if free < FULL:
        why, instead = f"the disk became full while {name} was unpacked", "Free some space, or name a directory on a larger disk"
    else:
        why, instead = f"{name} could not be unpacked", "Nothing was half-installed. Run it again"
    return Refused("vllm_directory", f"{why}: {wrong.rstrip('.')}.", f"{instead}.")


def unpack(name: str, blocks: Iterable[bytes], total: int, size: int, site: Site, progress: Progress) -> None:
    """Make an environment of its archive's content, aside, and move it into its place when it is whole."""
    part = prepare(site, name)
    check_space("vllm_directory", site.directory, total * 1.05, f"unpacking {name}")
    os.makedirs(part)
    command = ["tar", "-xzp", "--warning=none", "--no-same-owner", "--strip-components=1", "-C", part]
    done = 0
    with tempfile.TemporaryFile() as complaints:  # no pipe: on a full disk tar complains of every file, and nobody reads meanwhile
        child = spawn(command, stdin=subprocess.PIPE, stderr=complaints)
        try:
            for block in blocks:
                if child.stdin:
                    child.stdin.write(block)
                if os.fstat(complaints.fileno()).st_size:
                    break
                done += len(block)
                progress.say(f"{name}: taking it from the pool, {10 * done // max(size, 1) * 10} %")
        except BrokenPipeError:
            pass  # tar says why
        except Refused:
            child.kill()
            child.communicate()
            environment_manifest.remove(part)
            raise
        if os.fstat(complaints.fileno()).st_size:
            child.kill()  # it would go through the rest, one complaint a file
        child.communicate()
        complaints.seek(0)
        said = complaints.readline().decode(errors="replace").strip()
    wrong = said or (f"tar ended with {child.returncode}" if child.returncode else environment_manifest.damage(part))
    if wrong:
        free = shutil.disk_usage(part).free  # tar has several words for a full disk
        environment_manifest.remove(part)
        raise _not_unpacked(name, wrong, free)
    os.chmod(part, stat.S_IMODE(os.stat(part).st_mode) & ~environment_manifest.WRITE)  # all that is in it came so
    finish(site, name)


def take(name: str, source: Mapping[str, Any], site: Site, progress: Progress) -> None:
    """Take an environment from the pool."""
    unpack(name, Taken(source).blocks(), source["bytes"], source["size"], site, progress)


def from_own_pool(found: Mapping[str, Any], pool: str, site: Site, progress: Progress) -> None:
    """Unpack an environment from the pool of this host, which a bundle has filled."""
    path = f"{pool}/environments/{found['file']}"
    if environment_manifest.sha256(path) != found["sha256"]:
        why = f"{path} is not what its record says: the digest is another one."
        raise Refused("vllm_pool_directory", why, "Remove it and its .json, or unpack the bundle again.")
    with open(path, "rb") as stream:
        unpack(found["id"], iter(lambda: stream.read(BLOCK), b""), found["bytes"], found["size"], site, progress)


# -- what a host does


def ensure(record: Mapping[str, Any], site: Site, pool: str, source: Optional[Mapping[str, Any]], progress: Progress) -> None:
    """Make an environment that is missing or damaged: from the pool that is named, from an own archive, or from its lock."""
    name = record["id"]
    if source:
        take(name, source, site, progress)
    elif found := packed(pool, name):
        from_own_pool(found, pool, site, progress)
    else:
        check_platform(record)
        build(record, site, progress)


def check_platform(record: Mapping[str, Any]) -> None:
    """Raise Refused where another kind of machine would build it."""
    if record["machine"] != platform.machine():
        why = f"it is a {platform.machine()} machine, and {record['id']} is for {record['machine']}."
        raise Refused("vllm_pool_host", why, "Name a host of that kind for these servers.")


def provide(record: Mapping[str, Any], site: Site, pool: str, progress: Progress) -> dict[str, Any]:
    """Return the record of an environment's archive; build and pack what is not there."""
    name = record["id"]
    if found := packed(pool, name):
        return found
    if environment_manifest.damage(site.final(name)):
        check_platform(record)
        build(record, site, progress)
    return pack(site, name, pool, progress)
