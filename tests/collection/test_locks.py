"""Each GPU track's lock has a wheel of every package for what the track promises: its Python, machine and glibc.

A dry run downloads nothing, so it cannot compare hashes: uv does that with what it installs. The CPU track's lock needs no
such test, the lab installs it.
"""

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRACKS = json.loads((ROOT / "plugins/module_utils/data/tracks.json").read_text())
GPU = [name for name, track in TRACKS.items() if track["device"] == "cuda"]


def dry_run(name, lock, target):
    track = TRACKS[name]
    platform = f"{track['machine']}-manylinux_{track['glibc'].replace('.', '_')}"
    options = f"--target {target} --python-version {track['python']} --python-platform {platform} --requirements {lock}"
    # by the operator's package settings, as uv reads them
    script = f'eval "$(python -m lab uv-settings)"; uv pip install --dry-run --require-hashes --no-deps --no-build {options}'
    return subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", GPU)
def test_a_lock_can_be_installed(name, tmp_path):
    lock = ROOT / f"roles/vllm/files/locks/{name}.txt"
    done = dry_run(name, lock, tmp_path)
    pins = len(re.findall(r"^\S+==", lock.read_text(), re.MULTILINE))
    assert done.returncode == 0, done.stderr
    assert f"Would install {pins} packages" in done.stderr
