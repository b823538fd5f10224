"""Real releases of Codex with each configuration that roles/codex can write: each takes a turn, and none talks to anyone else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lab.codex_matrix import VERSIONS, cells

ROOT = Path(__file__).resolve().parents[2]
# one release; with OWNMETAL_CODEX_VERSIONS=all every one of the matrix, or those that it names
ASKED = os.environ.get("OWNMETAL_CODEX_VERSIONS", VERSIONS[-1])
RELEASES = VERSIONS if ASKED == "all" else tuple(ASKED.split())

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
    pytest.mark.skipif(not shutil.which("npm"), reason="npm brings the releases"),
]


def test_no_configuration_lets_codex_talk_to_anyone_else():
    # outside of the checkout, and kept: a release has some 400 MB
    directory = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ownmetal/codex"
    command = [sys.executable, "-m", "lab.codex_matrix", str(directory), *RELEASES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    control, _, table = done.stdout.partition("\n")
    # the same Codex without the role's settings: the recorder sees what it does
    assert control.startswith("control, ")
    assert "nothing recorded" not in control
    assert done.returncode == 0, table + done.stderr
    rows = [line.split("|") for line in table.splitlines()[2:]]
    assert len(rows) == len(list(cells(RELEASES)))
    assert {row[9].strip() for row in rows} == {"0"}, table
