"""The chat templates of roles/vllm/files/chat_templates: what a model is shown of a conversation, and that vLLM reads it back.

The conversations and the texts that must come are files in fixtures/conversations. The texts were read against the vendors'
descriptions of the formats, which the templates name; OWNMETAL_WRITE_TEXTS=1 writes them anew, to be read again.
What only vLLM itself can prove needs OWNMETAL_VLLM_PYTHON, the Python of an environment that has vLLM.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = Path(__file__).parent / "fixtures/conversations"
TEMPLATES = Path(__file__).parents[2] / "roles/vllm/files/chat_templates"
CONVERSATIONS = {path.stem: json.loads(path.read_text()) for path in sorted(HERE.glob("*.json"))}
VLLM = os.environ.get("OWNMETAL_VLLM_PYTHON")

# template, which is named as vLLM's parser -> the model's special tokens: the first begins a text, the second ends a turn
SPECIAL_TOKENS = {path.parent.name: json.loads(path.read_text()) for path in sorted(HERE.glob("*/special_tokens.json"))}
# vLLM has made a mapping of a call's arguments since it has had tools; only JSON can carry them as text
NOT_FOR = {("llama4_pythonic", "hand_arguments_as_text")}
EVERY = [(template, name) for template in SPECIAL_TOKENS for name in CONVERSATIONS if (template, name) not in NOT_FOR]


def compiled(template):
    """Return the template in the environment of transformers.utils.chat_template_utils, by which vLLM renders."""

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = tojson
    return environment.from_string((TEMPLATES / f"{template}.jinja").read_text())


COMPILED = {template: compiled(template) for template in SPECIAL_TOKENS}


def render(template, messages, tools, generate=True):
    begin, end = SPECIAL_TOKENS[template][:2]
    return COMPILED[template].render(messages=messages, tools=tools, bos_token=begin, eos_token=end, add_generation_prompt=generate)


def render_named(template, name, generate=True):
    return render(template, CONVERSATIONS[name]["messages"], CONVERSATIONS[name]["tools"], generate)


def prompt_for_an_answer(template):
    question = [{"role": "user", "content": "?"}]
    return render(template, question, None).removeprefix(render(template, question, None, generate=False))


def test_every_template_is_tested():
    assert {path.stem for path in TEMPLATES.glob("*.jinja")} == set(SPECIAL_TOKENS)


@pytest.mark.parametrize(("template", "name"), EVERY)
def test_what_the_model_is_shown(template, name):
    path = HERE / template / f"{name}.txt"
    shown = render_named(template, name)
    if os.environ.get("OWNMETAL_WRITE_TEXTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(shown)
    assert shown == path.read_text()


@pytest.mark.parametrize(("template", "name"), EVERY)
def test_the_prompt_for_an_answer_is_all_that_the_switch_adds(template, name):
    added = render_named(template, name).removeprefix(render_named(template, name, generate=False))
    assert added in ("", prompt_for_an_answer(template))


@pytest.mark.parametrize(("template", "name"), EVERY)
def test_parts_read_as_the_string_that_vllm_makes_of_them(template, name):
    def as_vllm_joins(content):
        return "\n".join(part["text"] for part in content) if isinstance(content, list) else content

    talk = CONVERSATIONS[name]
    joined = [{**message, "content": as_vllm_joins(message["content"])} for message in talk["messages"]]
    assert render(template, joined, talk["tools"]) == render_named(template, name)


def answers(template, name):
    """Return each turn of the assistant: the message, the prompt that the model was given then, and the history with the answer."""
    messages, tools = CONVERSATIONS[name]["messages"], CONVERSATIONS[name]["tools"]
    return [
        (message, render(template, messages[:number], tools), render(template, messages[: number + 1], tools, generate=False))
        for number, message in enumerate(messages)
        if message["role"] == "assistant" and (message["content"] or message.get("tool_calls"))
    ]


@pytest.mark.parametrize(("template", "name"), EVERY)
def test_the_history_is_what_the_model_was_given_and_said(template, name):
    """Else the model is told of a turn that never was, and vLLM has to compute the whole prompt again."""
    for _, given, told in answers(template, name):
        assert told.startswith(given)
        assert told.endswith(SPECIAL_TOKENS[template][1])


def written_calls(template, name):
    """Return each turn with calls, and what the template shows for them: the answer's last message."""
    return [
        (
            message,
            told.removeprefix(given).split(prompt_for_an_answer(template))[-1].removesuffix(SPECIAL_TOKENS[template][1]),
        )
        for message, given, told in answers(template, name)
        if message.get("tool_calls")
    ]


@pytest.mark.parametrize("template", SPECIAL_TOKENS)
def test_nobody_forges_a_special_token(template):
    """What others wrote holds none of the model's tokens, and stays readable."""
    special = re.compile("|".join(map(re.escape, SPECIAL_TOKENS[template])))
    talk = json.dumps(CONVERSATIONS["hand_forged_tokens"], ensure_ascii=False)
    forged = json.loads(talk.replace("Obey.", "".join([*SPECIAL_TOKENS[template], "Obey."])))
    innocent = json.loads(re.sub("<[|\uff5c][^>]*>", "", talk))
    shown = render(template, forged["messages"], forged["tools"])
    assert special.findall(shown) == special.findall(render(template, innocent["messages"], innocent["tools"]))
    assert shown.count("Obey.") == talk.count("Obey.")


# ---- by vLLM itself ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def vllm():
    if not VLLM:
        pytest.skip("OWNMETAL_VLLM_PYTHON names no Python that has vLLM")
    asked = {"templates": {}, "answers": {}, "special_tokens": SPECIAL_TOKENS}
    for template in SPECIAL_TOKENS:
        names = [name for known, name in EVERY if known == template]
        asked["templates"][template] = {
            "text": (TEMPLATES / f"{template}.jinja").read_text(),
            "conversations": {name: CONVERSATIONS[name] for name in names},
        }
        asked["answers"][template] = {
            f"{name} {number}": {"text": text, "tools": CONVERSATIONS[name]["tools"]}
            for name in names
            for number, (_, text) in enumerate(written_calls(template, name))
        }
    settings = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    run = subprocess.run([VLLM, HERE / "in_vllm.py"], input=json.dumps(asked), capture_output=True, text=True, env=settings, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize(("template", "name"), EVERY)
def test_vllm_renders_the_same(vllm, template, name):
    assert vllm["rendered"][template][name] == render_named(template, name)


@pytest.mark.parametrize("template", SPECIAL_TOKENS)
def test_vllm_hands_over_strings_and_developers(vllm, template):
    assert vllm["content_format"][template] == "string"
    assert vllm["keeps_developer"][template]


@pytest.mark.parametrize("how", ["at_once", "streamed"])
@pytest.mark.parametrize(("template", "name"), [case for case in EVERY if written_calls(*case)])
def test_vllm_reads_the_calls_back(vllm, template, name, how):
    for number, (message, text) in enumerate(written_calls(template, name)):
        read = vllm["read"][template][f"{name} {number}"][how]
        assert [(called, mapping(given)) for called, given in read["calls"]] == [
            (call["function"]["name"], mapping(call["function"]["arguments"])) for call in message["tool_calls"]
        ]
        assert text.startswith(read["content"])
        assert not any(called in read["content"] for called, _ in read["calls"]), "a call is shown as text"


def mapping(arguments):
    """Return a call's arguments; none at all may be empty text (vLLM 0.32 with llama3_json streams them so)."""
    return json.loads(arguments or "{}") if isinstance(arguments, str) else arguments
