"""After converge: the chain is up, it is the real one, and it keeps its secret."""

import json
import re

import pytest
from conftest import ROOT

UNIT = "vllm@micro.service"
EXPOSURE = 1.2  # of systemd-analyze security; it may only improve
VLLM, CODEX = "0.32.0", "0.169.0"


def test_the_unit_runs_and_says_that_it_is_ready(server):
    unit = server.service(UNIT)
    assert unit.is_running
    assert unit.is_enabled
    assert "ready: first token after" in server.check_output(f"systemctl show --property=StatusText {UNIT}")


def test_the_server_is_the_real_vllm(server, base_url):
    version = json.loads(server.check_output(f"curl -sf {base_url.removesuffix('/v1')}/version"))["version"]
    assert version.startswith(VLLM)
    group = server.check_output(f"systemctl show --property=ControlGroup --value {UNIT}")
    tree = server.check_output(
        f"for p in $(cat $(find /sys/fs/cgroup -path '*{group}/cgroup.procs' | head -n 1)); do tr '\\0' ' ' </proc/$p/cmdline; echo; done"
    )
    assert "/vllm serve --config /etc/vllm/micro.yaml" in tree
    assert "VLLM::EngineCore" in tree


def test_the_client_is_the_real_codex(developer):
    assert developer.check_output("runuser -u dev -- codex --version") == f"codex-cli {CODEX}"
    # a native program of the npm package, not a script of ours
    assert developer.check_output("head -c 4 $(readlink -f $(command -v codex)) | od -An -c").split() in (["177", "E", "L", "F"],)


def test_codex_creates_the_file_through_a_tool_call(developer):
    developer.check_output("install -d -o dev -g dev /home/dev/work")
    run = "cd /home/dev/work && rm -f hello.txt && codex exec --json --ephemeral --skip-git-repo-check 'Create hello.txt' </dev/null"
    events = [json.loads(line) for line in developer.check_output("runuser -l dev -c %s", run).splitlines() if line.startswith("{")]
    commands = [event["item"] for event in events if event.get("item", {}).get("type") == "command_execution"]
    assert any(command["status"] == "completed" and command["exit_code"] == 0 for command in commands), events
    assert events[-1]["type"] == "turn.completed"
    assert developer.file("/home/dev/work/hello.txt").content_string == "hi"
    assert developer.file("/home/dev/work/hello.txt").user == "dev"


def test_what_codex_asked_is_in_no_journal(server):
    """Prompts are private. The test above has just asked."""
    assert "hello.txt" not in server.check_output(f"journalctl --no-pager --unit '{UNIT}'")


def test_codex_itself_finds_its_configuration_valid(developer):
    done = developer.run("runuser -l dev -c 'codex app-server --strict-config --print-startup-config'")
    assert done.rc == 0, done.stderr


def test_the_users_own_settings_are_still_there(developer):
    """What lab/prepare.yml gave the user: comments, order and foreign keys are kept, and the file as it was is beside it."""
    own = (ROOT / "lab/files/own-config.toml").read_text()
    assert developer.file("/home/dev/.codex/config.toml.before-ownmetal").content_string == own
    merged = developer.file("/home/dev/.codex/config.toml").content_string.splitlines()
    ours = {'model = "my-own"   # fast enough for commit messages', 'model_provider = "local"'}
    kept = [line for line in own.splitlines() if line not in ours]
    assert [line for line in merged if line in kept and line] == [line for line in kept if line]
    assert 'model = "micro"   # fast enough for commit messages' in merged


def test_it_listens_only_where_it_was_told(server, base_url):
    address = base_url.removeprefix("http://").removesuffix("/v1")
    rows = server.check_output("ss -Hltn").splitlines()
    open_to_others = {row.split()[3] for row in rows if not row.split()[3].startswith(("127.", "[::1]"))}
    assert open_to_others == {address, "0.0.0.0:22", "[::]:22"}


def test_another_machine_needs_the_key(developer, base_url, key):
    ask = "curl -s -o /dev/null -w '%{http_code}'"
    assert developer.check_output(f"{ask} {base_url}/models") == "401"
    assert developer.check_output(f"{ask} -H @- {base_url}/models <<< 'Authorization: Bearer {key}'") == "200"


@pytest.mark.parametrize("name", ["server", "developer"])
def test_the_key_is_nowhere_to_be_seen(name, request, key):
    host = request.getfixturevalue(name)
    # the pattern is in a file: on a command line it would find itself
    places = "/etc /opt /usr/local /var /run /home /root /tmp"
    host.run_expect([0], "umask 077; cat > /root/.pattern <<'E'\n" + key + "\nE")
    try:
        for command in ("ps -eww -o args", f"systemctl show '{UNIT}'", "journalctl --no-pager"):
            assert host.run(f"{command} | grep -cF -f /root/.pattern").stdout.strip() == "0", command
        found = host.run(f"grep -rlsF -f /root/.pattern --exclude=.pattern {places}").stdout.split()
        readable = [path for path in found if host.file(path).mode & 0o077 and not path.startswith("/run/credentials/")]
        assert found, "the key is on this host, so the search must find it"
        assert readable == []
    finally:
        host.run_expect([0], "rm /root/.pattern")


def test_another_user_of_the_server_cannot_read_the_credential(server):
    for path in ("/run/credentials/vllm@micro.service/api-key", "/etc/vllm/api-key", "/etc/vllm/micro.env"):
        assert server.run(f"runuser -u nobody -- cat {path}").rc != 0
    pid = server.check_output(f"systemctl show --property=MainPID --value {UNIT}")
    assert server.run(f"runuser -u nobody -- cat /proc/{pid}/environ").rc != 0


def test_the_hardening_does_not_get_worse(server):
    said = server.check_output(f"systemd-analyze security --no-pager {UNIT} | tail -n 1")
    assert float(re.search(r"level for \S+: ([\d.]+)", said)[1]) <= EXPOSURE


def test_the_environment_is_whole_and_read_only_for_the_service(server):
    link = server.file("/var/lib/vllm/micro/current/environment").linked_to
    assert re.fullmatch(r"/opt/vllm/environments/cpu-py311-[0-9a-f]{12}", link)
    assert server.check_output("ls -A /opt/vllm/environments") == link.rsplit("/", 1)[1]  # no half-built one beside it
    assert server.check_output(f"find {link} -perm /022 -not -type l | head -n 3") == ""
    assert server.run(f"runuser -u vllm -- test -w {link}").rc != 0


def test_start_returns_with_the_first_token_and_names_its_stage_meanwhile(server, base_url, key):
    server.check_output(
        f"systemctl stop {UNIT}; (while :; do systemctl show --value --property=ActiveState,StatusText {UNIT} | paste -s; sleep 0.1; done) "
        ">/root/stages 2>&1 & watcher=$!; "
        f"systemctl start {UNIT}; kill $watcher"
    )
    stages = list(dict.fromkeys(server.check_output("cat /root/stages; rm /root/stages").splitlines()))
    # a short stage may fall between two looks, so not each of them is asked for
    meanwhile = {line.split("\t")[0] for line in stages if line.split("\t")[-1] == "activating"}
    assert "starting: Python and vLLM are loading" in meanwhile, stages
    assert len([stage for stage in meanwhile if stage.startswith("starting: ")]) >= 3, stages
    assert not any("starting" in line for line in stages if line.split("\t")[-1] == "active"), stages
    ask = 'curl -sf -H @- -d \'{"model": "micro", "prompt": "x", "max_tokens": 1}\' -H \'Content-Type: application/json\''
    said = server.check_output(f"{ask} {base_url}/completions <<< 'Authorization: Bearer {key}'")
    assert json.loads(said)["usage"]["completion_tokens"] == 1


def test_an_operator_who_is_not_root_can_do_it_by_sudo(server, developer, playbook):
    for host in (server, developer):
        host.check_output(
            "useradd -m ops && echo 'ops ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/ops && install -d -o ops -m 700 /home/ops/.ssh && "
            "install -o ops -m 600 /root/.ssh/authorized_keys /home/ops/.ssh/"
        )
    try:
        code, said = playbook("site", ansible_user="ops")
    finally:
        for host in (server, developer):
            host.check_output("pkill -KILL -u ops; userdel -r ops 2>&1; rm /etc/sudoers.d/ops")
    assert code == 0, said
    assert said.count("changed=0") == 2


def test_a_second_run_makes_one_connection_per_role(playbook):
    code, said = playbook("gpu_servers", "-vvv")
    assert code == 0
    assert "changed=0" in said
    assert said.count("SSH: EXEC") == 2  # the roles python and vllm
