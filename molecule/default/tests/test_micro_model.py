"""What the micro model (a test fixture) can do, proved on the scenario's live vLLM, on both of its APIs.

Runs on the controller. The server is named by the environment: OWNMETAL_BASE_URL (ends in /v1) and OWNMETAL_KEY_FILE.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import answers, endpoint_checks
from ansible_collections.ownmetal.codex.plugins.module_utils.answers import Answer, Chat, Request, Responses, Tool
from ansible_collections.ownmetal.codex.plugins.module_utils.client import BaseUrl, Client

from lab.micro_model import CAPABILITIES, LOOP, TEXT, THOUGHT, TOOLS, Capability

MODEL = "micro"
Api = Chat | Responses

# what a request says or sets -> whether reasoning must come with the answer
THINKING: dict[str, tuple[str, dict[str, Any] | None, str]] = {
    "plain": ("", None, ""),
    "trigger": (" [think]", None, THOUGHT),
    "switched on": ("", {"enable_thinking": True}, THOUGHT),
    "switched off": ("", {"enable_thinking": False}, ""),
}


@pytest.fixture(scope="module")
def client() -> Client:
    base_url, key_file = os.environ["OWNMETAL_BASE_URL"], os.environ["OWNMETAL_KEY_FILE"]
    return Client(BaseUrl.parse(base_url), Path(key_file).read_text().strip(), timeout=60)


@pytest.fixture(params=endpoint_checks.APIS)
def api(request: pytest.FixtureRequest) -> Api:
    return endpoint_checks.APIS[request.param]


def tool_like(arguments: dict[str, Any], name: str) -> Tool:
    """Return a tool whose parameters have the form of ``arguments``."""
    kinds: dict[type, dict[str, Any]] = {str: {"type": "string"}, list: {"type": "array", "items": {"type": "string"}}}
    properties = {key: kinds[type(value)] for key, value in arguments.items()}
    return Tool(name, "A tool of the test.", {"type": "object", "properties": properties, "required": [*properties]})


def request_of(capability: Capability, api: Api, says: str = "", template: dict[str, Any] | None = None) -> Request:
    """Return the request of one row of the table."""
    items = api.user(capability.says + says)
    tools: tuple[Tool, ...] = ()
    if capability.tool:
        first_call = TOOLS[capability.tool][0]
        tools = (tool_like(first_call, capability.tool),)
        if capability.after_result:
            called = Answer(calls=[answers.Call("call_1", capability.tool, json.dumps(first_call))])
            items = api.with_results(items, called, "ok")
    return Request(MODEL, items, tools, max_tokens=64 if capability.endless else 400, template=template)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("thinking", THINKING)
@pytest.mark.parametrize("capability", CAPABILITIES, ids=[row.id for row in CAPABILITIES])
def test_capability(client: Client, api: Api, capability: Capability, thinking: str, stream: bool) -> None:
    says, template, reasoning = THINKING[thinking]
    answer = answers.ask(client, api, request_of(capability, api, says, template), stream)
    assert [json.loads(call.arguments) for call in answer.calls] == [*capability.arguments]
    assert {call.name for call in answer.calls} <= {capability.tool}
    assert answer.reasoning == reasoning
    if capability.endless:
        assert answer.text.startswith(capability.text)
        assert answer.finish == "length"
    else:
        assert answer.text == capability.text
        assert answer.finish == ("tool_calls" if capability.arguments else "stop")
    assert answer.complete
    if stream and len(answer.text + answer.reasoning) >= 40:
        # on a busy processor the pieces of a short answer may have joined before they are sent; not each time
        tries = (answers.ask(client, api, request_of(capability, api, says, template), stream) for _ in range(4))
        assert answer.chunks > 1 or any(again.chunks > 1 for again in tries)


def test_endless_text_ends_with_its_client(client: Client, api: Api) -> None:
    """A client that leaves frees the server: the next request is answered at once."""
    body = api.body(Request(MODEL, api.user("[loop]"), max_tokens=5000), stream=True)
    events = client.stream(api.path, body)
    seen = "".join(event.data for _, event in zip(range(40), events, strict=False))
    events.close()
    assert all(word in seen for word in LOOP)
    assert answers.ask(client, api, Request(MODEL, api.user("Hello."))).text == TEXT


def test_no_sampling_temperature_changes_the_answer(client: Client, api: Api) -> None:
    body = api.body(Request(MODEL, api.user("Hello. [think]")), stream=False)
    body["temperature"] = 2
    texts = {api.read(client.post(api.path, body)).text for _ in range(5)}
    assert texts == {TEXT}


def test_long_prompt_is_read_to_its_end(client: Client, api: Api) -> None:
    """A trigger stands behind 20,000 tokens of text: the mode is found at any distance."""
    answer = answers.ask(client, api, Request(MODEL, api.user("x" * 20000 + " [think]")))
    assert (answer.text, answer.reasoning) == (TEXT, THOUGHT)
