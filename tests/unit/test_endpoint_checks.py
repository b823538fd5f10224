"""The endpoint checks as a whole: a server that is well, every injected fault, TLS, and the module."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import client, endpoint_checks

from tests.unit.replay_server import KEY, Fault, Handler, closed_port, serving, sse


# ---- a whole pass, and faults ---------------------------------------------------------------------------------------
def run(port: int, key: str | None = KEY, timeout: float = 30, **more: Any) -> endpoint_checks.Report:
    url = client.BaseUrl.parse(f"http://127.0.0.1:{port}/v1")
    return endpoint_checks.check_endpoint(client.Client(url, key, timeout=timeout), "micro", "coder", "server1", **more)


def outcome(report: endpoint_checks.Report) -> tuple[dict[str, str], set[str]]:
    """Return the causes of the failed checks and the ids of those that did not apply."""
    assert [check.id for check in report.checks] == list(endpoint_checks.CHECK_IDS)
    assert KEY not in json.dumps([check.as_dict() for check in report.checks])
    return {check.id: str(check.cause) for check in report.failed}, {check.id for check in report.checks if check.ok is None}


def test_all_is_well() -> None:
    with serving() as port:
        report = run(port, expect_reasoning=True)
    assert [check.line() for check in report.checks if not check.ok] == []
    assert report.max_model_len == 32768


def test_only_what_is_asked_for() -> None:
    with serving() as port:
        report = run(port, key=KEY, apis=["responses"])
    failures, skipped = outcome(report)
    assert failures == {}
    assert skipped == {"chat", "chat_stream", "chat_tool_call", "chat_tool_result", "chat_reasoning", "responses_reasoning"}


def on(path: str, stream: bool | None = None, tools: bool | None = None) -> Callable[[Handler], bool]:
    """Return whether a request with the key is for ``path``, with or without a stream, with or without tools."""

    def matches(handler: Handler) -> bool:
        return (
            handler.path.endswith(path)
            and (path == "/health" or handler.headers.get("Authorization") == f"Bearer {KEY}")
            and stream in (None, bool(handler.body.get("stream")))
            and tools in (None, bool(handler.body.get("tools")))
        )

    return matches


def fault(where: Callable[[Handler], bool], act: Callable[[Handler], None]) -> Fault:
    def takes_over(handler: Handler) -> bool:
        if where(handler):
            act(handler)
            return True
        return False

    return takes_over


def answering(status: int, text: str, kind: str = "application/json") -> Callable[[Handler], None]:
    return lambda handler: handler.send(status, text, kind)


def half(handler: Handler) -> None:
    """End the connection half-way, as a proxy does that lost its server."""
    events = sse(handler.stream_name())
    handler.stream(events[: len(events) // 2])


def half_chunked(handler: Handler) -> None:
    """Die in the middle of a chunk, as a server does that was killed."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    handler.wfile.write(b"6f\r\ndata: {")


def short_body(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')


def all_at_once(handler: Handler) -> None:
    """Collect the answer, as a buffering proxy does."""
    time.sleep(0.8)
    handler.stream([b"".join(sse(handler.stream_name()))])


def dripping(handler: Handler) -> None:
    """Send something now and then, but never an answer."""
    handler.stream([b": still here\n\n"] * 30, pause=0.1)


def let_in(where: Callable[[Handler], bool]) -> Fault:
    """Answer requests as if they had the key."""

    def forgets(handler: Handler) -> bool:
        if where(handler):
            del handler.headers["Authorization"]
            handler.headers["Authorization"] = f"Bearer {KEY}"
        return False

    return forgets


def after(*starts: str) -> set[str]:
    return {name for name in endpoint_checks.CHECK_IDS if name.startswith(starts)}


REASONING = {"chat_reasoning", "responses_reasoning"}  # not applicable unless expected
REST = after("key", "chat", "responses")
ONE_CHUNK = b'data: {"choices": [{"index": 0, "delta": {"content": "Hello."}, "finish_reason": "stop"}]}\n\n'
ERROR_EVENT = b'data: {"error": {"message": "EngineCore encountered an issue"}}\n\n'
AUTO_OFF = '{"error":{"message":"requires --enable-auto-tool-choice"}}'
FAILED_EVENT = b'event: response.failed\ndata: {"type": "response.failed", "response": {"error": {"message": "boom"}}}\n\n'

# name, fault, {failed check: words of its cause}, the checks that do not apply
FAULTS: list[tuple[str, Fault, dict[str, str], set[str]]] = [
    ("engine not up", fault(on("/health"), answering(503, "")), {"health": "its engine is not"}, {"models"} | REST),
    ("gateway hides health", fault(on("/health"), answering(404, "nginx")), {}, {"health"} | REASONING),
    ("another model", fault(on("/models"), answering(200, '{"data": [{"id": "qwen"}]}')), {"models": "other names than micro: qwen"},
     REST),
    ("no vLLM", fault(on("/models"), answering(200, "<html>", "text/html")), {"models": "no OpenAI-compatible server"}, REST),
    ("backend down", fault(on("/models"), answering(502, "<html>")), {"models": "the vLLM behind it is down"}, REST),
    ("key forgotten", let_in(lambda handler: True), {"key_enforced": "without the right key"}, REASONING),
    ("key forgotten on chat", let_in(lambda handler: handler.path.endswith("/chat/completions")),
     {"key_enforced": "without the right key"}, REASONING),
    ("any key will do", let_in(lambda handler: "Authorization" in handler.headers), {"key_enforced": "without the right key"}, REASONING),
    ("old release", fault(on("/responses"), answering(404, '{"detail":"Not Found"}')), {"responses": "no such path"},
     after("responses_") | REASONING),
    ("the key is quoted", fault(on("/responses"), answering(403, f"Incorrect API key provided: {KEY}")),
     {"responses": "may not use"}, after("responses_") | REASONING),
    ("another shape", fault(on("/chat/completions", stream=False), answering(200, '{"choices": []}')),
     {"chat": "no OpenAI-compatible server"}, after("chat_") | REASONING),
    ("body cut", fault(on("/chat/completions", stream=False), short_body), {"chat": "cut the connection"},
     after("chat_") | REASONING),
    ("cut stream", fault(on("/chat/completions", stream=True, tools=False), half), {"chat_stream": "without its end mark"}, REASONING),
    ("cut stream of Responses", fault(on("/responses", stream=True, tools=False), half),
     {"responses_stream": "without its end mark"}, REASONING),
    ("cut call", fault(on("/responses", stream=True, tools=True), half), {"responses_tool_call": "without its end mark"},
     {"responses_tool_result"} | REASONING),
    ("killed server", fault(on("/chat/completions", stream=True, tools=False), half_chunked), {"chat_stream": "cut the connection"},
     REASONING),
    ("no stream", fault(on("/chat/completions", stream=True, tools=False), answering(200, "{}")),
     {"chat_stream": "no OpenAI-compatible server"}, REASONING),
    ("one chunk", fault(on("/chat/completions", stream=True, tools=False), lambda h: h.stream([ONE_CHUNK, b"data: [DONE]\n\n"])),
     {"chat_stream": "in one piece"}, REASONING),
    ("error in the stream", fault(on("/chat/completions", stream=True, tools=True), lambda h: h.stream([ERROR_EVENT])),
     {"chat_tool_call": "failed midway"}, {"chat_tool_result"} | REASONING),
    ("failed response", fault(on("/responses", stream=True, tools=True), lambda h: h.stream([FAILED_EVENT])),
     {"responses_tool_call": "failed midway"}, {"responses_tool_result"} | REASONING),
    ("buffering proxy", fault(on("/responses", stream=True, tools=False), all_at_once),
     {"responses_stream": "a proxy in between collects"}, REASONING),
    ("server error", fault(on("/chat/completions", tools=True), answering(500, "Internal Server Error")),
     {"chat_tool_call": "failed on this request"}, {"chat_tool_result"} | REASONING),
    ("auto tools off", fault(on("/chat/completions", tools=True), answering(400, AUTO_OFF)),
     {"chat_tool_call": "without automatic tool choice"}, {"chat_tool_result"} | REASONING),
]  # fmt: skip


@pytest.mark.parametrize(("name", "broken", "causes", "skipped"), FAULTS, ids=[row[0] for row in FAULTS])
def test_fault(name: str, broken: Fault, causes: dict[str, str], skipped: set[str]) -> None:
    with serving(broken) as port:
        found, not_run = outcome(run(port))
    assert set(found) == set(causes), name
    assert all(words in found[check_id] for check_id, words in causes.items())
    assert not_run == skipped


@pytest.mark.parametrize(
    ("path", "event", "words"), [("/chat/completions", ERROR_EVENT, "EngineCore"), ("/responses", FAILED_EVENT, "boom")]
)
def test_an_error_in_the_stream_is_quoted(path: str, event: bytes, words: str) -> None:
    with serving(fault(on(path, stream=True, tools=True), lambda handler: handler.stream([event]))) as port:
        (failure,) = run(port).failed
    assert f"the stream ended in an error: {words}" in failure.evidence


@pytest.mark.parametrize("act", [lambda handler: time.sleep(2.5), dripping], ids=["hanging", "dripping"])
def test_no_answer_in_time(act: Callable[[Handler], None]) -> None:
    """Both a silent server and one that sends just enough to keep the socket alive run into the limit."""
    with serving(fault(on("/responses", stream=True, tools=False), act)) as port:
        start = time.monotonic()
        found, _ = outcome(run(port, timeout=1, apis=["responses"]))
        assert time.monotonic() - start < 10
    assert "overloaded or frozen" in found["responses_stream"]


def test_nothing_listens() -> None:
    found, not_run = outcome(run(closed_port()))
    assert "nothing listens" in found["health"]
    assert not_run == set(endpoint_checks.CHECK_IDS) - {"health"}


def test_only_one_failure_is_told_when_nothing_answers() -> None:
    report = run(closed_port())
    assert {check.evidence for check in report.checks if check.ok is None} == {"health failed"}
    assert report.failed[0].next == "on server1: systemctl status vllm@coder"


def test_wrong_key_of_ours() -> None:
    with serving() as port:
        found, not_run = outcome(run(port, key="sk-stale"))
    assert found == {"models": "the server does not accept this key"}
    assert not_run == REST


def test_without_a_key_enforcement_does_not_apply() -> None:
    with serving(let_in(lambda handler: True)) as port:
        found, not_run = outcome(run(port, key=None))
    assert found == {}
    assert not_run == {"key_enforced"} | REASONING


# ---- TLS ------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a maker of PEM files: a key and a certificate for one name, its own authority, made by openssl."""

    def make(name: str) -> Path:
        pem = tmp_path_factory.mktemp("tls") / "pem"
        alternative = f"subjectAltName={'IP' if name[0].isdigit() else 'DNS'}:{name}"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-days", "2", "-subj", "/CN=test", "-addext", alternative, "-keyout", str(pem), "-out", f"{pem}.crt"]
        subprocess.run(command, check=True, capture_output=True)
        pem.write_text(pem.read_text() + Path(f"{pem}.crt").read_text())
        return pem

    return make


@pytest.mark.parametrize(
    ("name", "trusted", "cause"),
    [
        ("127.0.0.1", True, ""),
        ("127.0.0.1", False, "does not trust the authority"),
        ("other.example.com", True, "for another name than 127.0.0.1"),
    ],
)
def test_tls(certificate: Callable[[str], Path], name: str, trusted: bool, cause: str) -> None:
    pem = certificate(name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with serving(tls=context) as port:
        url = client.BaseUrl.parse(f"https://127.0.0.1:{port}/v1")
        one = client.Client(url, KEY, f"{pem}.crt" if trusted else None)
        found, _ = outcome(endpoint_checks.check_endpoint(one, "micro", "coder", "server1"))
    assert (cause in found["health"]) if cause else (found == {})


def test_https_to_a_plain_server() -> None:
    with serving() as port:
        one = client.Client(client.BaseUrl.parse(f"https://127.0.0.1:{port}/v1"), KEY)
        found, _ = outcome(endpoint_checks.check_endpoint(one, "micro", "coder", "server1"))
    assert "says https and the server speaks plain http" in found["health"]


def test_http_to_a_tls_server(certificate: Callable[[str], Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate("127.0.0.1"))
    with serving(tls=context) as port:
        found, _ = outcome(run(port))
    assert "speaks TLS and base_url says http" in found["health"]


# ---- the module -----------------------------------------------------------------------------------------------------
def module(port: int, **options: Any) -> dict[str, Any]:
    """Run the module as Ansible does, options on its standard input, and return its result. The key is nowhere in it."""
    given = {"base_url": f"http://127.0.0.1:{port}/v1", "model": "micro", "api_key": KEY, **options}
    program = "from ansible_collections.ownmetal.codex.plugins.modules.openai_endpoint_check import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": given}),
        env={**os.environ, "PYTHONPATH": ".collections"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert KEY not in done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_module_reports() -> None:
    with serving() as port:
        result = module(port, expect_reasoning=True, _ansible_check_mode=True)
    assert (result["changed"], result.get("failed", False), result["max_model_len"]) == (False, False, 32768)
    assert [check["id"] for check in result["checks"]] == list(endpoint_checks.CHECK_IDS)
    heading, *lines = result["report"]
    assert heading.endswith(f" at http://127.0.0.1:{port}/v1")
    assert all(line.startswith("ok ") for line in lines)


def test_module_fails_with_a_line_per_failed_check() -> None:
    with serving(fault(on("/responses", tools=True), answering(500, "Internal Server Error"))) as port:
        result = module(port, instance="coder", server="server1")
    assert result["failed"] is True
    head, line = result["msg"].split("\n")
    assert head == f"1 of 13 checks of http://127.0.0.1:{port}/v1 failed."
    assert line.startswith(f"responses_tool_call: POST http://127.0.0.1:{port}/v1/responses answered 500: Internal Server Error.")
    assert line.endswith("Next: on server1: journalctl -u vllm@coder -n 100.")
    assert len(result["checks"]) == 13


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"base_url": "http://server1:8001"}, "base_url: 'http://server1:8001' does not end in /v1."),
        ({"timeout": 0}, "timeout: 0 leaves no time"),
        ({"base_url": "https://server1/v1", "ca_file": "/nowhere/ca.pem"}, "ca_file: /nowhere/ca.pem cannot be used"),
    ],
)
def test_module_refuses(options: dict[str, Any], words: str) -> None:
    result = module(1, **options)
    assert result["failed"] is True
    assert words in result["msg"]
    assert "checks" not in result
