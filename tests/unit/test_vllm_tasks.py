"""Tasks and variables of roles/vllm as Ansible itself runs them, with hosts that are this machine, or nowhere."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles/vllm"


def play(folder, tasks, variables, **hosts):
    """Run tasks of the role on the hosts whose name begins with gpu; return exit code and output."""
    rows = {name: {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, **host} for name, host in hosts.items()}
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": rows}}))
    book = [{"hosts": "gpu*", "gather_facts": False, "any_errors_fatal": True, "vars_files": [str(ROLE / "vars/main.yml")], "tasks": tasks}]
    (folder / "play.yml").write_text(json.dumps(book))
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(folder / "hosts.json"), str(folder / "play.yml")]
    settings = {**os.environ, "ANSIBLE_TIMEOUT": "5", "ANSIBLE_SSH_RETRIES": "0"}
    words = [*command, "-e", json.dumps(variables)]
    done = subprocess.run(words, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


AWAY = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
LEFT = "It would have gone on giving requests to gpu1, whose instances were left as they are."
DRAINS = [
    # what changes  away    fails   what the others are told                            what the play says
    (
        {"coder": 1},
        ["g2"],
        [],
        ["out g1", "out g3", "back g1", "back g3"],
        f"g2 of the gateways was not reached.*Connection refused.*{LEFT}",
    ),
    ({"coder": 1}, ["g1"], [], ["out g2", "out g3", "back g2", "back g3"], f"g1 of the gateways.*{LEFT}"),
    ({"coder": 1}, [], ["out g1"], ["out g2", "out g3", "back g1", "back g2", "back g3"], f"g1 of the gateways.*: out of order.*{LEFT}"),
    ({}, ["g3"], [], ["back g1", "back g2"], "g3 of the gateways.*It may give no requests to gpu1 now"),
    ({}, [], ["back g1"], ["back g2", "back g3"], "g1 of the gateways.*: out of order.*It may give no requests to gpu1 now"),
    ({}, [], [], ["back g1", "back g2", "back g3"], ""),
]


@pytest.mark.parametrize(("new", "away", "fails", "told", "words"), DRAINS)
def test_a_gateway_that_is_away_leaves_the_server_in_the_turn_of_the_others(new, away, fails, told, words, tmp_path):
    drain = tmp_path / "drain"
    failing = f'case "{fails}" in *"$1 $GATEWAY"*) echo out of order >&2; exit 1;; esac'
    drain.write_text(f'#!/bin/sh\n{failing}\necho "$1 $GATEWAY" >> {tmp_path}/told\n')
    drain.chmod(0o755)
    gateways = {f"g{number}": {"ansible_shell_executable": str(tmp_path / f"g{number}.sh")} for number in (1, 2, 3)}
    for name in gateways:  # so that the one program knows which gateway it was asked of
        (tmp_path / f"{name}.sh").write_text(f'#!/bin/sh\nexport GATEWAY={name}\nexec /bin/sh "$@"\n')
        (tmp_path / f"{name}.sh").chmod(0o755)
    variables = {
        "__vllm_gateway_drain": str(drain),
        "__vllm_gateways": list(gateways),
        "__vllm_new_releases": new,
        "__vllm_stale": [],
        "__vllm_all_run": True,
        "__vllm_all_served": True,
        "vllm_gateway_drain_seconds": 1,
    }
    hosts = {"gpu1": {}, **{name: AWAY if name in away else host for name, host in gateways.items()}}
    code, said = play(tmp_path, [{"import_tasks": str(ROLE / "tasks/run.yml")}], variables, **hosts)
    assert (tmp_path / "told").read_text().splitlines() == told, said
    assert bool(code) == bool(away + fails), said
    assert re.search(words, said), said
    assert not re.search(r"Switch, start or restart[^*]*\*+ (changed|ok|fatal)", said)


def test_a_pool_host_that_is_away_is_named_also_where_a_failure_ends_the_play(tmp_path):
    role = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    variables = {**role, "__vllm_environments_missing": [{"id": "cpu-1"}], "vllm_pool_host": "pool1", "role_path": str(ROLE)}
    code, said = play(tmp_path, [{"import_tasks": str(ROLE / "tasks/pool.yml")}], variables, gpu1={}, pool1=AWAY)
    assert code != 0
    assert "vllm_pool_host: pool1 was not reached, and gpu1 takes its environments from it." in said, said


ENVIRONMENTS = [({"/opt/e/cpu-1": True}, []), ({"/opt/e/cpu-1": False}, ["cpu-1"])]


@pytest.mark.parametrize(("seen", "missing"), ENVIRONMENTS)
def test_an_environment_that_is_not_whole_is_made_again(seen, missing, tmp_path):
    """The path is there in both cases: `site.yml --limit SERVER`, which a diagnosis advises, has to do it."""
    variables = {"__vllm_environments": [{"id": "cpu-1"}], "__vllm_probe": {"observed": {"environments": seen}}}
    task = {"copy": {"content": "{{ __vllm_environments_missing | map(attribute='id') | to_json }}", "dest": f"{tmp_path}/found"}}
    code, said = play(tmp_path, [task], variables, gpu1={})
    assert code == 0, said
    assert json.loads((tmp_path / "found").read_text()) == missing


REPEATED = [
    # what runs on each server, of two releases that have served   asked     whether it goes on, what is chosen, what is said
    ({"gpu1": 2, "gpu2": 2}, {}, True, {"gpu1": 1, "gpu2": 1}, ""),
    ({"gpu1": 1, "gpu2": 2}, {}, True, {"gpu1": 1, "gpu2": 1}, ""),  # it ended between the two
    ({"gpu1": 1, "gpu2": 1}, {}, False, {}, "-e instance=coder: it has gone back already, to release 1. Name a release with -e release=N"),
    ({"gpu1": 1, "gpu2": 2}, {"release": 1}, True, {"gpu1": 1, "gpu2": 1}, ""),
    ({"gpu1": 1, "gpu2": 2}, {"release": 3}, False, {}, "release 3 is not there. It has: 1."),
]


@pytest.mark.parametrize(("runs", "asked", "goes_on", "chosen", "words"), REPEATED)
def test_a_rollback_that_ended_in_the_middle_is_repeated(runs, asked, goes_on, chosen, words, tmp_path):
    for server, number in runs.items():
        home = tmp_path / server / "coder"
        for one in (1, 2):
            place = home / "releases" / str(one)
            place.mkdir(parents=True)
            for part in ("environment", "model", "config.yaml", "variables.env", "unit.conf", "served.json"):
                (place / part).touch()
        (home / "current").symlink_to(f"releases/{number}")
    tasks = [
        {"import_role": {"name": "ownmetal.codex.vllm", "tasks_from": "find_release.yml"}},
        {"copy": {"content": "{{ __vllm_found.release }}", "dest": f"{tmp_path}/{{{{ inventory_hostname }}}}.chosen"}},
    ]
    variables = {"instance": "coder", "__vllm_homes": [f"{tmp_path}/{{{{ inventory_hostname }}}}/coder"], **asked}
    code, said = play(tmp_path, tasks, variables, gpu1={}, gpu2={})
    assert (code == 0) == goes_on, said
    assert words in said
    assert {path.stem: int(path.read_text()) for path in tmp_path.glob("*.chosen")} == chosen


POOLS = [
    ("gpu1", "gpu1"),
    ("192.0.2.1", "192.0.2.1"),
    ("2001:db8::1", "[2001:db8::1]"),
    ("[2001:db8::1]", "[2001:db8::1]"),
]


@pytest.mark.parametrize(("address", "host"), POOLS)
def test_the_pool_has_a_url_whatever_its_address(address, host, tmp_path):
    task = {"copy": {"content": "{{ __vllm_pool_url_host }}", "dest": f"{tmp_path}/found"}}
    code, said = play(tmp_path, [task], {"vllm_pool_address": address}, gpu1={})
    assert code == 0, said
    assert (tmp_path / "found").read_text() == host
