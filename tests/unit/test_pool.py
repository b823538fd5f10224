"""The pool: packed once, served to who was told, taken whole or not at all."""

import errno
import hashlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import threading

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import download, environment_manifest, pool, pool_server
from ansible_collections.ownmetal.codex.plugins.module_utils.environment_build import Site
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.progress import Progress

TOKEN = "t" * 32
NAME = "cpu-1"


@pytest.fixture
def built(tmp_path):
    """A host that has an environment."""
    site = Site(str(tmp_path / "built"), "", "", "")
    root = site.final(NAME)
    os.makedirs(f"{root}/lib")
    with open(f"{root}/lib/random", "wb") as stream:
        stream.write(os.urandom(9 << 20))
    with open(f"{root}/lib/zeros", "wb") as stream:
        stream.write(bytes(5 << 20))
    os.symlink("/usr/bin/python3", f"{root}/python")
    environment_manifest.write(root, environment_manifest.make(root))
    environment_manifest.freeze(root)
    return site


@pytest.fixture
def archive(built, tmp_path):
    return pool.pack(built, NAME, str(tmp_path / "pool"), Progress())


@pytest.fixture
def taker(tmp_path):
    return Site(str(tmp_path / "taker"), "", "", "")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificate")
    make = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=pool",
    ]
    subprocess.run([*make, "-keyout", folder / "key", "-out", folder / "certificate"], check=True, capture_output=True)
    return folder


class Cutting(pool_server.Handler):
    """Ends the connection in the middle of an answer, as long as ``cuts`` are left."""

    cuts = 0

    def _send(self, path):
        if Cutting.cuts:
            Cutting.cuts -= 1
            size = os.path.getsize(path)
            start = int(self.headers["Range"][6:-1])
            self.send_response(206)
            self.send_header("Content-Length", str(size - start))
            self.end_headers()
            with open(path, "rb") as stream:
                stream.seek(start)
                self.wfile.write(stream.read(1 << 20))
            self.close_connection = True
            return
        super()._send(path)


@pytest.fixture
def served(tmp_path, archive, certificate):
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    path = f"environments/{archive['file']}"
    roots = {"environments": str(tmp_path / "pool/environments"), "models": str(tmp_path / "models")}
    (tokens / hashlib.sha256(TOKEN.encode()).hexdigest()).write_text(json.dumps({"roots": roots, "paths": [path, "models/open/"]}))
    (tmp_path / "models/open").mkdir(parents=True)
    (tmp_path / "models/open/config.json").write_text("{}")
    (tmp_path / "models/open/a name.json").write_text("{}")
    (tmp_path / "models/open/out").symlink_to("/etc/passwd")
    (tmp_path / "models/config.json").write_text("{}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "certificate", certificate / "key")
    files = pool_server.Files(str(tokens))
    server = pool_server.Server(("127.0.0.1", 0), files, context)
    server.RequestHandlerClass = Cutting
    threading.Thread(target=server.serve_forever, daemon=True).start()
    fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert((certificate / "certificate").read_text())).hexdigest()
    yield {
        **archive,
        "address": "127.0.0.1",
        "port": server.server_port,
        "fingerprint": fingerprint,
        "token": TOKEN,
        "path": path,
        "tokens": str(tokens),
    }
    Cutting.cuts = 0
    server.shutdown()
    server.server_close()


def test_a_server_takes_what_the_pool_has(served, taker, built):
    pool.take(NAME, served, taker, Progress())
    assert os.listdir(taker.environments) == [NAME]
    assert environment_manifest.damage(taker.final(NAME), full=True) is None
    assert environment_manifest.read(taker.final(NAME)) == environment_manifest.read(built.final(NAME))
    assert os.stat(f"{taker.final(NAME)}/lib/zeros").st_mode & environment_manifest.WRITE == 0


def test_it_is_packed_once(archive, built, tmp_path):
    before = os.stat(tmp_path / "pool/environments" / archive["file"])
    assert pool.pack(built, NAME, str(tmp_path / "pool"), Progress()) == archive
    assert os.stat(tmp_path / "pool/environments" / archive["file"]) == before


def test_half_an_archive_is_none(archive, tmp_path):
    path = tmp_path / "pool/environments" / archive["file"]
    path.write_bytes(path.read_bytes()[:-1])
    assert pool.packed(str(tmp_path / "pool"), NAME) is None


def test_a_connection_that_breaks_goes_on_where_it_was(served):
    Cutting.cuts = 3
    taken = pool.Taken(served, pause=0)
    assert hashlib.sha256(b"".join(taken.blocks())).hexdigest() == served["sha256"]
    assert Cutting.cuts == 0


CASES = {
    "nobody listens": ({"port": 1}, r"vllm_pool_host: .*pool at 127\.0\.0\.1 port 1: .*refused.*Let it reach TCP port 1"),
    "another certificate": ({"fingerprint": "0" * 64}, "is not the pool: its certificate is another one"),
    "another token": ({"token": "no"}, "it answered 401"),
    "another file": ({"path": "models/config.json"}, "it answered 404"),
    "another digest": ({"sha256": "0" * 64}, "the digest is another one"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_taking_that_fails_leaves_nothing(name, served, taker, monkeypatch):
    change, words = CASES[name]
    monkeypatch.setattr(pool.Taken.__init__, "__defaults__", (0.0,))
    with pytest.raises(Refused, match=words):
        pool.take(NAME, {**served, **change}, taker, Progress())
    assert os.listdir(taker.environments) == []


ADDRESSES = ["127.0.0.1", "::1", "[::1]", "localhost"]


def here(address):
    """Whether this machine has it: some have no IPv6."""
    try:
        with socket.create_server((address.strip("[]"), 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET):
            return True
    except OSError:
        return False


@pytest.mark.parametrize("address", ADDRESSES)
def test_the_pool_is_reached_by_ipv4_and_ipv6(address, served, certificate, taker, capfd):
    if not here(address):
        pytest.skip(f"this machine has no {address}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "certificate", certificate / "key")
    tokens = served["tokens"]
    server = pool_server.everywhere(0, pool_server.Files(tokens), context)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        pool.take(NAME, {**served, "address": address, "port": server.server_port}, taker, Progress())
        url = f"https://{address if ':' not in address else '[::1]'}:{server.server_port}/models/open/config.json"
        source = download.Source(url, {"Authorization": f"Bearer {TOKEN}"}, served["fingerprint"])
        assert download.read(source, Progress())[0] == b"{}"
    finally:
        server.shutdown()
        server.server_close()
    assert environment_manifest.damage(taker.final(NAME), full=True) is None
    assert "::ffff:" not in capfd.readouterr().out


def test_a_host_without_ipv6_serves_by_ipv4(tmp_path, monkeypatch):
    whole = socket.socket

    def without(family=socket.AF_INET, *more, **names):
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return whole(family, *more, **names)

    monkeypatch.setattr(socket, "socket", without)
    server = pool_server.everywhere(0, pool_server.Files(str(tmp_path)), None)
    server.server_close()
    assert server.server_address[0] == "0.0.0.0"


def test_a_port_that_is_taken_is_no_want_of_ipv6(tmp_path):
    files = pool_server.Files(str(tmp_path))
    first = pool_server.everywhere(0, files, None)
    with pytest.raises(OSError, match="in use"):
        pool_server.everywhere(first.server_port, files, None)
    first.server_close()


PATHS = [
    ("models/open/config.json", 200),
    ("models/open/a%20name.json", 200),
    ("models/open/out", 404),
    ("models/open/%2e%2e/config.json", 404),
    ("models%2fopen%2f..%2fconfig.json", 404),
    ("models/open/../config.json", 404),
    ("models/open/../../../../../../etc/passwd", 404),
    ("models/config.json", 404),
    ("models/open/", 404),
    ("", 204),
]


@pytest.mark.parametrize(("path", "status"), PATHS)
def test_a_token_opens_what_it_was_given_for(path, status, served):
    connection = pool.connect("127.0.0.1", served)
    connection.request("GET", f"/{path}", headers={"Authorization": f"Bearer {TOKEN}"})
    assert connection.getresponse().status == status


def test_without_tls_there_is_no_answer(served):
    connection = http.client.HTTPConnection("127.0.0.1", served["port"], timeout=5)
    with pytest.raises((OSError, http.client.HTTPException)):
        connection.request("GET", "/")
        connection.getresponse()


def test_a_server_that_nobody_asks_ends(tmp_path):
    server = pool_server.Server(("127.0.0.1", 0), pool_server.Files(str(tmp_path)), None)
    threading.Thread(target=server.end_when_idle, args=(0.2,), daemon=True).start()
    server.serve_forever(poll_interval=0.05)
    server.server_close()


def test_an_own_archive_is_unpacked_instead_of_building(archive, taker, tmp_path):
    pool.ensure({"id": NAME}, taker, str(tmp_path / "pool"), None, Progress())
    assert environment_manifest.damage(taker.final(NAME), full=True) is None


def test_an_own_archive_that_was_changed_is_refused(archive, taker, tmp_path):
    path = tmp_path / "pool/environments" / archive["file"]
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(Refused, match=r"vllm_pool_directory: .*the digest is another one"):
        pool.ensure({"id": NAME}, taker, str(tmp_path / "pool"), None, Progress())


def test_a_pool_host_of_another_kind_is_refused():
    with pytest.raises(Refused, match=r"vllm_pool_host: it is a .* machine, and cpu-1 is for s390x"):
        pool.check_platform({"id": NAME, "machine": "s390x"})
