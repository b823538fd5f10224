"""A file arrives whole or not at all, whatever the server does; and no byte comes twice without need."""

import hashlib
import os
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import download as core
from ansible_collections.ownmetal.codex.plugins.module_utils.download import HttpRefused, Source, download, read
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.progress import Progress

from lab.model_hub import Server

BODY = os.urandom(3_000_000)
SIZE = len(BODY)
SHA = hashlib.sha256(BODY).hexdigest()
GIT = hashlib.sha1(b"blob %d\0" % len(BODY) + BODY).hexdigest()  # noqa: S324 - git's name for it
ROOT = Path(__file__).resolve().parents[2]


class Lines(Progress):
    def __init__(self):
        super().__init__()
        self.lines = []

    def say(self, line):
        self.lines.append(line)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(core, "PAUSE", 0.01)
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    server = Server({"/f": BODY})
    yield server
    server.close()


@pytest.fixture
def get(server, tmp_path):
    def run(sha256=SHA, size=SIZE, stall=0.5, **more):
        run.lines = Lines()
        return download(Source(f"{server.url}/f?secret=1"), str(tmp_path / "f"), size, sha256, run.lines, stall, **more)

    return run


MENDED = {
    "nothing is wrong": [],
    "cut": [("cut", 1_000_000)],
    "cut at once": [("cut", 0), ("cut", 0)],
    "cut again and again, but it comes on": [("cut", 200_000)] * 5 + [("cut", 1_100_000)] + [("cut", 100_000)] * 2,
    "stalls": [("stall", 1_000_000)],
    "ignores ranges": [("cut", 1_000_000), "whole"],
    "too many requests, then unavailable": [429, 503],
    "no such part": [("cut", 1_000_000), 416],
}


@pytest.mark.parametrize("faults", MENDED.values(), ids=MENDED)
def test_what_another_try_mends(server, get, tmp_path, faults):
    server.faults["/f?secret=1"] = list(faults)
    assert get(git_sha1=GIT) == SHA
    assert (tmp_path / "f").read_bytes() == BODY
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    if not {"whole", 416} & set(faults):
        assert len(BODY) <= server.sent < len(BODY) + 70_000
    assert len(get.lines.lines) >= len(faults) - ("whole" in faults)
    assert "secret" not in "".join(get.lines.lines)


REFUSED = {
    "cut for ever": ([("cut", 1000)] * 50, {}, "the connection was cut, 8 times in a row", None),
    "stalled for ever": ([("stall", 0)] * 50, {"stall": 0.1}, "stalled", None),
    "no key": ([401], {}, "401", 401),
    "forbidden": ([403], {}, "403", 403),
    "not there": ([404], {}, "404", 404),
    "another size": ([], {"size": len(BODY) + 5}, "has 3000000 bytes there, and 3000005 was wanted", None),
    "another file": ([], {"sha256": "0" * 64}, "was wanted", None),
    "another file by git": ([], {"git_sha1": "0" * 40}, "git's SHA-1", None),
}


@pytest.mark.parametrize(("faults", "asked", "words", "status"), REFUSED.values(), ids=REFUSED)
def test_what_no_try_mends(server, get, tmp_path, faults, asked, words, status):
    server.faults["/f?secret=1"] = list(faults)
    with pytest.raises(Refused, match=words) as caught:
        get(**asked)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "f").exists()
    if status:
        assert isinstance(caught.value, HttpRefused)
        assert caught.value.status == status
        assert len(server.seen) == 1


def test_what_came_is_kept_for_the_next_run(server, get):
    server.faults["/f?secret=1"] = [("cut", 1_500_000), *[("cut", 0)] * 8]
    with pytest.raises(Refused, match="what came is kept"):
        get()
    assert get() == SHA
    assert server.sent == len(BODY)


def test_a_part_of_another_file_is_fetched_anew(server, get, tmp_path):
    (tmp_path / "f.part").write_bytes(b"x" * 1_000_000)
    assert get() == SHA
    assert server.sent == len(BODY) - 1_000_000 + len(BODY)


def test_a_part_that_is_too_long_is_fetched_anew(server, get, tmp_path):
    (tmp_path / "f.part").write_bytes(b"x" * (len(BODY) + 1))
    assert get() == SHA


def test_retry_after_is_heeded(server, get):
    server.faults["/f?secret=1"] = [503]
    server.headers_for[503] = {"Retry-After": "1"}
    began = time.monotonic()
    assert get() == SHA
    assert time.monotonic() - began >= 1


def test_a_full_disk(server, tmp_path):
    if os.geteuid():
        pytest.skip("mounts need root")
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(small)], check=False).returncode:
        pytest.skip("no mounts here")
    try:
        with pytest.raises(Refused, match="has no space left"):
            download(Source(f"{server.url}/f"), str(small / "f"), len(BODY), SHA, Progress())
        assert not (small / "f").exists()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_killed_download_goes_on(server, tmp_path):
    """kill -9 in the middle: the next run fetches what is missing, and no byte twice but those on their way."""
    server.faults["/f"] = [("slow", len(BODY))]
    code = (
        "import sys; from ansible_collections.ownmetal.codex.plugins.module_utils.download import *; "
        f"download(Source('{server.url}/f'), '{tmp_path}/f', {len(BODY)}, '{SHA}', Progress())"
    )
    child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    while core.part_size(str(tmp_path / "f")) < 500_000 and child.poll() is None:
        time.sleep(0.01)
    child.kill()
    child.wait()
    had = core.part_size(str(tmp_path / "f"))
    assert 500_000 <= had < len(BODY)
    time.sleep(0.2)  # the server notices
    before = server.sent
    assert download(Source(f"{server.url}/f"), str(tmp_path / "f"), len(BODY), SHA, Progress()) == SHA
    assert server.sent - before == len(BODY) - had


def test_a_token_stays_with_its_own_host(server, tmp_path):
    elsewhere = Server({"/blob": BODY})
    server.headers_for[302] = {"Location": f"{elsewhere.url}/blob"}
    server.faults["/f"] = [302]
    source = Source(f"{server.url}/f", {"Authorization": "Bearer geheim"})
    try:
        assert download(source, str(tmp_path / "f"), len(BODY), SHA, Progress()) == SHA
        assert server.seen[0][1]["Authorization"] == "Bearer geheim"
        assert "Authorization" not in elsewhere.seen[0][1]
    finally:
        elsewhere.close()
    server.headers_for[307] = {"Location": "/f"}
    server.faults["/f?x"] = [307]
    read(Source(f"{server.url}/f?x", {"Authorization": "Bearer geheim"}), Progress())
    assert [headers.get("Authorization") for _, headers in server.seen[-2:]] == ["Bearer geheim"] * 2
    assert "geheim" not in repr(source)


@pytest.fixture
def certificate(tmp_path):
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=pool", "-days", "1"]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return key, cert, hashlib.sha256(ssl.PEM_cert_to_DER_cert(cert.read_text())).hexdigest()


def test_a_pinned_server_is_told_from_another(server, tmp_path, certificate):
    key, cert, fingerprint = certificate
    server.use_tls(cert, key)
    url = server.url.replace("http:", "https:") + "/f"
    dest, headers = str(tmp_path / "f"), {"Authorization": "Bearer geheim"}
    for source in (Source(url, headers), Source(url, headers, "0" * 64)):
        with pytest.raises(Refused, match="its certificate is not accepted"):
            download(source, dest, len(BODY), SHA, Progress())
    assert server.seen == []
    assert download(Source(url, headers, fingerprint), dest, len(BODY), SHA, Progress()) == SHA


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/y", "name"])
def test_only_web_servers_are_asked(tmp_path, url):
    with pytest.raises(Refused, match="no address of a web server"):
        download(Source(url), str(tmp_path / "f"), 5, "", Progress())


def test_a_name_that_is_not_there(server, tmp_path):
    with pytest.raises(Refused, match="cannot be reached"):
        download(Source("http://nowhere.invalid/f"), str(tmp_path / "f"), 5, "", Progress())


def test_how_far_it_is_is_said(server, get, monkeypatch):
    server.faults["/f?secret=1"] = [("slow", len(BODY))]
    get()
    assert any(line.startswith("f: ") and " of 3.0 MB, " in line for line in get.lines.lines)
