# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Prove an OpenAI-compatible endpoint the way Codex uses it: a real stream, a real tool call, its result sent back.

The checks ask any model that can call tools. They need no particular words from it, only that the chain around it
(chat template, parsers, proxy, key) did its part. The judges are pure and take an ``Answer``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Optional

from .answers import CHAT, RESPONSES, Answer, Chat, Request, Responses, Tool, ask
from .check import Check, CheckFailed, NotApplicable, run_check
from .client import Client, EndpointError, HttpStatus
from .diagnoses import Where, diagnose_error, failed, raw_call

APIS: dict[str, Chat | Responses] = {api.name: api for api in (CHAT, RESPONSES)}
PER_API = ("", "_stream", "_tool_call", "_tool_result", "_reasoning")
CHECK_IDS = ("health", "models", "key_enforced", *(name + part for name in APIS for part in PER_API))

GREETING = "Say hello in one short sentence."
COUNTING = "Count from 1 to 60, one number a line, and write nothing else."  # long enough for a proxy to show
WEATHER = Tool(
    "get_weather",
    "Tell the present weather of a city.",
    {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
)
ASK_WEATHER = "What is the weather in Paris now, in celsius? Use the tool get_weather, then answer in one sentence."
WEATHER_RESULT = '{"city": "Paris", "temperature": 21, "unit": "celsius", "sky": "clear"}'
REASONING_ON = {"enable_thinking": True, "thinking": True}  # what templates call it; others ignore it
THINK_MARK = re.compile(r"</?think(?:ing)?>|\[/?THINK\]")
HELD_BACK = 0.5  # seconds that the first event of a stream may take, whatever comes after it


@dataclass
class Report:
    """The verdicts in order, and what the server says about the model where it was asked."""

    checks: list[Check] = field(default_factory=list)
    max_model_len: Optional[int] = None

    @property
    def failed(self) -> list[Check]:
        """Return the checks that failed."""
        return [check for check in self.checks if check.ok is False]


def check_endpoint(
    client: Client,
    model: str,
    instance: str,
    server: str,
    apis: Iterable[str] = tuple(APIS),
    expect_reasoning: bool = False,
) -> Report:
    """Run every check. One whose prerequisite failed is not run: it does not apply, and says which one failed.

    ``instance`` and ``server`` are the names in the inventory that causes and commands speak of.
    """
    where = Where(str(client.base_url), client.base_url.host, model, instance, server)
    return _Run(client, where, frozenset(apis), expect_reasoning).all()


class _Run:
    """One pass over an endpoint: keeps the answers that later checks build on."""

    def __init__(self, client: Client, where: Where, apis: frozenset[str], expect_reasoning: bool) -> None:
        self.client = client
        self.where = where
        self.apis = apis
        self.expect_reasoning = expect_reasoning
        self.report = Report()
        self.blocked: dict[str, str] = {}  # check id -> the failed check that is behind it
        self.calls: dict[str, Answer] = {}  # api name -> the answer that called the tool

    def all(self) -> Report:
        self.step("health", "", self.health)
        self.step("models", "health", self.models)
        self.step("key_enforced", "models", self.key_enforced)
        for name, api in APIS.items():
            self.step(name, "models", partial(self.plain, api))
            self.step(f"{name}_stream", name, partial(self.stream, api))
            self.step(f"{name}_tool_call", name, partial(self.tool_call, api))
            self.step(f"{name}_tool_result", f"{name}_tool_call", partial(self.tool_result, api))
            self.step(f"{name}_reasoning", name, partial(self.reasoning, api))
        return self.report

    def step(self, check_id: str, needs: str, probe: Callable[[], str]) -> None:
        """Run one check, unless what it needs failed or its API was not asked for.

        An answer that was judged bad blocks nothing but the return of its own tool call: a text with reasoning in it
        says nothing about tool calls, while a server that did not answer would only fail again.
        """
        unanswered = False

        def guarded() -> str:
            if needs in self.blocked:
                raise NotApplicable(f"{self.blocked[needs]} failed")
            api = check_id.partition("_")[0]
            if api in APIS and api not in self.apis:
                raise NotApplicable(f"{api} was not asked for")
            try:
                return probe()
            except EndpointError as error:
                nonlocal unanswered
                unanswered = True
                found = diagnose_error(error, self.where)
                raise CheckFailed(str(error), found.cause, found.next_command) from None

        check = run_check(check_id, guarded)
        if check.ok is False and (unanswered or check_id == "models" or check_id.endswith("_tool_call")):
            self.blocked[check_id] = check_id
        elif needs in self.blocked:
            self.blocked[check_id] = self.blocked[needs]
        self.report.checks.append(check)

    def ask(self, api: Chat | Responses, items: list[dict[str, Any]], stream: bool = False, **more: Any) -> Answer:
        return ask(self.client, api, Request(self.where.model, items, **more), stream)

    def health(self) -> str:
        try:
            self.client.get_root("/health")
        except HttpStatus as error:
            if error.status == 404:
                raise NotApplicable(f"{error}: a gateway need not pass it on") from None
            raise
        return "GET /health answered 200"

    def models(self) -> str:
        listed = self.client.get("/models")
        entries = listed.get("data") if isinstance(listed, dict) else None
        names = {str(entry.get("id")): entry for entry in entries or [] if isinstance(entry, dict)}
        found = names.get(self.where.model)
        if found is None:
            shown = ", ".join(sorted(names)) or "no model"
            raise failed("model_not_listed", f"GET /models lists {shown}", self.where, shown)
        length = found.get("max_model_len")
        self.report.max_model_len = length if isinstance(length, int) else None
        return f"{self.where.model} is listed, max_model_len {length or 'unknown'}"

    def key_enforced(self) -> str:
        if not self.client.has_key:
            raise NotApplicable("no api_key was given")
        asked = 0
        for who, key in (("without a key", None), ("with a wrong key", "not-the-key")):
            stranger = self.client.with_key(key)
            for api in (None, *(APIS[name] for name in sorted(self.apis))):
                path = api.path if api else "/models"
                try:
                    if api:
                        one_token = Request(self.where.model, api.user(GREETING), max_tokens=1)
                        stranger.post(api.path, api.body(one_token, stream=False))
                    else:
                        stranger.get(path)
                except HttpStatus as error:
                    if error.status in (401, 403):
                        asked += 1
                        continue
                    raise
                raise failed("no_key_needed", f"{path} answers {who}", self.where)
        return f"{asked} of {asked} requests without a key or with a wrong one were turned away"

    def plain(self, api: Chat | Responses) -> str:
        answer = self.ask(api, api.user(GREETING))
        judge_text(answer, self.where)
        return f"text of {len(answer.text)} characters"

    def stream(self, api: Chat | Responses) -> str:
        for _ in range(3):  # a busy machine here looks like a proxy that holds back, but hardly three times
            answer = self.ask(api, api.user(COUNTING), stream=True)
            if answer.chunks > 1 and not held_back(answer, api):
                break
        judge_stream(answer, api, self.where)
        return f"{answer.chunks} chunks, the first after {ms(answer.first)}, the last after {ms(answer.last)}"

    def tool_call(self, api: Chat | Responses) -> str:
        answer = self.ask(api, api.user(ASK_WEATHER), stream=True, tools=(WEATHER,))
        judge_complete(answer, self.where)
        judge_tool_call(answer, self.where)
        self.calls[api.name] = answer
        call = answer.calls[0]
        return f"{call.name} called with {call.arguments}"

    def tool_result(self, api: Chat | Responses) -> str:
        items = api.with_results(api.user(ASK_WEATHER), self.calls[api.name], WEATHER_RESULT)
        answer = self.ask(api, items, stream=True, tools=(WEATHER,))
        judge_complete(answer, self.where)
        if answer.calls and not answer.text:
            raise failed("calls_again", f"{answer.calls[0].name} was called again", self.where)
        judge_text(answer, self.where, marks_allowed=True)
        return f"text of {len(answer.text)} characters after the tool's result"

    def reasoning(self, api: Chat | Responses) -> str:
        if not self.expect_reasoning:
            raise NotApplicable("no reasoning is expected of this model")
        answer = self.ask(api, api.user(GREETING), stream=True, template=REASONING_ON)
        judge_complete(answer, self.where)
        judge_reasoning(answer, self.where)
        return f"reasoning of {len(answer.reasoning)} characters, apart from the text"


# ---- judges: each returns, or raises CheckFailed ------------------------------------------------------------------
def judge_complete(answer: Answer, where: Where) -> None:
    """Demand the end mark of a stream."""
    if not answer.complete:
        seen = f"{answer.chunks} chunks, and then neither [DONE] nor response.completed"
        raise failed("stream_unfinished", seen, where)


def judge_text(answer: Answer, where: Where, marks_allowed: bool = False) -> None:
    """Demand a text, free of raw tool calls and of reasoning marks (which one check an API reports, not three)."""
    shown = quote(answer.text)
    if looks := raw_call(answer.text):
        raise failed("call_as_text", shown, where, looks)
    if THINK_MARK.search(answer.text) and not marks_allowed:
        raise failed("reasoning_leaks", shown, where)
    if answer.finish == "length":
        raise failed("cut_by_limit", shown or quote(answer.reasoning), where, f"{Request.max_tokens} tokens")
    if not answer.text.strip() and answer.reasoning.strip():
        raise failed("reasoning_took_all", f"no text, and as reasoning: {quote(answer.reasoning)}", where)
    if not answer.text.strip():
        raise failed("empty", "an answer without text", where)


def judge_stream(answer: Answer, api: Chat | Responses, where: Where) -> None:
    """Demand the end mark, more than one chunk, and chunks that came as they were made."""
    judge_complete(answer, where)
    if answer.chunks < 2:
        raise failed("stream_in_one_piece", f"{answer.chunks} chunk", where, api.path)
    if held_back(answer, api):
        seen = f"all events came within {ms(answer.last - answer.opened)}, {ms(answer.opened)} after the request"
        raise failed("stream_held_back", seen, where)


def held_back(answer: Answer, api: Chat | Responses) -> bool:
    """Return whether the events came all at once and late. Only Responses tells: it opens its stream at once."""
    return api is RESPONSES and answer.opened > HELD_BACK and answer.last - answer.opened < answer.opened / 10


def judge_tool_call(answer: Answer, where: Where) -> None:
    """Demand a call of the offered tool whose arguments are JSON and fit its schema."""
    if not answer.calls:
        if looks := raw_call(answer.text):
            raise failed("call_as_text", f"the text {quote(answer.text)}", where, looks)
        if raw_call(answer.reasoning):
            raise failed("call_in_reasoning", f"no call, and as reasoning: {quote(answer.reasoning)}", where)
        judge_text(answer, where)
        raise failed("no_call", f"the text {quote(answer.text)}", where)
    call = answer.calls[0]
    seen = f"{call.name or 'a tool without a name'} called with {quote(call.arguments)}"
    if call.name != WEATHER.name:
        raise failed("bad_call", seen, where, f"only {WEATHER.name} was offered")
    if not call.id:
        raise failed("bad_call", seen, where, "the call has no id")
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        raise failed("bad_call", seen, where, "its arguments are no JSON") from None
    if wrong := misfit(arguments, WEATHER.parameters):
        raise failed("bad_call", seen, where, wrong)


def judge_reasoning(answer: Answer, where: Where) -> None:
    """Demand reasoning and, apart from it, a text."""
    if not answer.reasoning.strip() and not THINK_MARK.search(answer.text):
        raise failed("reasoning_absent", f"no reasoning, and the text {quote(answer.text)}", where)
    judge_text(answer, where)


def misfit(arguments: Any, schema: dict[str, Any]) -> str:
    """Return how arguments miss the schema of a flat object of strings, or "" where they fit."""
    if not isinstance(arguments, dict):
        return "its arguments are no object"
    for name in schema["required"]:
        if name not in arguments:
            return f"{name} is missing"
    for name, value in arguments.items():
        if name not in schema["properties"]:
            return f"there is no argument {name}"
        allowed = schema["properties"][name].get("enum")
        if not isinstance(value, str) or (allowed and value not in allowed):
            return f"{name} is {value!r}, not {' or '.join(allowed) if allowed else 'a string'}"
    return ""


def quote(text: str, most: int = 160) -> str:
    """Return the start of a text on one line, in quotation marks; "" of an empty one."""
    line = " ".join(text.split())
    return f'"{line if len(line) <= most else line[:most] + " ..."}"' if line else ""


def ms(seconds: float) -> str:
    """Return a time in milliseconds, for reading."""
    return f"{round(seconds * 1000)} ms"
