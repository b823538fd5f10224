"""Where a lab keeps what: its identity, its folders, its locks and the record of each host.

CACHE/                     ~/.cache/ownmetal/lab of the user who asked (not root's, under sudo)
  id_ed25519[.pub]         the key to every host, readable by that user alone
  images/SUITE-DIGEST/     cached roots
  locks/                   empty files
  labs/ID/NAME.json        the record of one host: written before anything of it exists, removed last
  labs/ID/NAME/            its overlay, console log and network namespace: root's
  labs/ID/known_hosts      host keys of the hosts that are up
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pwd
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from .proc import LabError, pause

SUITES = ("bookworm", "trixie")
CHECKOUT = Path(__file__).resolve().parent.parent
OVERLAY_PATH = re.compile("[A-Za-z0-9_./+@~-]+")  # what needs no escaping for mount, ssh or a shell
MACHINE_STATE = Path("/run/ownmetal-lab")  # what the labs of a machine share; gone with the last of them


@dataclass(frozen=True)
class Bind:
    """A directory of this machine that a host sees: source and target are absolute paths."""

    source: str
    target: str
    writable: bool = False

    def argument(self) -> str:
        """The option of systemd-nspawn, in which a colon parts source from target."""
        kind = "--bind" if self.writable else "--bind-ro"
        source, target = (part.replace("\\", "\\\\").replace(":", "\\:") for part in (self.source, self.target))
        return f"{kind}={source}:{target}"


@dataclass(frozen=True)
class Host:
    """The record of one host.

    `address` is IPv4; `layers` are folders laid over the root, the first on top; `host_key` is 'ssh-ed25519 AAAA...'.
    """

    name: str
    suite: str
    address: str
    binds: tuple[Bind, ...] = ()
    layers: tuple[str, ...] = ()
    host_key: str = ""


def invoking_user() -> pwd.struct_passwd:
    """The person who asked: under sudo the one who called it."""
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdigit():
        with contextlib.suppress(KeyError):
            return pwd.getpwuid(int(os.environ["SUDO_UID"]))
    return pwd.getpwuid(os.geteuid())


def lab_id() -> str:
    """LAB_ID, or a digest of the checkout, its user and LAB_NAME: each of them has labs of its own."""
    given = os.environ.get("LAB_ID")
    if given is None:
        name = os.environ.get("LAB_NAME", "")
        return hashlib.sha256(f"{invoking_user().pw_uid} {CHECKOUT} {name}".encode()).hexdigest()[:8]
    if not re.fullmatch("[a-z0-9]{1,8}", given):
        # an interface name holds 15 characters, of which the lab's identity may take 8
        raise LabError(f"LAB_ID '{given}' cannot name a lab; use 1 to 8 of the characters a-z and 0-9")
    return given


@dataclass(frozen=True)
class Lab:
    """One lab: the paths and names that carry its identity."""

    id: str
    cache: Path

    @classmethod
    def of_environment(cls) -> Lab:
        """The lab of this checkout and user."""
        given = os.environ.get("XDG_CACHE_HOME")
        root = Path(given) if given else Path(invoking_user().pw_dir) / ".cache"
        # without links, as the kernel lists what is mounted in it
        return cls(lab_id(), root.resolve() / "ownmetal" / "lab")

    @property
    def images(self) -> Path:
        """Where the cached roots are."""
        return self.cache / "images"

    @property
    def locks(self) -> Path:
        """Where the lock files are."""
        return self.cache / "locks"

    @property
    def key(self) -> Path:
        """The private key to every host; the public one is beside it, with .pub."""
        return self.cache / "id_ed25519"

    @property
    def folder(self) -> Path:
        """Where the records and hosts of this lab are."""
        return self.cache / "labs" / self.id

    @property
    def known_hosts(self) -> Path:
        """The host keys, as ssh reads them."""
        return self.folder / "known_hosts"

    @property
    def bridge(self) -> str:
        """The lab's bridge on this machine."""
        return f"om-{self.id}"

    @property
    def table(self) -> str:
        """The lab's table of nftables."""
        return f"om_{self.id}"

    def host_folder(self, name: str) -> Path:
        """Where one host's files are."""
        return self.folder / name

    def unit(self, name: str) -> str:
        """The name of a host on this machine: of its cgroups and of its container."""
        return f"om-{self.id}-{name}"

    def make_folders(self) -> None:
        """Makes the cache's folders; those above the lab belong to the person who asked."""
        user = invoking_user()
        if not OVERLAY_PATH.fullmatch(str(self.cache)):
            raise LabError(f"the lab can't work in {self.cache}; set XDG_CACHE_HOME to a path of letters, digits and . _ - + @ ~")
        for folder in (*reversed(self.cache.parents), self.cache):
            if not folder.exists():
                folder.mkdir(mode=0o755)
                os.chown(folder, user.pw_uid, user.pw_gid)
        for folder in (self.images, self.locks, self.folder):
            folder.mkdir(parents=True, exist_ok=True)

    def hosts(self) -> list[Host]:
        """The records of this lab, by name; without those that went just now or can't be read."""
        found = []
        for name in self.names():
            with contextlib.suppress(LabError):
                found.append(self.read(name))
        return found

    def names(self) -> list[str]:
        """The names of the hosts that have a record."""
        return sorted(path.stem for path in self.folder.glob("*.json"))

    def find(self, name: str) -> Host | None:
        """The record of one host, if there is one."""
        return self.read(name) if name in self.names() else None

    def read(self, name: str) -> Host:
        """The record of one host; LabError where there is none."""
        try:
            record = json.loads((self.folder / f"{name}.json").read_text())
            binds = tuple(Bind(**bind) for bind in record["binds"])
            return Host(**record | {"binds": binds, "layers": tuple(record["layers"])})
        except FileNotFoundError:
            known = ", ".join(self.names()) or "none"
            raise LabError(f"{name}: this lab has no such host (it has: {known})") from None
        except (ValueError, TypeError, KeyError) as error:
            raise LabError(f"{name}: its record is of another version of the lab; 'down {name}' removes the host") from error

    def write(self, host: Host) -> None:
        """Writes a record whole, and the list of host keys with it; the caller holds the lab's lock."""
        self.folder.mkdir(exist_ok=True)
        replace(self.folder / f"{host.name}.json", json.dumps(asdict(host), indent=1) + "\n")
        self._write_known_hosts()

    def forget(self, name: str) -> None:
        """Removes a record; the caller holds the lab's lock."""
        (self.folder / f"{name}.json").unlink(missing_ok=True)
        if self.folder.exists():
            self._write_known_hosts()

    def _write_known_hosts(self) -> None:
        lines = [f"{host.name},{host.address} {host.host_key}\n" for host in self.hosts() if host.host_key]
        replace(self.known_hosts, "".join(lines))

    def lock(self) -> contextlib.AbstractContextManager[int]:
        """Held, for moments, while records or the network of this lab change."""
        return locked(self.locks / f"{self.id}.lock")

    def host_lock(self, name: str) -> contextlib.AbstractContextManager[int]:
        """Held while one host is made or removed: whoever wants the same host waits."""
        return locked(self.locks / f"{self.id}.{name}.lock", f"another run makes or removes {name}")


def machine_lock() -> contextlib.AbstractContextManager[int]:
    """Held, for moments, while the labs of this machine agree on who has which subnet."""
    return locked(Path("/run/lock/ownmetal-lab.lock"))


def replace(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.new")
    aside.write_text(text)
    aside.replace(path)


@contextlib.contextmanager
def locked(path: Path, waiting: str = "") -> Iterator[int]:
    """Holds an exclusive lock and yields its file descriptor; the kernel lets go of it when the last holder is dead.

    Waiting for a lock that is held long says why (`waiting`), and ends when the lab is to stop. The others are held for
    moments and are needed to undo things, too.
    """
    with path.open("a") as handle:
        if waiting:
            while not _taken(handle.fileno()):
                if waiting:
                    print(f"lab: waiting: {waiting}", file=sys.stderr, flush=True)
                    waiting = ""
                pause(0.1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle.fileno()


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
