"""One host: made, booted, looked into, removed. Whoever calls holds the host's lock."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from . import cgroups, network
from .proc import LabError, attempt, output, pause, run
from .state import Bind, Host, Lab

BOOT_SECONDS = 60
NSPAWN = Path("/run/systemd/nspawn")  # where systemd-nspawn leaves things when it is killed
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}

# Boots the host, and again whenever it reboots: systemd-nspawn then ends with 133 and leaves the rest to us.
# Each boot gets a group of its own inside the host's: a group of version 2 that hands controllers down to children can't
# be entered again. This shell itself stands aside in `keeper`, or nothing could be handed down at all.
# $1: the host's groups, one a line; the rest: the command. Writing 0 moves the writer.
KEEPER = r"""
groups=$1; shift
IFS='
'
enter() { for group in $groups; do mkdir -p "$group/$1"; echo 0 >"$group/$1/cgroup.procs"; done; }
enter keeper
for group in $groups; do
  [ -e "$group/cgroup.controllers" ] || continue
  for name in $(tr ' ' '\n' <"$group/cgroup.controllers"); do echo "+$name" >"$group/cgroup.subtree_control"; done
done
boot=0 code=133
while [ "$code" = 133 ]; do
  boot=$((boot + 1))
  (enter "boot$boot"; exec "$@")
  code=$?
done
"""


def make(lab: Lab, host: Host, image: Path, files: Mapping[str, str]) -> Host:
    """Makes a host's overlay, files (texts by path) and network; returns the record with its key."""
    folder = lab.host_folder(host.name)
    root, upper, work = folder / "root", folder / "upper", folder / "work"
    folder.mkdir(mode=0o700)
    for part in (root, upper, work):
        part.mkdir()
    lower = ":".join([*host.layers, str(image)])
    # volatile: what a host writes need not outlive this machine's crash
    options = f"lowerdir={lower},upperdir={upper},workdir={work},volatile"
    try:
        run(["mount", "-t", "overlay", lab.unit(host.name), "-o", options, root])
    except LabError as error:
        raise LabError(
            f"{error}; hosts need the right to mount, and a cache folder on ext4, xfs or btrfs: XDG_CACHE_HOME names another"
        ) from error
    place(root, "/etc/hostname", f"{host.name}\n")
    place(root, "/etc/machine-id", secrets.token_hex(16) + "\n")
    place(root, "/root/.ssh/authorized_keys", lab.key.with_suffix(".pub").read_text(), 0o600)
    for path, text in files.items():
        place(root, path, text)
    # made before the boot, so that whoever connects knows from the first time whom they talk to
    private = folder / "host_key"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", host.name, "-f", private])
    public = private.with_suffix(".pub").read_text()
    place(root, "/etc/ssh/ssh_host_ed25519_key", private.read_text(), 0o600)
    place(root, "/etc/ssh/ssh_host_ed25519_key.pub", public)
    network.connect(lab, host, folder / "netns")
    return replace(host, host_key=" ".join(public.split()[:2]))


def boot(lab: Lab, host: Host, binds: Iterable[Bind]) -> None:
    """Boots a host and waits until its systemd has started everything."""
    folder, unit = lab.host_folder(host.name), lab.unit(host.name)
    groups = cgroups.make(unit)
    # systemd-nspawn mounts controllers of version 1 read-only. They are the host's own groups (in a cgroup namespace),
    # so the first program in the host makes them writable, then becomes systemd: MemoryMax= and others are enforced.
    limits = [hierarchy.root.name for hierarchy in cgroups.hierarchies() if hierarchy.key not in ("", "name=systemd")]
    remount = "".join(f"mount -o remount,bind,rw /sys/fs/cgroup/{name} 2>/dev/null; " for name in limits)
    init = "exec /lib/systemd/systemd systemd.show_status=false"
    if not cgroups.unified():
        # systemd 256 and 257 boot on version 1 only when told to
        init += " SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"
    command = [
        "systemd-nspawn", "--quiet", "--settings=no", "--register=no", "--keep-unit", "--link-journal=no",
        "--resolv-conf=off", "--timezone=off", "--console=pipe", "--kill-signal=SIGRTMIN+4",
        f"--network-namespace-path={folder / 'netns'}", f"--machine={unit}", f"--hostname={host.name}",
        "--capability=CAP_NET_ADMIN",  # a host has a firewall of its own, in its own network namespace
        f"--directory={folder / 'root'}", *(bind.argument() for bind in binds), "--", "/bin/sh", "-c", remount + init,
    ]  # fmt: skip
    log = folder / "console.log"
    with log.open("ab") as out:
        keeper = subprocess.Popen(
            ["/bin/sh", "-c", KEEPER, f"lab-keeper-{unit}", "\n".join(map(str, groups)), *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={"PATH": os.environ["PATH"]},  # nothing of the caller's environment may reach the host
            cwd="/",
            start_new_session=True,
        )
    step = 0.1
    says = "down"
    for _ in range(round(BOOT_SECONDS / step)):
        if keeper.poll() is not None:
            raise LabError(f"{host.name}: it ended while it booted: {_last_lines(log)}")
        says = _state(groups)
        if says in ("running", "degraded"):
            return
        pause(step)
    raise LabError(f"{host.name}: not up after {BOOT_SECONDS} s (systemd says: {says}): {_last_lines(log)}")


def state(lab: Lab, name: str) -> str:
    """What systemd in a host says of itself (running, degraded, starting...); 'down' where there is none.

    'orphaned' is a host whose keeper was killed: it can't reboot, and `up` makes it anew.
    """
    return _state(cgroups.find(lab.unit(name)))


def _state(groups: list[Path]) -> str:
    pid = _leader(groups)
    if pid is None:
        return "down"
    if not cgroups.processes([group / "keeper" for group in groups]):
        return "orphaned"
    if os.geteuid():
        return "up"  # only root may look inside
    return output(inside(pid, ["systemctl", "is-system-running"])).strip() or "starting"


def leader(lab: Lab, name: str) -> int | None:
    """The host's systemd, as this machine numbers it; None unless it runs."""
    return _leader(cgroups.find(lab.unit(name)))


def _leader(groups: list[Path]) -> int | None:
    pid = cgroups.leader(groups)
    with contextlib.suppress(OSError):
        if pid is not None and Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
            return pid
    return None


def inside(pid: int, command: Sequence[str]) -> list[str]:
    """The command line that runs a command in a host as root, with a clean environment."""
    variables = ENVIRONMENT | {"TERM": os.environ.get("TERM", "dumb")}
    settings = [f"{name}={value}" for name, value in variables.items()]
    # A host that goes down stops all its processes, then ends them. nsenter's own child would be one of them, and nsenter
    # would stop with it, for good; the end of the host would wait for it. A shell between them isn't stopped, and waits.
    waiter = ["sh", "-c", '"$@"; exit $?', "lab-exec"]
    return ["nsenter", "-t", str(pid), "-a", "--no-fork", "env", "-i", "-C", "/root", *settings, *waiter, *command]


def destroy(lab: Lab, name: str) -> None:
    """Removes all there is of a host, in whatever state a killed run left it."""
    unit, folder = lab.unit(name), lab.host_folder(name)
    cgroups.remove(unit)
    with contextlib.suppress(LabError):
        # at once: with its namespace alone, the link would go some time later
        attempt(["ip", "link", "del", network.link_of(lab, lab.read(name))])
    leftovers = list(NSPAWN.glob(f"*/{unit}"))
    with contextlib.suppress(FileNotFoundError):
        seen = (folder / "root").stat()
        leftovers += NSPAWN.glob(f"locks/inode-{seen.st_dev}:{seen.st_ino}")
    for holder in (folder, *leftovers):
        for mounted in mounts_below(holder):
            if not attempt(["umount", mounted]):
                run(["umount", "--lazy", mounted])
    for leftover in leftovers:
        leftover.rmdir() if leftover.is_dir() else leftover.unlink()
    if folder.exists():
        shutil.rmtree(folder)
    with lab.lock():
        lab.forget(name)


def mounts_below(folder: Path) -> list[Path]:
    """What is mounted at or below a folder, innermost first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        where = Path(re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), line.split()[4]))
        if where.is_relative_to(folder):
            found.append(where)
    return found[::-1]


def place(root: Path, path: str, text: str, mode: int = 0o644) -> None:
    """Writes a file of a host that does not run yet.

    Seen from outside, a host's absolute link points at a file of this machine: links are replaced, never followed.
    """
    target = root / path.lstrip("/")
    target.parent.mkdir(mode=0o755 if mode == 0o644 else 0o700, parents=True, exist_ok=True)
    if not target.parent.resolve().is_relative_to(root.resolve()):
        raise LabError(f"{path}: its folder is a link that leads out of the host; make it a folder in the layer that has it")
    target.unlink(missing_ok=True)
    target.touch(mode)
    target.write_text(text)
    target.chmod(mode)


def _last_lines(log: Path) -> str:
    return "; ".join(log.read_text(errors="replace").strip().splitlines()[-5:]) or "it said nothing"
