"""Which models a server lacks, where they will lie, and what is known of them before they are there."""

import json
import tarfile

import pytest
from ansible_collections.ownmetal.codex.plugins.action.vllm_plan import Guard, plan_of
from ansible_collections.ownmetal.codex.plugins.module_utils.catalogue import instances
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.layout import model_path
from ansible_collections.ownmetal.codex.plugins.module_utils.resolver import Spec
from ansible_collections.ownmetal.codex.plugins.module_utils.server_state import hub_models, models_missing, models_to_see
from ansible_collections.ownmetal.codex.plugins.module_utils.tracks import track

COMMIT = "0123456789abcdef" * 2 + "01234567"
HUB = {"name": "coder", "model_repository": "acme/Coder-7B", "model_revision": COMMIT}
LAYOUT = {"server": "gpu1", "config": "/etc/vllm", "instances": "/var/lib/vllm", "models": "/m", "shared": ["/unit"],
          "environments": {"cpu-py311": "/opt/e"}}  # fmt: skip
THERE, AWAY = {"exists": True}, {"exists": False}
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "num_hidden_layers": 32,
          "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072, "torch_dtype": "bfloat16"}  # fmt: skip


def complete(*entries):
    return instances([[{"port": 8000 + number, **entry} for number, entry in enumerate(entries)]], track("cpu-py311"))


def path_of(entry):
    return model_path(complete(entry)[0], "/m")


def test_the_same_model_is_fetched_once():
    wanted = complete(HUB, {**HUB, "name": "second"}, {**HUB, "name": "third", "model_files": ["*.json"]})
    paths = {model_path(one, "/m"): AWAY for one in wanted}
    assert len(paths) == 2
    rows = hub_models(wanted, paths, LAYOUT)
    assert [row["instance"] for row in rows] == ["coder", "third"]
    assert {f"/m/{row['id']}" for row in rows} == set(paths)
    assert hub_models(wanted, dict.fromkeys(paths, THERE), LAYOUT) == []
    assert models_to_see(wanted, LAYOUT) == list(paths)


def test_a_manifest_of_the_inventory_goes_along(tmp_path):
    rows = [{"path": "config.json", "size": 2, "sha256": "0" * 64}]
    manifest = {"repository": "acme/Coder-7B", "revision": COMMIT, "files": rows}
    (tmp_path / "lock.json").write_text(json.dumps(manifest))
    wanted = complete({**HUB, "model_manifest": str(tmp_path / "lock.json")})
    (row,) = hub_models(wanted, {path_of(HUB): AWAY}, LAYOUT)
    assert json.loads(row["manifest"])["files"] == rows
    missing = complete({**HUB, "model_manifest": str(tmp_path / "none.json")})
    with pytest.raises(Refused, match=r"coder: model_manifest: .*none\.json cannot be read: No such file.*lock_model"):
        hub_models(missing, {path_of(HUB): AWAY}, LAYOUT)


def test_an_archive_of_the_controller(tmp_path):
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz"):
        pass
    wanted = complete({"name": "coder", "model_source": str(tmp_path / "model.tar.gz")})
    path = model_path(wanted[0], "/m")
    (row,) = models_missing(wanted, {path: AWAY}, LAYOUT)
    assert (row["kind"], f"/m/{row['id']}", row["sha256"][:12]) == (".tar.gz", path, row["id"])
    assert models_to_see(wanted, LAYOUT) == [path]
    with pytest.raises(Refused, match=r"model_source: .*away\.zip: No such file"):
        model_path({**wanted[0], "model_source": str(tmp_path / "away.zip")}, "/m")


def plan(hub, exists=AWAY, seen=None, **keys):
    spec = Spec("gpu1", "cpu-py311", "", [[{**HUB, **keys}], None, None])
    observed = {
        "system": {"name": "debian", "version": "12", "machine": "x86_64", "glibc": "2.36", "memory": 32 << 30},
        "gpus": {"nvidia": {"driver": None, "gpus": [], "problem": None}},
        "paths": {path_of(HUB): exists, "/opt/e": THERE},
        "environments": {"/opt/e": True},
        "models": {path_of(HUB): seen or {}},
        "ports": {"8000": []},
        "free_space": {"/opt": 100 << 30},
        "units": {},
        "hub": hub,
    }
    return plan_of(spec, Guard("none", []), observed, LAYOUT, 6)


FOLDER = {"config": CONFIG, "weight_bytes": 16 << 30, "dtypes": {}, "chat_template": None, "problem": None}
KNOWN = {"seen": {path_of(HUB).rpartition("/")[2]: FOLDER}}
TIGHT = {"max_model_len": 131072, "environment": {"VLLM_CPU_KVCACHE_SPACE": 1}}


def test_a_model_is_planned_before_it_is_fetched():
    assert plan({}, max_model_len=8192)["instances"][0]["unknown"] == "the model was not seen"
    found = plan(KNOWN, max_model_len=8192)["instances"][0]
    assert found["memory"]["weights"] == 16 << 30
    assert found["model"] == "acme/Coder-7B"


def test_what_does_not_fit_is_refused_before_and_after_the_fetch():
    before = plan(KNOWN, **TIGHT)
    after = plan({}, THERE, FOLDER, **TIGHT)
    assert not before["ok"]
    assert before["refusals"] == after["refusals"]


def test_what_the_hub_refuses_is_in_the_plan():
    row = {"where": "vllm_instances coder: model_repository", "why": "is gone.", "instead": "Look."}
    found = plan({"refused": [row]})
    assert not found["ok"]
    assert found["refusals"] == [row]


def test_a_broken_model_of_the_hub_is_named_as_such():
    (row,) = plan({}, THERE, {**FOLDER, "config": None, "problem": "/m/x has no config.json"})["refusals"]
    assert row["where"] == "vllm_instances coder: model_repository"
