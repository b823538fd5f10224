"""The catalogue: what an inventory says, what comes of it, and the sentence for each mistake."""

import pytest
from ansible_collections.ownmetal.codex.plugins.filter.catalogue import pool_problems
from ansible_collections.ownmetal.codex.plugins.module_utils.catalogue import base_url, catalogue, config, instances, is_local, merge
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.tracks import track

TRACK = track("cpu-py311")
GOOD = {"name": "coder", "model": "/srv/models/coder"}


def refusal(*lists, track=TRACK):
    with pytest.raises(Refused) as caught:
        instances(lists, track)
    return str(caught.value)


def test_three_lists_are_merged_by_name_in_order():
    everyone = [{**GOOD, "port": 8001, "args": {"enforce-eager": True}}, {"name": "small", "model": "/m", "port": 8002}]
    group = [{"name": "coder", "max_model_len": 4096, "args": {"seed": 1}}]
    host = [{"name": "small", "state": "absent"}, {"name": "coder", "args": {"seed": 2}}]
    coder, small = merge(everyone, group, host)
    assert coder == {**GOOD, "port": 8001, "max_model_len": 4096, "args": {"enforce-eager": True, "seed": 2}}
    assert small["state"] == "absent"


def test_an_instance_is_completed():
    (coder,) = instances([[{**GOOD, "tool_call_parser": "hermes", "args": {"enforce_eager": True}, "environment": {"A": 1}}]], TRACK)
    assert coder["served_model_name"] == ["coder"]
    assert coder["enable_auto_tool_choice"] is True
    assert coder["host"] == "127.0.0.1"
    assert coder["args"] == {"enforce-eager": True}
    assert coder["environment"] == {"A": "1"}


def test_the_configuration_has_only_what_was_asked_for():
    (coder,) = instances([[{**GOOD, "max_model_len": 4096, "args": {"enforce-eager": True}}]], TRACK)
    assert config(coder, "/var/lib/vllm/coder/model", "/etc/vllm/coder.jinja") == {
        "model": "/var/lib/vllm/coder/model",
        "served-model-name": ["coder"],
        "host": "127.0.0.1",
        "port": 8000,
        "tensor-parallel-size": 1,
        "max-model-len": 4096,
        "enforce-eager": True,
    }


LISTS = [
    (({"coder": {}},), "vllm_instances: is not a list"),
    (([{"model": "/x"}],), "vllm_instances: has an entry without a name"),
    (([GOOD, GOOD],), "vllm_instances coder: stands twice"),
    (([], [{"name": "x"}]), "vllm_instances x: has no model"),
    (
        ([GOOD, {"name": "b", "model": "/b"}],),
        "vllm_instances b: port: the port 8000 is coder's already. Give one of the two another port, such as 8001.",
    ),
]


@pytest.mark.parametrize(("lists", "words"), LISTS, ids=[row[1] for row in LISTS])
def test_a_wrong_list_is_refused(lists, words):
    assert words in refusal(*lists)


CPUS = [
    ("0", True),
    ("0-15", True),
    ("0-7,16-23", True),
    ("0 2 4", True),
    (4, False),
    ("15-0", False),
    ("all", False),
    ("0,", False),
    ("", False),
]


@pytest.mark.parametrize(("value", "right"), CPUS)
def test_cpus_are_what_systemd_takes(value, right):
    if right:
        assert instances([[{**GOOD, "cpus": value}]], TRACK)[0]["cpus"] == value
    else:
        assert "vllm_instances coder: cpus: cannot be" in refusal([{**GOOD, "cpus": value}])


def test_every_mistake_is_told_at_once():
    assert len(refusal([{**GOOD, "prot": 1}, {"name": "b", "model": "rel"}]).splitlines()) == 2


def test_null_takes_away_what_an_earlier_list_says():
    everyone = [{**GOOD, "max_model_len": 4096, "args": {"seed": 1, "enforce-eager": True}}]
    (coder,) = instances([everyone, [{"name": "coder", "max_model_len": None, "args": {"seed": None}}]], TRACK)
    assert coder["max_model_len"] is None
    assert coder["args"] == {"enforce-eager": True}


def test_flags_are_written_as_every_release_reads_them():
    """False as no-FLAG where that says something, since releases before 0.31 ignore false."""
    written = {"enable_prefix_caching": False, "enforce-eager": False, "no-async-scheduling": True}
    (coder,) = instances([[{**GOOD, "args": {**written, "compilation-config.mode": 3}}]], TRACK)
    assert coder["args"] == {"no-enable-prefix-caching": True, "no-async-scheduling": True, "compilation-config.mode": 3}


def test_a_chat_template_of_the_collection_is_a_file_beside_the_configuration():
    (coder,) = instances([[{**GOOD, "chat_template": "llama3_json"}]], TRACK)
    assert config(coder, "/m", "/etc/vllm/coder.jinja")["chat-template"] == "/etc/vllm/coder.jinja"


def gpus(*entries):
    found = instances(
        [[{"name": name, "model": "/m", "port": 8000 + number, **keys} for number, (name, keys) in enumerate(entries)]], track("cu13-py312")
    )
    return {entry["name"]: entry["gpus"] for entry in found}


def test_gpus_are_assigned_in_order_around_those_that_are_named():
    two, named = {"tensor_parallel_size": 2}, {"gpus": [1]}
    assert gpus(("a", two), ("b", {}), ("c", named)) == {"a": [0, 2], "b": [3], "c": [1]}
    assert gpus(("a", {"args": {"pipeline-parallel-size": 2}, **two}), ("b", {})) == {"a": [0, 1, 2, 3], "b": [4]}


def test_an_absent_instance_holds_no_port():
    assert len(instances([[GOOD, {"name": "old", "state": "absent"}]], TRACK)) == 2


URLS = [
    ("10.0.0.5", "http://10.0.0.5:8000/v1", False),
    ("0.0.0.0", "http://gpu1:8000/v1", False),
    ("fd00::1", "http://[fd00::1]:8000/v1", False),
    ("127.0.0.1", "http://127.0.0.1:8000/v1", True),
    ("localhost", "http://localhost:8000/v1", True),
    ("gpu1.example.com", "http://gpu1.example.com:8000/v1", False),
]


@pytest.mark.parametrize(("host", "url", "local"), URLS)
def test_where_an_instance_is_reached(host, url, local):
    (instance,) = instances([[{**GOOD, "host": host}]], TRACK)
    assert base_url("gpu1", instance) == url
    assert is_local(instance) is local


def test_the_catalogue_has_every_server():
    hostvars = {
        "gpu1": {"vllm_instances": [{**GOOD, "host": "0.0.0.0"}]},
        "gpu2": {"vllm_instances_host": [{**GOOD, "host": "0.0.0.0", "port": 9000}]},
    }
    found = catalogue(hostvars, ["gpu1", "gpu2"], TRACK.name)
    assert [(row["server"], row["base_url"]) for row in found] == [("gpu1", "http://gpu1:8000/v1"), ("gpu2", "http://gpu2:9000/v1")]


POOLS = [
    # server, pool host, its address, words of the refusal or none
    ("gpu2", "gpu1", "192.0.2.1", None),
    ("gpu2", "gpu1", "gpu1.example.com", None),
    ("gpu1", "gpu1", "127.0.0.1", None),  # what is at hand is not fetched
    ("gpu1", "controller", "localhost", "vllm_pool_address: of the pool host controller is localhost: on gpu1 that is"),
    ("gpu1", "controller", "127.0.1.1", "is 127.0.1.1"),
    ("gpu1", "controller", "[::1]", "is [::1]"),
]


@pytest.mark.parametrize(("server", "host", "address", "words"), POOLS)
def test_a_pool_that_a_server_would_look_for_at_home_is_refused(server, host, address, words):
    found = " ".join(pool_problems(server, host, address))
    assert words in found if words else found == ""
