"""A model comes from a hub (the tests' own, which speaks the public one's API) whole, verified, once; or not at all."""

import hashlib
import json
import os
import stat
import subprocess
import sys
import time

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import download, model_store
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.hub import Hub
from ansible_collections.ownmetal.codex.plugins.module_utils.model_manifest import NAME, Manifest, chosen, model_id, parse
from ansible_collections.ownmetal.codex.plugins.module_utils.model_store import Pool, Wanted, fetch, look
from ansible_collections.ownmetal.codex.plugins.module_utils.progress import Progress

from lab.model_hub import ModelHub, Server, folder

WEIGHTS = os.urandom(2_000_000)
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}" * 20_000,
    "tokenizer_config.json": b'{"chat_template": "x"}',
    "model-1.safetensors": WEIGHTS,
    "model-2.safetensors": WEIGHTS[::-1],
    "sub/extra file.json": b"{}",
    "original/consolidated.pth": b"x" * 100_000,
    "model.gguf": b"x" * 100_000,
    "pytorch_model.bin": b"x" * 100_000,
    "README.md": b"hello",
    "a.png": b"x",
}
READ = sorted(set(FILES) - {"original/consolidated.pth", "model.gguf", "pytorch_model.bin", "a.png"})
BYTES = sum(len(FILES[path]) for path in READ)
REPOSITORY = "acme/Coder-7B"


class Lines(Progress):
    def __init__(self):
        super().__init__()
        self.lines = []

    def say(self, line):
        self.lines.append(line)


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "PAUSE", 0.01)
    monkeypatch.setattr(model_store, "alone", lambda thing, progress: model_store_alone(thing, progress, str(tmp_path)))
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


model_store_alone = model_store.alone


@pytest.fixture
def hub():
    hub = ModelHub()
    hub.commit = hub.add(REPOSITORY, FILES)
    yield hub
    hub.close()


@pytest.fixture
def models(tmp_path):
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def wanted(hub, **keys):
    row = {"repository": REPOSITORY, "revision": hub.commit, "id": "coder-7b", "instance": "coder", **keys}
    return Wanted(**row)


def bring(hub, models, token="", stall=1.0, pool=None, progress=None, **keys):
    return fetch(wanted(hub, **keys), str(models), Hub(hub.url, token, stall), pool, progress or Lines())


def test_a_model_comes_once_and_whole(hub, models):
    lines = Lines()
    assert bring(hub, models, progress=lines)
    model = models / "coder-7b"
    assert sorted(folder(model)) == sorted([*READ, NAME])
    assert all((model / path).read_bytes() == FILES[path] for path in READ)
    assert {stat.S_IMODE(path.stat().st_mode) for path in [model, *model.rglob("*")]} == {0o444, 0o555}
    assert hub.all_sent == BYTES
    assert lines.lines[0] == "model coder-7b: 0 bytes of 4.0 MB"
    manifest = parse((model / NAME).read_text(), "x")
    assert {file.path: file.sha256 for file in manifest.files} == {path: hashlib.sha256(FILES[path]).hexdigest() for path in READ}
    assert not bring(hub, models)
    assert hub.all_sent == BYTES
    assert [path.name for path in models.iterdir()] == ["coder-7b"]


def test_what_the_network_does_in_between(hub, models):
    place = f"/{REPOSITORY}/resolve/{hub.commit}"
    hub.storage.faults[f"{place}/model-1.safetensors"] = [("cut", 500_000), ("stall", 300_000), 503]
    hub.faults[f"{place}/config.json"] = [502]
    hub.faults[f"/api/models/{REPOSITORY}/revision/{hub.commit}"] = [429]
    assert bring(hub, models, stall=0.4)
    assert BYTES <= hub.all_sent <= BYTES + 10


def test_a_download_that_stalls_for_ever_is_refused(hub, models):
    hub.storage.stall_seconds = 1
    hub.storage.faults[f"/{REPOSITORY}/resolve/{hub.commit}/model-2.safetensors"] = [("stall", 0)] * 99
    with pytest.raises(Refused, match=r"stalled \(nothing came for 0 s\), 8 times in a row, at 0 bytes of 2\.0 MB.*next run goes on"):
        bring(hub, models, stall=0.1)
    assert [path.name for path in models.iterdir()] == [".coder-7b.part"]
    before = hub.all_sent
    hub.storage.faults.clear()
    assert bring(hub, models)
    assert hub.all_sent == BYTES >= before


def test_a_killed_run_goes_on_and_fetches_nothing_twice(hub, models, tmp_path):
    place = f"/{REPOSITORY}/resolve/{hub.commit}"
    for path in ("model-1.safetensors", "model-2.safetensors"):
        hub.storage.faults[f"{place}/{path}"] = [("slow", len(WEIGHTS))]
    code = (
        "from ansible_collections.ownmetal.codex.plugins.module_utils.model_store import *\n"
        f"model = Wanted('coder-7b', 'coder', '{REPOSITORY}', '{hub.commit}')\n"
        f"fetch(model, '{models}', Hub('{hub.url}'), None, Progress())\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    part = models / ".coder-7b.part"

    def came():
        return sum(path.stat().st_size for path in part.rglob("*") if path.is_file()) if part.exists() else 0

    while came() < 1_000_000 and child.poll() is None:
        time.sleep(0.01)
    child.kill()
    child.wait()
    had = came()
    assert 1_000_000 <= had < BYTES
    time.sleep(0.3)
    before = hub.all_sent
    assert bring(hub, models)
    assert hub.all_sent - before == BYTES - had
    assert (models / "coder-7b/model-2.safetensors").read_bytes() == WEIGHTS[::-1]


REFUSALS = {
    "a typo": ({"repository": "acme/Codr-7B"}, {}, "has no acme/Codr-7B, or does not show it to everyone.*set vllm_hub_token"),
    "a typo, with a token": ({"repository": "acme/Codr-7B"}, {"token": "t"}, "has no acme/Codr-7B, or not this revision"),
    "no such revision": ({"revision": "0" * 40}, {}, "has no revision 0000.*playbooks/lock_model.yml"),
    "private": ({"repository": "acme/private"}, {}, "does not show it to everyone.*set vllm_hub_token"),
    "gated": ({"repository": "acme/gated"}, {}, "open only to those who asked.*set vllm_hub_token"),
    "gated, another account": ({"repository": "acme/gated"}, {"token": "t"}, "account of vllm_hub_token has no access"),
    "nothing of it": ({"patterns": ["*.md"]}, {}, "has no config.json"),
}


@pytest.mark.parametrize(("keys", "asked", "words"), REFUSALS.values(), ids=REFUSALS)
def test_what_the_hub_refuses_is_told_in_the_operators_words(hub, models, keys, asked, words):
    for name in ("private", "gated"):
        commit = hub.add(f"acme/{name}", FILES)
        keys = {**keys, "revision": commit} if keys.get("repository") == f"acme/{name}" else keys
    hub.private["acme/private"] = "geheim"
    hub.gated.add("acme/gated")
    with pytest.raises(Refused, match=words) as caught:
        bring(hub, models, **asked, **keys)
    assert str(caught.value).startswith("vllm_instances coder: model_repository: ")
    assert hub.storage.sent == 0, "no weights are fetched of what cannot be had whole"


def test_a_token_opens_and_is_told_to_the_hub_alone(hub, models):
    hub.private[REPOSITORY] = "geheim"
    assert bring(hub, models, token="geheim")
    assert all(headers["Authorization"] == "Bearer geheim" for _, headers in hub.seen)
    assert hub.storage.seen
    assert not any("Authorization" in headers for _, headers in hub.storage.seen)
    assert "geheim" not in repr(Hub("x", "geheim"))
    assert not any(b"geheim" in body for body in folder(models).values())


def test_a_token_that_is_not_accepted(hub, models):
    hub.faults[f"/api/models/{REPOSITORY}/revision/{hub.commit}"] = [401]
    with pytest.raises(Refused, match="does not accept vllm_hub_token"):
        bring(hub, models, token="old")


def test_no_space_is_said_before_the_first_byte(hub, models, monkeypatch):
    monkeypatch.setattr(model_store.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1_000_000}))
    with pytest.raises(Refused, match=r"4\.0 MB are still to come, and .* has 1\.0 MB free\. Free some space"):
        bring(hub, models)
    assert hub.all_sent == 0


def test_what_is_there_counts_when_space_is_counted(hub, models, monkeypatch):
    part = models / ".coder-7b.part"
    part.mkdir()
    (part / "model-1.safetensors.part").write_bytes(WEIGHTS[:-10])
    (part / "model-2.safetensors").write_bytes(WEIGHTS[::-1])
    (part / "of another choice").write_bytes(b"x")
    monkeypatch.setattr(model_store.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100_000}))
    assert bring(hub, models)
    assert hub.all_sent == BYTES - 2 * len(WEIGHTS) + 10
    assert sorted(folder(models / "coder-7b")) == sorted([*READ, NAME])


def test_damage_on_the_way_is_refused(hub, models):
    hub.storage.files[f"/{REPOSITORY}/resolve/{hub.commit}/model-1.safetensors"] = b"y" * len(WEIGHTS)
    manifest = parse(Hub(hub.url).manifest(REPOSITORY, hub.commit, "x", Progress()).text(), "x")
    hub.files[f"/{REPOSITORY}/resolve/{hub.commit}/config.json"] = b'{"model_type": "Llama"}'
    with pytest.raises(Refused, match=r"and .* was wanted"):
        bring(hub, models, lock=manifest)
    assert not (models / "coder-7b").exists()


def test_a_lock_needs_no_api_and_pins(hub, models):
    lock = parse(Hub(hub.url).manifest(REPOSITORY, hub.commit, "x", Progress()).text(), "x")
    hub.seen.clear()
    assert bring(hub, models, lock=lock)
    assert not any(path.startswith("/api") for path, _ in hub.seen)
    with pytest.raises(Refused, match=r"config.json is not the file that the manifest pins"):
        bring_from_a_pool_with_another_config(hub, models, lock)


def bring_from_a_pool_with_another_config(hub, models, lock):
    other = json.loads((models / "coder-7b" / NAME).read_text())
    next(row for row in other["files"] if row["path"] == "config.json")["sha256"] = "0" * 64
    next(row for row in other["files"] if row["path"] == "config.json")["git_sha1"] = "0" * 40
    pool = Server({f"/models/b/{NAME}": json.dumps(other).encode()})
    try:
        bring(hub, models, lock=lock, id="b", pool=Pool(f"{pool.url}/models"))
    finally:
        pool.close()


def test_another_server_takes_it_from_the_pool(hub, models, tmp_path):
    bring(hub, models)
    uplink = hub.all_sent
    pool = Server({f"/models/coder-7b/{path}".replace(" ", "%20"): body for path, body in folder(models / "coder-7b").items()})
    (tmp_path / "second").mkdir()
    try:
        pool.faults["/models/coder-7b/model-1.safetensors"] = [("cut", 100_000)]
        assert bring(hub, tmp_path / "second", pool=Pool(f"{pool.url}/models", headers={"Authorization": "Bearer once"}))
    finally:
        pool.close()
    assert folder(tmp_path / "second/coder-7b") == folder(models / "coder-7b")
    assert hub.all_sent == uplink
    assert all(headers["Authorization"] == "Bearer once" for _, headers in pool.seen)


def test_a_look_before_the_fetch(hub, models):
    seen = look(wanted(hub), Hub(hub.url), str(models), Progress())
    assert seen["config"] == {"model_type": "llama"}
    assert (seen["weight_bytes"], seen["download_bytes"], seen["chat_template"]) == (2 * len(WEIGHTS), BYTES, "x")
    assert hub.storage.sent == 0
    assert list(models.iterdir()) == []


def test_a_branch_is_resolved(hub):
    assert Hub(hub.url).commit(REPOSITORY, "main", "x", Progress()) == hub.commit
    manifest = Hub(hub.url).manifest(REPOSITORY, hub.commit, "x", Progress())
    assert {file.path for file in manifest.files} == set(FILES)
    assert parse(manifest.text(), "x").text() == manifest.text()


ROW = {"path": "config.json", "size": 1, "sha256": "0" * 64}
BROKEN = {
    "not JSON": ("{", "is no manifest"),
    "no files": ({"repository": "a/b", "revision": "c"}, "is no manifest"),
    "no digest": ([{"path": "config.json", "size": 1}], "has no digest"),
    "a short digest": ([{**ROW, "sha256": "12"}], "has no digest"),
    "a negative size": ([{**ROW, "size": -1}], "is no size"),
    "up": ([{**ROW, "path": "../x"}], "leads out"),
    "absolute": ([{**ROW, "path": "/etc/passwd"}], "leads out"),
    "a line": ([{**ROW, "path": "a\nb"}], "leads out"),
    "twice": ([ROW, ROW], "in the way"),
    "a file that is a folder": ([ROW, {**ROW, "path": "config.json/x"}], "in the way"),
    "its own": ([{**ROW, "path": NAME}], "in the way"),
}


@pytest.mark.parametrize(("data", "words"), BROKEN.values(), ids=BROKEN)
def test_a_manifest_of_a_stranger_is_not_trusted(data, words):
    files = {"repository": "a/b", "revision": "c", "files": data} if isinstance(data, list) else data
    with pytest.raises(Refused, match=words):
        parse(data if isinstance(data, str) else json.dumps(files), "x")


CHOICES = {
    "what vLLM reads": ([], READ),
    "only": (
        ["*.json", "*-1.safetensors"],
        ["config.json", "model-1.safetensors", "sub/extra file.json", "tokenizer.json", "tokenizer_config.json"],
    ),
    "all but": (["!*.gguf", "!*.bin", "!original/*", "!a.png"], READ),
}


@pytest.mark.parametrize(("patterns", "paths"), CHOICES.values(), ids=CHOICES)
def test_which_files_are_fetched(patterns, paths):
    rows = [{"path": path, "size": len(body), "sha256": hashlib.sha256(body).hexdigest()} for path, body in FILES.items()]
    manifest = parse(json.dumps({"repository": "a/b", "revision": "c", "files": rows}), "x")
    assert isinstance(manifest, Manifest)
    assert sorted(file.path for file in chosen(manifest.files, patterns, "x")) == paths


def test_a_model_without_safetensors_keeps_its_weights():
    manifest = parse(json.dumps({"repository": "a/b", "revision": "c", "files": [ROW, {**ROW, "path": "pytorch_model.bin"}]}), "x")
    assert len(chosen(manifest.files, [], "x")) == 2


def test_what_is_in_a_folder_decides_its_name():
    names = {model_id("acme/Coder_7B", "a" * 40), model_id("acme/Coder_7B", "b" * 40), model_id("other/Coder_7B", "a" * 40),
             model_id("acme/Coder_7B", "a" * 40, ["*.json"])}  # fmt: skip
    assert len(names) == 4
    assert all(name.startswith("coder-7b-") for name in names)
