"""The page /setup: who gets it, and its script on a machine that Ansible never saw, up to a tool call of the real Codex."""

import base64
import json
import os
import struct
import subprocess

import pytest
from conftest import INVENTORY, SECRETS

from lab import testing
from lab.testing import ROOT

PAGES = ("/setup", "/setup/config.toml", "/setup/install.sh")
HOME = "/home/carl"
NAMES = f"find {HOME} -type f -not -path '*/.codex/tmp/*' -printf '%P %m\\n' | sort"  # there codex --version locks something


@pytest.fixture(scope="module")
def guest(developer):
    """A machine that trusts nothing, with a person and the program that others here have; nothing of the role comes to it."""
    found = testing.host("guest1", INVENTORY)
    # all hosts of the lab share this folder
    program = developer.check_output("find /opt/codex -type f -name codex -size +20M | head -n 1")
    developer.check_output("install -m 755 %s /srv/uv-cache/codex-of-guest", program)
    found.check_output("mv /srv/uv-cache/codex-of-guest /usr/local/bin/codex; id carl 2>/dev/null || useradd -m -s /bin/bash carl")
    found.check_output(f"rm -rf {HOME}/.codex {HOME}/work; install -d -o carl -g carl {HOME}/work")
    return found


@pytest.fixture
def page(guest, keys):
    """Ask as a browser does, with the key as a password; return (status, head, text). The key goes by a file."""

    def get(path, key="anna", header=None, options=""):
        pair = base64.b64encode(f"you:{keys[key]}".encode()).decode() if key in (*keys_of_people, "wrong", "internal") else ""
        line = header or (f"Authorization: Basic {pair}" if pair else "X-None: none")
        guest.run_expect([0], f"umask 077; cat >/root/.header <<'E'\n{line}\nE")
        said = guest.check_output(f"curl -sk -i --http1.1 -m 60 {options} -H @/root/.header https://gw1{path}; rm /root/.header")
        head, _, text = said.replace("\r", "").partition("\n\n")
        return int(head.split()[1]), head.lower(), text

    keys_of_people = ("anna", "bea", "ben", "bot")
    return get


@pytest.mark.parametrize("path", PAGES)
def test_the_key_is_the_password_and_nothing_else_opens_a_page(page, path):
    status, head, text = page(path)
    assert (status, len(text) > 200) == (200, True), head
    assert "cache-control: no-store" in head
    assert page(path, "bea")[2] == text  # the other team's key opens the same
    for key in ("none", "wrong", "ben", "internal"):
        status, head, text = page(path, key)
        assert (status, "www-authenticate: basic realm=" in head) == (401, True), (key, head)
        assert "gw1/v1" not in text


BROWSER = "chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --ignore-certificate-errors"


@pytest.mark.skipif(not os.environ.get("OWNMETAL_BROWSER"), reason="OWNMETAL_BROWSER=1 asks for it: a browser of 120 MB is fetched")
@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_shows_the_page(guest, keys, width):
    """What it drew is left in the checkout's .cache, to be looked at."""
    install = "apt-get -qqy install --no-install-recommends chromium fonts-dejavu-core >/dev/null"
    guest.check_output(f"command -v chromium || (apt-get -qq update && DEBIAN_FRONTEND=noninteractive {install})")
    drawn = f"{HOME}/setup-{width}.png"
    page = f"{BROWSER} --window-size={width},1600 https://you:{keys['anna']}@gw1/setup 2>/dev/null"
    said = guest.check_output("runuser -l carl -c %s", f"{page} --dump-dom && {page} --screenshot={drawn}")
    assert "<h1>" in said
    assert "/setup/install.sh" in said
    assert keys["anna"] not in said
    picture = base64.b64decode(guest.check_output(f"base64 {drawn}; rm {drawn}"))
    (ROOT / f".cache/setup-{width}.png").write_bytes(picture)
    assert struct.unpack(">II", picture[16:24]) == (width, 1600)
    assert len(picture) > 20_000, "an empty page has some 4 KB"


def test_a_password_opens_the_pages_alone(page, keys):
    assert page("/setup", header=f"Authorization: Bearer {keys['anna']}")[0] == 200
    assert page("/v1/models")[0] == 401
    assert page(f"/setup?key={keys['anna']}", "none")[0] == 401
    for path, options in (("/setup/", ""), ("/setup/../state.json", "--path-as-is"), ("/setup/state.json", ""), ("/setup", "-X POST")):
        assert page(path, options=options)[0] == 404, path


def test_the_ca_is_there_for_anyone_and_is_the_controllers(page):
    status, _, text = page("/setup/ca.pem", "none")
    assert (status, text.strip()) == (200, (SECRETS / "ca.crt").read_text().strip())


# A person at a terminal: the script asks, the key is typed. (runuser -c alone would take the terminal away.)
TYPES = """
import os, pty, sys
key, told = open("/root/.typed").read().encode(), b""
child, terminal = pty.fork()
if child == 0:
    os.execvp("runuser", ["runuser", "-l", sys.argv[1], "--session-command", sys.argv[2]])
while True:
    try:
        piece = os.read(terminal, 4096)
    except OSError:
        break
    if not piece:
        break
    told += piece
    if told.endswith(b"Your key: "):
        os.write(terminal, key + b"\\n")
print(told.decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture
def script(guest, page, keys):
    """Run the script as the page says, a key typed at its question; return exit code and what the terminal showed."""
    for path, name in (("/setup/install.sh", "install.sh"), ("/setup/ca.pem", "ca.pem")):
        guest.run_expect([0], f"cat >{HOME}/{name} <<'END'\n{page(path)[2]}\nEND")

    def run(*words, key="anna", ca="OWNMETAL_CA=ca.pem", user="carl"):
        guest.run_expect([0], f"cat >/root/types.py <<'E'{TYPES}E\numask 077; printf %s '{keys[key]}' >/root/.typed")
        line = f"cd {HOME} && {ca} sh install.sh {' '.join(words)}"
        done = guest.run("python3 /root/types.py %s %s; rc=$?; rm /root/.typed /root/types.py; exit $rc", user, line)
        assert keys[key] not in done.stdout + done.stderr
        return done.rc, done.stdout

    yield run
    guest.check_output(f"rm -f {HOME}/install.sh {HOME}/ca.pem")


@pytest.mark.parametrize(
    ("key", "ca", "words"),
    [
        ("wrong", "OWNMETAL_CA=ca.pem", "does not know this key"),
        ("ben", "OWNMETAL_CA=ca.pem", "or it has expired"),
        ("anna", "", "With a private CA set OWNMETAL_CA"),
    ],
)
def test_what_is_refused_writes_nothing(guest, script, key, ca, words):
    before = guest.check_output(NAMES)
    code, said = script(key=key, ca=ca)
    assert (code, words in said) == (1, True), said
    assert guest.check_output(NAMES) == before


def test_the_script_leads_the_real_codex_to_a_tool_call_and_takes_itself_back(guest, script, keys):
    before = guest.check_output(NAMES)
    code, said = script()
    assert code == 0, said
    new = set(guest.check_output(NAMES).splitlines()) - set(before.splitlines())
    assert new == {".codex/gateway.config.toml 600", ".codex/ownmetal-gateway.key 600"}
    assert "model_context_window = 32768" in guest.file(f"{HOME}/.codex/gateway.config.toml").content_string
    export = f"export CODEX_CA_CERTIFICATE={HOME}/ca.pem"
    assert export in said
    codex_calls_a_tool(guest, f"{export}; codex -p gateway")
    assert "as it should be" in script()[1]
    code, said = script("--remove")
    assert code == 0, said
    assert not guest.file(f"{HOME}/.codex/gateway.config.toml").exists
    assert not guest.file(f"{HOME}/.codex/ownmetal-gateway.key").exists


def codex_calls_a_tool(guest, start):
    line = "exec --json --ephemeral --skip-git-repo-check --sandbox danger-full-access 'Create hello.txt' </dev/null"
    said = guest.run("runuser -l carl -c %s", f"cd work && rm -f hello.txt; {start} {line}")
    assert '"type":"turn.completed"' in said.stdout, said.stdout + said.stderr
    assert guest.file(f"{HOME}/work/hello.txt").content_string == "hi"


def test_for_a_whole_machine_each_person_brings_a_key(guest, script, keys):
    code, said = script("--system", user="root")
    assert code == 0, said
    assert guest.file("/etc/codex/config.toml").mode == 0o644
    assert keys["anna"] not in guest.check_output("cat /etc/codex/config.toml")
    guest.check_output(f"install -d -o carl -m 700 {HOME}/.codex")
    guest.run_expect([0], f"runuser -l carl -c 'umask 077; cat >.codex/ownmetal-gateway.key' <<'E'\n{keys['bea']}\nE")
    codex_calls_a_tool(guest, f"export CODEX_CA_CERTIFICATE={HOME}/ca.pem; codex")
    code, said = script("--system", "--remove", user="root")
    assert (code, guest.file("/etc/codex/config.toml").exists) == (0, False), said
    guest.check_output(f"rm {HOME}/.codex/ownmetal-gateway.key")


def test_who_looked_is_in_the_log_and_no_key_is(gateway, page, keys):
    page("/setup")
    line = json.loads(gateway.check_output("tail -n 1 /var/log/ownmetal-gateway/access.log"))
    assert (line["key"], line["route"], line["status"]) == ("red/anna", "setup", 200)
    words = [keys["anna"], base64.b64encode(f"you:{keys['anna']}".encode()).decode()]
    gateway.run_expect([0], "umask 077; cat >/root/.pattern <<'E'\n" + "\n".join(words) + "\nE")
    try:
        assert gateway.run("grep -rlsF -f /root/.pattern --exclude=.pattern /etc /var /run /usr/local /tmp").stdout == ""
        assert gateway.run("(journalctl --no-pager; ps -eww -o args) | grep -cF -f /root/.pattern").stdout.strip() == "0"
    finally:
        gateway.check_output("rm /root/.pattern")


def test_the_fingerprint_that_the_docs_print_is_that_of_the_page(guest, page):
    asks = ["openssl", "x509", "-noout", "-fingerprint", "-sha256"]
    told = subprocess.run([*asks, "-in", str(SECRETS / "ca.crt")], capture_output=True, text=True, check=True).stdout.strip()
    assert guest.check_output("openssl x509 -noout -fingerprint -sha256 <<'E'\n" + page("/setup/ca.pem", "none")[2] + "\nE") == told


def test_it_can_be_switched_off(playbook, page, gateway):
    assert playbook("gateways", gateway_setup=False)[0] == 0
    try:
        assert [page(path)[0] for path in (*PAGES, "/setup/ca.pem")] == [404] * 4
        assert not gateway.file("/etc/ownmetal-gateway/setup").exists
    finally:
        assert playbook("gateways")[0] == 0
    assert page("/setup")[0] == 200
