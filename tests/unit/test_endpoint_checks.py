"""The endpoint checks: wire formats and judges on recorded answers of the real vLLM, and every injected fault."""

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
from ansible_collections.ownmetal.codex.plugins.module_utils import answers, client, endpoint_checks
from ansible_collections.ownmetal.codex.plugins.module_utils.answers import Answer, Call
from ansible_collections.ownmetal.codex.plugins.module_utils.check import CheckFailed
from ansible_collections.ownmetal.codex.plugins.module_utils.diagnoses import Where
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused

from tests.unit.replay_server import ANSWERS, KEY, Fault, Handler, closed_port, recorded, serving, sse

WHERE = Where("http://server1:8001/v1", "server1", "micro", "micro", "server1")
HELLO = "Hello from the micro model, a test fixture. No tool was needed."
THOUGHT = "\nThe last speaker and the offered tools decide what comes next.\n"
PARIS = '{"city": "Paris", "unit": "celsius"}'


# ---- the base URL ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("http://server1:8001/v1", "http://server1:8001/v1"),
        ("http://server1:8001/v1/", "http://server1:8001/v1"),
        ("https://llm.example.com/v1", "https://llm.example.com:443/v1"),
        ("http://[::1]:8001/v1", "http://[::1]:8001/v1"),
        ("https://llm.example.com/team-a/v1", "https://llm.example.com:443/team-a/v1"),
    ],
)
def test_base_url(text: str, parsed: str) -> None:
    assert str(client.BaseUrl.parse(text)) == parsed


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("server1:8001/v1", "does not start with http"),
        ("ftp://server1/v1", "does not start with http"),
        ("http://server1:8001", "does not end in /v1"),
        ("http://server1:8001/v1/chat/completions", "does not end in /v1"),
        ("http://server1:8001/v1?key=x", "does not end in /v1"),
        ("http://server1:port/v1", "no valid port"),
        ("http:///v1", "names no host"),
        (f"http://user:{KEY}@server1/v1", "holds a user name or a key"),
        ("", "does not start with http"),
    ],
)
def test_base_url_refused(text: str, why: str) -> None:
    with pytest.raises(Refused, match=why) as refused:
        client.BaseUrl.parse(text)
    assert "http://server1:8001/v1" in refused.value.instead
    assert KEY not in str(refused.value)


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel"])
def test_key_that_no_header_can_hold_is_refused_unseen(key: str) -> None:
    with pytest.raises(Refused) as refused:
        client.Client(client.BaseUrl.parse("http://server1/v1"), key)
    assert key not in str(refused.value)


@pytest.mark.parametrize(
    ("lines", "events"),
    [
        (["data: a", ""], [("", "a")]),
        (["event: x", "data: a", "data: b", ""], [("x", "a\nb")]),
        (["data:a", "", "data: b", ""], [("", "a"), ("", "b")]),
        ([": a comment", "", "id: 7", "retry: 9", "data: a", ""], [("", "a")]),
        (["event: lonely", "", "data: a", ""], [("", "a")]),
        (["data", ""], [("", "")]),
        (["data: never ended"], []),
        ([], []),
    ],
)
def test_parse_sse(lines: list[str], events: list[tuple[str, str]]) -> None:
    assert list(client.parse_sse(lines)) == events


# ---- recorded answers -----------------------------------------------------------------------------------------------
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


def test_unknown_host_name() -> None:
    url = client.BaseUrl.parse("http://no-such-host.invalid:1/v1")
    with pytest.raises(client.NameUnknown, match=r"no-such-host\.invalid has no address"):
        client.Client(url).get("/models")


def test_the_key_is_in_no_repr() -> None:
    one = client.Client(client.BaseUrl.parse("http://server1/v1"), KEY)
    assert KEY not in repr(one) + str(one)


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


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_ca_file_refused(tmp_path: Path, content: str | None) -> None:
    ca_file = tmp_path / "ca.pem"
    if content:
        ca_file.write_text(content)
    with pytest.raises(Refused, match=str(ca_file)):
        client.Client(client.BaseUrl.parse("https://server1/v1"), KEY, str(ca_file))


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
    assert all(line.startswith("ok ") for line in result["report"])


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
