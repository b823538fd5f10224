"""Real releases of Codex, each with what the role writes for it, through the gateway to the real vLLM: a table that the docs have.

Only for the releases that OWNMETAL_CODEX_VERSIONS names (all of them: "all"); with OWNMETAL_WRITE_DOCS the docs get what came out.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lab.codex_matrix import VERSIONS, install
from lab.testing import ROOT, environment

ASKED = os.environ.get("OWNMETAL_CODEX_VERSIONS", "")
RELEASES = VERSIONS if ASKED == "all" else tuple(ASKED.split())
DOCS = ROOT / "docs/codex.md"
BEGIN, END = "<!-- written by molecule/gateway/tests/test_matrix.py -->", "<!-- end of what it wrote -->"
COLUMNS = ("Codex", "API", "tool call", "next turn", "reasoning", "two calls at once", "MCP over stdio", "prompt beyond the context")
HEADER = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"
WORK = "/home/dev/matrix"
# an MCP server over stdio with one tool, which the micro model calls when it is told to
WEATHER = """
import json, sys
tool = {"name": "get_weather", "description": "The weather.", "annotations": {"readOnlyHint": True}}
tool["inputSchema"] = {"type": "object", "properties": {name: {"type": "string"} for name in ("city", "unit")}}
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    answers = {"tools/list": {"tools": [tool]}, "ping": {}}
    if asked["method"] == "initialize":
        version = asked["params"]["protocolVersion"]
        answer = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": {"name": "weather", "version": "1"}}
    elif asked["method"] == "tools/call":
        answer = {"content": [{"type": "text", "text": "It rains in " + asked["params"]["arguments"]["city"]}]}
    else:
        answer = answers.get(asked["method"], {})
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": answer}), flush=True)
"""
MCP = {"weather": {"command": "python3", "args": ["/srv/matrix/weather.py"]}}


@pytest.fixture(scope="module")
def cache():
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ownmetal/codex"


@pytest.fixture(scope="module", autouse=True)
def afterwards(developer, playbook):
    """The developer machine as the inventory has it."""
    yield
    developer.check_output(f"rm -rf /srv/matrix {WORK}")
    code, said = playbook("developers", "--limit", "dev1")
    assert code == 0, said


@pytest.fixture
def configured(developer, playbook, cache):
    """Bring a release to the developer machine, and let the role configure it; return its path."""

    def bring(version):
        program = f"/srv/matrix/{version}/codex"
        developer.check_output(f"rm -rf /srv/matrix && mkdir -p {os.path.dirname(program)}")
        lab = [sys.executable, "-m", "lab", "exec", "dev1", "sh", "-c", f"cat >{program} && chmod 755 {program}"]
        developer.check_output(f"cat >/srv/matrix/weather.py <<'E'{WEATHER}E")
        with install(cache, version).open("rb") as stream:
            subprocess.run(lab, stdin=stream, check=True, cwd=ROOT, env={**environment(), "LAB_NAME": "molecule-gateway"})
        # what a release brings for its sandbox is not there: it is its program alone
        asked = {"codex_program": program, "codex_mcp_servers": MCP, "codex_sandbox_mode": "danger-full-access"}
        code, said = playbook("developers", "--limit", "dev1", codex_install=False, **asked)
        assert code == 0, said
        return program

    return bring


class Turn:
    """What a turn printed."""

    def __init__(self, said: str) -> None:
        self.said = said
        self.events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]

    @property
    def ended(self):
        return any(event["type"] == "turn.completed" for event in self.events)

    @property
    def thread(self):
        return next((event.get("thread_id") for event in self.events if event["type"] == "thread.started"), None)

    @property
    def kinds(self):
        """The kinds of items that came; old releases called the field otherwise."""
        items = [event["item"] for event in self.events if event["type"] == "item.completed"]
        return [item.get("type") or item.get("item_type") for item in items]


@pytest.fixture
def ask(developer):
    """Let a release take a turn; return it with the files that the turn made."""

    def turn(program, prompt, *words, times=1):
        before = "" if words else f"rm -rf {WORK}; "
        developer.check_output(f"{before}rm -f {WORK}/*; install -d -o dev -g dev {WORK}")
        # made there: a command line is too short for a long one
        developer.check_output(f"python3 -c {shlex.quote(f'print({prompt!r} * {times})')} >{WORK}.prompt")
        options = "exec --json --skip-git-repo-check --sandbox danger-full-access"
        line = f"cd {WORK} && timeout 200 {program} {options} {' '.join(words)} - <{WORK}.prompt 2>&1"
        said = developer.run(f"runuser -l dev -c {shlex.quote(line)}").stdout
        made = set(developer.check_output(f"ls {WORK}; rm -f {WORK}.prompt").split())
        return Turn(said), made

    return turn


def cells(developer, program, ask):
    """Return a release's API and what it did."""
    api = re.search(r'wire_api = "(\w+)"', developer.check_output("cat /home/dev/.codex/config.toml"))[1]
    first, made = ask(program, "Make hello.txt.")
    assert first.ended, first.said
    assert made == {"hello.txt"}, first.said
    after, made = ask(program, "Once more.", "resume", "--last")
    assert after.ended, after.said
    assert (made, after.thread) == ({"hello.txt"}, first.thread), after.said
    thought, made = ask(program, "[think] Make hello.txt.")
    assert thought.ended, thought.said
    both, made = ask(program, "[two] Make two files.")
    assert both.ended, both.said
    assert made in ({"hello.txt", "second.txt"}, set()), both.said
    two = "both run" if made else "neither runs"
    asked, _made = ask(program, "The weather in Rome? [mcp]")
    assert asked.ended, asked.said
    weather = "answers" if "mcp_tool_call" in asked.kinds and "It rains in Rome" in asked.said else "not asked"
    beyond, _made = ask(program, "word ", times=60_000)
    assert not beyond.ended, beyond.said[-2000:]
    told = "told" if re.search(r"context (length|window)|input tokens", beyond.said) else "fails"
    return [api, "makes the file", "same thread", "shown" if "reasoning" in thought.kinds else "not shown", two, weather, told]


@pytest.mark.parametrize("version", RELEASES)
def test_a_release_does_what_the_docs_say(version, developer, configured, playbook, ask):
    program = configured(version)
    code, said = playbook("verify", "--limit", "dev1", "--tags", "verify_codex", codex_install=False, codex_program=program)
    assert code == 0, said
    assert f"{program} is codex-cli {version}" in said
    row = f"| {' | '.join([version, *cells(developer, program, ask)])} |"
    print(row)
    text = DOCS.read_text()
    head, _, rest = text.partition(BEGIN)
    table, _, tail = rest.partition(END)
    if "OWNMETAL_WRITE_DOCS" in os.environ:
        rows = [line for line in table.splitlines() if re.match(r"\| \d", line) and not line.startswith(f"| {version} |")]
        ordered = sorted([*rows, row], key=lambda line: [int(part) for part in line.split()[1].split(".")])
        DOCS.write_text("\n".join([f"{head}{BEGIN}", HEADER, *ordered, f"{END}{tail}"]))
    else:
        assert row in table.splitlines(), table
