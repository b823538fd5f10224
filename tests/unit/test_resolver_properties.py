"""What holds for every inventory, host and model: the resolver answers, and what it proposes is itself accepted."""

from __future__ import annotations

import json

from ansible_collections.ownmetal.codex.plugins.module_utils.model_rules import Codex
from ansible_collections.ownmetal.codex.plugins.module_utils.planner import plan, report
from ansible_collections.ownmetal.codex.plugins.module_utils.resolver import Spec, apply, resolve
from ansible_collections.ownmetal.codex.plugins.module_utils.tracks import tracks
from hypothesis import given, settings
from hypothesis import strategies as some
from test_resolver import HOSTS, MODELS, folder

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


def instance(name):
    keys = some.fixed_dictionaries({"name": some.just(name), "model": some.sampled_from(PATHS)}, optional=KEYS)
    return keys


@some.composite
def situations(draw):
    names = draw(some.sampled_from([["coder"], ["coder", "small"], ["coder", "Small"]]))
    spec = Spec(
        "gpu1",
        draw(some.sampled_from([*tracks(), "cu13-py31"])),
        draw(some.sampled_from(["", "", "3.10", "3.11", "3.12", "3.14"])),
        [[draw(instance(name)) for name in names], [], draw(some.sampled_from(SHAPES))],
        [Codex("laptop1", draw(some.sampled_from(VERSIONS)), draw(some.sampled_from(EXTRA))) for _ in range(draw(some.integers(0, 2)))],
    )
    shapes = some.sampled_from(sorted(path.stem for path in MODELS.glob("*.json")))
    models = {name: folder(draw(shapes), **draw(some.sampled_from(BROKEN))) for name in names}
    return spec, draw(some.sampled_from([None, *HOSTS.values()])), draw(some.sampled_from([{}, models]))


@settings(max_examples=400, deadline=None)
@given(situations())
def test_what_is_proposed_is_accepted(situation):
    spec, host, models = situation
    verdict = resolve(spec, host, models)
    if verdict.proposal:
        assert resolve(apply(spec, verdict.proposal), host, models).refusals == []
    if not verdict.refusals:
        assert verdict.proposal is None


@settings(max_examples=200, deadline=None)
@given(situations())
def test_a_plan_can_be_written_for_machines_and_people(situation):
    spec, host, models = situation
    verdict = resolve(spec, host, models)
    made = plan(spec, verdict)
    assert json.loads(json.dumps(made)) == made
    assert made["ok"] is not bool(verdict.refusals)
    text = report(made)
    assert spec.server in text
    assert all(str(refused) in text for refused in verdict.refusals)


@settings(max_examples=200, deadline=None)
@given(situations())
def test_what_no_one_looked_at_refuses_nothing(situation):
    """A look at the host and the model only adds refusals: the inventory's own are found without it."""
    spec, host, models = situation
    alone = {str(refused) for refused in resolve(spec).refusals}
    assert alone <= {str(refused) for refused in resolve(spec, host, models).refusals} | {
        text for text in alone if text.startswith("python_version")
    }
