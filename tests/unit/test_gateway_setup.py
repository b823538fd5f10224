"""The page /setup: what it says for which version, and its script, run by real shells against a small gateway with TLS."""

import http.server
import json
import os
import pathlib
import shlex
import shutil
import ssl
import subprocess
import threading

import jinja2
import pytest
import tomllib
from ansible_collections.ownmetal.codex.plugins.module_utils import gateway_setup, gateway_tls

TEMPLATES = pathlib.Path(__file__).parents[2] / "roles/gateway/templates/etc/ownmetal-gateway/setup"
KEY = "a-key_of.anna~1"
SHELLS = [shell for shell in (["dash"], ["busybox", "sh"]) if shutil.which(shell[0])]


def instances(url="https://gw1/v1", **lengths):
    return [
        {"base_url": url, "served_model_name": [name], "max_model_len": length} for name, length in (lengths or {"micro": 8192}).items()
    ]


def render(name, setup, ca=""):
    environment = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)  # noqa: S701 - as Ansible
    environment.filters.update(quote=shlex.quote, comment=lambda text, *_: f"# {text}")
    template = environment.from_string((TEMPLATES / f"{name}.j2").read_text())
    return template.render(__gateway_setup=setup, __gateway_secrets={"ca": ca}, ansible_managed="managed")


def variant(setup, minor):
    return tomllib.loads(next(row["text"] for row in setup["variants"] if minor >= row["floor"]))


@pytest.mark.parametrize(
    ("minor", "wire", "key_is", "own_file"),
    [(63, "chat", "env_key", False), (94, "chat", "env_key", False), (95, "responses", "env_key", False),
     (130, "responses", "auth", False), (134, "responses", "auth", True), (169, "responses", "auth", True)],
)  # fmt: skip
def test_a_version_gets_what_it_can_read(minor, wire, key_is, own_file):
    setup = gateway_setup.setup(instances())
    provider = variant(setup, minor)["model_providers"]["gateway"]
    assert (provider["wire_api"], provider["base_url"], key_is in provider) == (wire, "https://gw1/v1", True)
    assert ("env_key" in provider) != ("auth" in provider)
    assert (minor >= setup["profile_from"]) == own_file


def test_what_is_the_developers_own_is_not_set():
    assert not {"approval_policy", "sandbox_mode", "mcp_servers"} & set(variant(gateway_setup.setup(instances()), 169))


@pytest.mark.parametrize(
    ("lengths", "context"),
    [({"micro": 8192}, 8192), ({"micro": 8192, "tiny": 4096}, 4096), ({"micro": None, "tiny": 4096}, 4096), ({"micro": None}, None)],
)
def test_the_least_known_length_is_stated_and_an_unknown_one_is_not_made_up(lengths, context):
    assert variant(gateway_setup.setup(instances(**lengths)), 169).get("model_context_window") == context


def test_names_cannot_leave_the_page():
    page = render("index.html", gateway_setup.setup(instances(**{"<script>": 8192})))
    assert "<script" not in page and "&lt;script&gt;" in page


@pytest.mark.parametrize(("ca", "offered"), [("PEM", True), ("", False)])
def test_a_ca_is_offered_where_it_is_ours(ca, offered):
    assert ("/setup/ca.pem" in render("index.html", gateway_setup.setup(instances()), ca)) == offered


class Gateway(http.server.BaseHTTPRequestHandler):
    """GET /v1/models with a key, as the real one answers it."""

    def do_GET(self):
        good = self.headers["Authorization"] == f"Bearer {KEY}" and self.path == "/v1/models"
        rows = [{"max_model_len": 4096, "id": "org/tiny", "object": "model"}, {"id": "micro", "object": "model", "max_model_len": 32768}]
        # the gateway's encoder writes a slash like this
        text = json.dumps({"object": "list", "data": rows}, separators=(",", ":")).replace("/", "\\/")
        self.send_response(200 if good else 401)
        self.end_headers()
        self.wfile.write(text.encode() if good else b"{}")

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    pair = gateway_tls.made(str(folder), "gw", ["127.0.0.1"])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "gateway-gw.crt", folder / "gateway-gw.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (folder / "root.pem").write_text(pair.ca)
    setup = gateway_setup.setup(instances(f"https://127.0.0.1:{server.server_port}/v1", micro=8192, **{"org/tiny": 8192}))
    yield render("install.sh", setup), folder / "root.pem"
    server.shutdown()


class Machine:
    """A developer's home, with a program that says it is Codex of some version."""

    def __init__(self, shell, folder, gateway):
        self.shell, self.folder, (self.script, self.ca) = shell, folder, gateway
        self.codex, self.system = folder / ".codex", folder / "etc" / "codex"
        (folder / "bin").mkdir()
        self.version("0.169.0")

    def version(self, text):
        program = self.folder / "bin/codex"
        program.write_text(f"#!/bin/sh\necho codex-cli {text}\n")
        program.chmod(0o755)

    def run(self, *words, script=None, **environment):
        given = {"HOME": str(self.folder), "PATH": f"{self.folder}/bin:{os.environ['PATH']}", "OWNMETAL_CA": str(self.ca),
                 "OWNMETAL_KEY": KEY, "OWNMETAL_SYSTEM_DIR": str(self.system), **environment}  # fmt: skip
        command = [*self.shell, "-s", "--", *words]
        # a session of its own has no terminal to ask
        options = {"env": given, "text": True, "capture_output": True, "timeout": 60, "start_new_session": True}
        return subprocess.run(command, check=False, input=script or self.script, **options)

    def files(self):
        return {
            str(path.relative_to(self.folder)): path.read_text()
            for path in self.folder.rglob("*")
            if path.is_file() and path.parent.name != "bin"
        }


@pytest.fixture(params=SHELLS, ids=lambda shell: shell[0])
def machine(request, tmp_path, gateway):
    return Machine(request.param, tmp_path, gateway)


def test_the_profile_has_the_lengths_of_now_and_the_key_is_its_owners(machine):
    said = machine.run()
    assert said.returncode == 0, said.stderr
    profile, key = machine.codex / "gateway.config.toml", machine.codex / "ownmetal-gateway.key"
    written = tomllib.loads(profile.read_text())
    assert [written[name] for name in gateway_setup.LENGTHS] == [4096, 3072, 512]
    assert key.read_text() == f"{KEY}\n" and KEY not in said.stdout + said.stderr
    assert [path.stat().st_mode & 0o777 for path in (profile, key)] == [0o600, 0o600]
    assert len(machine.files()) == 2


def test_a_second_run_writes_nothing_and_another_model_is_taken(machine):
    machine.run()
    before = {path: path.stat().st_mtime_ns for path in machine.codex.iterdir()}
    assert "as it should be" in machine.run().stderr
    assert {path: path.stat().st_mtime_ns for path in machine.codex.iterdir()} == before
    assert machine.run("--model", "org/tiny").returncode == 0
    assert tomllib.loads((machine.codex / "gateway.config.toml").read_text())["model"] == "org/tiny"


@pytest.mark.parametrize("words", [(), ("--system",)])
def test_remove_takes_back_what_was_written_and_nothing_else(machine, words):
    machine.codex.mkdir()
    (machine.codex / "config.toml").write_text('model = "mine"\n')
    before = machine.files()
    assert machine.run(*words).returncode == 0
    assert machine.files() != before
    assert machine.run("--remove", *words).returncode == 0
    assert machine.files() == before
    assert machine.run("--remove", *words).returncode == 0


REFUSED = [
    # file that is there                         its text                 options        environment                      words
    ("home", ".codex/gateway.config.toml", "model = 1\n", (), {}, "gateway.config.toml is there and was not written"),
    ("key", ".codex/ownmetal-gateway.key", "other\n", (), {}, "ownmetal-gateway.key is there"),
    ("both styles", ".codex/config.toml", "[profiles.gateway]\n", (), {}, "has [profiles.gateway]"),
    ("system", "etc/codex/config.toml", "model = 1\n", ("--system",), {}, "config.toml is there and was not written"),
    ("remove", ".codex/gateway.config.toml", "model = 1\n", ("--remove",), {}, "was not written by this script"),
    ("wrong key", None, "", (), {"OWNMETAL_KEY": "wrong"}, "does not know this key"),
    ("bad key", None, "", (), {"OWNMETAL_KEY": 'a"\nurl = x'}, "this is no key"),
    ("no key", None, "", (), {"OWNMETAL_KEY": ""}, "no terminal"),
    ("no trust", None, "", (), {"OWNMETAL_CA": ""}, "does not answer"),
    ("other model", None, "", ("--model", "none"), {}, "one of: org/tiny micro"),
    ("bad model", None, "", ("--model", "a|b"), {}, "no name of a model"),
    ("no option", None, "", ("--force",), {}, "no option"),
    ("no codex", None, "", (), {"PATH": "/usr/bin:/bin"}, "there is no codex in your PATH"),
]


@pytest.mark.parametrize(("path", "text", "words", "environment", "why"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_refusal_changes_nothing(machine, path, text, words, environment, why):
    if path:
        (machine.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (machine.folder / path).write_text(text)
    before = machine.files()
    said = machine.run(*words, **environment)
    assert said.returncode == 1 and why in said.stderr
    assert machine.files() == before


def test_a_file_that_was_changed_since_is_its_owners(machine):
    machine.run()
    with (machine.codex / "gateway.config.toml").open("a") as stream:
        stream.write("# mine\n")
    before = machine.files()
    assert [machine.run(*words).returncode for words in ((), ("--remove",))] == [1, 1]
    assert machine.files() == before


@pytest.mark.parametrize(("version", "wire"), [("0.133.0", "responses"), ("0.94.0", "chat")])
def test_before_profile_files_the_lines_are_printed_and_nothing_is_written(machine, version, wire):
    machine.version(version)
    said = machine.run()
    assert said.returncode == 0 and machine.files() == {}
    assert tomllib.loads(said.stdout)["model_providers"]["gateway"]["wire_api"] == wire


@pytest.mark.parametrize(
    ("version", "variables"),
    [("0.94.0", ["VLLM_API_KEY", "SSL_CERT_FILE"]), ("0.129.0", ["VLLM_API_KEY", "SSL_CERT_FILE"]),
     ("0.130.0", ["CODEX_CA_CERTIFICATE"]), ("0.169.0", ["CODEX_CA_CERTIFICATE"])],
)  # fmt: skip
def test_the_lines_for_a_shell_are_those_that_the_version_reads_and_a_shell_takes_them(machine, version, variables):
    machine.version(version)
    home, ca = machine.folder / "it's my home", machine.folder / "my ca's.pem"
    ca.write_text(machine.ca.read_text())
    said = machine.run(CODEX_HOME=str(home), OWNMETAL_CA=str(ca)).stderr
    lines = [line.partition(": ")[2] for line in said.splitlines() if line.startswith("In each shell")]
    assert [line.split("=")[0].removeprefix("export ") for line in lines] == variables
    home.mkdir(exist_ok=True)
    (home / "ownmetal-gateway.key").write_text(f"{KEY}\n")
    shows = "\n".join([*lines, *(f'printf "%s\\n" "${name}"' for name in variables)])
    shown = subprocess.run([*machine.shell, "-c", shows], text=True, capture_output=True, check=True).stdout.splitlines()
    assert shown == [{"VLLM_API_KEY": KEY}.get(name, str(ca)) for name in variables]


def test_a_second_run_takes_the_key_out_of_others_sight(machine):
    machine.run()
    for path in machine.codex.iterdir():
        path.chmod(0o644)
    machine.run()
    assert {path.stat().st_mode & 0o777 for path in machine.codex.iterdir()} == {0o600}


def test_a_codex_that_does_not_run_is_named(machine):
    (machine.folder / "bin/codex").write_text("#!/bin/sh\nexit 1\n")
    said = machine.run()
    assert said.returncode == 1 and f"{machine.folder}/bin/codex --version says no version" in said.stderr
    assert machine.files() == {}


def test_a_download_that_was_cut_does_nothing(machine):
    whole = machine.script.rstrip("\n")
    for at in [*range(1, len(whole) - 60, len(whole) // 40), *range(len(whole) - 30, len(whole))]:
        machine.run(script=whole[:at])
        assert machine.files() == {}, whole[at - 40 : at]


def test_the_key_is_read_from_a_file(machine):
    (machine.folder / "key").write_text(f"{KEY}\n")
    assert machine.run(OWNMETAL_KEY="", OWNMETAL_KEY_FILE=str(machine.folder / "key")).returncode == 0


def test_ansible_finds_nothing_to_template_in_the_script(gateway):
    assert not any(mark in gateway[0] for mark in ("{{", "{%", "{#"))


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not here")
def test_shellcheck_finds_nothing(gateway):
    said = subprocess.run(["shellcheck", "-s", "sh", "-"], input=gateway[0], text=True, capture_output=True, check=False)
    assert said.stdout == ""
