"""What is made of Codex's own words: recorded runs of the real one, with the real vLLM (fixtures/codex/README.md)."""

import json
import os
import pwd
import time
from pathlib import Path

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import codex_exec
from ansible_collections.ownmetal.codex.plugins.module_utils.codex_diagnoses import Codex, explain, explain_command, explain_silence
from ansible_collections.ownmetal.codex.plugins.module_utils.codex_exec import CHECKS, Options, Turn, check_codex, read_events
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused

RECORDED = Path(__file__).parent / "fixtures/codex"
NAMES = Options(user="dev", instance="coder", server="gpu3")
# discard: nothing listens on it
CLOSED = "http://127.0.0.1:9/v1"


def turn(name):
    return Turn.read(read_events((RECORDED / f"{name}.jsonl").read_text()))


def settings(**changed):
    answer = json.loads((RECORDED / "config_read.jsonl").read_text())["result"]["config"]
    return Codex.read({**answer, **changed})


FAILURES = [
    # recorded, evidence, cause, next
    ("wrong_key", "401", "the server does not accept this key", "playbooks/developers.yml writes the file with the key again"),
    ("key_file_gone", "cat", "the file with the key is gone: ownmetal-vllm.key", "playbooks/developers.yml"),
    (
        "variable_missing",
        "VLLM_API_KEY",
        "the key is expected in VLLM_API_KEY, which the login environment of dev",
        "codex_key_source: file",
    ),
    ("model_unknown", "404", "the server serves other names than micro", "correct served_model_name of coder"),
    ("path_unknown", "404", "offers no such path", "curl -i http://server1:8001/v1/models"),
    ("context", "32768 tokens", "the model's context is too small for Codex's own prompt", "raise max_model_len of coder"),
]


@pytest.mark.parametrize(("recorded", "evidence", "cause", "command"), FAILURES, ids=[row[0] for row in FAILURES])
def test_a_failed_turn_has_its_cause(recorded, evidence, cause, command):
    seen = turn(recorded)
    assert not seen.completed
    failure = explain(seen.error, settings(), NAMES)
    assert evidence in failure.evidence
    assert cause in failure.cause
    assert command in failure.next_command


NO_CONNECTION = [
    # Codex says the same words for each of them: the cause comes from asking the server again
    (CLOSED, "connection refused", "the instance is down or still starting", "on gpu3: systemctl status vllm@coder"),
    ("http://name.invalid:8001/v1", "has no address", "the name name.invalid is unknown here", "getent hosts name.invalid"),
    ("server1", "error sending request", "'server1' does not start with http:// or https://.", "Write it as in"),
]


@pytest.mark.parametrize(("url", "evidence", "cause", "command"), NO_CONNECTION, ids=[row[0] for row in NO_CONNECTION])
def test_a_server_that_is_not_reached_is_asked_again(url, evidence, cause, command):
    failure = explain(turn("server_down").error, Codex("vllm", "micro", url), NAMES)
    assert evidence in failure.evidence
    assert cause in failure.cause
    assert command in failure.next_command


SAID = [
    # words that the recorded runs do not have: a proxy's answers, a stream that breaks off, a turn without end
    ("unexpected status 502 Bad Gateway: <html>, url: http://server1:8001/v1/responses", "the vLLM behind it is down"),
    ("exceeded retry limit, last status: 429 Too Many Requests", "too many requests"),
    ("stream disconnected before completion: stream closed before response.completed", "in the middle of the answer"),
    ("no end after 300 s", "the server is overloaded or frozen"),
    ("something new", "unknown; these are Codex's own words"),
]


@pytest.mark.parametrize(("said", "cause"), SAID, ids=[row[0] for row in SAID])
def test_other_words(said, cause):
    assert cause in explain(said, settings(), NAMES).cause


def test_a_turn_with_a_tool_call():
    assert turn("tool_call").completed
    assert [command["exit_code"] for command in turn("tool_call").commands] == [0]
    assert len(turn("two_calls").commands) == 2
    assert turn("tool_call").says == "Done: the tool has answered."


def test_a_turn_without_end():
    seen = turn("endless")
    assert (seen.completed, seen.error, seen.commands) == (False, "", [])


def test_silence():
    says = turn("text").says
    assert "the model answered in words" in explain_silence(says, settings(), NAMES).cause
    assert turn("read_only").commands == []
    assert "sandbox does not let commands write" in explain_silence(says, settings(sandbox_mode="read-only"), NAMES).cause
    raw = '<tool_call>\n{"name": "exec_command"}'
    assert "the parser hermes" in explain_silence(raw, settings(), NAMES).cause


@pytest.mark.parametrize(
    ("recorded", "cause"),
    [("no_namespaces", "does not let users make namespaces"), ("read_only_command", "does not let commands write here")],
)
def test_a_command_that_failed(recorded, cause):
    (command,) = turn(recorded).commands
    assert command["exit_code"] == 1
    assert cause in explain_command(command["aggregated_output"]).cause


def test_a_command_that_failed_by_itself():
    assert explain_command("ended with 127: no such program").cause == "the command that the model called for failed"


def test_settings():
    assert settings() == Codex("vllm", "micro", "http://server1:8001/v1", "workspace-write")
    assert Codex.read({}).provider == "openai"


REPLAY = """#!/bin/sh
# Says what the real Codex said; `exec` also does what the recorded command did.
here={here}
echo "$* home=$CODEX_HOME" >> "$here/calls"
case "$*" in
  --version) echo codex-cli 0.169.0 ;;
  *--help) echo {offers} ;;
  features*) {validate} ;;
  *--strict-config*) cat "$CODEX_HOME/config.toml" > "$here/config.seen"; {validate} ;;
  app-server*) read -r line; read -r line; read -r line; cat {recorded}/{settings}.jsonl; cat > /dev/null ;;
  exec*) cat > "$here/prompt"; echo state > "$CODEX_HOME/state.sqlite"; echo trusted >> "$CODEX_HOME/config.toml"
    {act}; cat {recorded}/{turn}.jsonl; {end} ;;
esac
"""


NEWEST = "--strict-config --print-startup-config --ephemeral"


@pytest.fixture
def developer(tmp_path, monkeypatch):
    """Give a function that makes a developer whose Codex replays a recorded run, and checks them."""
    home = tmp_path / "home"
    (home / ".codex").mkdir(parents=True)
    (home / ".codex/config.toml").write_text('model = "micro"\n')
    (home / ".codex/history.jsonl").write_text("{}\n")
    (home / ".codex/state.sqlite").write_text("the user's own\n")
    (home / "bin").mkdir()
    (home / ".profile").write_text(f'echo "welcome"\nPATH={home}/bin:$PATH\nexport VLLM_API_KEY=the-secret\n')
    me = pwd.getpwuid(os.getuid())
    record = pwd.struct_passwd((me.pw_name, "x", me.pw_uid, me.pw_gid, "", str(home), "/bin/sh"))
    real = pwd.getpwnam
    monkeypatch.setattr(pwd, "getpwnam", lambda name: record if name == me.pw_name else real(name))

    def check(
        recorded="tool_call", act="printf hi > hello.txt", validate="exit 0", end="exit 0", settings="config_read", offers=NEWEST, **options
    ):
        program = home / "bin/codex"
        words = {"turn": recorded, "act": act, "validate": validate, "end": end, "settings": settings, "offers": offers}
        program.write_text(REPLAY.format(here=tmp_path, recorded=RECORDED, **words))
        program.chmod(0o755)
        return check_codex(Options(user=me.pw_name, **options))

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(codex_exec, "SCRATCH", str(scratch))
    own = home / ".codex/config.toml"

    def checked(**given):
        before = own.read_text()
        report = check(**given)
        assert own.read_text() == before
        return report

    yield checked
    assert os.listdir(scratch) == []
    assert sorted(os.listdir(home / ".codex")) == ["config.toml", "history.jsonl", "state.sqlite"]
    assert (home / ".codex/state.sqlite").read_text() == "the user's own\n"


def verdicts(report):
    assert tuple(check.id for check in report.checks) == CHECKS
    return [check.ok for check in report.checks]


def test_all_is_well(developer, tmp_path):
    report = developer()
    assert verdicts(report) == [True] * 5
    assert report.failed == []
    assert (tmp_path / "prompt").read_text() == codex_exec.PROMPT
    assert (tmp_path / "config.seen").read_text() == 'model = "micro"\n'
    calls = (tmp_path / "calls").read_text()
    assert "model_providers.vllm.stream_max_retries=0" in calls
    assert str(tmp_path / "home/.codex") not in calls  # its state goes elsewhere
    assert json.loads(report.events[-1])["type"] == "turn.completed"


def test_a_release_with_a_validator_that_says_nothing(developer, tmp_path):
    assert verdicts(developer(offers="--strict-config --ephemeral")) == [True] * 5
    assert "print-startup-config" not in (tmp_path / "calls").read_text()


OLD = {"offers": "--json", "settings": "config_read_0.63"}
OWN = """
# model_provider = "openai"
model = "micro"
model_provider = '{}'

[model_providers.other]
base_url = "http://other:1/v1"

[model_providers."vllm"]
name = "ours"
base_url = "http://server1:8001/v1"
"""


@pytest.mark.parametrize(
    ("text", "provider", "expected", "said"),
    [
        (OWN.format("vllm"), "vllm", [True] * 5, "is read, by a release that has no validator: micro of vllm at http://server1:8001/v1"),
        (OWN.format("other"), "vllm", [True, False, None, None, None], "the model provider is other"),
        ('model = "micro"\n[x]\nmodel_provider = "vllm"\n', None, [True, False, None, None, None], "the model provider is openai"),
    ],
    ids=["ours", "another", "none"],
)
def test_a_release_that_does_not_tell_its_settings(developer, tmp_path, text, provider, expected, said):
    (tmp_path / "home/.codex/config.toml").write_text(text)
    report = developer(**OLD, provider=provider)
    assert verdicts(report) == expected
    assert said in report.checks[1].evidence
    calls = (tmp_path / "calls").read_text()
    assert ('-c model_provider="vllm"' in calls) == (expected[-1] is True)
    assert "--ephemeral" not in calls
    assert "--strict-config" not in calls


@pytest.mark.parametrize(
    ("changes", "expected", "cause"),
    [
        ({"version": "0.170.0"}, [False, None, None, None, None], "another Codex than 0.170.0"),
        ({"codex": "no-such-program"}, [False, None, None, None, None], "Codex is not installed here"),
        ({"validate": f"cat {RECORDED}/config_invalid.json; exit 1"}, [True, False, None, None, None], "does not take"),
        ({"provider": "other"}, [True, False, None, None, None], "prompts would leave for another place"),
        ({"recorded": "wrong_key", "act": ":", "end": "exit 1"}, [True, True, False, None, None], "does not accept this key"),
        ({"recorded": "endless", "act": ":", "end": "sleep 60", "timeout": 1}, [True, True, False, None, None], "overloaded or frozen"),
        ({"recorded": "text", "act": ":"}, [True, True, True, False, None], "answered in words"),
        ({"recorded": "no_namespaces", "act": ":"}, [True, True, True, False, None], "namespaces"),
        ({"act": ":"}, [True, True, True, True, False], "did something else"),
        ({"act": "printf ho > hello.txt"}, [True, True, True, True, False], "did something else"),
    ],
    ids=str,
)
def test_the_first_broken_link_is_named(developer, changes, expected, cause):
    start = time.monotonic()
    report = developer(**changes)
    assert verdicts(report) == expected
    (failed,) = report.failed
    assert cause in failed.cause
    assert failed.next
    assert time.monotonic() - start < 20


def test_a_users_own_codex_that_their_login_does_not_find(developer, tmp_path):
    command = tmp_path / "home/.local/bin/codex"
    command.parent.mkdir(parents=True)
    command.symlink_to("../share/codex/0.169.0/codex")
    (tmp_path / "home/.profile").write_text("PATH=/usr/bin:/bin\n")
    first = developer().checks[0]
    assert (first.ok, first.cause) == (False, f"it is {command}, which a login does not find")
    assert first.next.startswith("put $HOME/.local/bin in front of PATH in the .profile of ")


def test_a_refused_configuration_is_named_with_its_place(developer):
    report = developer(validate=f"cat {RECORDED}/config_unknown_key.json; exit 1")
    assert "unknown configuration field `nonsense`" in report.failed[0].evidence


def test_the_key_is_in_no_verdict(developer):
    leak = 'printf "%s" "$VLLM_API_KEY" > hello.txt; echo "{\\"type\\":\\"error\\",\\"message\\":\\"$VLLM_API_KEY\\"}"'
    report = developer(act=leak)
    assert verdicts(report) == [True, True, True, True, False]
    assert "the-secret" not in json.dumps([check.as_dict() for check in report.checks]) + json.dumps(report.events)
    given = developer(act=leak, api_key="another-secret")
    assert "[key]" in given.failed[0].evidence


def test_an_unknown_user_is_refused():
    with pytest.raises(Refused, match="no-such-user: this machine has no such user"):
        check_codex(Options(user="no-such-user"))
