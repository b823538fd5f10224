"""Reading and judging answers that were recorded from the real vLLM (fixtures/answers), and some made up to be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import answers, client, endpoint_checks
from ansible_collections.ownmetal.codex.plugins.module_utils.answers import Answer, Call
from ansible_collections.ownmetal.codex.plugins.module_utils.check import CheckFailed
from ansible_collections.ownmetal.codex.plugins.module_utils.diagnoses import Where

from tests.unit.replay_server import ANSWERS, recorded

WHERE = Where("http://server1:8001/v1", "server1", "micro", "micro", "server1")
HELLO = "Hello from the micro model, a test fixture. No tool was needed."
THOUGHT = "\nThe last speaker and the offered tools decide what comes next.\n"
PARIS = '{"city": "Paris", "unit": "celsius"}'


def read(name: str) -> Answer:
    """Return a recorded answer as the core reads it."""
    data = recorded(name)
    api = endpoint_checks.APIS[data["api"]]
    if "body" in data:
        return api.read(data["body"])
    events = [client.Event(event, text if isinstance(text, str) else json.dumps(text), at) for event, text, at in data["events"]]
    return api.read_stream(events)


BOTH = ["chat", "responses"]
# recorded answer -> text, reasoning, [(name, arguments)], finish
READ: dict[str, tuple[str, str, list[tuple[str, str]], str]] = {
    "text": (HELLO, "", [], "stop"),
    "limit": (" one two three four five six seven", "", [], "length"),
    "call": ("", "", [("get_weather", PARIS)], "tool_calls"),
    "stream_text": (HELLO, "", [], "stop"),
    "stream_limit": (" one two three four five six seven", "", [], "length"),
    "stream_call": ("", "", [("get_weather", PARIS)], "tool_calls"),
    "stream_two_calls": (
        "",
        "",
        [
            ("shell", '{"command": ["bash", "-lc", "printf hi > hello.txt"]}'),
            ("shell", '{"command": ["bash", "-lc", "printf ho > second.txt"]}'),
        ],
        "tool_calls",
    ),
    "stream_reasoning_text": (HELLO, THOUGHT, [], "stop"),
    "stream_reasoning_call": ("", THOUGHT, [("shell", '{"command": ["bash", "-lc", "printf hi > hello.txt"]}')], "tool_calls"),
    "swallowed_text": ("", HELLO, [], "stop"),
}


@pytest.mark.parametrize("api", BOTH)
@pytest.mark.parametrize("name", READ)
def test_recorded_answer_is_read(api: str, name: str) -> None:
    answer = read(f"{api}_{name}")
    calls = [(call.name, call.arguments) for call in answer.calls]
    assert (answer.text, answer.reasoning, calls, answer.finish) == READ[name]
    assert answer.complete
    assert all(call.id for call in answer.calls)
    if "stream" in name:
        assert answer.chunks > 1
        assert 0 < answer.opened <= answer.first <= answer.last


def judge_call(answer: Answer) -> None:
    endpoint_checks.judge_tool_call(answer, WHERE)


def judge_text(answer: Answer) -> None:
    endpoint_checks.judge_text(answer, WHERE)


def judge_reasoning(answer: Answer) -> None:
    endpoint_checks.judge_reasoning(answer, WHERE)


Judge = Callable[[Answer], None]
# recorded answer, judge, words of the cause ("" where the judge must be content)
JUDGED: list[tuple[str, Judge, str]] = [
    ("text", judge_text, ""),
    ("stream_text", judge_text, ""),
    ("stream_reasoning_text", judge_text, ""),
    ("stream_reasoning_text", judge_reasoning, ""),
    ("stream_call", judge_call, ""),
    ("call", judge_call, ""),
    ("text", judge_reasoning, "did not reason"),
    ("limit", judge_text, "cut at 2048 tokens"),
    ("stream_limit", judge_call, "cut at 2048 tokens"),
    ("stream_text", judge_call, "answered in words"),
    ("stream_two_calls", judge_call, "only get_weather was offered"),
    ("bare_reasoning", judge_text, "no reasoning parser"),
    ("bare_reasoning", judge_reasoning, "no reasoning parser"),
    ("wrong_tool_parser", judge_call, "format of the parser hermes"),
    ("wrong_tool_parser", judge_text, "format of the parser hermes"),
    ("swallowed_call", judge_call, "swallowed the tool call"),
    ("swallowed_text", judge_text, "takes the whole answer for reasoning"),
]


def verdict(judge: Judge, answer: Answer) -> str:
    """Return the cause that a judge finds, or ""."""
    try:
        judge(answer)
    except CheckFailed as failure:
        return failure.cause
    return ""


@pytest.mark.parametrize("api", BOTH)
@pytest.mark.parametrize(("name", "judge", "cause"), JUDGED, ids=[f"{row[0]}-{row[1].__name__}" for row in JUDGED])
def test_recorded_answer_is_judged(api: str, name: str, judge: Judge, cause: str) -> None:
    found = verdict(judge, read(f"{api}_{name}"))
    assert (cause in found) if cause else (found == "")


def test_the_silent_failure_of_responses_is_caught() -> None:
    """A server without automatic tool choice answers 200 with the raw call as a message."""
    found = verdict(judge_call, read("responses_bare_call"))
    assert "came as plain text" in found


def test_every_recorded_answer_is_used() -> None:
    names = {f"{api}_{name}" for api in BOTH for name in [*READ, *(row[0] for row in JUDGED)]}
    assert {path.stem for path in ANSWERS.glob("*.json")} == names | {"responses_bare_call"}


def call(arguments: str, name: str = "get_weather", call_id: str = "1") -> Answer:
    return Answer(calls=[Call(call_id, name, arguments)], finish="tool_calls")


@pytest.mark.parametrize(
    ("answer", "judge", "cause"),
    [
        (call(PARIS), judge_call, ""),
        (call('{"unit": "celsius", "city": "Paris, France"}'), judge_call, ""),
        (call('{"city": "Paris", "unit": "celsius"'), judge_call, "no JSON"),
        (call(""), judge_call, "no JSON"),
        (call('["Paris"]'), judge_call, "no object"),
        (call('{"city": "Paris"}'), judge_call, "unit is missing"),
        (call('{"city": "Paris", "unit": "kelvin"}'), judge_call, "unit is 'kelvin', not celsius or fahrenheit"),
        (call('{"city": 7, "unit": "celsius"}'), judge_call, "city is 7, not a string"),
        (call('{"city": "Paris", "unit": "celsius", "day": "1"}'), judge_call, "no argument day"),
        (call(PARIS, name=""), judge_call, "only get_weather"),
        (call(PARIS, call_id=""), judge_call, "no id"),
        (Answer(), judge_text, "said nothing"),
        (Answer(), judge_call, "said nothing"),
        (Answer(text="  \n"), judge_text, "said nothing"),
        (Answer(text="Hi", finish="stop"), judge_text, ""),
        (Answer(text="Hi", reasoning=" "), judge_reasoning, "did not reason"),
        (Answer(text="[THINK]Hm[/THINK]Hi"), judge_text, "no reasoning parser"),
    ],
)
def test_judge(answer: Answer, judge: Judge, cause: str) -> None:
    found = verdict(judge, answer)
    assert (cause in found) if cause else (found == "")


@pytest.mark.parametrize(
    ("answer", "api", "cause"),
    [
        (Answer(chunks=9, opened=0.1, first=0.1, last=0.9), answers.RESPONSES, ""),
        (Answer(chunks=9, opened=0.1, first=0.1, last=0.1), answers.RESPONSES, ""),
        (Answer(chunks=9, opened=5.0, first=5.0, last=5.1), answers.RESPONSES, "a proxy in between collects"),
        (Answer(chunks=9, opened=5.0, first=5.0, last=5.1), answers.CHAT, ""),
        (Answer(chunks=1, opened=0.1, first=0.1, last=0.1), answers.CHAT, "in one piece"),
        (Answer(chunks=9, complete=False), answers.CHAT, "without its end mark"),
    ],
)
def test_judge_stream(answer: Answer, api: Any, cause: str) -> None:
    found = verdict(lambda seen: endpoint_checks.judge_stream(seen, api, WHERE), answer)
    assert (cause in found) if cause else (found == "")
