"""What cannot work is refused, with the inventory to change, the words to write, and a set that would be accepted.

A row is one mistake on one server. Hosts, models and inventories are laid over the good ones below. No host is asked:
hosts are what module_utils/observe.py would have seen of such a machine.
"""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils.codex_config import Choice, Wanted, config
from ansible_collections.ownmetal.codex.plugins.module_utils.compatibility import pairs
from ansible_collections.ownmetal.codex.plugins.module_utils.host_rules import Host
from ansible_collections.ownmetal.codex.plugins.module_utils.model_rules import WRITTEN_BY_ROLE
from ansible_collections.ownmetal.codex.plugins.module_utils.planner import plan, report
from ansible_collections.ownmetal.codex.plugins.module_utils.resolver import Codex, Spec, apply, resolve
from ansible_collections.ownmetal.codex.plugins.module_utils.tracks import Track, tracks

from lab.micro_model import build_files

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "tests/unit/fixtures/models"
GIB = 1 << 30


def card(index, name="NVIDIA H100 80GB HBM3", mib=81559):
    return {"index": index, "name": name, "memory": mib << 20, "compute_capability": "9.0"}


def machine(system="ubuntu 24.04", glibc="2.39", driver="580.95.05", gpus=8, name="NVIDIA H100 80GB HBM3", mib=81559, **other):
    cards = tuple(card(index, name, mib) for index in range(gpus))
    problem = other.pop("gpu_problem", None)
    return Host(system, other.pop("machine", "x86_64"), glibc, other.pop("memory", 1024) * GIB, driver, cards, problem)


HOSTS = {
    "eight H100": machine(),
    "driver 570": machine(driver="570.133.20"),
    "driver 525": machine(driver="525.60.13"),
    "driver 515": machine(driver="515.105.01"),
    "driver 595": machine(driver="595.10"),
    "ubuntu 22.04": machine("ubuntu 22.04", "2.35"),
    "ubuntu 22.04, driver 570": machine("ubuntu 22.04", "2.35", "570.133.20"),
    "old glibc": machine("centos 7", "2.17"),
    "musl": machine("alpine 3.22", ""),
    "arm": machine(machine="aarch64"),
    "debian 12, no GPU": machine("debian 12", "2.36", None, 0, memory=24, gpu_problem="there is no nvidia-smi, so no NVIDIA driver"),
    "no driver": machine(driver=None, gpus=0, gpu_problem="there is no nvidia-smi, so no NVIDIA driver"),
    "mismatch": machine(gpus=0, gpu_problem="nvidia-smi ended with 18: Driver/library version mismatch"),
    "two 24 GiB": machine(gpus=2, name="NVIDIA RTX 4090", mib=24564),
    "one 24 GiB": machine(gpus=1, name="NVIDIA RTX 4090", mib=24564),
    "four 48 GiB": machine(gpus=4, name="NVIDIA L40S", mib=46068),
}


def folder(name, **changes):
    """What a server's folder with a published model says; see fixtures/models."""
    said = json.loads((MODELS / f"{name}.json").read_text())
    return {"config": {**said["config"], **changes}, "weight_bytes": said["published_bytes"], "chat_template": None, "problem": None}


MICRO = {
    "config": json.loads(build_files(heads=1, layers=1)["config.json"]),
    "weight_bytes": 10**6,
    "chat_template": None,
    "problem": None,
}


def wide_files(name):
    """Return a folder whose config.json names no dtype, and whose files hold float32."""
    said = folder(name)
    config = {key: value for key, value in said["config"].items() if key not in ("dtype", "torch_dtype")}
    return {**said, "config": config, "weight_bytes": 2 * said["weight_bytes"], "dtypes": {"F32": 2 * said["weight_bytes"]}}


LLAMA = {
    "name": "coder",
    "model": "/srv/models/llama-3.1-70b-instruct",
    "tensor_parallel_size": 4,
    "tool_call_parser": "llama3_json",
    "chat_template": "llama3_json",
    "max_model_len": 32768,
}
SMALL = {**LLAMA, "model": "/srv/models/llama-3.1-8b-instruct", "tensor_parallel_size": 1}
HERMES = {"name": "coder", "model": "/srv/models/micro", "tool_call_parser": "hermes"}
# what stands in the template of Qwen2.5, and tells the model how to write a call
QWEN_TEMPLATE = '<tool_call>\\n{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call>'
OSS = {"name": "coder", "model": "/srv/models/gpt-oss-20b", "tool_call_parser": "openai", "reasoning_parser": "openai_gptoss"}
CODEX = Codex("laptop1", "0.169.0")
# releases that no track of today has: what a team's own lock could bring
OLD = {
    **tracks(),
    "own-0.5.5": Track("own-0.5.5", "0.5.5", "3.10", "cuda", "x86_64", "2.17"),
    "own-0.11.0": Track("own-0.11.0", "0.11.0", "3.12", "cuda", "x86_64", "2.17"),
    "own-0.8.5": Track("own-0.8.5", "0.8.5.post1", "3.12", "cuda", "x86_64", "2.17"),
}


def spec(instance=LLAMA, more=(), track="cu13-py312", python="", codex=(CODEX,), known=None):
    lists = [[copy.deepcopy(instance)], [], copy.deepcopy(more)]
    return Spec("gpu1", track, python, lists, codex, known or tracks())


class Case:
    """A row: what is laid over the good server, the words of the one refusal, and the set that is proposed."""

    def __init__(self, name, *words, proposal="some", host="eight H100", model=None, keys=None, **wanted):
        self.name, self.words, self.proposal, self.host = name, words, proposal, HOSTS[host]
        instance = {**wanted.pop("instance", LLAMA), **(keys or {})}
        more_models = wanted.pop("models", ())
        self.spec = spec(instance, **wanted)
        self.models = dict.fromkeys(("coder", *more_models), model) if model else {}


def keys(**changed):
    return {"vllm_instances_host": [{"name": "coder", **changed}]}


TRACKS = [
    Case(
        "CUDA 13 on a driver that ends at 12",
        "vllm_track cu13-py312: its CUDA 13.0 needs the driver 580 or newer, and gpu1 has 570.133.20.",
        'Write vllm_track: cu12-py312 and python_version: "3.12" (vLLM 0.19.1), or install the driver 580 or newer there.',
        host="driver 570",
        proposal={"vllm_track": "cu12-py312", "python_version": "3.12"},
    ),
    Case(
        "the same, on the system for Python 3.10",
        "needs the driver 580 or newer",
        track="cu13-py310",
        host="ubuntu 22.04, driver 570",
        proposal={"vllm_track": "cu12-py310", "python_version": "3.10"},
    ),
    Case("CUDA 12 on its oldest driver", host="driver 525", track="cu12-py312"),
    Case(
        "CUDA 12 on a driver before it",
        "its CUDA 12.8 needs the driver 525 or newer, and gpu1 has 515.105.01. Install the driver 525 or newer there.",
        host="driver 515",
        track="cu12-py312",
        proposal=None,
    ),
    Case("a newer driver", host="driver 595"),
    Case(
        "no driver",
        "it needs a GPU, and on gpu1 there is no nvidia-smi, so no NVIDIA driver. Install the driver 580 or newer there.",
        host="no driver",
        proposal=None,
    ),
    Case("a driver that does not answer", "Driver/library version mismatch", "Mend the driver there.", host="mismatch", proposal=None),
    Case(
        "a GPU track on a server without",
        "it needs a GPU, and on gpu1 there is no nvidia-smi",
        'Write vllm_track: cpu-py311 and python_version: "3.11"',
        host="debian 12, no GPU",
        track="cu13-py310",
        proposal={"vllm_track": "cpu-py311", "python_version": "3.11"},
    ),
    Case(
        "a Python that the release does not have",
        "python_version 3.10: vLLM 0.32.0 needs Python >=3.11,<3.15.",
        'Write python_version: "3.12".',
        python="3.10",
        proposal={"python_version": "3.12"},
    ),
    Case(
        "a Python that the track's wheels are not for",
        "python_version 3.13: the wheels of cu13-py312 are for 3.12.",
        python="3.13",
        proposal={"python_version": "3.12"},
    ),
    Case(
        "a Python that the system does not have",
        "its wheels are for Python 3.12, and gpu1 (ubuntu 22.04) has 3.10 in its packages.",
        'Write vllm_track: cu13-py310 and python_version: "3.10" (vLLM 0.31.0), or use a server with',
        host="ubuntu 22.04",
        proposal={"vllm_track": "cu13-py310", "python_version": "3.10"},
    ),
    Case("a C library that is too old", "its wheels need glibc 2.31, and gpu1 (centos 7) has 2.17.", host="old glibc", proposal=None),
    Case("another C library", "its wheels need glibc 2.31, and gpu1 (alpine 3.22) has another C library.", host="musl", proposal=None),
    Case("another machine", "its wheels are for x86_64, and gpu1 is aarch64.", host="arm", proposal=None),
    Case(
        "a track that is none",
        "'cu13-py31' is not a track of this collection or of vllm_tracks. Did you mean cu13-py312? Write one of: cpu-py311,",
        track="cu13-py31",
    ),
    Case("a track like none", "'rocm' is not a track", track="rocm", proposal=None),
]
FLAGS = [
    Case(
        "the guide's flag",
        "args: enable-auto-tool-call: vLLM 0.32.0 has no flag --enable-auto-tool-call. Did you mean enable-auto-tool-choice?",
        keys={"args": {"enable-auto-tool-call": True}},
        proposal=keys(args={"enable-auto-tool-call": None}, enable_auto_tool_choice=True),
    ),
    Case(
        "log files",
        "has no flag --log-dir.",
        "journalctl -u vllm@",
        keys={"args": {"--log-dir": "/var/log"}},
        proposal=keys(args={"--log-dir": None}),
    ),
    Case("request logging", "has no flag --disable-log-requests.", keys={"args": {"disable-log-requests": True}}),
    Case("swap space", "has no flag --swap-space.", keys={"args": {"swap-space": 4}}),
    Case("task", "has no flag --task.", keys={"args": {"task": "generate"}}),
    Case("reasoning switch", "has no flag --enable-reasoning.", keys={"args": {"enable-reasoning": True}}),
    Case("guided decoding", "has no flag --guided-decoding-backend.", keys={"args": {"guided-decoding-backend": "xgrammar"}}),
    Case("scheduler steps", "has no flag --num-scheduler-steps.", keys={"args": {"num-scheduler-steps": 8}}),
    Case("Ray switch", "has no flag --worker-use-ray.", keys={"args": {"worker-use-ray": True}}),
    Case("a flag that is misspelt", "Did you mean enable-prefix-caching?", keys={"args": {"enable-prefix-cahing": True}}),
    Case(
        "a flag like none", "`vllm serve --help=all` of that release lists", keys={"args": {"quux": 4}}, proposal=keys(args={"quux": None})
    ),
    Case(
        "a flag of a newer release",
        "vLLM 0.19.1 has no flag --jit-monitor-mode. vLLM 0.25.1 and newer have it. Remove it, or choose a track with such a release.",
        track="cu12-py312",
        keys={"args": {"jit-monitor-mode": "off"}},
        proposal=keys(args={"jit-monitor-mode": None}),
    ),
    Case(
        "a flag of an older release",
        "vLLM 0.32.0 has no flag --calculate-kv-scales. vLLM 0.8.5.post1 to 0.25.1 had it.",
        keys={"args": {"calculate-kv-scales": True}},
        proposal=keys(args={"calculate-kv-scales": None}),
    ),
    Case("a value of another kind", "--seed must be a whole number.", keys={"args": {"seed": "many"}}, proposal=keys(args={"seed": None})),
    Case("a choice that is none", "--kv-cache-dtype must be one of: auto, ", keys={"args": {"kv-cache-dtype": "fp9"}}),
    Case("a list for one value", "--seed must be a single value, not a list.", keys={"args": {"seed": [1, 2]}}),
    Case("a JSON that is none", "--compilation-config must be a mapping, or JSON in quotes.", keys={"args": {"compilation-config": "{"}}),
    Case(
        "a flag with a key of its own",
        "args: max-model-len: has a key of its own. Write max_model_len: beside name: instead.",
        keys={"args": {"max-model-len": 1}},
    ),
    Case("the short name of one", "has a key of its own. Write served_model_name:", keys={"args": {"served_model_name": ["x"]}}),
    Case(
        "the key on the command line",
        "would be seen in the process list. Set vllm_api_key instead.",
        keys={"args": {"api-key": "s3cret"}},
        proposal=keys(args={"api-key": None}),
    ),
    Case(
        "a token in a file for all",
        "args: hf-token:",
        "HF_TOKEN",
        keys={"args": {"hf-token": "s3cret"}},
        proposal=keys(args={"hf-token": None}),
    ),
    Case(
        "a flag beside the keys",
        "is a vLLM flag, but not one with a key of its own. Write it under args: {seed: ...}.",
        keys={"seed": 7},
        proposal=keys(seed=None, args={"seed": 7}),
    ),
    Case(
        "a key that is misspelt", "max_model_length: is not a key of an instance. Did you mean max_model_len?", keys={"max_model_length": 1}
    ),
    Case(
        "a key like none",
        "colour: is not a key of an instance. The keys are: name, state",
        keys={"colour": "red"},
        proposal=keys(colour=None),
    ),
]
TOOLS = [
    Case(
        "a parser that is misspelt",
        "vLLM 0.32.0 has no parser 'llama3_jsn'. Llama 3.1",
        "needs llama3_json. It has: ",
        keys={"tool_call_parser": "llama3_jsn"},
        proposal=keys(tool_call_parser="llama3_json"),
    ),
    Case(
        "a parser of an unknown model",
        "has no parser 'herms'. Did you mean hermes? It has: ",
        instance=HERMES,
        keys={"tool_call_parser": "herms"},
        proposal=keys(tool_call_parser="hermes"),
    ),
    Case(
        "a parser that a plugin brings",
        keys={"tool_call_parser": "ours", "chat_template": None, "args": {"tool-parser-plugin": "/srv/ours.py"}},
    ),
    Case(
        "a parser of a newer release",
        "vLLM 0.19.1 has no parser 'minimax_m3'.",
        track="cu12-py312",
        instance=HERMES,
        keys={"tool_call_parser": "minimax_m3"},
    ),
    Case(
        "a reasoning parser that is misspelt",
        "reasoning_parser: vLLM 0.32.0 has no parser 'qwen33'. Did you mean qwen3?",
        keys={"reasoning_parser": "qwen33"},
        proposal=keys(reasoning_parser="qwen3"),
    ),
    Case(
        "automatic choice without a parser",
        "automatic tool choice needs a parser",
        "Add tool_call_parser: llama3_json, which Llama 3",
        keys={"tool_call_parser": None, "enable_auto_tool_choice": True},
        proposal=keys(tool_call_parser="llama3_json"),
    ),
    Case(
        "the same for an unknown model",
        "Add tool_call_parser, such as hermes.",
        instance={"name": "coder", "model": "/srv/m", "enable_auto_tool_choice": True},
        proposal=keys(enable_auto_tool_choice=False),
    ),
    Case(
        "tool calls before they came",
        "tool_call_parser: tool calls came with vLLM 0.6.0, and the track own-0.5.5 has 0.5.5.",
        host="ubuntu 22.04",
        track="own-0.5.5",
        known=OLD,
        proposal={"vllm_track": "cu13-py310", "python_version": "3.10"},
        codex=(),
    ),
    Case(
        "a parser that cannot read the calls that the model's template asks for",
        "tool_call_parser: llama3_json does not read Qwen2.5: its chat template asks for calls that hermes reads.",
        "Write tool_call_parser: hermes.",
        instance={**HERMES, "model": "/srv/models/own", "tool_call_parser": "llama3_json"},
        model={**folder("llama-3.1-8b"), "chat_template": QWEN_TEMPLATE},
        proposal=keys(tool_call_parser="hermes"),
    ),
    Case(
        "a template of ours with another parser",
        "hermes does not read the calls that the chat template llama3_json asks for. Write tool_call_parser: llama3_json.",
        keys={"tool_call_parser": "hermes"},
        proposal=keys(tool_call_parser="llama3_json"),
    ),
    Case(
        "a template that is none",
        "chat_template: cannot be 'llama3'. Write a chat template of this collection",
        keys={"chat_template": "llama3"},
    ),
    Case(
        "a vendor's name",
        "Codex takes 'gpt-5-mini' for one of its vendor's models",
        "such as own-gpt-5-mini.",
        keys={"served_model_name": ["gpt-5-mini", "coder"]},
        proposal=keys(served_model_name=["own-gpt-5-mini", "coder"]),
    ),
    Case("a vendor's name of the open model", "Codex takes 'gpt-oss-120b'", keys={"served_model_name": ["gpt-oss-120b"]}),
]
SIZES = [
    Case(
        "heads that do not divide",
        "tensor_parallel_size: cannot be 3: its 64 attention heads do not divide by 3. Write tensor_parallel_size: 2.",
        keys={"tensor_parallel_size": 3, "max_model_len": 4096},
        model=folder("llama-3.1-70b"),
        proposal=keys(tensor_parallel_size=2, gpus=None),
    ),
    Case(
        "more GPUs than there are",
        "tensor_parallel_size: 16 GPUs (0, 1,",
        "are wanted, and gpu1 has 8 (0, 1, 2, 3, 4, 5, 6, 7). Write tensor_parallel_size: 8.",
        keys={"tensor_parallel_size": 16},
        model=folder("llama-3.1-70b"),
        proposal=keys(tensor_parallel_size=8, gpus=None),
    ),
    Case(
        "more than the others leave",
        "are wanted, and gpu1 has 8",
        "5 of them for other instances.",
        keys={"gpus": [5, 6, 7, 8]},
        more=[{**SMALL, "name": "b", "port": 8001, "gpus": [0, 1, 2, 3, 4], "tensor_parallel_size": 5}],
        proposal="some",
    ),
    Case(
        "a GPU that is not there",
        "gpus: 4 GPUs (5, 6, 7, 8) are wanted, and gpu1 has 8 (0, 1, 2, 3, 4, 5, 6, 7). Write gpus: [0, 1, 2, 3].",
        keys={"gpus": [5, 6, 7, 8]},
        proposal=keys(gpus=[0, 1, 2, 3]),
    ),
    Case(
        "fewer GPUs named than ranks",
        "gpus: names 2, and with tensor_parallel_size 4 it runs on 4. Name 4, or leave gpus out",
        keys={"gpus": [0, 1]},
        proposal=keys(gpus=None),
    ),
    Case(
        "pipeline stages count too",
        "gpus: names 4, and with tensor_parallel_size 4 it runs on 8.",
        keys={"gpus": [0, 1, 2, 3], "args": {"pipeline-parallel-size": 2}},
    ),
    Case(
        "a GPU of another instance",
        "vllm_instances small: gpus: the GPU 0 is coder's already. Write gpus: [4], or leave gpus out.",
        keys={"gpus": [0, 1, 2, 3]},
        more=[{**SMALL, "name": "small", "port": 8001, "gpus": [0]}],
        proposal={"vllm_instances_host": [{"name": "small", "gpus": [4]}]},
    ),
    Case(
        "a port of another instance",
        "vllm_instances small: port: the port 8000 is coder's already. Give one of the two another port, such as 8001.",
        more=[{**SMALL, "name": "small"}],
        proposal={"vllm_instances_host": [{"name": "small", "port": 8001}]},
    ),
    Case(
        "GPUs on a CPU track",
        "gpus: the track cpu-py311 has no GPU. Remove it.",
        instance=HERMES,
        keys={"gpus": [0]},
        track="cpu-py311",
        host="debian 12, no GPU",
        proposal=keys(gpus=None),
    ),
    Case(
        "longer than the model",
        "max_model_len: cannot be 262144: the model's longest context is 131072 tokens. Write max_model_len: 131072.",
        instance=SMALL,
        keys={"max_model_len": 262144},
        model=folder("llama-3.1-8b"),
    ),
    Case(
        "weights that do not fit",
        "tensor_parallel_size: does not fit: of 73.3 GiB on each GPU the weights take 131.4 GiB",
        "Write tensor_parallel_size: 4.",
        keys={"tensor_parallel_size": 1},
        model=folder("llama-3.1-70b"),
        proposal=keys(tensor_parallel_size=4, gpus=None),
    ),
    Case(
        "a context that does not fit",
        "max_model_len: does not fit:",
        "a context of 131072 needs 16.0 GiB of cache. Write max_model_len: ",
        instance=SMALL,
        keys={"max_model_len": 131072},
        host="one 24 GiB",
        model=folder("llama-3.1-8b"),
    ),
    Case(
        "the model's own context, not asked for",
        "(the model's own, since max_model_len is not set)",
        "or tensor_parallel_size: 2.",
        instance=SMALL,
        keys={"max_model_len": None},
        host="two 24 GiB",
        model=folder("llama-3.1-8b"),
    ),
    Case(
        "neither one rank nor that context on all",
        "tensor_parallel_size: does not fit:",
        "Write tensor_parallel_size: 4 and max_model_len: ",
        keys={"tensor_parallel_size": 1, "max_model_len": 131072},
        host="four 48 GiB",
        model=folder("llama-3.1-70b"),
    ),
    Case(
        "a model for no GPU there",
        "model: does not fit:",
        "take a smaller or a quantised model.",
        keys={"tensor_parallel_size": 4},
        host="four 48 GiB",
        model=folder("llama-3.1-405b"),
        proposal=None,
    ),
    Case("a model of 400 GB on eight", "does not fit:", keys={"tensor_parallel_size": 8}, model=folder("llama-3.1-405b"), proposal=None),
    Case(
        "a CPU's cache that is too small",
        "environment: VLLM_CPU_KVCACHE_SPACE is 1 GiB, and a context of 32768 needs 4.",
        "Write environment: {VLLM_CPU_KVCACHE_SPACE: 5}",
        instance=SMALL,
        keys={"environment": {"VLLM_CPU_KVCACHE_SPACE": 1}},
        track="cpu-py311",
        host="debian 12, no GPU",
        model=folder("llama-3.1-8b"),
        proposal=keys(environment={"VLLM_CPU_KVCACHE_SPACE": 5}),
    ),
    Case(
        "a model larger than the memory",
        "does not fit: gpu1 has 24.0 GiB of memory",
        "Take a smaller model",
        keys={"tensor_parallel_size": 1},
        track="cpu-py311",
        host="debian 12, no GPU",
        model=folder("llama-3.1-70b"),
        proposal=None,
    ),
    Case(
        "a CPU's model that its own limit would kill",
        "memory_limit_gib: is 16, the weights take 15.0 GiB, the cache 5.0 GiB",
        "Write memory_limit_gib: 2",
        instance=SMALL,
        keys={"environment": {"VLLM_CPU_KVCACHE_SPACE": 5}, "memory_limit_gib": 16},
        track="cpu-py311",
        host="debian 12, no GPU",
        model=folder("llama-3.1-8b"),
        proposal=keys(memory_limit_gib=23),
    ),
    Case(
        "two that fit a CPU's memory alone",
        "vllm_instances coder, second: do not fit together: gpu1 has 24.0 GiB of memory, and weights and cache take 26.0 GiB (coder",
        instance={**HERMES, "environment": {"VLLM_CPU_KVCACHE_SPACE": 13}},
        more=[{**HERMES, "name": "second", "port": 8001, "environment": {"VLLM_CPU_KVCACHE_SPACE": 13}}],
        track="cpu-py311",
        host="debian 12, no GPU",
        model=MICRO,
        models=("second",),
        proposal=None,
    ),
    Case(
        "a model's folder that is not there",
        "model: there is no folder /srv/none (on gpu1).",
        model={"config": None, "problem": "there is no folder /srv/none"},
        proposal=None,
    ),
    Case(
        "weights that are cut off",
        "is not a whole safetensors file (on gpu1).",
        model={**folder("llama-3.1-70b"), "problem": "/m/a.safetensors is not a whole safetensors file"},
        proposal=None,
    ),
]
YARN = {
    "max_position_embeddings": 32768,
    "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
}
EIGHT_RANKS = {"name": "coder", "model": "/srv/own", "tool_call_parser": "hermes", "tensor_parallel_size": 8, "max_model_len": 8192}
# what works, and a hasty rule would refuse
WORKS = [
    Case(
        "a share of the memory on a CPU",
        instance={"name": "coder", "model": "/srv/m", "tool_call_parser": "hermes", "gpu_memory_utilization": 0.5},
        track="cpu-py311",
        host="debian 12, no GPU",
    ),
    Case("scales of experts that vLLM cuts finer", instance=EIGHT_RANKS, model=folder("qwen3-235b-a22b-fp8")),
    Case("a variable in lower case", keys={"environment": {"http_proxy": "http://proxy:3128"}}),
    Case(
        "replicas on two nodes each",
        keys={
            "tensor_parallel_size": 8,
            "args": {"nnodes": 2, "data-parallel-size": 2, "data-parallel-size-local": 1},
            "gpus": [*range(8)],
        },
    ),
    Case(
        "another description of the model", keys={"args": {"hf-config-path": "/srv/c"}}, model={"config": None, "problem": "no config.json"}
    ),
    Case("float32 files that nobody says are", instance=SMALL, host="one 24 GiB", model=wide_files("llama-3.1-8b")),
    Case("a part of a JSON flag", keys={"args": {"compilation-config.cudagraph_mode": "NONE"}}),
    Case(
        "a longer context by an override",
        instance=SMALL,
        keys={"max_model_len": 262144, "args": {"hf-overrides.max_position_embeddings": 262144}},
        model=folder("llama-3.1-8b"),
    ),
    Case(
        "the same by vLLM's own permission",
        instance=SMALL,
        keys={"max_model_len": 262144, "environment": {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": 1}},
        model=folder("llama-3.1-8b"),
    ),
    Case(
        "a yarn factor before 0.32",
        instance=SMALL,
        keys={"max_model_len": 131072},
        track="cu12-py312",
        model=folder("llama-3.1-8b", **YARN),
    ),
    Case(
        "weights that are partly in the host's memory",
        keys={"tensor_parallel_size": 1, "args": {"cpu-offload-gb": 100}},
        model=folder("llama-3.1-70b"),
    ),
    Case(
        "weights that are quantised while they load",
        keys={"tensor_parallel_size": 2, "args": {"quantization": "fp8"}},
        model=folder("llama-3.1-70b"),
    ),
    Case(
        "a cache of a size that is told",
        instance=SMALL,
        keys={"gpu_memory_utilization": 0.1, "args": {"kv-cache-memory-bytes": 20 << 30}},
        model=folder("llama-3.1-8b"),
    ),
    Case(
        "experts that are whole on their ranks",
        instance=EIGHT_RANKS,
        keys={"args": {"enable-expert-parallel": True}},
        model=folder("qwen3-235b-a22b-fp8", moe_intermediate_size=768),
    ),
    Case("ranks on two nodes", keys={"tensor_parallel_size": 16, "args": {"nnodes": 2}}),
    Case("replicas on other servers", keys={"tensor_parallel_size": 1, "args": {"data-parallel-size": 16, "data-parallel-size-local": 8}}),
    Case("one port on two addresses", keys={"host": "10.0.0.1"}, more=[{**SMALL, "name": "b", "host": "10.0.0.2"}]),
    Case("a model in Mistral's own format", model={"config": None, "weight_bytes": None, "chat_template": None, "problem": None}),
    Case("numbers in quotes", keys={"args": {"block-size": "64", "seed": ["1"]}}),
    Case(
        "a template of ours with a parser of one's own", keys={"tool_call_parser": "ours", "args": {"tool-parser-plugin": "/srv/ours.py"}}
    ),
]
VALUES = [
    Case(
        "one GPU twice through the environment",
        "environment: CUDA_VISIBLE_DEVICES: is not allowed: the GPUs are the instance's gpus.",
        keys={"environment": {"CUDA_VISIBLE_DEVICES": "0"}},
    ),
    Case("one GPU twice through a flag", "args: device-ids: has a key of its own. Write gpus:", keys={"args": {"device-ids": "0"}}),
    Case(
        "a token in a misspelt flag",
        "Did you mean model-loader-extra-config?",
        keys={"args": {"model-loader-extra-confg": {"token": "s3cret"}}},
    ),
    Case(
        "a token in a variable's name",
        "environment: HF_TOKEN: is not an environment variable",
        keys={"environment": {"HF_TOKEN=s3cret": ""}},
        proposal=None,
    ),
    Case(
        "one port under two names of an address",
        "the port 8000 is coder's already.",
        keys={"host": "localhost"},
        more=[{**SMALL, "name": "b", "host": "127.0.0.1"}],
    ),
    Case("ranks without end", "--data-parallel-size cannot be 5000000. Write 1 to 1024.", keys={"args": {"data-parallel-size": 5000000}}),
    Case("an unquoted 3.10", "python_version 3.1:", "(Unquoted, 3.10 is read as 3.1.)", python="3.1"),
    Case(
        "a misspelt mapping that holds a token",
        "enviroment: is not a key of an instance. Did you mean environment?",
        keys={"enviroment": {"HF_TOKEN": "s3cret"}},
        proposal=keys(enviroment=None),
    ),
    Case("a token beside the keys", "hf_token: is a vLLM flag", keys={"hf_token": "s3cret"}, proposal=keys(hf_token=None)),
    Case(
        "a block of no token",
        "args: block-size: --block-size cannot be 0. Write a number of tokens.",
        keys={"args": {"block-size": 0}},
    ),
    Case(
        "a cache in words",
        "environment: VLLM_CPU_KVCACHE_SPACE: is not a whole number. Write it in GiB, such as 4.",
        keys={"environment": {"VLLM_CPU_KVCACHE_SPACE": "1.5"}},
    ),
    Case(
        "automatic choice switched off under args",
        "args: no-enable-auto-tool-choice: has a key of its own.",
        keys={"args": {"no-enable-auto-tool-choice": True}},
    ),
    Case(
        "replicas in quotes count",
        "16 GPUs (0, 1",
        keys={"args": {"data-parallel-size": "4"}},
        proposal=keys(tensor_parallel_size=2, gpus=None),
    ),
    Case(
        "the last port twice",
        "the port 65535 is coder's already. Give one of the two another port, such as 1024.",
        keys={"port": 65535},
        more=[{**SMALL, "name": "b", "port": 65535}],
    ),
    Case("a number for a list", "vllm_instances_host: is not a list.", more=5, proposal=None),
    Case(
        "a number in quotes", "port: cannot be '8000'. Write a number from 1024 to 65535.", keys={"port": "8000"}, proposal=keys(port=8000)
    ),
    Case("a privileged port", "port: cannot be 80. Write a number from 1024 to 65535.", keys={"port": 80}, proposal=keys(port=None)),
    Case("an address that is none", "host: cannot be '10.0.0.999'. Write an address or a name.", keys={"host": "10.0.0.999"}),
    Case("a context in words", "max_model_len: cannot be '32k'. Write a whole number of tokens.", keys={"max_model_len": "32k"}),
    Case("no context at all", "max_model_len: cannot be 0.", keys={"max_model_len": 0}),
    Case("half a GPU", "tensor_parallel_size: cannot be 1.5. Write a whole number of GPUs", keys={"tensor_parallel_size": 1.5}),
    Case("one name for a list", "served_model_name: cannot be 'coder'. Write a list of names.", keys={"served_model_name": "coder"}),
    Case("yes for true", "trust_remote_code: cannot be 'yes'. Write true or false.", keys={"trust_remote_code": "yes"}),
    Case("a share of 90", "gpu_memory_utilization: cannot be 90. Write a share above 0", keys={"gpu_memory_utilization": 90}),
    Case(
        "a path that is none",
        "model: cannot be 'models/coder'. Write the path of a folder on the server, starting with /.",
        keys={"model": "models/coder"},
        proposal=None,
    ),
    Case(
        "a home that the unit does not see",
        "the unit does not see /home/me/model",
        "below /srv.",
        keys={"model": "/home/me/model"},
        proposal=None,
    ),
    Case("no model", "has no model. Write model: /path", keys={"model": None}, proposal=None),
    Case("two models", "has both model and model_source.", keys={"model_source": "/x"}, proposal=keys(model_source=None)),
    Case(
        "two models, one of the hub",
        "has both model and model_repository.",
        keys={"model_repository": "acme/coder", "model_revision": "a" * 40},
        proposal=keys(model_repository=None, model_revision=None),
    ),
    Case(
        "a repository that is none",
        "model_repository: cannot be 'coder'. Write a repository of the hub, organisation/name.",
        keys={"model": None, "model_repository": "coder", "model_revision": "a" * 40},
        proposal=None,
    ),
    Case(
        "a branch for a revision",
        "model_revision: cannot be 'main'. Write the 40 digits of a commit, in quotes. `ansible-playbook playbooks/lock_model.yml "
        "-e repository=acme/coder -e revision=main` finds it.",
        keys={"model": None, "model_repository": "acme/coder", "model_revision": "main"},
        proposal=None,
    ),
    Case(
        "no revision",
        "model_repository: names no model_revision, and what a branch holds changes without a word. Pin a commit, its 40 digits. "
        "`ansible-playbook playbooks/lock_model.yml -e repository=acme/coder",
        keys={"model": None, "model_repository": "acme/coder"},
        proposal=None,
    ),
    Case(
        "a revision of a folder",
        "model_revision: is for a model_repository, and this instance has model. Remove it.",
        keys={"model_revision": "a" * 40},
        proposal=keys(model_revision=None),
    ),
    Case("a name in capitals", "name: cannot be 'Coder'. Write lower-case letters", keys={"name": "Coder"}, proposal=None),
    Case(
        "a key as a variable",
        "environment: VLLM_API_KEY: is not allowed: the key is vllm_api_key. Remove it.",
        keys={"environment": {"VLLM_API_KEY": "s3cret"}},
        proposal=keys(environment={"VLLM_API_KEY": None}),
    ),
    Case("the developer mode", "is not allowed: it opens unguarded routes", keys={"environment": {"VLLM_SERVER_DEV_MODE": 1}}),
    Case("a variable of two lines", "is not an environment variable of one line", keys={"environment": {"A": "1\n2"}}),
    Case("a variable that is none", "environment: a-b: is not an environment variable", keys={"environment": {"a-b": 1}}),
    Case("text for a mapping", "environment: cannot be what it is. Write a mapping", keys={"environment": "TOKEN=s3cret"}),
]
USERS = [
    Case(
        "agents that are left to Codex's own default",
        "codex_extra_config on laptop1: agents.enabled: vLLM refuses namespace tools for gpt-oss",
        instance=OSS,
        model=folder("gpt-oss-20b"),
        codex=[Codex("laptop1", "0.169.0", {"agents": None})],
        proposal={"codex_extra_config": {"agents": {"enabled": False}}},
    ),
    Case(
        "MCP servers with gpt-oss",
        "codex_extra_config on laptop1: mcp_servers: vLLM refuses namespace tools for gpt-oss, and so every MCP server of Codex",
        "Remove it.",
        instance=OSS,
        model=folder("gpt-oss-20b"),
        codex=[Codex("laptop1", "0.169.0", {"mcp_servers": {"files": {"command": "x"}}})],
        proposal={"codex_extra_config": {"mcp_servers": None}},
    ),
    Case(
        "a version that is none",
        "codex_version on laptop1: 'latest' is no version. Write it as in 0.169.0.",
        codex=[Codex("laptop1", "latest")],
        proposal={"codex_version": "0.169.0"},
    ),
    Case(
        "a key of a fork",
        "codex_extra_config on laptop1: custom_model: is no key of Codex 0.169.0. Write instead: model.",
        codex=[Codex("laptop1", "0.169.0", {"custom_model": "x"})],
        proposal={"codex_extra_config": {"custom_model": None}},
    ),
    Case(
        "a key that is gone",
        "codex_extra_config on laptop1: profile: is no key of Codex 0.169.0. Write instead: codex -p NAME",
        codex=[Codex("laptop1", "0.169.0", {"profile": "x"})],
    ),
    Case(
        "chat of a Codex that refuses it",
        "model_providers.vllm.wire_api: chat is refused in Codex 0.169.0. Write responses, or leave it out.",
        codex=[Codex("laptop1", "0.169.0", {"model_providers": {"vllm": {"wire_api": "chat"}}})],
    ),
    Case(
        "Codex's agents with gpt-oss",
        "codex_extra_config on laptop1: agents.enabled: vLLM refuses namespace tools for gpt-oss (vLLM 0.32.0, instance coder).",
        "Write agents.enabled: false, as the role codex does by itself.",
        instance=OSS,
        model=folder("gpt-oss-20b"),
        codex=[Codex("laptop1", "0.169.0", {"agents": {"enabled": True}})],
        proposal={"codex_extra_config": {"agents": {"enabled": False}}},
    ),
    Case(
        "Codex's web search with gpt-oss",
        "codex_extra_config on laptop1: web_search: vLLM refuses the tool web_search for gpt-oss",
        instance=OSS,
        model=folder("gpt-oss-20b"),
        codex=[Codex("laptop1", "0.169.0", {"web_search": "live"})],
        proposal={"codex_extra_config": {"web_search": "disabled"}},
    ),
    Case("Codex as the role configures it with gpt-oss", instance=OSS, model=folder("gpt-oss-20b")),
    Case("agents with another family", codex=[Codex("laptop1", "0.169.0", {"agents": {"enabled": True}})]),
    Case(
        "Codex that asks for Responses of a vLLM without",
        "codex_version 0.169.0 on laptop1: Codex asks for /v1/responses, which this vLLM does not have (vLLM 0.8.5.post1, instance coder).",
        "Write vllm_track: cu13-py312.",
        track="own-0.8.5",
        known=OLD,
        proposal={"vllm_track": "cu13-py312", "python_version": "3.12"},
    ),
    Case(
        "Codex that needs streamed calls",
        "this vLLM streams a tool call of a Responses request as text (vLLM 0.11.0, instance coder).",
        track="own-0.11.0",
        known=OLD,
        host="driver 570",
        proposal={"vllm_track": "cu12-py312", "python_version": "3.12"},
    ),
    Case("the last Codex that asks for chat, with that vLLM", track="own-0.8.5", known=OLD, codex=[Codex("laptop1", "0.80.0")]),
    Case(
        "a model that is younger than the release",
        "model: gpt-oss came with vLLM 0.10.1, and the track own-0.8.5 has 0.8.5.post1. Write vllm_track: cu13-py312.",
        instance=OSS,
        model=folder("gpt-oss-20b"),
        track="own-0.8.5",
        known=OLD,
        codex=(),
        proposal={"vllm_track": "cu13-py312", "python_version": "3.12"},
    ),
]
CASES = [*TRACKS, *FLAGS, *TOOLS, *SIZES, *VALUES, *USERS, *WORKS]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_what_cannot_work_is_refused(case):
    verdict = resolve(case.spec, case.host, case.models)
    said = "\n".join(map(str, verdict.refusals))
    if not case.words:
        assert verdict.refusals == []
        return
    for words in case.words:
        assert words in said
    assert "s3cret" not in report(plan(case.spec, verdict))
    if case.proposal == "some":
        assert verdict.proposal
    else:
        assert verdict.proposal == case.proposal
    if verdict.proposal:
        assert resolve(apply(case.spec, verdict.proposal), case.host, case.models).refusals == []


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_one_mistake_is_one_refusal(case):
    refusals = resolve(case.spec, case.host, case.models).refusals
    assert len(refusals) <= 1 + (case.name == "a GPU track on a server without"), [str(refused) for refused in refusals]


WARNINGS = [
    Case("a good server"),
    Case(
        "a reasoning parser of another family",
        "reasoning_parser: deepseek_r1 is not what reads the thoughts of Qwen3. Write reasoning_parser: qwen3.",
        instance={"name": "coder", "model": "/srv/models/qwen3-8b", "tool_call_parser": "hermes", "reasoning_parser": "deepseek_r1"},
    ),
    Case(
        "a parser that is unusual for a family told by its name",
        "tool_call_parser: hermes does not read Llama 3.1 to 3.3",
        keys={"tool_call_parser": "hermes", "chat_template": None},
    ),
    Case(
        "a model whose own template does not do",
        "chat_template: is not set, and Llama 3.1 to 3.3's own does not carry all that Codex sends. Write chat_template: llama3_json.",
        keys={"chat_template": None},
    ),
    Case(
        "no parser, so no tools for Codex",
        "tool_call_parser: is not set, so Codex gets no tool calls from Llama 3.1 to 3.3.",
        keys={"tool_call_parser": None, "chat_template": None},
    ),
    Case(
        "a Python that has ended",
        "python_version 3.10: has had no security fixes since 2026-10-31.",
        track="cu13-py310",
        host="ubuntu 22.04",
    ),
    Case(
        "an old release's weaknesses",
        "vllm_track own-0.11.0: vLLM 0.11.0 has CVE-2026-22778",
        "CVE-2026-22807",
        "CVE-2026-27893",
        track="own-0.11.0",
        known=OLD,
        codex=(),
    ),
    Case("the same, mended", "CVE-2026-48746", track="cu12-py312"),
    Case(
        "Codex's agents with a release before namespaces",
        "this vLLM returns Codex's namespace tools under names that Codex does not know",
        track="cu12-py312",
        codex=[Codex("laptop1", "0.169.0", {"agents": {"enabled": True}})],
    ),
    Case(
        "developer messages before their release",
        "Codex sends developer messages, which a chat template that does not name the role refuses",
        track="cu12-py312",
    ),
    Case(
        "a context that may just not fit",
        "max_model_len: does not fit: of 22.1 GiB on each GPU",
        instance=SMALL,
        keys={"max_model_len": 50000},
        host="one 24 GiB",
        model=folder("llama-3.1-8b"),
    ),
]


@pytest.mark.parametrize("case", WARNINGS, ids=[case.name for case in WARNINGS])
def test_what_may_fail_is_a_warning(case):
    verdict = resolve(case.spec, case.host, case.models)
    said = "\n".join(map(str, verdict.warnings))
    assert [str(refused) for refused in verdict.refusals] == []
    assert [words for words in case.words if words not in said] == []
    assert said == "" or case.words
    assert case.name != "the same, mended" or "CVE-2026-22778" not in said


@pytest.mark.parametrize("version", ["0.107.0", "0.134.0", "0.160.0", "0.169.0"])
def test_what_is_taken_for_written_by_the_role_is(version):
    """model_rules judges what Codex sends by what roles/codex writes, where a pair asks for it."""
    written = config(Wanted(version, [Choice("vllm", "m", "http://s/v1", 1024)], {"m": 1024}, "KEY"))
    asked = {key for pair in pairs(version, "0.20.0", "gpt-oss") for key, value in pair.set.items() if value is not None}
    assert asked <= set(WRITTEN_BY_ROLE)
    for key in asked:
        *tables, name = key.split(".")
        assert functools.reduce(lambda table, part: table[part], tables, written)[name] == WRITTEN_BY_ROLE[key]
