# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The two wire formats that Codex speaks, chat completions and Responses, behind one pair of shapes.

``CHAT`` and ``RESPONSES`` write requests and read answers; everything above them works with ``Answer``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Optional

from .client import BadAnswer, Client, Event


@dataclass(frozen=True)
class Tool:
    """A function offered to the model; ``parameters`` is its JSON schema."""

    name: str
    description: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Call:
    """One tool call; ``arguments`` is the text that should be JSON."""

    id: str
    name: str
    arguments: str


@dataclass
class Answer:
    """What came back.

    ``finish`` is stop, tool_calls, length, or "" where the server named none. Of a stream also: ``chunks``, the
    number of events that carried a part of the answer; the seconds from the request to the first event of any kind,
    to the first chunk and to the last; and ``complete``, whether its end came.
    """

    text: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    finish: str = ""
    chunks: int = 0
    opened: float = 0.0
    first: float = 0.0
    last: float = 0.0
    complete: bool = True

    def saw_chunk(self, at: float) -> None:
        """Count a chunk that arrived ``at`` seconds after the request."""
        self.first = self.first if self.chunks else at
        self.last = at
        self.chunks += 1


@dataclass(frozen=True)
class Request:
    """A turn to ask for: the conversation in the API's own items, and the offered tools."""

    model: str
    items: list[dict[str, Any]]
    tools: tuple[Tool, ...] = ()
    max_tokens: int = 2048
    template: Optional[dict[str, Any]] = None


class Chat:
    """The chat completions API."""

    name = "chat"
    path = "/chat/completions"

    def user(self, text: str) -> list[dict[str, Any]]:
        """Return a conversation of one user message."""
        return [{"role": "user", "content": text}]

    def with_results(self, items: list[dict[str, Any]], answer: Answer, output: str) -> list[dict[str, Any]]:
        """Return the conversation continued by the answer's calls, each with ``output`` as its result."""
        calls = [{"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in answer.calls]
        results = [{"role": "tool", "tool_call_id": call.id, "content": output} for call in answer.calls]
        return [*items, {"role": "assistant", "content": answer.text or None, "tool_calls": calls}, *results]

    def body(self, request: Request, stream: bool) -> dict[str, Any]:
        """Return the body to post."""
        body: dict[str, Any] = {"model": request.model, "messages": request.items, "stream": stream}
        body.update(max_tokens=request.max_tokens, temperature=0)
        if request.tools:
            body["tools"] = [{"type": "function", "function": _schema(tool)} for tool in request.tools]
            body["tool_choice"] = "auto"
        if request.template:
            body["chat_template_kwargs"] = request.template
        return body

    def read(self, data: Any) -> Answer:
        """Return the answer in a body that was not streamed."""
        choice = data["choices"][0]
        message = choice["message"]
        answer = Answer(finish=choice.get("finish_reason") or "")
        answer.text, answer.reasoning = message.get("content") or "", _reasoning(message)
        for call in message.get("tool_calls") or []:
            answer.calls.append(Call(call["id"], call["function"]["name"], call["function"]["arguments"]))
        return answer

    def read_stream(self, events: Iterable[Event]) -> Answer:
        """Return the answer that the deltas add up to."""
        answer = Answer(complete=False)
        calls: dict[int, dict[str, str]] = {}
        for event in events:
            answer.opened = answer.opened or event.at
            if event.data == "[DONE]":
                answer.complete = True
                break
            data = json.loads(event.data)
            if "error" in data:
                raise BadAnswer(f"the stream ended in an error: {_message(data['error'])}")
            for choice in data["choices"]:
                delta = choice.get("delta") or {}
                text, reasoning, parts = delta.get("content") or "", _reasoning(delta), delta.get("tool_calls") or []
                answer.text += text
                answer.reasoning += reasoning
                answer.finish = choice.get("finish_reason") or answer.finish
                for part in parts:
                    call = calls.setdefault(part["index"], {"id": "", "name": "", "arguments": ""})
                    function = part.get("function") or {}
                    call["id"] += part.get("id") or ""
                    call["name"] += function.get("name") or ""
                    call["arguments"] += function.get("arguments") or ""
                if text or reasoning or parts:
                    answer.saw_chunk(event.at)
        answer.calls = [Call(**calls[index]) for index in sorted(calls)]
        return answer


class Responses:
    """The Responses API, the only one that Codex speaks from 0.95 on."""

    name = "responses"
    path = "/responses"

    def user(self, text: str) -> list[dict[str, Any]]:
        """Return a conversation of one user message."""
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}]

    def with_results(self, items: list[dict[str, Any]], answer: Answer, output: str) -> list[dict[str, Any]]:
        """Return the conversation continued by the answer's calls, each with ``output`` as its result."""
        calls = [{"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments} for call in answer.calls]
        results = [{"type": "function_call_output", "call_id": call.id, "output": output} for call in answer.calls]
        return [*items, *calls, *results]

    def body(self, request: Request, stream: bool) -> dict[str, Any]:
        """Return the body to post."""
        body: dict[str, Any] = {"model": request.model, "input": request.items, "stream": stream, "store": False}
        body.update(max_output_tokens=request.max_tokens, temperature=0)
        if request.tools:
            body["tools"] = [{"type": "function", "strict": False, **_schema(tool)} for tool in request.tools]
            body["tool_choice"] = "auto"
        if request.template:
            body["chat_template_kwargs"] = request.template
        return body

    def read(self, data: Any) -> Answer:
        """Return the answer in a body that was not streamed."""
        answer = Answer()
        for item in data["output"]:
            self._add(answer, item)
        self._finish(answer, data)
        return answer

    def read_stream(self, events: Iterable[Event]) -> Answer:
        """Return the answer made of the finished items of the stream, which is what Codex acts on."""
        answer = Answer(complete=False)
        for event in events:
            answer.opened = answer.opened or event.at
            data = json.loads(event.data)
            kind = data["type"]
            if kind.endswith(".delta"):
                answer.saw_chunk(event.at)
            elif kind == "response.output_item.done":
                self._add(answer, data["item"])
            elif kind in ("response.completed", "response.incomplete"):
                self._finish(answer, data["response"])
                answer.complete = True
                break
            elif kind in ("response.failed", "error"):
                raise BadAnswer(f"the stream ended in an error: {_message(data.get('response', data).get('error'))}")
        return answer

    def _add(self, answer: Answer, item: dict[str, Any]) -> None:
        """Add one finished output item."""
        parts = "".join(part.get("text") or "" for part in item.get("content") or [])
        if item["type"] == "message":
            answer.text += parts
        elif item["type"] == "reasoning":
            answer.reasoning += parts
        elif item["type"] == "function_call":
            answer.calls.append(Call(item["call_id"], item["name"], item["arguments"]))

    def _finish(self, answer: Answer, response: dict[str, Any]) -> None:
        cut = (response.get("incomplete_details") or {}).get("reason") == "max_output_tokens"
        answer.finish = "length" if cut else "tool_calls" if answer.calls else "stop"


CHAT, RESPONSES = Chat(), Responses()


def ask(client: Client, api: Chat | Responses, request: Request, stream: bool = False) -> Answer:
    """Post the request and return the answer; raise EndpointError where it fails or has another shape."""
    body = api.body(request, stream)
    try:
        if stream:
            with closing(client.stream(api.path, body)) as events:
                return api.read_stream(events)
        return api.read(client.post(api.path, body))
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise BadAnswer(f"POST {client.base_url}{api.path} answered in another shape ({type(error).__name__}: {error})") from None


def _schema(tool: Tool) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "parameters": tool.parameters}


def _reasoning(message: dict[str, Any]) -> str:
    """Return the reasoning of a chat message: older releases of vLLM call the field reasoning_content."""
    return str(message.get("reasoning") or message.get("reasoning_content") or "")


def _message(error: Any) -> str:
    return str(error.get("message") or error) if isinstance(error, dict) else str(error)
