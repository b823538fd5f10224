"""The house keeps its own rules: specs equal defaults, pins agree, nothing generated has drifted."""

import json
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
import yaml
from ansible_collections.ownmetal.codex.plugins.filter.catalogue import DEFAULT_CODEX, DEFAULT_TRACK
from ansible_collections.ownmetal.codex.plugins.module_utils.flags import releases
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())
# public in the inventory, without a default: the role says what it is when absent
NO_DEFAULT: dict[str, set[str]] = {}


def load(path):
    return yaml.safe_load((ROOT / path).read_text())


@pytest.mark.parametrize("role", ROLES)
def test_argument_specs_equal_defaults(role):
    options = load(f"roles/{role}/meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    defaults = load(f"roles/{role}/defaults/main.yml") or {}
    described = {name: option["default"] for name, option in options.items() if "default" in option}
    flat = {name: " ".join(value.split()) if isinstance(value, str) else value for name, value in described.items()}
    assert flat == {name: " ".join(value.split()) if isinstance(value, str) else value for name, value in defaults.items()}
    assert all(name.startswith(f"{role}_") for name in options)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_has_what_a_reader_looks_for(role):
    for path in ("README.md", "meta/main.yml", "tasks/main.yml", "defaults/main.yml"):
        assert (ROOT / "roles" / role / path).is_file(), path
    comments = (ROOT / f"roles/{role}/defaults/main.yml").read_text()
    for name in load(f"roles/{role}/defaults/main.yml") or {}:
        block = comments[: comments.index(f"\n{name}:")].rsplit("\n\n", 1)[-1]
        assert "#" in block, f"{name} has no comment that says what it controls"


def test_the_collections_of_the_tools_are_those_of_requirements_yml():
    for wanted in load("requirements.yml")["collections"]:
        namespace, name = wanted["name"].split(".")
        manifest = Path(str(distribution("ansible").locate_file(f"ansible_collections/{namespace}/{name}/MANIFEST.json")))
        have = json.loads(manifest.read_text())["collection_info"]["version"]
        floor = wanted["version"].removeprefix(">=")
        assert [int(part) for part in have.split(".")] >= [int(part) for part in floor.split(".")]


def test_the_archive_needs_ansible_core_alone():
    """What is shipped names no module, filter or lookup of another collection."""
    assert load("galaxy.yml")["dependencies"] == {}
    shipped = [path.read_text() for folder in ("roles", "playbooks", "plugins") for path in (ROOT / folder).rglob("*.yml")]
    assert re.findall(r"\b(?:ansible|community)\.(?!builtin)\w+\.\w+", "\n".join(shipped)) == []


def test_a_collection_that_is_named_is_used():
    text = "\n".join(
        path.read_text()
        for folder in ("roles", "playbooks", "lab", "bench", "molecule")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".yml", ".py")
    )
    assert [row["name"] for row in load("requirements.yml")["collections"] if f"{row['name']}." not in text] == []


LOCKS = [
    *sorted((ROOT / "roles/vllm/files/locks").glob("*.txt")),
    ROOT / "requirements/dev.txt",
    *sorted((ROOT / "roles/codex/files/npm").glob("*.json")),
]


@pytest.mark.parametrize("lock", LOCKS, ids=[path.name for path in LOCKS])
def test_a_lock_names_no_host(lock):
    assert "://" not in lock.read_text()


@pytest.mark.parametrize(
    "lock", [path for path in LOCKS if path.suffix == ".txt" and "overrides" not in path.name], ids=lambda path: path.name
)
def test_every_pin_has_hashes(lock):
    requirements = re.split(r"\n(?=\S)", lock.read_text().strip())
    assert [row for row in requirements if "==" not in row or "--hash=sha256:" not in row] == []


def test_the_track_is_the_lock():
    tracks = json.loads((ROOT / "plugins/module_utils/data/tracks.json").read_text())
    for name, track in tracks.items():
        lock = (ROOT / f"roles/vllm/files/locks/{name}.txt").read_text()
        assert {"transformers", "accelerate", "torch"} <= set(re.findall(r"^([\w-]+)==", lock, re.MULTILINE))
        assert re.search(rf"^vllm(-cpu)?=={re.escape(track['vllm'])} ", lock, re.MULTILINE)
        assert (ROOT / f"plugins/module_utils/data/flags/{track['vllm']}.json").is_file()


def test_the_newest_releases_have_their_flags():
    """Those that tracks are pinned to have theirs (above); these are what the next track will be."""
    known = [row["release"] for row in load("plugins/module_utils/data/facts.yml")["vllm"]["rows"]]
    assert set(sorted(known, key=Version, reverse=True)[:3]) <= set(releases())


def test_a_developer_machine_has_the_same_default_version():
    assert load("roles/codex/defaults/main.yml")["codex_version"] == DEFAULT_CODEX


def test_a_server_of_another_play_has_the_same_default_track():
    """A role's default cannot be seen from another host: the filter that looks across hosts has to repeat it."""
    assert load("roles/vllm/defaults/main.yml")["vllm_track"] == DEFAULT_TRACK


def test_the_generated_documentation_has_not_drifted():
    done = subprocess.run([sys.executable, "tools/generate_docs.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_command_of_the_readme_is_there():
    readme = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", readme)) <= targets
    for path in re.findall(r"\]\((?!http)([^)#]+)", readme):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"(?:-i )(inventories/\w+)", readme):
        assert (ROOT / path).exists() or path.endswith("mine"), path


def test_modules_and_filters_are_documented():
    for kind, folder, ending in (("module", "modules", "py"), ("lookup", "lookup", "py"), ("filter", "filter", "yml")):
        for path in (ROOT / "plugins" / folder).glob(f"*.{ending}"):
            command = [str(Path(sys.executable).parent / "ansible-doc"), "-t", kind, "--json", f"ownmetal.codex.{path.stem}"]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)[f"ownmetal.codex.{path.stem}"]["examples"], path
