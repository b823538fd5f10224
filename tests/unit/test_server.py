"""What is judged of a server before it is changed, which instances restart, and the names that things get."""

import os
from pathlib import Path

import jinja2
import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils.api_key import PLACEHOLDER, read_or_make, usable
from ansible_collections.ownmetal.codex.plugins.module_utils.catalogue import instances
from ansible_collections.ownmetal.codex.plugins.module_utils.environment import environment_id
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.inventory_names import misspelt, play_hosts
from ansible_collections.ownmetal.codex.plugins.module_utils.layout import instance_files, model_path, unit_paths
from ansible_collections.ownmetal.codex.plugins.module_utils.observe import decode_address
from ansible_collections.ownmetal.codex.plugins.module_utils.pythons import problems as python_problems
from ansible_collections.ownmetal.codex.plugins.module_utils.restarts import instances_to_restart
from ansible_collections.ownmetal.codex.plugins.module_utils.server_state import files_to_see, problems
from ansible_collections.ownmetal.codex.plugins.module_utils.tracks import track

DEVICES = [f"DeviceAllow=char-nvidia{name} rw" for name in ("", "-frontend", "-uvm", "-caps")]
LAYOUT = {
    "server": "gpu1",
    "config": "/etc/vllm",
    "instances": "/var/lib/vllm",
    "models": "/m",
    "environments": {"cpu-py311": "/opt/vllm/environments/e"},
    "devices": {"cpu-py311": "cpu"},
    "shared": ["/unit"],
}
THERE, AWAY = {"exists": True}, {"exists": False}


def one(**keys):
    return instances([[{"name": "coder", "model": "/srv/coder", **keys}]], track("cpu-py311"))


def seen(ports=None, free=100, whole=True, **paths):
    found = {"/opt/vllm/environments/e": THERE, "/srv/coder": THERE, "/t.jinja": AWAY}
    found.update({f"/{name}": state for name, state in paths.items()})
    built = {"/opt/vllm/environments/e": whole}
    return {"paths": found, "environments": built, "ports": {"8000": ports or []}, "free_space": {"/opt": free << 30}}


def holder(address, unit="nginx.service"):
    return [{"address": address, "pid": 7, "process": "nginx", "unit": unit}]


STATES = [
    # the instance      what is there                                                                   the refusal, or none
    ({}, seen(), None),
    ({}, seen(free=1), None),  # the environment is there: nothing is built
    ({}, seen(free=1, whole=False), "gpu1 has 1.0 GiB free for it, and building an environment takes 6 GiB."),
    ({"chat_template": "/t.jinja"}, seen(), "chat_template: gpu1 has no file /t.jinja."),
    ({"chat_template": "llama3_json", "tool_call_parser": "llama3_json"}, seen(), None),  # comes with the collection
    ({}, seen(ports=holder("127.0.0.1")), "port: 8000 on gpu1 is taken by nginx (pid 7, nginx.service)."),
    ({}, seen(ports=holder("0.0.0.0")), "Give the instance another port, or stop that program."),
    ({"host": "0.0.0.0"}, seen(ports=holder("10.0.0.1")), "is taken by nginx"),
    ({"host": "10.0.0.1"}, seen(ports=holder("10.0.0.2")), None),
    ({}, seen(ports=holder("127.0.0.1", "vllm@coder.service")), None),
    ({}, seen(ports=holder("127.0.0.1", "vllm@other.service")), "is taken by"),
    ({}, seen(ports=holder("127.0.0.1", "ollama.service")), "Write vllm_replace_ollama: true"),
    ({"cpus": "0-7"}, {**seen(), "system": {"cpus": 8}}, None),
    ({"cpus": "0-3,8"}, {**seen(), "system": {"cpus": 8}}, "cpus: gpu1 has the CPUs 0 to 7, and no CPU 8."),
]
GPU = {"gpu": 0, "pid": 9, "process": "ollama", "memory": 20 << 30, "unit": "ollama.service"}
HOLDERS = [
    # the instance                     who holds the GPU 0                   replace  the refusal, or none
    ({}, GPU, False, "20 GiB of the GPU 0 of gpu1 are held by ollama (pid 9, ollama.service). Write vllm_replace_ollama: true"),
    ({}, GPU, True, None),
    ({}, {**GPU, "unit": "train.service"}, True, "Stop that program, name other GPUs"),
    ({}, {**GPU, "unit": "train.service", "memory": 90 << 20}, False, None),  # a desktop, or a monitor
    ({}, {**GPU, "gpu": 1}, False, None),
    ({}, {**GPU, "unit": "vllm@coder.service"}, False, None),
    ({"gpu_memory_utilization": 0.4}, {**GPU, "unit": "train.service"}, False, None),  # it was told what to take
]


@pytest.mark.parametrize(("keys", "who", "replace", "words"), HOLDERS)
def test_who_holds_a_gpu_is_named(keys, who, replace, words):
    instance = instances([[{"name": "coder", "model": "/srv/coder", "gpus": [0], **keys}]], track("cu13-py312"))
    observed = {**seen(), "gpus": {"nvidia": {"holders": [who]}}}
    found = [str(refused) for refused in problems("gpu1", instance, observed, {**LAYOUT, "replace_ollama": replace}, 6)]
    assert bool(found) == bool(words), found
    assert words is None or words in found[0]


@pytest.mark.parametrize(("keys", "observed", "words"), STATES)
def test_a_server_is_judged(keys, observed, words):
    found = [str(refused) for refused in problems("gpu1", one(**keys), observed, LAYOUT, 6)]
    assert bool(found) == bool(words), found
    assert words is None or words in found[0]


MOVES = [
    # name -> wanted port, who listens at it now                                      refused
    ({"a": (8001, "b"), "b": (8002, None)}, False),  # b leaves it in the same change
    ({"a": (8001, "b"), "b": (8002, "c"), "c": (8003, None)}, False),
    ({"a": (8001, "a"), "b": (8002, "b")}, False),
    ({"a": (8001, "b"), "b": (8000, "a")}, True),
    ({"a": (8001, "b"), "b": (8002, "c"), "c": (8000, "a")}, True),
]


@pytest.mark.parametrize(("moves", "refused"), MOVES)
def test_instances_that_take_one_anothers_ports_are_refused_in_a_ring(moves, refused):
    wanted = instances([[{"name": name, "model": "/m", "port": port} for name, (port, _) in moves.items()]], track("cpu-py311"))
    ports = {str(port): holder("127.0.0.1", f"vllm@{who}.service") if who else [] for port, who in moves.values()}
    found = [str(one) for one in problems("gpu1", wanted, {**seen(), "ports": ports}, LAYOUT, 6)]
    assert bool(found) == refused, found
    assert not refused or ("take one another's ports" in found[0] and "Write another free port for one of them" in found[0])


def test_an_instance_that_goes_leaves_its_port_to_the_next():
    observed = seen(ports=holder("127.0.0.1", "vllm@old.service"))
    leaving = {"name": "old", "state": "absent"}
    assert problems("gpu1", [*one(), leaving], observed, LAYOUT, 6) == []


def test_what_is_judged_is_looked_at():
    assert set(files_to_see(one(chat_template="/t.jinja"), LAYOUT)) == set(seen()["paths"])


def test_a_model_of_the_controller_lies_under_its_digest(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    source = instances([[{"name": "coder", "model_source": str(tmp_path)}]], track("cpu-py311"))
    before = model_path(source[0], "/m")
    assert {"dest": "/var/lib/vllm/coder/current/model", "state": "link", "target": before} in instance_files(source, LAYOUT)
    (tmp_path / "config.json").write_text("{} ")
    assert model_path(source[0], "/m") != before


TEMPLATES = Path(__file__).resolve().parents[2] / "roles/vllm/templates"
LIMITS = [
    # the instance                                track         what its unit has besides
    ({}, "cpu-py311", ["[Service]"]),
    ({"memory_limit_gib": 64}, "cpu-py311", ["[Service]", "MemoryMax=64G"]),
    ({"cpus": "0-7,16-23"}, "cpu-py311", ["[Service]", "CPUAffinity=0-7,16-23"]),
    ({"memory_limit_gib": 64}, "cu13-py312", ["[Service]", "MemoryMax=64G", "PrivateDevices=no", *DEVICES]),
]


@pytest.mark.parametrize(("keys", "name", "lines"), LIMITS)
def test_limits_and_gpus_are_the_instance_s_own(keys, name, lines):
    """They are in the release, so that going back takes them back; an instance of a CPU track sees no device of a GPU beside it."""
    instance = instances([[{"name": "coder", "model": "/srv/coder", **keys}]], track(name))
    layout = {**LAYOUT, "environments": {name: "/e"}, "devices": {name: track(name).device}}
    entries = {entry["dest"]: entry for entry in instance_files(instance, layout)}
    assert entries["/etc/systemd/system/vllm@coder.service.d/ownmetal.conf"]["target"] == "/var/lib/vllm/coder/current/unit.conf"
    entry = entries["/var/lib/vllm/coder/current/unit.conf"]
    environment = jinja2.Environment(trim_blocks=True, autoescape=False)  # noqa: S701 - a unit is no page
    environment.filters["comment"] = lambda text: f"# {text}"
    text = environment.from_string((TEMPLATES / entry["template"]).read_text()).render(entry["vars"])
    assert [line for line in text.splitlines() if line and not line.startswith("#")] == lines


def test_a_unit_runs_in_the_primary_group_of_its_user():
    """A group of the user's name need not exist: systemd would end each start with 216/GROUP."""
    environment = jinja2.Environment(autoescape=False)  # noqa: S701 - a unit is no page
    environment.filters["comment"] = str
    paths = dict.fromkeys(("rules", "unit", "check", "policy"), "/x")
    text = environment.from_string((TEMPLATES / "etc/systemd/system/vllm@.service.j2").read_text())
    lines = text.render(vllm_user="svc-llm", __vllm_firewall_paths=paths, vllm_drain_seconds=30).splitlines()
    assert [line for line in lines if line.startswith(("User=", "Group="))] == ["User=svc-llm"]


UNIT, CONFIG = "vllm@coder.service", "/var/lib/vllm/coder/current"
RESTARTS = [
    # started  file's age  written now   restart
    (100.0, 50.0, [], []),
    (100.0, 150.0, [], [UNIT]),  # an earlier run wrote it and died before the restart
    (100.0, 50.0, [CONFIG], [UNIT]),
    (100.0, 50.0, ["/unit"], [UNIT]),
    (100.0, 50.0, ["/var/lib/vllm/other/current"], []),
    (None, 150.0, [CONFIG], []),  # it does not run: it will start with the new files
]


@pytest.mark.parametrize(("started", "modified", "changed", "restart"), RESTARTS)
def test_only_what_changed_restarts(started, modified, changed, restart):
    observed = {"units": {UNIT: {"started": started}}, "paths": {CONFIG: {"exists": True, "modified": modified}}}
    assert instances_to_restart(unit_paths(one(), LAYOUT), observed, changed) == restart


def test_an_environment_is_named_by_what_goes_into_it():
    name = environment_id("a==1\n    --hash=x\n", "cpu", "3.11", "x86_64")
    assert name == environment_id("# made by a tool\na==1\n    --hash=x\n\n", "cpu", "3.11", "x86_64")
    others = {
        environment_id(*words)
        for words in [("a==2", "cpu", "3.11", "x86_64"), ("a==1", "cpu", "3.12", "x86_64"), ("a==1", "cpu", "3.11", "arm64")]
    }
    assert len(others | {name}) == 4


PYTHONS = [
    ("3.11", "debian", "12", ""),
    (
        "3.10",
        "debian",
        "12",
        'gpu1 runs debian 12, whose packages have 3.11. Write python_version: "3.11", python_source: managed or archive, or use',
    ),
    ("3.11", "debian", "13", 'Write python_version: "3.13", python_source: managed or archive, or use a host with debian 12.'),
    ("3.11", "arch", "", "which this role does not know"),
]


@pytest.mark.parametrize(("version", "name", "release", "words"), PYTHONS)
def test_a_python_that_the_distribution_lacks_is_refused(version, name, release, words):
    found = python_problems(version, "gpu1", {"name": name, "version": release})
    assert words in "".join(str(refused) for refused in found)
    assert bool(found) == bool(words)


def test_a_misspelt_variable_is_found_and_a_teams_own_is_not():
    (found,) = misspelt(["vllm_instnaces", "vllm_dashboard", "vllm_track", "__vllm_probe"], ["vllm_instances", "vllm_track"])
    assert str(found) == "vllm_instnaces: is read by no role. Did you mean vllm_instances?"


def test_a_key_is_made_once_and_for_its_owner_only(tmp_path):
    path = str(tmp_path / "secrets/key")
    assert read_or_make(path, make=False) == PLACEHOLDER
    assert not os.path.exists(path)
    key = read_or_make(path)
    assert len(key) >= 43
    assert read_or_make(path) == key
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.stat(tmp_path / "secrets").st_mode & 0o777 == 0o700
    assert os.listdir(tmp_path / "secrets") == ["key"]


KEYS = [
    ("x" * 20, 0o644, "can be read by others (mode 0644). Run: chmod 600"),
    ("two words here and more", 0o600, "does not hold one word"),
    ("", 0o600, "does not hold one word"),
    ("short", 0o600, "at least 16"),
    ("$ANSIBLE_VAULT;1.1;AES256\n6162", 0o600, "is encrypted by ansible-vault"),
]


@pytest.mark.parametrize(("text", "mode", "words"), KEYS)
def test_a_bad_key_file_is_refused_without_showing_it(tmp_path, text, mode, words):
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(Refused) as caught:
        read_or_make(str(path))
    assert words in str(caught.value)
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize("key", ["", "short", None, "two words that are long", "x" * 20 + " "])
def test_a_key_that_is_none_is_no_key(key):
    assert not usable(key)


def test_a_key_file_whose_place_depends_on_the_working_directory_is_refused():
    with pytest.raises(Refused, match="Write an absolute path"):
        read_or_make("secrets/key")


def test_addresses_of_the_kernel_are_read():
    assert decode_address("0100007F") == "127.0.0.1"
    assert decode_address("00000000000000000000000001000000") == "::1"


GROUPS = {"all": ["s1", "d1"], "ungrouped": [], "gpu_servers": ["s1"], "team_a": ["s1"], "gateways": []}
PLAYS = [
    (("gpu_servers",), "gpu_servers"),
    (("gpu_servers", "team_a"), "team_a"),
    (("gpu_servers", "s1"), "s1"),
    (("gpu_servers", "gpu_servers:!s1"), "gpu_servers:!s1"),
    (("developers",), "developers"),  # Ansible's own warning says that there is none
    (("gateways", "", True), "!all"),
]


@pytest.mark.parametrize(("given", "pattern"), PLAYS)
def test_the_hosts_of_a_play(given, pattern):
    assert play_hosts(GROUPS, *given) == pattern


def test_a_group_that_is_mistyped_is_refused():
    with pytest.raises(Refused) as refused:
        play_hosts(GROUPS, "gpu_servers", "team_b")
    assert str(refused.value) == "gpu_servers_group: the inventory has no group team_b. Did you mean team_a?"
