"""A server leaves the gateway's turn and comes back, whatever engine the gateway has: the program itself, in a folder of its own."""

import http.server
import subprocess
import sys
import threading
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "roles/gateway/files/usr/local/libexec/ownmetal-gateway/drain"
NGINX = """\
upstream model0 {
    server 192.0.2.1:1 max_fails=1 fail_timeout=2s; # gpu1/coder
    server GPU2 max_fails=1 fail_timeout=2s; # gpu2/coder
    server 192.0.2.3:1 max_fails=1 fail_timeout=2s down; # gpu3/coder
}
upstream model1 {
    server 192.0.2.1:2 max_fails=1 fail_timeout=2s; # gpu1/small
}
"""
CADDY = """\
	reverse_proxy {
		to 192.0.2.1:1 # gpu1/coder
		to GPU2 # gpu2/coder
		# to 192.0.2.3:1 # gpu3/coder
	}
	reverse_proxy 192.0.2.1:1 {
"""


@pytest.fixture
def drain(tmp_path):
    """Return the function that runs the program on what stands in tmp_path; ``reloads`` there has what it told systemd."""
    text = PROGRAM.read_text().replace("/etc/ownmetal-gateway", str(tmp_path))
    stub = tmp_path / "bin/systemctl"
    stub.parent.mkdir()
    stub.write_text(f"#!/bin/sh\necho $* >>{tmp_path}/reloads\n")
    stub.chmod(0o755)

    def run(*words):
        env = {"PATH": f"{stub.parent}:/usr/bin:/bin"}
        return subprocess.run([sys.executable, "-c", text, *words], env=env, capture_output=True, text=True, check=True).stdout

    return run


@pytest.fixture
def gpu2():
    """The address of a server that is well, and the function that ends it."""

    class Well(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Well)
    threading.Thread(target=server.serve_forever).start()

    def end():
        server.shutdown()
        server.server_close()

    yield f"127.0.0.1:{server.server_port}", end
    end()


ROWS = [
    # file, its text, the line of gpu1's model, and that line drained
    ("nginx.conf", NGINX, "fail_timeout=2s; # gpu1/coder\n", "fail_timeout=2s down; # gpu1/coder drained\n"),
    ("Caddyfile", CADDY, "\t\tto 192.0.2.1:1 # gpu1/coder\n", "\t\t# to 192.0.2.1:1 # gpu1/coder drained\n"),
]


@pytest.mark.parametrize(("name", "text", "line", "drained"), ROWS)
def test_a_server_goes_out_and_comes_back(drain, tmp_path, gpu2, name, text, line, drained):
    config, text = tmp_path / name, text.replace("GPU2", gpu2[0])
    config.write_text(text)
    config.chmod(0o640)
    assert drain("out", "gpu1", "0") == "coder\n"  # small has no other server: it stays
    assert config.read_text() == text.replace(line, drained)
    assert drain("out", "gpu1", "0") == ""
    assert drain("out", "gpu2", "0") == ""  # the last one stays
    assert drain("out", "gpu3", "0") == ""
    assert drain("back", "gpu2") == ""
    assert drain("back", "gpu3") == ""  # taken out by the inventory
    assert drain("back", "gpu1") == "coder\n"
    assert (config.read_text(), config.stat().st_mode & 0o777) == (text, 0o640)
    assert (tmp_path / "reloads").read_text() == "reload ownmetal-gateway\n" * 2


@pytest.mark.parametrize(("name", "text", "line", "drained"), ROWS)
def test_the_last_one_that_is_well_stays(drain, tmp_path, gpu2, name, text, line, drained):
    address, end = gpu2
    (tmp_path / name).write_text(text.replace("GPU2", address))
    end()
    assert drain("out", "gpu1", "0") == ""
    assert (tmp_path / name).read_text() == text.replace("GPU2", address)
