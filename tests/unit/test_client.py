"""The HTTP client: base URLs, keys, authorities, server-sent events. How it takes a broken server: test_endpoint_checks.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import client
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused

from tests.unit.replay_server import KEY


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


def test_unknown_host_name() -> None:
    url = client.BaseUrl.parse("http://no-such-host.invalid:1/v1")
    with pytest.raises(client.NameUnknown, match=r"no-such-host\.invalid has no address"):
        client.Client(url).get("/models")


def test_the_key_is_in_no_repr() -> None:
    one = client.Client(client.BaseUrl.parse("http://server1/v1"), KEY)
    assert KEY not in repr(one) + str(one)


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_ca_file_refused(tmp_path: Path, content: str | None) -> None:
    ca_file = tmp_path / "ca.pem"
    if content:
        ca_file.write_text(content)
    with pytest.raises(Refused, match=str(ca_file)):
        client.Client(client.BaseUrl.parse("https://server1/v1"), KEY, str(ca_file))
