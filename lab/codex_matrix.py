# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Real releases of Codex with the configuration that roles/codex writes for each: does it start, act, and talk to no one else?

    python -m lab.codex_matrix DIRECTORY [VERSION...]

DIRECTORY, outside of the checkout, gets the releases (npm install, some 100 to 400 MB each). Every cell runs in a network
namespace of its own whose only way out leads to a recorder, so that a connection or a look-up of a name is seen, not only missed.
A table is printed. As root, on Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from lab.codex_stand_in import Seen, stand_in
from plugins.module_utils import codex_catalogue
from plugins.module_utils import codex_config as core
from plugins.module_utils.toml_merge import dump_toml

VERSIONS = ("0.63.0", "0.80.0", "0.94.0", "0.107.0", "0.130.0", "0.134.0", "0.160.0", "0.169.0")
AUTHS = ("file", "environment")
DIALECTS = ("upstream", "guide")
PLACES = ("user", "machine", "enforced")
MODELS = {"small": 16384, "large": 65536}
KEY = "sk-of-the-matrix"
SECONDS = 60


@dataclass(frozen=True)
class Cell:
    """One way that the role can write a configuration. ``bare`` writes only what leads to the provider: the control."""

    version: str
    auth: str = "file"
    dialect: str = "upstream"
    place: str = "user"
    bare: bool = False

    def __str__(self) -> str:
        """Return the words that --only looks for."""
        return f"{self.version} {self.auth} {self.dialect} {self.place}{' bare' if self.bare else ''}"


@dataclass
class Result:
    """What a cell did. ``foreign`` are the names that were looked up and the addresses that were called."""

    cell: Cell
    file: bool
    turn: bool
    wire: str
    tools: list[str]
    strict: Optional[bool]
    foreign: list[str]
    said: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong with it."""
        return self.file and self.turn and self.strict is not False and not self.foreign and not self.said


def cells(versions: tuple[str, ...]) -> Iterator[Cell]:
    """Yield every way, without those that a version does not have."""
    for version in versions:
        for auth in AUTHS:
            for dialect in DIALECTS:
                for place in PLACES:
                    if place == "user" or core.at_least(version, (0, 80)):
                        yield Cell(version, auth, dialect, place)


def install(directory: Path, version: str) -> Path:
    """Return the program of a release, which npm brings where it is not there yet."""
    root = directory / version
    pattern = "node_modules/@openai/codex*/vendor/x86_64-unknown-linux-musl/*/codex"
    found = [path for path in root.glob(pattern) if path.is_file()]
    if not found:
        root.mkdir(parents=True, exist_ok=True)
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--silent"]
        subprocess.run(["npm", "install", "--prefix", root, *options, f"@openai/codex@{version}"], check=True)
        found = [path for path in root.glob(pattern) if path.is_file()]
    return found[0]


def wanted(cell: Cell, url: str, home: Path) -> core.Wanted:
    """Return what the role would be asked for."""
    choices = [core.Choice("vllm", "large", url, MODELS["large"]), core.Choice("vllm-small", "small", url, MODELS["small"])]
    guide = {"env": {"RUST_LOG": "error"}, "model_options": {"temperature": 0.2}} if cell.dialect == "guide" else None
    key = core.key_command("key", own_home=cell.place == "user") if cell.auth == "file" else None
    return core.Wanted(cell.version, choices, MODELS, "VLLM_API_KEY", key, catalogue=str(home / "models.json"), guide=guide)


def write(cell: Cell, url: str, home: Path, machine: Path) -> core.Wanted:
    """Write the files of a cell."""
    want = wanted(cell, url, home)
    config = core.config(want)
    for instruction in ("ownmetal_absent", "ownmetal_retired"):
        del config[instruction]
    if cell.bare:
        config = {key: config[key] for key in ("model", "model_provider", "model_providers")}
    folder = machine if cell.place == "machine" else home
    if cell.place == "enforced":
        name, rules = core.enforced(want)
        (machine / name).write_text(dump_toml(rules))
        # what a user might write against it
        config["model_provider"] = "elsewhere"
        config["model_providers"]["elsewhere"] = {
            "name": "elsewhere",
            "base_url": "http://198.18.0.9/v1",
            "wire_api": core.wire_api(cell.version),
        }
    (folder / "config.toml").write_text(dump_toml(config))
    for name, profile in core.profiles(want).items():
        (folder / f"{name}.config.toml").write_text(dump_toml(profile))
    (home / "models.json").write_text(codex_catalogue.catalogue(want))
    (home / "key").write_text(f"{KEY}\n")
    return want


def run(program: Path, cell: Cell) -> Result:
    """Run one cell, in a namespace that this process is in already."""
    base = Path(tempfile.mkdtemp(prefix="codex-matrix-", dir="/var/tmp"))
    home, work, machine = (base / name for name in ("home", "work", "etc"))
    for folder in (home, work, machine):
        folder.mkdir()
    try:
        with _mounted(machine), stand_in(MODELS) as (port, seen), recorder() as foreign:
            write(cell, f"http://127.0.0.1:{port}/v1", home, machine)
            environment = {"HOME": str(base), "CODEX_HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin"}
            if not wanted(cell, "", home).reads_key_file:
                environment["VLLM_API_KEY"] = KEY
            strict = _strict(program, cell, environment)
            command = [str(program), "exec", "--json", "--skip-git-repo-check", "--sandbox", "danger-full-access", "Make hello.txt."]
            out = _run(command, work, environment)
            return _result(cell, out, seen, (work / "hello.txt").exists(), strict, foreign)
    finally:
        shutil.rmtree(base)


def _run(command: list[str], work: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    quiet = subprocess.DEVNULL
    return subprocess.run(
        command, cwd=work, env=dict(environment), stdin=quiet, capture_output=True, text=True, timeout=SECONDS, check=False
    )


def _strict(program: Path, cell: Cell, environment: Mapping[str, str]) -> Optional[bool]:
    """Ask the strict validator; None where there is none, and where the fork's keys are in the file, which are known to no other."""
    if not core.at_least(cell.version, core.STRICT) or cell.dialect == "guide":
        return None
    return _run([str(program), "app-server", "--strict-config"], Path("/"), environment).returncode == 0


def _result(
    cell: Cell, out: subprocess.CompletedProcess[str], seen: Seen, file: bool, strict: Optional[bool], foreign: list[str]
) -> Result:
    events = [json.loads(line) for line in out.stdout.splitlines() if line.startswith("{")]
    errors = [event["item"]["message"] for event in events if event["type"] == "item.completed" and event["item"]["type"] == "error"]
    posts = [(path, key) for path, key, body in seen.requests if body]
    said = "" if all(key == f"Bearer {KEY}" for _path, key in posts) else "another key was sent"
    # the fork's keys and a provider that is not allowed are answered with a warning from 0.160 on, as they should be
    said = said or next((error for error in errors if cell.dialect == "upstream" and not cell.bare and "overridden by" not in error), "")
    if not posts:
        said = " ".join((out.stderr + out.stdout).split())[-300:]
    wire = posts[0][0].removeprefix("/v1/") if posts else "-"
    return Result(
        cell, file, any(event["type"] == "turn.completed" for event in events), wire, seen.tools(), strict, sorted(set(foreign)), said
    )


@contextmanager
def _mounted(machine: Path) -> Iterator[None]:
    """Let /etc/codex be a folder of ours, in this mount namespace."""
    os.makedirs("/etc/codex", exist_ok=True)
    subprocess.run(["mount", "--bind", machine, "/etc/codex"], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "/etc/codex"], check=True)


@contextmanager
def recorder() -> Iterator[list[str]]:
    """Record what leaves by the only way out: an interface whose other end nobody answers at."""
    setup = """
    sysctl -qw net.ipv6.conf.all.disable_ipv6=1
    ip link set lo up
    ip link add out type veth peer name wire
    ip addr add 198.18.0.2/16 dev out
    ip link set wire up
    ip link set out up
    ip route replace default via 198.18.0.1 dev out
    ip neigh replace 198.18.0.1 lladdr 02:00:00:00:00:01 dev out
    """
    subprocess.run(["sh", "-ec", setup], check=True)
    foreign: list[str] = []
    sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    sniffer.bind(("wire", 0))
    sniffer.settimeout(0.2)
    stop = threading.Event()

    def listen() -> None:
        while not stop.is_set():
            try:
                frame = sniffer.recv(65535)
            except TimeoutError:
                continue
            foreign.append(_name_of(frame[14:]))

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield foreign
    finally:
        stop.set()
        thread.join()
        sniffer.close()
        subprocess.run(["ip", "link", "del", "out"], check=True)


def _name_of(packet: bytes) -> str:
    """Return the name that a DNS question asks for, or the address and the port that are called."""
    start = (packet[0] & 15) * 4
    address = socket.inet_ntoa(packet[16:20])
    port = struct.unpack("!H", packet[start + 2 : start + 4])[0] if packet[9] in (6, 17) else 0
    if packet[9] == 17 and port == 53:
        labels, at = [], start + 8 + 12
        while packet[at]:
            labels.append(packet[at + 1 : at + 1 + packet[at]].decode("ascii", "replace"))
            at += 1 + packet[at]
        return "name " + ".".join(labels)
    return f"{address}:{port}"


def inside(directory: Path, versions: tuple[str, ...], only: Optional[str]) -> int:
    """Run all cells in this namespace, and print the table; with the control first: a configuration that does talk."""
    with tempfile.NamedTemporaryFile("w") as resolver:
        resolver.write("nameserver 198.18.0.1\noptions timeout:1 attempts:1\n")
        resolver.flush()
        os.chmod(resolver.name, 0o644)
        subprocess.run(["mount", "--bind", resolver.name, "/etc/resolv.conf"], check=True)
        control = run(install(directory, versions[-1]), Cell(versions[-1], bare=True))
        print(f"control, without the role's settings: {', '.join(control.foreign) or 'nothing recorded'}", flush=True)
        bad = 0
        print(
            "| Codex | key | dialect | place | API | validator | turn | file | foreign | tools |\n|---|---|---|---|---|---|---|---|---|---|"
        )
        for cell in cells(versions):
            if only and only not in str(cell):
                continue
            result = run(install(directory, cell.version), cell)
            bad += not result.ok
            print(_row(result), flush=True)
        return 1 if bad or not control.foreign else 0


def _row(result: Result) -> str:
    cell = result.cell
    strict = {None: "-", True: "valid", False: "REFUSED"}[result.strict]
    facts: list[Any] = [cell.version, cell.auth, cell.dialect, cell.place, result.wire, strict]
    facts += ["ends" if result.turn else "FAILS", "made" if result.file else "MISSING", ", ".join(result.foreign) or 0]
    return f"| {' | '.join(map(str, facts))} | {' '.join(result.tools)} |" + (f" {result.said}" if result.said else "")


def main() -> int:
    """Install the releases, then go on in namespaces of our own."""
    parser = argparse.ArgumentParser(prog="lab.codex_matrix")
    parser.add_argument("directory", type=Path)
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    parser.add_argument("--only", help="cells whose line has these words")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    versions = tuple(options.versions)
    if options.inside:
        return inside(options.directory, versions, options.only)
    for version in versions:
        install(options.directory, version)
    command = ["unshare", "--net", "--mount", sys.executable, "-m", "lab.codex_matrix", "--inside", *sys.argv[1:]]
    machine = Path("/etc/codex")  # a folder to mount on: what is in it stays as it is
    missing = not machine.exists()
    if missing:
        machine.mkdir()
    try:
        return subprocess.run(command, check=False).returncode
    finally:
        if missing:
            machine.rmdir()


if __name__ == "__main__":
    sys.exit(main())
