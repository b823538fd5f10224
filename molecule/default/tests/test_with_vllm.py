"""The unit tests that ask the real vLLM, run with the environment that the server has: its flags and its chat templates."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PROGRAMS = ["tools/flag_catalogue.py", "tests/unit/fixtures/conversations/in_vllm.py"]
TESTS = ["tests/unit/test_flag_catalogue.py", "tests/unit/test_chat_templates.py"]
PYTHON = "/var/lib/vllm/micro/current/environment/bin/python"


def ssh_to(name):
    """Return the words that run a command on a lab host."""
    command = ["ansible-inventory", "-i", str(ROOT / "inventories/lab"), "--host", name]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    target = f"{said['ansible_user']}@{said['ansible_host']}"
    return ["ssh", "-i", said["ansible_ssh_private_key_file"], *shlex.split(said["ansible_ssh_common_args"]), target]


def test_the_real_vllm_agrees(server, tmp_path):
    """No GPU release can be asked here: the catalogue of the CPU build's release is the one that is compared."""
    ssh = ssh_to("server1")
    # the programs lie on the server where they lie here, so that the tests need not know that they run elsewhere
    archive = subprocess.run(["tar", "--create", "--directory", ROOT, *PROGRAMS], capture_output=True, check=True).stdout
    subprocess.run([*ssh, f"mkdir -p {ROOT} && tar --extract --directory {ROOT}"], input=archive, check=True)
    wrapper = tmp_path / "python"
    quoted = shlex.join(ssh)
    wrapper.write_text(
        f'#!/bin/bash\nexec {quoted} "cd / && VLLM_NO_USAGE_STATS=1 HF_HUB_OFFLINE=1 VLLM_LOGGING_LEVEL=ERROR {PYTHON} ${{*@Q}}"\n'
    )
    wrapper.chmod(0o755)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS],
            cwd=ROOT,
            env={**os.environ, "OWNMETAL_VLLM_PYTHON": str(wrapper)},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        server.check_output(f"rm -r {' '.join(str(ROOT / program) for program in PROGRAMS)}")
    assert done.returncode == 0, done.stdout[-3000:]
    assert not re.search(r"\d skipped", done.stdout), done.stdout[-500:]
