"""The catalogue: what an inventory says, what comes of it, and the sentence for each mistake."""

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils.catalogue import base_url, catalogue, config, instances, is_local, merge
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused

TRACK = "cpu-py311"
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
    assert config(coder, "/var/lib/vllm/coder/model") == {
        "model": "/var/lib/vllm/coder/model",
        "served-model-name": ["coder"],
        "host": "127.0.0.1",
        "port": 8000,
        "tensor-parallel-size": 1,
        "enable-auto-tool-choice": False,
        "max-model-len": 4096,
        "trust-remote-code": False,
        "enforce-eager": True,
    }


MISTAKES = [
    # what stands in the inventory                              the words that the refusal must have
    ({"max_model_length": 1}, "vllm_instances coder: max_model_length", "Did you mean max_model_len?"),
    ({"enforce_eager": True}, "is a vLLM flag", "Write it under args: {enforce-eager: ...}."),
    ({"colour": "red"}, "colour: is not a key of an instance", "The keys are: name, state"),
    ({"port": "8000"}, "port: cannot be '8000'", "Write a number from 1024 to 65535."),
    ({"port": 80}, "port: cannot be 80", "1024"),
    ({"port": True}, "port: cannot be True", "1024"),
    ({"host": "10.0.0.999"}, "host: cannot be", "an address or a name"),
    ({"host": "0.0.0.0; rm"}, "host: cannot be", "an address or a name"),
    ({"max_model_len": 0}, "max_model_len: cannot be 0", "whole number of tokens"),
    ({"max_model_len": "32k"}, "cannot be '32k'", "whole number of tokens"),
    ({"tensor_parallel_size": 1.5}, "cannot be 1.5", "whole number of GPUs"),
    ({"served_model_name": "coder"}, "cannot be 'coder'", "a list of names"),
    ({"trust_remote_code": "yes"}, "cannot be 'yes'", "true or false"),
    ({"model": "models/coder"}, "cannot be 'models/coder'", "starting with /"),
    ({"model": "/home/me/model"}, "model: the unit does not see /home/me/model", "below /srv"),
    ({"model": None}, "has no model", "model_source"),
    ({"model_source": "/x"}, "has both model and model_source", "one of the two"),
    ({"tool_call_parser": "herms"}, "vLLM 0.32.0 has no parser 'herms'", "Did you mean hermes?"),
    ({"tool_call_parser": "xyzzy"}, "has no parser 'xyzzy'", "vLLM 0.32.0 has: "),
    ({"reasoning_parser": "qwen33"}, "reasoning_parser: vLLM 0.32.0 has no parser 'qwen33'", "Did you mean qwen3?"),
    ({"enable_auto_tool_choice": True}, "needs a parser", "Add tool_call_parser"),
    ({"served_model_name": ["gpt-5-mini"]}, "takes 'gpt-5-mini' for one of its vendor's models", "a name of your own"),
    ({"args": {"enable-auto-tool-call": True}}, "has no flag --enable-auto-tool-call", "Did you mean enable-auto-tool-choice?"),
    ({"args": {"--log-dir": "/x"}}, "vLLM 0.32.0 has no flag --log-dir", ""),
    ({"args": {"quux": 4}}, "has no flag --quux", "`vllm serve --help=all`"),
    ({"args": {"port": 1}}, "args: port: has a key of its own", "Write port: beside name:"),
    ({"args": {"max_model_len": 1}}, "has a key of its own", "Write max_model_len:"),
    ({"args": {"model": "/x"}}, "has a key of its own", "Write model:"),
    ({"args": {"api-key": "s3cret"}}, "would be seen in the process list", "vllm_api_key"),
    ({"environment": "TOKEN=s3cret"}, "environment: cannot be what it is", "a mapping"),
    ({"environment": {"VLLM_API_KEY": "s3cret"}}, "environment: VLLM_API_KEY: is not allowed", "Remove it"),
    ({"environment": {"VLLM_SERVER_DEV_MODE": 1}}, "is not allowed: it opens unguarded routes", "Remove it"),
    ({"environment": {"a-b": 1}}, "is not an environment variable", "NAME: value"),
    ({"environment": {"A": "1\n2"}}, "is not an environment variable of one line", "NAME: value"),
    ({"gpu_memory_utilization": 0.9}, "the track cpu-py311 has no GPU", "VLLM_CPU_KVCACHE_SPACE"),
    ({"gpu_memory_utilization": 90}, "cannot be 90", "a share above 0"),
    ({"name": "Coder"}, "name: cannot be 'Coder'", "lower-case"),
    ({"name": "a/../b"}, "name: cannot be", "lower-case"),
]


@pytest.mark.parametrize(("keys", "why", "instead"), MISTAKES, ids=[str(row[0]) for row in MISTAKES])
def test_a_mistake_is_refused_with_what_to_write(keys, why, instead):
    said = refusal([{**GOOD, **keys}])
    assert why in said
    assert instead in said
    assert "s3cret" not in said


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


def test_every_mistake_is_told_at_once():
    assert len(refusal([{**GOOD, "prot": 1}, {"name": "b", "model": "rel"}]).splitlines()) == 2


def test_an_unknown_track_is_refused():
    assert "Write one of: cpu-py311" in refusal([GOOD], track="cu11")


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
    found = catalogue(hostvars, ["gpu1", "gpu2"], TRACK)
    assert [(row["server"], row["base_url"]) for row in found] == [("gpu1", "http://gpu1:8000/v1"), ("gpu2", "http://gpu2:9000/v1")]
