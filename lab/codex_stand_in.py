# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A loopback server that speaks both wires of Codex: it asks for one shell command, then says that it is done.

It shows what a version of Codex sends (tools, roles, headers), and stands in for vLLM where only Codex is under test.
"""

from __future__ import annotations

import json
import ssl
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Optional

COMMAND = "echo hi > hello.txt"


@dataclass
class Seen:
    """The requests that came, in their order: path, Authorization and body."""

    requests: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    def tools(self) -> list[str]:
        """Return the tools of the last request: a function's name, else the kind."""
        offered = [body.get("tools") or [] for _path, _key, body in self.requests if "tools" in body]
        return [_tool_name(tool) for tool in offered[-1]] if offered else []


def _tool_name(tool: Mapping[str, Any]) -> str:
    function = tool.get("function", tool)
    return str(function.get("name", "")) if tool["type"] == "function" else f"{tool['type']} {tool.get('name', '')}".strip()


def _call(names: list[str]) -> tuple[str, str]:
    """Return the shell tool to call, and its arguments."""
    if "exec_command" in names:
        return "exec_command", json.dumps({"cmd": COMMAND})
    if "shell_command" in names:
        return "shell_command", json.dumps({"command": COMMAND})
    return "shell", json.dumps({"command": ["sh", "-c", COMMAND]})


def responses(body: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the events of an answer of /v1/responses."""
    done = any(item.get("type") == "function_call_output" for item in body["input"] if isinstance(item, dict))
    name, arguments = _call([_tool_name(tool) for tool in body.get("tools") or []])
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": name, "arguments": arguments}
    text = {"type": "message", "id": "msg_1", "role": "assistant", "content": [{"type": "output_text", "text": "Done.", "annotations": []}]}
    item = text if done else call
    usage = {"input_tokens": 10, "input_tokens_details": None, "output_tokens": 5, "output_tokens_details": None, "total_tokens": 15}
    yield "response.created", {"response": {"id": "resp_1"}}
    yield "response.output_item.added", {"output_index": 0, "item": {**item, **({} if done else {"arguments": ""})}}
    yield "response.output_item.done", {"output_index": 0, "item": item}
    yield "response.completed", {"response": {"id": "resp_1", "output": [item], "usage": usage}}


def chat(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the chunks of an answer of /v1/chat/completions."""
    done = any(message["role"] == "tool" for message in body["messages"])
    name, arguments = _call([_tool_name(tool) for tool in body.get("tools") or []])
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
    delta: dict[str, Any] = {"role": "assistant", **({"content": "Done."} if done else {"tool_calls": [call]})}
    head = {"id": "chat_1", "object": "chat.completion.chunk", "created": 0, "model": body["model"]}
    yield {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop" if done else "tool_calls"}]}


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer the list of models."""
        self.server.seen.requests.append((self.path, self.headers.get("Authorization", ""), {}))
        rows = [{"id": name, "object": "model", "max_model_len": length} for name, length in self.server.models.items()]
        self._send("application/json", json.dumps({"object": "list", "data": rows}))

    def do_POST(self) -> None:
        """Answer a turn."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.requests.append((self.path, self.headers.get("Authorization", ""), body))
        if self.path.endswith("/responses"):
            events = "".join(f"event: {kind}\ndata: {json.dumps({'type': kind, **event})}\n\n" for kind, event in responses(body))
        else:
            events = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chat(body)) + "data: [DONE]\n\n"
        self._send("text/event-stream", events)

    def _send(self, kind: str, text: str) -> None:
        data = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], models: Mapping[str, int]) -> None:
        super().__init__(address, _Handler)
        self.seen = Seen()
        self.models = models


@contextmanager
def stand_in(models: Mapping[str, int], port: int = 0, certificate: Optional[str] = None) -> Iterator[tuple[int, Seen]]:
    """Serve on the loopback and lend the port and what was seen; ``certificate`` is a file with certificate and key, for TLS."""
    server = _Server(("127.0.0.1", port), models)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1], server.seen
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":  # PORT MODEL=LENGTH...
    with stand_in({name: int(length) for name, length in (word.split("=") for word in sys.argv[2:])}, int(sys.argv[1])):
        threading.Event().wait()
