"""What holds for every inventory, host and model: the resolver answers, and what it proposes is itself accepted.

The situations are the same in every run (derandomize), so that a change is judged by what it changes.
"""

from __future__ import annotations

import json

from ansible_collections.ownmetal.codex.plugins.module_utils.model_rules import Codex
from ansible_collections.ownmetal.codex.plugins.module_utils.planner import plan, report
from ansible_collections.ownmetal.codex.plugins.module_utils.resolver import Spec, apply, resolve
from ansible_collections.ownmetal.codex.plugins.module_utils.tracks import tracks
from hypothesis import given, settings
from hypothesis import strategies as some
from test_resolver import HOSTS, MODELS, SMALL, folder, spec

FLAGS = [
    *("enable-auto-tool-call", "log-dir", "swap-space", "seed", "kv-cache-dtype", "pipeline-parallel-size", "data-parallel-size"),
    *("port", "block-size", "nnodes", "quantization", "cpu_offload_gb", "hf-overrides.max_position_embeddings"),
]
# right and wrong values side by side: any mixture of them is an inventory that somebody could have
KEYS = {
    "tensor_parallel_size": some.sampled_from([1, 2, 3, 4, 8, 16, "2", 0]),
    "max_model_len": some.sampled_from([2048, 32768, 131072, 10**6, "32k", None]),
    "max_num_seqs": some.sampled_from([1, 256, "8"]),
    "tool_call_parser": some.sampled_from(["hermes", "llama3_json", "herms", "qwen3_coder", "openai", "xyzzy"]),
    "reasoning_parser": some.sampled_from(["qwen3", "qwen33"]),
    "enable_auto_tool_choice": some.booleans(),
    "chat_template": some.sampled_from(["llama3_json", "llama3", "/srv/t.jinja", "/home/me/t.jinja"]),
    "gpus": some.sampled_from([[0], [0, 1], [0, 1, 2, 3], [6, 7], [8], [0, 0], "0"]),
    "gpu_memory_utilization": some.sampled_from([0.5, 0.95, 90]),
    "served_model_name": some.sampled_from([["coder"], ["gpt-5"], "coder"]),
    "port": some.sampled_from([8000, 8001, "8000", 80]),
    "max_model_length": some.just(4096),
    "seed": some.just(1),
    "args": some.dictionaries(
        some.sampled_from(FLAGS),
        some.sampled_from([1, 2, "2", "64", [64], -16, 0, "fp8", True, False, "many", None]),
        max_size=3,
    ),
    "environment": some.sampled_from([{"VLLM_CPU_KVCACHE_SPACE": 1}, {"VLLM_CPU_KVCACHE_SPACE": 5000}, {"a-b": 1}, {"VLLM_API_KEY": "x"}]),
}
VERSIONS = ["0.169.0", "0.94.0", "0.64.0", "latest", "None", "0.169"]
EXTRA = [
    {},
    {"agents": None},
    {"agents": {"enabled": True, "max_threads": 3}, "web_search": "live"},
    {"mcp_servers": {"files": {"command": "x"}}},
    {"custom_model": "x", "model_providers": {"vllm": {"wire_api": "chat"}}},
]
# what else somebody could have written where a list of instances belongs
SHAPES = [[], [{"name": "coder", "port": 9000}], 5, "coder", [{"name": ["x"]}], [None], {"coder": {}}]
BROKEN = [
    {},
    {"text_config": [1]},
    {"model_type": ["llama"]},
    {"max_position_embeddings": -5},
    {"num_attention_heads": 0},
    {"architectures": 3},
]
PATHS = ["/srv/models/llama-3.1-70b-instruct", "/srv/models/own", "/home/me/model", "models/own"]


def mostly(usual, *others):
    """Draw the usual value four times out of five: a situation with ten mistakes shows little."""
    return some.one_of(*[some.just(usual)] * 4, some.sampled_from(others))


@some.composite
def instance(draw, name):
    written = {"name": name, "model": draw(mostly(PATHS[0], *PATHS[1:]))}
    for key in draw(some.sets(some.sampled_from(sorted(KEYS)), max_size=3)):
        written[key] = draw(KEYS[key])
    return written


@some.composite
def situations(draw):
    names = draw(some.sampled_from([["coder"], ["coder", "small"], ["coder", "Small"]]))
    wanted = Spec(
        "gpu1",
        draw(mostly("cu13-py312", *tracks(), "cu13-py31")),
        draw(mostly("", "3.10", "3.11", "3.12", "3.14")),
        [[draw(instance(name)) for name in names], [], draw(mostly(SHAPES[0], *SHAPES[1:]))],
        [
            Codex("laptop1", draw(mostly(VERSIONS[0], *VERSIONS[1:])), draw(mostly(EXTRA[0], *EXTRA[1:])))
            for _ in range(draw(some.integers(0, 2)))
        ],
    )
    shapes = some.sampled_from(sorted(path.stem for path in MODELS.glob("*.json")))
    models = {name: folder(draw(shapes), **draw(mostly(BROKEN[0], *BROKEN[1:]))) for name in names}
    return wanted, draw(mostly(HOSTS["eight H100"], None, *HOSTS.values())), draw(mostly(models, {}))


@settings(max_examples=500, deadline=None, derandomize=True)
@given(situations())
def test_what_is_proposed_is_accepted(situation):
    wanted, host, models = situation
    verdict = resolve(wanted, host, models)
    if verdict.proposal:
        assert resolve(apply(wanted, verdict.proposal), host, models).refusals == []
    if not verdict.refusals:
        assert verdict.proposal is None


@settings(max_examples=200, deadline=None, derandomize=True)
@given(situations())
def test_a_plan_can_be_written_for_machines_and_people(situation):
    wanted, host, models = situation
    verdict = resolve(wanted, host, models)
    made = plan(wanted, verdict)
    assert json.loads(json.dumps(made)) == made
    assert made["ok"] is not bool(verdict.refusals)
    text = report(made)
    assert wanted.server in text
    assert all(str(refused) in text for refused in verdict.refusals)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(situations())
def test_what_no_one_looked_at_refuses_nothing(situation):
    """A look at the host and the model only adds refusals: the inventory's own are found without it."""
    wanted, host, models = situation
    alone = {str(refused) for refused in resolve(wanted).refusals}
    assert alone <= {str(refused) for refused in resolve(wanted, host, models).refusals} | {
        text for text in alone if text.startswith("python_version")
    }


# mistakes that the inventory can mend: any number of them at once has a set that would be accepted
MENDABLE = {
    "port": "8000",
    "max_model_len": 10**6,
    "tool_call_parser": "llama3_jsn",
    "reasoning_parser": "qwen33",
    "served_model_name": ["gpt-5"],
    "tensor_parallel_size": 3,
    "gpus": [8],
    "gpu_memory_utilization": 90,
    "chat_template": "llama3",
    "max_model_length": 4096,
    "seed": 1,
    "args": {"log-dir": "/x", "enable-auto-tool-call": True, "kv-cache-dtype": "fp9", "api-key": "x"},
    "environment": {"VLLM_API_KEY": "x"},
    "trust_remote_code": "yes",
}
SPECS = {"track": "cu13-py31", "python": "3.10", "codex": [Codex("laptop1", "latest", {"agents": {"enabled": True}})]}


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    some.sets(some.sampled_from(sorted(MENDABLE)), max_size=6),
    some.sets(some.sampled_from(sorted(SPECS))),
    some.booleans(),
    some.sampled_from(["eight H100", "driver 570", "ubuntu 22.04"]),
)
def test_what_can_be_mended_has_a_proposal(mistakes, wrong, twice, host):
    entry = {**SMALL, **{key: MENDABLE[key] for key in mistakes}}
    more = [{**SMALL, "name": "small"}] if twice else []
    given_spec = spec(entry, more, **{key: SPECS[key] for key in wrong})
    models = {"coder": folder("llama-3.1-8b"), "small": folder("llama-3.1-8b")}
    verdict = resolve(given_spec, HOSTS[host], models)
    assert bool(verdict.refusals) == bool(mistakes or wrong & {"track", "python"} or "codex" in wrong or twice or host != "eight H100")
    assert (verdict.proposal is not None) == bool(verdict.refusals)
    assert verdict.proposal is None or resolve(apply(given_spec, verdict.proposal), HOSTS[host], models).refusals == []
