"""Several hosts at once: up and down."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from . import cgroups, host, images, inherit, network
from .proc import LabError, run
from .state import SUITES, Bind, Host, Lab, invoking_user, locked

Item = TypeVar("Item")
UP = ("running", "degraded")


@dataclass(frozen=True)
class Wanted:
    """A host as the operator asked for it; suite '' is 'as it is', and for a new host the default."""

    name: str
    suite: str = ""
    binds: tuple[Bind, ...] = ()
    layers: tuple[str, ...] = ()


def up(lab: Lab, wanted: Sequence[Wanted], say: Callable[[str], None]) -> None:
    """Makes the hosts that aren't up, all at once; of a host that fails nothing is left, and LabError says which and why."""
    lab.make_folders()
    _make_key(lab)
    operator = inherit.operator()
    try:
        _at_once(partial(_up, lab, operator, say), {want.name: want for want in wanted})
    finally:
        _refresh_names(lab)
        _close_if_empty(lab)


def down(lab: Lab, names: Iterable[str] | None, say: Callable[[str], None]) -> None:
    """Removes hosts (None: all there are, recorded or not), and with the last of them the lab's network."""
    if not lab.folder.exists() and names is not None:
        return
    lab.make_folders()
    if names is None:
        folders = {path.name for path in lab.folder.iterdir() if path.is_dir()}
        names = {*lab.names(), *folders, *cgroups.names_of(lab.unit(""))}

    def remove(name: str) -> None:
        with lab.host_lock(name):
            host.destroy(lab, name)
        say(f"{name} is gone")

    try:
        _at_once(remove, {name: name for name in names})
    finally:
        _refresh_names(lab)
        _close_if_empty(lab)


def _up(lab: Lab, operator: inherit.Operator, say: Callable[[str], None], want: Wanted) -> None:
    with lab.host_lock(want.name):
        known = lab.find(want.name)
        if known and host.state(lab, want.name) in UP and network.connected(lab, known):
            if want.suite not in ("", known.suite) or set(want.binds + want.layers) - set(known.binds + known.layers):
                raise LabError(f"{want.name} is up, but not as asked for now; 'down {want.name}' first")
            say(f"{known.name} {known.address} {known.suite}, up already")
            return
        host.destroy(lab, want.name)  # what a run that was killed left, or a host that was switched off
        suite = want.suite or SUITES[0]
        image = images.ensure(lab, suite, operator)
        try:
            with lab.lock():
                subnet = network.up(lab)
                address = network.free_address(lab, subnet, {other.address for other in lab.hosts()})
                record = Host(want.name, suite, address, want.binds, want.layers)
                lab.write(record)
                hosts = lab.hosts()
            no_proxy = [str(subnet), *(word for other in hosts for word in (other.name, other.address))]
            texts = {"/etc/environment": operator.environment(no_proxy), "/etc/hosts": _names(hosts)}
            record = host.make(lab, record, image, operator.files | texts)
            with lab.lock():
                lab.write(record)
            host.boot(lab, record, operator.binds + want.binds)
        except BaseException:
            host.destroy(lab, want.name)
            raise
        say(f"{record.name} {record.address} {record.suite}")


def _at_once(work: Callable[[Item], None], items: dict[str, Item]) -> None:
    """Does the work on all items (by host name) in parallel; then LabError joins what went wrong."""
    failures = []
    with ThreadPoolExecutor(max_workers=len(items) or 1) as pool:
        for future in [pool.submit(work, item) for item in items.values()]:
            try:
                future.result()
            except LabError as error:
                failures.append(str(error))
    if failures:
        raise LabError("; ".join(dict.fromkeys(failures)))


def _make_key(lab: Lab) -> None:
    """The key to all hosts, for the person who asked and no one else."""
    with locked(lab.locks / "key.lock"):
        if lab.key.with_suffix(".pub").exists():
            return
        lab.key.unlink(missing_ok=True)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", lab.key])
        user = invoking_user()
        for path in (lab.key, lab.key.with_suffix(".pub")):
            os.chown(path, user.pw_uid, user.pw_gid)


def _names(hosts: Iterable[Host]) -> str:
    """/etc/hosts: all hosts of a lab know one another."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost", *(f"{host.address} {host.name}" for host in hosts)]
    return "\n".join(lines) + "\n"


def _refresh_names(lab: Lab) -> None:
    """Tells every host that is up who is there now, from inside, where its own links lead where they should."""
    with lab.lock():
        hosts = lab.hosts()
        for known in hosts:
            pid = host.leader(lab, known.name)
            if pid is not None:
                with contextlib.suppress(LabError):  # it went away just now
                    run(host.inside(pid, ["sh", "-c", "cat >/etc/hosts"]), text=_names(hosts))


def _close_if_empty(lab: Lab) -> None:
    with lab.lock():
        if not lab.names():
            network.down(lab)
            lab.known_hosts.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # another run has begun to make a host
                lab.folder.rmdir()
