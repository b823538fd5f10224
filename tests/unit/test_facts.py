"""The compatibility data is whole: it has the shape of its schema, every fact has a source, and the look-ups find it."""

from __future__ import annotations

import datetime
import importlib.util
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from ansible_collections.ownmetal.codex.plugins.module_utils import chat_templates, compatibility, flags
from ansible_collections.ownmetal.codex.plugins.module_utils.tracks import tracks

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "plugins/module_utils/data"
FACTS = yaml.safe_load((DATA / "facts.yml").read_text())
FAMILIES = {family.name: family for family in compatibility.families()}
CODEX_ROLE = {"web_search": "disabled", "agents.enabled": False, "features.multi_agent": False}  # what avoids a pair can be set


def listed(source):
    return source if isinstance(source, list) else [source]


def test_the_facts_have_the_shape_of_their_schema():
    schema = json.loads((DATA / "facts.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    as_json = json.loads(json.dumps(FACTS, default=str))  # dates are texts there
    assert [
        f"{'/'.join(map(str, error.path))}: {error.message}" for error in jsonschema.Draft202012Validator(schema).iter_errors(as_json)
    ] == []


@pytest.mark.parametrize(
    ("block", "change"),
    [
        pytest.param("vllm", {"glibc": {"sparc": "2.28"}}, id="a machine that vLLM has no wheels for"),
        pytest.param("vllm", {"source": None}, id="a row without a source"),
        pytest.param("families", {"tool_parser": "hermes"}, id="a key that no one reads"),
        pytest.param("pairs", {"why": "two\nlines"}, id="prose of two lines"),
        pytest.param("flags", {"say": "It has another name.", "instead": "other"}, id="a flag with two ways out"),
        pytest.param("config_keys", {"first": "0.8", "last": "0.9", "instead": None}, id="a dropped key without what to write"),
        pytest.param("systems", {"name": "Debian 12"}, id="a system that is not named as in /etc/os-release"),
    ],
)
def test_the_schema_refuses(block, change):
    facts = json.loads(json.dumps(FACTS, default=str))
    facts[block]["rows"][0] = {key: value for key, value in {**facts[block]["rows"][0], **change}.items() if value is not None}
    schema = json.loads((DATA / "facts.schema.json").read_text())
    assert not jsonschema.Draft202012Validator(schema).is_valid(facts)


@pytest.mark.parametrize("block", FACTS)
def test_every_source_is_defined_and_used(block):
    named = {source for row in FACTS[block]["rows"] for source in listed(row["source"])}
    assert named == set(FACTS[block]["sources"])


@pytest.mark.parametrize(
    ("block", "key"),
    [
        ("systems", "name"), ("pythons", "version"), ("vllm", "release"), ("drivers", "cuda"), ("features", "name"), ("families", "name"),
        ("vendor_names", "pattern"), ("config_keys", "key"), ("advisories", "id"), ("flags", "flag"), ("variables", "name"),
    ],
)  # fmt: skip
def test_nothing_is_said_twice(block, key):
    said = [row[key] for row in FACTS[block]["rows"]]
    assert sorted(said) == sorted(set(said))


def minor(version):
    return tuple(map(int, version.split(".")))


def test_ranges_of_codex_neither_overlap_nor_leave_a_gap():
    ranges = compatibility.codex_ranges()
    assert [minor(row.last)[1] + 1 for row in ranges[:-1]] == [minor(row.first)[1] for row in ranges[1:]]
    assert all(minor(row.first) <= minor(row.last) for row in ranges[:-1])
    assert ranges[-1].last is None


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_vllm_has_the_parsers_of_a_family(family):
    """In some catalogue of its first release or a newer one, and the recommended ones in all of these."""
    known = [flags.flags(name) for name in flags.releases() if not compatibility.older(name, family.first)]
    assert set(family.tool_parsers) <= {parser for one in known for parser in one.tool_parsers}
    for one in known:
        assert family.tool_parsers[0] in one.tool_parsers
        assert family.reasoning_parser is None or family.reasoning_parser in one.reasoning_parsers


def test_a_family_wants_only_templates_that_there_are():
    wanted = {family.template for family in FAMILIES.values() if family.template}
    assert wanted <= set(chat_templates.names())


def test_every_track_and_every_catalogue_is_of_a_known_release():
    for name in {*flags.releases(), *(row.vllm for row in tracks().values())}:
        assert compatibility.release(name), name


def test_every_track_is_possible():
    for row in tracks().values():
        release = compatibility.release(row.vllm)
        assert release.allows_python(row.python)
        assert not compatibility.older(row.glibc, release.glibc[row.machine])


def test_a_retired_flag_is_gone_and_its_successor_is_there():
    for row in FACTS["flags"]["rows"]:
        for name in flags.releases():
            if "last" not in row or compatibility.older(row["last"], name):
                assert row["flag"] not in flags.flags(name).flags, (row["flag"], name)
        successors = [row.get("instead"), *re.findall(r"\b[a-z]+(?:-[a-z]+)+(?=:| is| keeps)", row.get("say", ""))]
        newest = flags.flags(flags.releases()[-1])
        assert all(newest.find(flag) for flag in successors if flag), row


def test_a_renamed_variable_is_none_of_ours():
    ours = {
        name
        for path in (ROOT / "roles").glob("*/meta/argument_specs.yml")
        for name in yaml.safe_load(path.read_text())["argument_specs"]["main"]["options"]
    }
    for row in FACTS["variables"]["rows"]:
        assert row["name"] not in ours
        assert re.split(r"[:,]", row["instead"])[0] in ours or row["instead"].endswith("in an entry of vllm_instances")


HERMES = '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
CODER = "<tool_call>\n<function=example_function_name>\n<parameter=example_parameter_1>"
LLAMA = 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.'
DEEPSEEK = "<\uff5ctool\u2581calls\u2581begin\uff5c>"
GLM = "[gMASK]<sop><tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>"


@pytest.mark.parametrize(
    ("name", "model_type", "template", "family", "evidence"),
    [
        pytest.param("/srv/models/Llama-3.1-8B-Instruct", "llama", None, "Llama 3.1 to 3.3", "name", id="name"),
        pytest.param("/srv/models/llama-3.3-70b", None, LLAMA, "Llama 3.1 to 3.3", "template", id="template and name"),
        pytest.param("/srv/models/ours", "llama4", LLAMA, "Llama 4", "template", id="template and type"),
        pytest.param("/srv/models/ours", "llama", LLAMA, "Llama 3.1 to 3.3", "template", id="template alone: the general one"),
        pytest.param("/srv/models/ours", "qwen2", HERMES, "Qwen2.5", "template", id="template of Qwen alone"),
        pytest.param("Qwen/Qwen3-32B", "qwen3", HERMES, "Qwen3", "template", id="one format, told apart by name"),
        pytest.param("Qwen/Qwen3-4B-Instruct-2507", "qwen3", HERMES, "Qwen3 that does not think", "template", id="does not think"),
        pytest.param("Qwen/Qwen3-Coder-30B-A3B-Instruct", "qwen3_moe", CODER, "Qwen3-Coder", "template", id="coder"),
        pytest.param("Qwen/Qwen3.6-27B", "qwen3_5", CODER, "Qwen3.5 and later", "template", id="type of its own"),
        pytest.param("nvidia/NVIDIA-Nemotron-3-Super-120B", "nemotron_h", CODER, "Nemotron 3", "template", id="nemotron"),
        pytest.param("XiaomiMiMo/MiMo-V2.5", "mimo_v2", CODER, "MiMo V2", "name", id="words of another's template"),
        pytest.param("Hermes-3-Llama-3.1-8B", "llama", LLAMA, "Llama 3.1 to 3.3", "template", id="the template beats the name"),
        pytest.param("Hermes-3-Llama-3.1-8B", "llama", None, "Hermes 2 Pro and 3", "name", id="a fine-tune's name"),
        pytest.param("zai-org/GLM-4.6", "glm4_moe", GLM, "GLM 4.5 and 4.6", "template", id="GLM 4.6"),
        pytest.param("ours", "glm4_moe", GLM.replace("\n", ""), "GLM 4.7 and 5", "template", id="the template with more marks"),
        pytest.param("poolside/Laguna", None, "<tool_call>{function-name}<arg_key>", None, None, id="not GLM"),
        pytest.param("deepseek-ai/DeepSeek-V3.1", "deepseek_v3", DEEPSEEK, "DeepSeek V3.1", "template", id="V3.1"),
        pytest.param("deepseek-ai/DeepSeek-V3-0324", "deepseek_v3", None, "DeepSeek V3", "name", id="V3"),
        pytest.param("ours", None, DEEPSEEK + "```json", "DeepSeek V3", "template", id="V3's template"),
        pytest.param("deepseek-ai/DeepSeek-V3.2", "deepseek_v32", None, "DeepSeek V3.2", "model_type", id="V3.2"),
        pytest.param("moonshotai/Kimi-K2-Instruct", "kimi_k2", None, "Kimi K2", "name", id="K2"),
        pytest.param("moonshotai/Kimi-K2.5", "kimi_k25", None, "Kimi K2 Thinking, K2.5 and later", "model_type", id="K2.5"),
        pytest.param("mistralai/Devstral-Small-2507", "mistral", "[TOOL_CALLS]", "Mistral", "template", id="devstral"),
        pytest.param("mistralai/Ministral-3-8B-Reasoning-2512", None, "[TOOL_CALLS]", "Mistral that reasons", "template", id="reasons"),
        pytest.param("openai/gpt-oss-20b", "gpt_oss", "<|channel|>", "gpt-oss", "model_type", id="gpt-oss"),
        pytest.param("/srv/models--Qwen--Qwen3-8B/snapshots/0a1b", None, None, "Qwen3", "name", id="a hub's cache"),
        pytest.param("/srv/qwen3/ours", "llama4", None, "Llama 4", "model_type", id="the type beats the folder"),
        pytest.param("/srv/mistral/llama-3.2-3b", None, None, "Llama 3.1 to 3.3", "name", id="the last part of a path first"),
        pytest.param("/srv/models/micro", "llama", "{{ messages }}", None, None, id="nothing tells it"),
    ],
)
def test_family_of(name, model_type, template, family, evidence):
    found = compatibility.family_of({"model_type": model_type} if model_type else {}, name, template)
    assert (found and found.family.name, found and found.evidence) == (family, evidence)


def test_a_text_model_inside_a_multimodal_one_tells_the_family():
    found = compatibility.family_of({"model_type": "new", "text_config": {"model_type": "gemma4_text"}}, "ours", None)
    assert found.family.name == "Gemma 4"


@pytest.mark.parametrize("template", chat_templates.names())
def test_our_own_templates_have_a_family(template):
    assert compatibility.template_parsers(template)


@pytest.mark.parametrize(
    ("codex", "vllm", "family", "whys", "certain"),
    [
        ("0.94.0", "0.8.5.post1", None, ["developer"], False),
        ("0.80.0", "0.8.5.post1", None, [], False),
        ("0.169.0", "0.8.5.post1", None, ["/v1/responses", "developer"], True),
        ("0.169.0", "0.17.1", None, ["as text", "developer", "web_search", "namespace"], True),
        ("0.169.0", "0.19.1", "Qwen3", ["one tool call", "developer", "web_search", "namespace"], False),
        ("0.100.0", "0.22.1", None, ["developer", "web_search"], False),
        ("0.169.0", "0.24.0", None, ["web_search", "namespace"], False),
        ("0.169.0", "0.25.0", None, [], False),
        ("0.169.0", "0.32.0", "Llama 3.1 to 3.3", [], False),
        ("0.169.0", "0.33.0", "gpt-oss", ["web_search for gpt-oss", "namespace tools for gpt-oss", "MCP"], True),
        ("0.96.0", "0.33.0", "gpt-oss", ["web_search for gpt-oss"], True),
        ("0.95.0", "0.11.0", "gpt-oss", ["function calls of gpt-oss", "web_search for gpt-oss"], True),
        ("0.80.0", "0.33.0", "gpt-oss", [], False),
    ],
)
def test_pairs(codex, vllm, family, whys, certain):
    found = compatibility.pairs(codex, vllm, family)
    assert len(found) == len(whys)
    assert all(why in pair.why for why, pair in zip(whys, found, strict=True))
    assert any(pair.certain for pair in found) is certain
    assert all(pair.set[key] == CODEX_ROLE.get(key) for pair in found for key in pair.set)


def test_the_families_of_pairs_are_families():
    named = {name for row in FACTS["pairs"]["rows"] for name in [*row.get("unless", []), *([row["family"]] if "family" in row else [])]}
    assert named <= set(FAMILIES)


@pytest.mark.parametrize(
    ("version", "wire_api", "chat", "developer", "tools"),
    [
        ("0.8.0", "chat", "works", False, ["function"]),
        ("0.64.0", "chat", "broken", False, ["function"]),
        ("0.80.0", "chat", "works", False, ["function"]),
        ("0.94.0", "chat", "works", True, ["function", "web_search"]),
        ("0.95.0", "responses", "refused", True, ["function", "web_search"]),
        ("0.132.9", "responses", "refused", True, ["function", "web_search"]),
        ("0.169.0", "responses", "refused", True, ["function", "web_search", "namespace"]),
        ("1.2.0", "responses", "refused", True, ["function", "web_search", "namespace"]),
    ],
)
def test_codex_range(version, wire_api, chat, developer, tools):
    row = compatibility.codex_range(version)
    assert (row.wire_api, row.chat, row.developer, [*row.tools]) == (wire_api, chat, developer, tools)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(compatibility.driver_floor("13.0"), 580, id="driver of CUDA 13"),
        pytest.param(compatibility.driver_floor("12.8"), 525, id="driver of CUDA 12"),
        pytest.param(compatibility.driver_floor("99.0"), 0, id="driver of a CUDA to come"),
        pytest.param(compatibility.system("debian 12").pythons, ("3.11",), id="system"),
        pytest.param(compatibility.system("rocky 9.6").glibc, "2.34", id="system with a minor version"),
        pytest.param(compatibility.system("ubuntu 24.10"), None, id="not every minor version is alike"),
        pytest.param(compatibility.release("0.19.1").cuda, "12.8", id="CUDA of a release"),
        pytest.param(compatibility.release("0.19.1").glibc["x86_64"], "2.31", id="glibc of a release"),
        pytest.param(compatibility.release("0.31.0").allows_python("3.10"), True, id="the last release for Python 3.10"),
        pytest.param(compatibility.release("0.32.0").allows_python("3.10"), False, id="the first without it"),
        pytest.param(compatibility.release("0.19.1").allows_python("3.14"), False, id="a Python that is too new"),
        pytest.param(compatibility.release("0.0.7"), None, id="no release"),
        pytest.param(compatibility.python("3.10").ended, True, id="a Python without fixes"),
        pytest.param(compatibility.python("2.7"), None, id="no known Python"),
        pytest.param(compatibility.feature("responses_streamed_calls"), "0.18.0", id="feature"),
        pytest.param(compatibility.older("0.8.5.post1", "0.8.5"), False, id="a post-release is newer"),
        pytest.param(compatibility.older("0.9.2", "0.10.0"), True, id="numbers, not letters"),
        pytest.param([row.id for row in compatibility.advisories("0.33.0")], [], id="nothing known against the newest"),
        pytest.param("CVE-2026-48746" in [row.id for row in compatibility.advisories("0.21.0")], True, id="advisory"),
        pytest.param("CVE-2026-22778" in [row.id for row in compatibility.advisories("0.8.2")], False, id="not yet"),
        pytest.param(compatibility.retired_flag("enable-auto-tool-call").instead, "enable-auto-tool-choice", id="retired flag"),
        pytest.param(compatibility.retired_flag("max-model-len"), None, id="no retired flag"),
        pytest.param(compatibility.renamed_variable("vllm_install_dir").instead, "vllm_directory", id="renamed variable"),
        pytest.param(compatibility.renamed_variable("vllm_track"), None, id="a variable of ours"),
        pytest.param(compatibility.config_key("model_providers.vllm.api_key").first, None, id="a key that Codex never had"),
        pytest.param(compatibility.config_key("profile").last, "0.133", id="a key that was dropped"),
        pytest.param(compatibility.config_key("model"), None, id="a key without trouble"),
        pytest.param(compatibility.template_parsers("llama3_json")[0], "llama3_json", id="parser of a template"),
        pytest.param(FAMILIES["gpt-oss"].codex["tools"], ["function"], id="functions only"),
    ],
)
def test_look_ups(found, expected):
    assert found == expected


@pytest.mark.parametrize("name", ["gpt-5", "gpt-5.6-terra", "gpt-oss-120b", "openai/gpt-oss-20b", "codex-mini-latest", "o3-pro", "gpt-4o"])
def test_a_vendor_name(name):
    assert compatibility.is_vendor_name(name)


@pytest.mark.parametrize("name", ["llama-3.1-tool", "own-gpt-5", "our/team/gpt-5", "qwen3-coder", "solo3", "gpt-neo", "GPT-OSS"])
def test_a_name_of_our_own(name):
    assert not compatibility.is_vendor_name(name)


def stale_facts():
    spec = importlib.util.spec_from_file_location("stale_facts", ROOT / "tools/stale_facts.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def block(checked):
    return {"checked": datetime.date.fromisoformat(checked), "sources": {"vendor": "its handbook"}, "rows": []}


@pytest.mark.parametrize(
    ("today", "names"),
    [
        ("2026-11-22", []),
        ("2027-02-20", ["old"]),  # 91 days after the one, 90 after the other
        ("2027-02-21", ["old", "new"]),
    ],
)
def test_what_is_stale_is_told_oldest_first(today, names):
    facts = {"new": block("2026-11-22"), "old": block("2026-11-21")}
    found = stale_facts().stale(facts, datetime.date.fromisoformat(today), 90)
    assert [(name, sources) for _, name, sources in found] == [(name, ["its handbook"]) for name in names]


@pytest.mark.parametrize(("arguments", "code"), [([], 0), (["--check"], 1), (["10000", "--check"], 0)])
def test_a_report_fails_only_when_asked_to(arguments, code, capsys):
    assert stale_facts().main(arguments, datetime.date(2040, 1, 1)) == code
    printed = capsys.readouterr().out
    assert ("advisories" in printed) is (arguments != ["10000", "--check"])
