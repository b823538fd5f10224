"""The lab's command line: `python3 -m lab COMMAND`, from the root of the checkout."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from . import cgroups, fleet, host, inherit, settings
from .proc import STOP, LabError, missing_packages
from .state import OVERLAY_PATH, SUITES, Bind, Host, Lab

NAME = re.compile("[a-z]([a-z0-9-]{0,29}[a-z0-9])?")


def main() -> int:
    """Runs one command; the exit code: 0 done, 1 refused or failed (a sentence on stderr), 2 wrong usage."""
    arguments = _parser().parse_args()
    try:
        return int(arguments.run(arguments) or 0)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m lab", description="Throw-away Debian hosts with a real systemd, on this machine.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="make and boot hosts; those that are up stay as they are")
    up.add_argument("--suite", choices=SUITES, default="", help=f"of new hosts named without one (default: {SUITES[0]})")
    up.add_argument("--bind", action="append", default=[], metavar="SRC[:DST]", help="let the hosts read a folder")
    up.add_argument("--bind-rw", action="append", default=[], metavar="SRC[:DST]", help="let the hosts write a folder")
    up.add_argument("--layer", action="append", default=[], metavar="DIR", help="lay a folder over the root file system")
    up.add_argument("hosts", nargs="+", metavar="NAME[:SUITE]")
    up.set_defaults(run=_up)

    down = commands.add_parser("down", help="remove hosts and, with the last of them, the network")
    down.add_argument("--all", action="store_true", help="all of this lab, and whatever a killed run left")
    down.add_argument("hosts", nargs="*", metavar="NAME")
    down.set_defaults(run=_down, usage=down.error)

    listing = commands.add_parser("list", help="say which hosts there are")
    listing.add_argument("--json", action="store_true", help="with what it takes to connect")
    listing.set_defaults(run=_list)

    execute = commands.add_parser("exec", help="run a command in a host, as root")
    execute.add_argument("host", metavar="NAME")
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="CMD...")
    execute.set_defaults(run=_exec, usage=execute.error)

    inventory = commands.add_parser("inventory", help="print the hosts as an Ansible inventory (YAML)")
    inventory.set_defaults(run=_inventory)

    logs = commands.add_parser("logs", help="print a host's console and, where it is up, its journal")
    logs.add_argument("host", metavar="NAME")
    logs.set_defaults(run=_logs)

    uv = commands.add_parser("uv-settings", help="print pip's and uv's settings of this machine as uv's variables")
    uv.add_argument("--toml", action="store_true", help="as a uv.toml instead of shell exports")
    uv.set_defaults(run=_uv_settings)
    return parser


def _up(arguments: argparse.Namespace) -> None:
    wanted = [_wanted(word, arguments) for word in arguments.hosts]
    _require_machine()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: STOP.set())
    fleet.up(Lab.of_environment(), wanted, lambda text: print(text, flush=True))


def _wanted(word: str, arguments: argparse.Namespace) -> fleet.Wanted:
    name, _, suite = word.partition(":")
    if not NAME.fullmatch(name):
        raise LabError(f"'{name}' can't name a host; use a-z, 0-9 and -, at most 31, the first a letter")
    if suite not in ("", *SUITES):
        raise LabError(f"{name}: there is no suite '{suite}'; use one of {', '.join(SUITES)}")
    binds = [_bind(word, False) for word in arguments.bind] + [_bind(word, True) for word in arguments.bind_rw]
    layers = [str(_existing(word)) for word in arguments.layer]
    for layer in layers:
        if not OVERLAY_PATH.fullmatch(layer):
            raise LabError(f"{layer} can't be a layer; use a path of letters, digits and . _ - + @ ~")
    return fleet.Wanted(name, suite or arguments.suite, tuple(binds), tuple(layers))


def _bind(word: str, writable: bool) -> Bind:
    source, _, target = word.partition(":")
    path = _existing(source)
    if target and not target.startswith("/"):
        raise LabError(f"'{word}': write the host's side as an absolute path")
    return Bind(str(path), target or str(path), writable)


def _existing(word: str) -> Path:
    path = Path(word).resolve()
    if not path.is_dir():
        raise LabError(f"{path} is no folder of this machine, so no host can be given it")
    return path


def _down(arguments: argparse.Namespace) -> None:
    if arguments.all == bool(arguments.hosts):
        arguments.usage("name the hosts to remove, or say --all")
    _require_machine()
    fleet.down(Lab.of_environment(), None if arguments.all else arguments.hosts, lambda text: print(text, flush=True))


def _connection(lab: Lab, known: Host) -> dict[str, str]:
    """What it takes to connect to a host, by the names that `list --json` has."""
    return {
        "name": known.name,
        "suite": known.suite,
        "address": known.address,
        "state": host.state(lab, known.name),
        "user": "root",
        "key": str(lab.key),
        "known_hosts": str(lab.known_hosts),
        "python": "/usr/bin/python3",
    }


def _list(arguments: argparse.Namespace) -> None:
    lab = Lab.of_environment()
    rows = [_connection(lab, known) for known in lab.hosts()]
    if arguments.json:
        print(json.dumps(rows, indent=2))
    for row in [] if arguments.json else rows:
        print("{name:<16} {address:<16} {suite:<10} {state}".format(**row))


def _exec(arguments: argparse.Namespace) -> None:
    if not arguments.command:
        arguments.usage("say which command to run")
    _require_machine()
    lab = Lab.of_environment()
    known = lab.read(arguments.host)
    pid = host.leader(lab, known.name)
    if pid is None:
        raise LabError(f"{known.name} is not up; 'up {known.name}:{known.suite}' makes it anew")
    command = host.inside(pid, arguments.command)
    os.execvp(command[0], command)  # noqa: S606 - no shell: its words reach the host as they are


def _inventory(arguments: argparse.Namespace) -> None:
    lab = Lab.of_environment()
    hosts = {}
    for row in (_connection(lab, known) for known in lab.hosts()):
        hosts[row["name"]] = {
            "ansible_host": row["address"],
            "ansible_user": row["user"],
            "ansible_ssh_private_key_file": row["key"],
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={row['known_hosts']} -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes",
            "ansible_python_interpreter": row["python"],
        }
    print("all:\n  hosts:" + ("" if hosts else " {}"))
    for name, variables in hosts.items():
        print(f"    {name}:")
        for key, value in variables.items():
            print(f"      {key}: {json.dumps(value)}")


def _logs(arguments: argparse.Namespace) -> None:
    _require_machine()
    lab = Lab.of_environment()
    known = lab.read(arguments.host)
    console = lab.host_folder(known.name) / "console.log"
    if console.exists():
        print(console.read_text(errors="replace"), end="", flush=True)
    pid = host.leader(lab, known.name)
    if pid is not None:
        subprocess.run(host.inside(pid, ["journalctl", "--no-pager"]), check=False)


def _uv_settings(arguments: argparse.Namespace) -> None:
    try:
        uv = inherit.package_settings()[1]
    except ValueError as error:
        raise LabError(f"{error}; correct that file and run again") from error
    if arguments.toml:
        print(settings.uv_toml(uv), end="")
    for name, value in {} if arguments.toml else settings.uv_environment(uv).items():
        print(f"export {name}={shlex.quote(value)}")


def _require_machine() -> None:
    if sys.platform != "linux":
        raise LabError("the lab's hosts share a Linux kernel; run it on a Linux machine, or in a virtual one")
    if os.geteuid():
        raise LabError("hosts are made by root; run it again as 'sudo --preserve-env python3 -m lab ...'")
    if missing := missing_packages():
        raise LabError(f"this machine lacks what hosts are made with; run 'apt-get install {' '.join(missing)}'")
    cgroups.hierarchies()


if __name__ == "__main__":
    sys.exit(main())
