"""A model of a hub reaches a server once, whole, with a token that nothing keeps; what nobody uses goes when it is asked to."""

import hashlib
import json
import signal
import subprocess
import time

import pytest
from conftest import INVENTORY, answers, current, on_server1

from lab import testing
from lab.model_hub import ModelHub, folder
from lab.testing import ROOT

TOKEN = "hf_a-token-that-nothing-keeps"
REPOSITORY = "acme/Micro-1B"
FILES = {**folder(ROOT / ".cache/micro-model"), "extra.json": b'"' + b"x" * 3_000_000 + b'"', "model.gguf": b"x" * 100_000}
BYTES = sum(len(body) for path, body in FILES.items() if path != "model.gguf")


@pytest.fixture(scope="module")
def hub(server):
    """On this machine's end of the lab's network, which the hosts reach."""
    address = json.loads(server.check_output("ip -json route get 1"))[0]["gateway"]
    hub = ModelHub(address)
    hub.commit = hub.add(REPOSITORY, FILES)
    hub.private[REPOSITORY] = TOKEN
    yield hub
    hub.close()


def wanted(hub, **keys):
    model = {"model_source": None, "model_repository": REPOSITORY, "model_revision": hub.commit, **keys}
    return {**on_server1(**model), "vllm_hub_url": hub.url, "vllm_hub_token": TOKEN}


def models(server):
    return server.check_output("ls -A /var/lib/vllm-models").split()


REFUSALS = {
    "a typo": ({"model_repository": "acme/Mirco-1B"}, {}, "has no acme/Mirco-1B, or not this revision of it. Look at the spelling"),
    "no such revision": ({"model_revision": "0" * 40}, {}, "has no revision 0000000000000000000000000000000000000000."),
    "no token": (
        {},
        {"vllm_hub_token": ""},
        "does not show it to everyone. Look at the spelling, and where it is private, set vllm_hub_token.",
    ),
    "a branch": ({"model_revision": "main"}, {}, "playbooks/lock_model.yml -e repository=acme/Micro-1B -e revision=main` finds it."),
}


@pytest.mark.parametrize(("keys", "variables", "words"), REFUSALS.values(), ids=REFUSALS)
def test_what_cannot_be_had_is_refused_before_anything_is_changed(server, hub, playbook, keys, variables, words):
    before, number = models(server), current(server)
    code, said = playbook("gpu_servers", "--limit", "server1", **{**wanted(hub, **keys), **variables})
    assert code != 0
    assert words in said
    assert (models(server), current(server)) == (before, number)


@pytest.fixture
def small_disk(server):
    """Models lie on a disk of their own, which has room for a MiB more."""
    place = "/var/lib/vllm-models"
    server.check_output(
        f"cp -a {place} /run/models && size=$(($(du -sk /run/models | cut -f1) + 1024)) && "
        f"mount -t tmpfs -o size=${{size}}k small {place} && cp -a /run/models/. {place} && rm -r /run/models"
    )
    yield
    server.check_output(f"umount {place}")


@pytest.mark.usefixtures("small_disk")
def test_a_model_that_has_no_room_is_refused_before_anything_is_changed(server, hub, playbook):
    before, number, sent = models(server), current(server), hub.storage.sent
    code, said = playbook("gpu_servers", "--limit", "server1", **wanted(hub))
    assert code != 0
    assert "are still to come, and /var/lib/vllm-models has" in said, said[-2000:]
    assert "playbooks/collect.yml" in said
    assert (models(server), current(server), hub.storage.sent) == (before, number, sent)


def test_check_mode_says_so_and_fetches_nothing(server, hub, playbook):
    before, sent = models(server), hub.storage.sent
    code, said = playbook("gpu_servers", "--limit", "server1", "--check", **wanted(hub))
    assert code == 0, said
    assert "changed=0" not in said
    assert (models(server), hub.storage.sent) == (before, sent)


def test_a_play_that_is_killed_while_it_fetches(server, hub, key, playbook):
    """The job goes on without it and the next play takes over: every byte comes once, the instance serves, the token is nowhere."""
    hub.storage.faults[f"/{REPOSITORY}/resolve/{hub.commit}/extra.json"] = [("slow", 3_000_000)] * 2
    before, number = set(models(server)), current(server)
    words = testing.command("gpu_servers", INVENTORY, "--limit", "server1", **wanted(hub))
    play = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    end = time.monotonic() + 120
    while hub.storage.sent < 500_000 and time.monotonic() < end and play.poll() is None:
        time.sleep(0.05)
    play.send_signal(signal.SIGKILL)
    play.wait()
    assert hub.storage.sent < BYTES, "it was killed too late to show anything"
    looked = hub.sent  # the look before the fetch reads the small files
    code, said = playbook("gpu_servers", "--limit", "server1", "-vvv", **wanted(hub))
    assert code == 0, said
    large = sum(len(body) for path, body in FILES.items() if len(body) > 10_000 and path != "model.gguf")
    assert hub.storage.sent == large
    assert hub.sent >= looked
    assert current(server) > number
    assert answers(server, key)
    (name,) = set(models(server)) - before
    assert server.check_output("readlink /var/lib/vllm/micro/current/model") == f"/var/lib/vllm-models/{name}"
    assert set(server.check_output(f"find /var/lib/vllm-models/{name} -printf '%m %u\\n'").splitlines()) == {"444 root", "555 root"}
    assert not any("Authorization" in headers for _, headers in hub.storage.seen)
    # extra variables stand on the test's own command line; the hosts never see them
    assert server.run(f"grep -rl -- {TOKEN} /etc /var/lib /var/log /root /run /tmp /opt/vllm/locks").stdout == ""
    assert server.run(f"journalctl --no-pager | grep -c -- {TOKEN}").stdout.strip() == "0"


def test_a_second_run_asks_the_hub_nothing(hub, playbook):
    asked = len(hub.seen)
    code, said = playbook("gpu_servers", "--limit", "server1", **wanted(hub))
    assert code == 0, said
    assert "changed=0" in said
    assert len(hub.seen) == asked


def test_the_other_server_takes_it_from_the_first(server, server2, hub, playbook):
    """Every byte of it came over the uplink once; installing alone, so nothing restarts."""
    sent = hub.storage.sent
    code, said = playbook("gpu_servers", "--limit", "server2", "--tags", "vllm_preflight,vllm_install", **wanted(hub))
    assert code == 0, said
    assert hub.storage.sent == sent
    sums = "cd $(readlink /var/lib/vllm/micro/current/model) && find . -type f -exec sha256sum {} + | sort"
    place = server.check_output("readlink /var/lib/vllm/micro/current/model")
    assert server2.check_output(sums.replace("$(readlink /var/lib/vllm/micro/current/model)", place)) == server.check_output(sums)


def test_a_model_is_locked_by_a_command(hub, playbook, tmp_path):
    file = tmp_path / "manifest.json"
    variables = {"vllm_hub_url": hub.url, "vllm_hub_token": TOKEN, "repository": REPOSITORY, "manifest": str(file)}
    code, said = playbook("lock_model", "--limit", "server1", **variables)
    assert code == 0, said
    assert f"model_revision: {hub.commit}" in said
    assert {row["path"] for row in json.loads(file.read_text())["files"]} == set(FILES)


def test_what_nothing_links_to_is_collected(server, hub, playbook):
    server.check_output(
        "mkdir -p /var/lib/vllm-models/old-0123456789ab && head -c 1000000 /dev/zero > /var/lib/vllm-models/old-0123456789ab/w"
    )
    before = models(server)
    code, said = playbook("collect", "--limit", "server1", **wanted(hub))
    assert code == 0, said
    assert "1.0 MB /var/lib/vllm-models/old-0123456789ab" in said
    assert models(server) == before
    code, said = playbook("collect", "--limit", "server1", "--check", collect=True, **wanted(hub))
    assert code == 0, said
    assert models(server) == before
    code, said = playbook("collect", "--limit", "server1", collect=True, **wanted(hub))
    assert code == 0, said
    assert "1.0 MB freed" in said
    assert set(before) - set(models(server)) == {"old-0123456789ab"}


def test_a_bundle_has_the_models_of_the_hub(server, hub, playbook):
    """Those too that no server has yet."""
    commit = hub.add("acme/Other-1B", FILES)
    asked = wanted(hub, model_repository="acme/Other-1B", model_revision=commit)
    try:
        code, said = playbook("bundle", bundle_file="/srv/bundle.tar", **asked)
        assert code == 0, said
        assert "other-1b" in server.check_output("tar -tf /srv/bundle.tar | grep model.safetensors")
    finally:
        server.check_output("rm -rf /srv/bundle.tar /var/lib/vllm-models/other-1b-*")


def test_a_model_may_come_as_an_archive(server, key, playbook, tmp_path):
    archive = tmp_path / "micro.tar.gz"
    subprocess.run(["tar", "-C", ROOT / ".cache", "-czf", archive, "micro-model"], check=True)
    before, number = set(models(server)), current(server)
    code, said = playbook("gpu_servers", "--limit", "server1", **on_server1(model_source=str(archive)))
    assert code == 0, said[-3000:]
    (name,) = set(models(server)) - before
    assert server.check_output("readlink /var/lib/vllm/micro/current/model") == f"/var/lib/vllm-models/{name}"
    assert hashlib.sha256(archive.read_bytes()).hexdigest().startswith(name)
    assert current(server) > number
    assert answers(server, key)
    code, said = playbook("gpu_servers", "--limit", "server1", **on_server1(model_source=str(archive)))
    assert (code, "changed=0" in said) == (0, True), said[-3000:]
