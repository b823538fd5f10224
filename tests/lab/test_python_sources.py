"""The role python's other sources, for real: an archive and a managed build of a Python that the test packs.

Debian 12's own Python is packed and unpacked on Debian 13, which has no 3.11; uv takes it from a mirror on that host. What uv
itself would download is another program with another sha256: that it is refused from a mirror is tested too.
Needs root. Takes about two minutes once the roots are cached.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils.pythons import MANAGED

CHECKOUT = Path(__file__).resolve().parents[2]
TOOLS = Path(sys.executable).parent
LAB = f"p{secrets.token_hex(2)}"
PLAYBOOK = "- hosts: dev1\n  gather_facts: false\n  become: true\n  roles: [ownmetal.codex.python]\n"
UNINSTALL = PLAYBOOK.replace(
    "roles: [ownmetal.codex.python]", "tasks: [{ansible.builtin.import_role: {name: ownmetal.codex.python, tasks_from: uninstall.yml}}]"
)
# made to work wherever it is unpacked: Debian's ensurepip looks for its wheels in /usr/share
PACK = r"""
set -e
mkdir -p /tmp/pack/bin /tmp/pack/lib
cp /usr/bin/python3.11 /tmp/pack/bin/
cp -rL /usr/lib/python3.11 /tmp/pack/lib/
cd /tmp/pack/lib/python3.11
rm -rf config-* test
find . -name __pycache__ -prune -exec rm -rf {} +
mkdir -p ensurepip/_bundled
cp /usr/share/python-wheels/*.whl ensurepip/_bundled/
sed -i 's|^_WHEEL_PKG_DIR = .*|_WHEEL_PKG_DIR = os.path.join(os.path.dirname(__file__), "_bundled")|' ensurepip/__init__.py
ln -s python3.11 /tmp/pack/bin/python3
tar -C /tmp/pack --transform 's|^|python/|' -czf /tmp/python.tar.gz bin lib
"""
BUILD = f"cpython-{MANAGED['3.11']}+20261110-x86_64-unknown-linux-gnu-install_only_stripped.tar.gz"

pytestmark = pytest.mark.lab


def run(*words, check=True, **options):
    done = subprocess.run(
        [str(word) for word in words], cwd=CHECKOUT, env=os.environ | {"LAB_ID": LAB}, capture_output=True, check=False, **options
    )
    assert not check or done.returncode == 0, f"{words}: {done.stdout!r} {done.stderr!r}"
    return done


def inside(host, command, **options):
    return run(sys.executable, "-m", "lab", "exec", host, "sh", "-c", command, **options)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Boot both hosts, and pack the one's Python."""
    place = tmp_path_factory.mktemp("python")
    try:
        run(sys.executable, "-m", "lab", "up", "server1:bookworm", "dev1:trixie")
        inside("server1", "apt-get update -q && apt-get install -qy --no-install-recommends python3.11 python3.11-venv")
        inside("server1", PACK)
        (place / "python.tar.gz").write_bytes(inside("server1", "cat /tmp/python.tar.gz").stdout)
        yield place / "python.tar.gz"
    finally:
        run(sys.executable, "-m", "lab", "down", "--all")


def play(place, text, *words, **variables):
    """Run a play; return its exit code, how much it changed, and what it said."""
    (place / "play.yml").write_text(text)
    (place / "vars.json").write_text(json.dumps({"python_version": "3.11", **variables}))
    command = [TOOLS / "ansible-playbook", place / "play.yml", "-i", "inventories/lab", "-e", f"@{place}/vars.json", *words]
    done = run(*command, check=False, text=True)
    changed = re.search(r"changed=(\d+)", done.stdout)
    return done.returncode, int(changed[1]) if changed else None, " ".join((done.stdout + done.stderr).split())


def proved_and_removed(place, interpreter, **variables):
    code, changed, said = play(place, PLAYBOOK, "--check", **variables)
    assert (code, bool(changed)) == (0, True), said
    assert inside("dev1", "ls -d /opt/python || true", text=True).stdout == ""
    code, changed, said = play(place, PLAYBOOK, **variables)
    assert (code, bool(changed)) == (0, True), said
    seen = inside("dev1", f"{interpreter} -I -c 'import ssl, sys; print(sys.version_info[:2], sys.prefix)'", text=True).stdout.strip()
    assert seen == f"(3, 11) {interpreter.removesuffix('/bin/python3.11')}"
    assert play(place, PLAYBOOK, **variables)[:2] == (0, 0)
    assert play(place, UNINSTALL, **variables)[0] == 0
    assert inside("dev1", "ls -d /opt/python || true", text=True).stdout == ""


def test_a_python_from_an_archive(archive):
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    said = {"python_source": "archive", "python_archive": str(archive), "python_archive_sha256": digest}
    proved_and_removed(archive.parent, f"/opt/python/3.11-{digest[:12]}/bin/python3.11", **said)


def test_a_managed_python_from_a_mirror(archive):
    folder = "/srv/mirror/20261110"
    inside("dev1", f"mkdir -p {folder}")
    inside("dev1", f"cat > '{folder}/{BUILD}'", input=archive.read_bytes())
    # from a mirror comes only what uv knows the sha256 of
    code, _, said = play(archive.parent, PLAYBOOK, python_source="managed", python_managed_mirror="file:///srv/mirror")
    assert code == 2
    assert f"could not install the managed build of Python {MANAGED['3.11']}" in said
    assert "Hash mismatch" in said
    play(archive.parent, UNINSTALL)
    # a team's own list of builds
    patch = int(MANAGED["3.11"].rpartition(".")[2])
    key = f"cpython-{MANAGED['3.11']}-linux-x86_64-gnu"
    entry = {"name": "cpython", "arch": {"family": "x86_64", "variant": None}, "os": "linux", "libc": "gnu", "major": 3, "minor": 11}
    entry |= {"patch": patch, "prerelease": "", "url": f"file://{folder}/{BUILD}", "variant": None, "build": "20261110"}
    entry["sha256"] = hashlib.sha256(archive.read_bytes()).hexdigest()
    inside("dev1", "cat > /srv/mirror/builds.json", input=json.dumps({key: entry}).encode())
    environment = {"UV_PYTHON_DOWNLOADS_JSON_URL": "/srv/mirror/builds.json"}
    place = f"/opt/python/managed/{key}/bin/python3.11"
    proved_and_removed(archive.parent, place, python_source="managed", python_installer_environment=environment)
