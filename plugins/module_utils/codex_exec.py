# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Let the real Codex do a small piece of work as a developer would, and judge what it did.

Codex runs with the developer's own configuration and login environment, in a scratch directory, and with a scratch
home for its state: a copy of the configuration, and links to what else is in the real one, so that nothing is left there.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Optional

from .check import Check, CheckFailed, NotApplicable, run_check
from .codex_diagnoses import Codex, explain, explain_command, explain_config, explain_silence
from .codex_release import HOME_COMMAND
from .errors import Refused
from .tree import acting_as

CHECKS = ("codex_version", "codex_config", "codex_turn", "codex_tool_call", "codex_effect")
PROMPT = "Run one shell command that creates the file hello.txt here with the content hi. Do nothing else."
# not /tmp, below which Codex does not make the helper programs that its sandbox uses
SCRATCH = "/var/tmp"  # noqa: S108 - what is made in it has a random name and mode 0700
EXCERPT = 300  # characters of a line that a verdict shows
EVENTS = 12  # how many of the last events are shown

# What Codex keeps for itself in its home: a run of ours neither reads nor writes it.
STATE = {"installation_id", "log", "tmp", "sessions", "archived_sessions", "shell_snapshots", "history.jsonl", ".tmp"}
CONFIG = "config.toml"
STATE_ENDINGS = (".sqlite", ".sqlite-shm", ".sqlite-wal")

# One try is enough to know. Codex 0.169 waits for the network without end when it may reconnect unboundedly.
NO_RETRIES = ("request_max_retries=0", "stream_max_retries=0")
NO_WAITING = "features.unbounded_connection_retries=false"

# What `codex app-server` is asked: the settings in force, from all of Codex's layers. Without its plugins it asks no vendor's host.
_ASK = (
    {"id": 0, "method": "initialize", "params": {"clientInfo": {"name": "ownmetal", "title": "ownmetal.codex", "version": "1"}}},
    {"method": "initialized"},
    {"id": 1, "method": "config/read", "params": {"includeLayers": False}},
)
_QUIET = ("-c", "features.plugins=false", "-c", "analytics.enabled=false")

_MARK = "--environment--\n"


@dataclass(frozen=True)
class Options:
    """What to run. ``expect_content`` is compared without blanks at its ends; ``timeout`` is in seconds, for the whole turn.

    ``api_key`` is put into the variable ``env_key``. ``instance`` and ``server`` are the names that causes use.
    """

    user: str
    codex: str = "codex"
    prompt: str = PROMPT
    expect_file: str = "hello.txt"
    expect_content: str = "hi"
    version: Optional[str] = None
    provider: Optional[str] = None
    sandbox: Optional[str] = None
    env_key: str = "VLLM_API_KEY"
    api_key: Optional[str] = None
    instance: Optional[str] = None
    server: Optional[str] = None
    timeout: int = 300


@dataclass
class Report:
    """The verdicts, in the order of CHECKS, and the last events that Codex printed."""

    checks: list[Check] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    @property
    def failed(self) -> list[Check]:
        """Return the checks that failed."""
        return [check for check in self.checks if check.ok is False]


@dataclass(frozen=True)
class Done:
    """A command that ended, or was ended (``code`` is None) because it took too long."""

    out: str
    err: str
    code: Optional[int]


@dataclass(frozen=True)
class Turn:
    """What the events of one turn say. ``commands`` and ``says`` are of finished items, ``error`` ends a turn that failed."""

    completed: bool
    error: str
    errors: list[str]
    commands: list[dict[str, Any]]
    says: str

    @classmethod
    def read(cls, events: Sequence[Mapping[str, Any]]) -> Turn:
        """Sum up the events of ``codex exec --json``."""
        items = [event["item"] for event in events if event["type"] == "item.completed"]
        says = [item["text"] for item in items if item["type"] == "agent_message"]
        failures = [event["error"]["message"] for event in events if event["type"] == "turn.failed"]
        return cls(
            completed=any(event["type"] == "turn.completed" for event in events),
            error=failures[-1] if failures else "",
            errors=[event["message"] for event in events if event["type"] == "error"],
            commands=[item for item in items if item["type"] == "command_execution"],
            says=says[-1] if says else "",
        )


def read_events(text: str) -> list[dict[str, Any]]:
    """Return the events in the output of ``codex exec --json``; lines of another kind are passed over."""
    events = []
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "type" in event:
            events.append(event)
    return events


def check_codex(options: Options) -> Report:
    """Run the checks of CHECKS; where one fails, those that need it do not apply. Raises Refused for an unknown user."""
    report = Report()
    with _scratch(options) as session:
        probes = (session.version, session.config, session.turn, session.tool_call, session.effect)
        for check_id, probe in zip(CHECKS, probes):
            report.checks.append(run_check(check_id, session.unless_failed(report, probe)))
        report.events = [session.clean(json.dumps(event)) for event in session.events[-EVENTS:]]
    return report


@contextmanager
def _scratch(options: Options) -> Iterator[_Session]:
    """Lend a session with a private directory of the user, and take the directory away again."""
    user = options.user
    try:
        record = pwd.getpwnam(user)
    except KeyError:
        raise Refused(f"user {user}", "this machine has no such user.", "Create it, or correct the name.") from None
    if os.geteuid() not in (0, record.pw_uid):
        raise Refused(f"user {user}", "only root can run Codex as another user.", "Add become: true.")
    with acting_as(user):
        directory = tempfile.mkdtemp(prefix="ownmetal-codex-", dir=SCRATCH)
    try:
        yield _Session(options, record, directory)
    finally:
        with acting_as(user):
            shutil.rmtree(directory, ignore_errors=True)


class _Session:
    """One developer, one scratch directory, and what the checks found so far."""

    def __init__(self, options: Options, record: pwd.struct_passwd, directory: str) -> None:
        self.options = options
        self.record = record
        self.work = os.path.join(directory, "work")
        self.environment = self._login_environment()
        self.home = self.environment.get("CODEX_HOME") or os.path.join(record.pw_dir, ".codex")
        self.events: list[dict[str, Any]] = []
        self.codex = Codex()
        self._turn = Turn.read([])
        scratch_home = os.path.join(directory, "home")
        with acting_as(record.pw_name):
            os.mkdir(self.work)
            os.mkdir(scratch_home)
            for name in os.listdir(self.home) if os.path.isdir(self.home) else []:
                own, scratch = os.path.join(self.home, name), os.path.join(scratch_home, name)
                if name == CONFIG and os.path.isfile(own):  # Codex notes in it which folders it trusts, through a link too
                    shutil.copy(own, scratch)
                elif name not in STATE and not name.endswith(STATE_ENDINGS):
                    os.symlink(own, scratch)
        self.environment["CODEX_HOME"] = self._scratch_home = scratch_home
        if options.api_key:
            self.environment[options.env_key] = options.api_key

    # -- running ---------------------------------------------------------------------------------

    def _login_environment(self) -> dict[str, str]:
        """Return the environment that a login shell of the user has: its PATH, a key, a private authority's file."""
        base = {
            "HOME": self.record.pw_dir,
            "USER": self.record.pw_name,
            "LOGNAME": self.record.pw_name,
            "SHELL": self.record.pw_shell,
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
        }
        self.environment = base
        done = self._run([self.record.pw_shell or "/bin/sh", "-l", "-c", f"printf '%s\\n' '{_MARK.strip()}'; env -0"], 30)
        _noise, mark, listing = done.out.partition(_MARK)
        found = dict(entry.split("=", 1) for entry in listing.split("\0") if "=" in entry)
        return {**base, **found} if mark and done.code == 0 else base

    def _start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        """Start a command as the user, in the scratch directory and a process group of its own."""
        identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            groups = os.getgrouplist(self.record.pw_name, self.record.pw_gid)
            identity = {"user": self.record.pw_uid, "group": self.record.pw_gid, "extra_groups": groups}
        return subprocess.Popen(
            list(command),
            cwd=self.work if os.path.isdir(self.work) else "/",
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            **identity,
        )

    def _run(self, command: Sequence[str], timeout: int, said: str = "") -> Done:
        """Run a command with ``said`` on its input, and end it and its children after ``timeout`` seconds."""
        with self._start(command) as process:
            try:
                out, err = process.communicate(said, timeout=timeout)
                return Done(out, err, process.returncode)
            except subprocess.TimeoutExpired:
                _end(process)
                return Done(*process.communicate(), None)

    def _program(self) -> str:
        program = shutil.which(self.options.codex, path=self.environment["PATH"])
        if program is None:
            lacking = f"{self.record.pw_name} has no {self.options.codex} in {self.environment['PATH']}"
            own = os.path.join(self.record.pw_dir, HOME_COMMAND)
            if self.options.codex == "codex" and os.path.lexists(own):  # roles/codex with codex_scope: user
                mend = f"put $HOME/.local/bin in front of PATH in the .profile of {self.record.pw_name}"
                raise CheckFailed(lacking, f"it is {own}, which a login does not find", mend)
            raise CheckFailed(
                lacking,
                "Codex is not installed here",
                "ansible-playbook playbooks/developers.yml",
            )
        return program

    def _codex(self, *arguments: str, timeout: int = 60, said: str = "") -> Done:
        return self._run([self._program(), *arguments], timeout, said)

    def _offers(self, command: str, option: str) -> bool:
        """Tell whether a command of this release has an option."""
        return option in self._codex(command, "--help").out.split()

    def _settings_of_file(self) -> dict[str, Any]:
        """Return what a release that does not tell its settings (before 0.80) is led by: model and provider of the user's file."""
        try:
            with acting_as(self.record.pw_name), open(os.path.join(self.home, CONFIG), encoding="utf-8") as stream:
                top, *tables = re.split(r"^\s*(?=\[)", stream.read(), flags=re.MULTILINE)
        except OSError:
            return {}
        found = _texts(top)
        name = found.get("model_provider", "")
        entry = next((table for table in tables if re.match(rf"\[model_providers\.[\"']?{re.escape(name)}[\"']?\]", table)), "")
        return {**found, "model_providers": {name: _texts(entry)}}

    def _settings(self) -> dict[str, Any]:
        """Return the settings in force, as Codex sees them; none where it does not say."""
        with self._start([self._program(), "app-server", *_QUIET]) as process, _ended_after(process, 30):
            pipe, answers = process.stdin, process.stdout
            if pipe is None or answers is None:
                raise TypeError("started without pipes")
            # its input stays open: it ends, and answers nothing more, when that does
            pipe.write("".join(f"{json.dumps(message)}\n" for message in _ASK))
            pipe.flush()
            for message in map(json.loads, answers):
                if message.get("id") == 1:
                    return dict(message.get("result", {}).get("config", {}))
        return {}

    def clean(self, text: str) -> str:
        """Return the text on one line and shortened, without the key and with the real home's path."""
        key = self.environment.get(self.options.env_key)
        text = " ".join(text.replace(self._scratch_home, self.home).split())
        text = text.replace(key, "[key]") if key else text
        return text if len(text) <= EXCERPT else text[:EXCERPT] + " ..."

    def unless_failed(self, report: Report, probe: Any) -> Any:
        """Return ``probe``, or one that says which earlier check it needed; the last two both look at a finished turn."""
        failed = [check.id for check in report.failed if check.id != "codex_tool_call"]

        def skipped() -> str:
            raise NotApplicable(f"{failed[0]} failed")

        return skipped if failed else probe

    # -- the checks ------------------------------------------------------------------------------

    def version(self) -> str:
        """The program that the developer gets when they type its name."""
        done = self._codex("--version")
        said = self.clean(done.out)
        if done.code != 0 or not said:
            raise CheckFailed(
                f"{self.options.codex} --version ended with {done.code}: {self.clean(done.err)}",
                "the program does not run on this machine",
                "ansible-playbook playbooks/developers.yml",
            )
        program = self._program()
        if self.options.version and self.options.version not in said.split():
            raise CheckFailed(
                f"{program} is {said}",
                f"another Codex than {self.options.version} comes first in the PATH of {self.record.pw_name}",
                f"remove {program}, or run ansible-playbook playbooks/developers.yml",
            )
        return f"{program} is {said}"

    def config(self) -> str:
        """The configuration is valid, as far as this release can tell, and leads to a provider of one's own."""
        strict = self._offers("app-server", "--strict-config")
        command = ["app-server", "--strict-config"] if strict else ["features", "list"]
        if self._offers("app-server", "--print-startup-config"):
            command.append("--print-startup-config")
        done = self._codex(*command)
        if done.code != 0:
            raise explain_config(self.clean(_detail(done)), os.path.join(self.home, CONFIG))
        self.codex = Codex.read(self._settings() or self._settings_of_file())
        name = self.codex.provider
        if name == "openai" or (self.options.provider and name != self.options.provider):
            raise CheckFailed(
                f"the model provider is {name}",
                "prompts would leave for another place than the own servers; Codex was not run",
                f"correct model_provider in {self.home}/{CONFIG}: ansible-playbook playbooks/developers.yml",
            )
        judged = "is valid" if strict else "is read, by a release that has no validator"
        return f"{self.home}/{CONFIG} {judged}: {self.codex.model} of {name} at {self.codex.url}"

    def turn(self) -> str:
        """Codex takes the prompt and ends its turn."""
        command = ["exec", "--json", "--skip-git-repo-check", "-c", NO_WAITING]
        if self._offers("exec", "--ephemeral"):
            command.append("--ephemeral")
        # what was judged is what is asked, whatever a layer that this release does not tell says
        command += ["-c", f"model_provider={json.dumps(self.codex.provider)}"]
        for override in NO_RETRIES:
            command += ["-c", f"model_providers.{self.codex.provider}.{override}"]
        if self.options.sandbox:
            command += ["--sandbox", self.options.sandbox]
        done = self._codex(*command, "-", timeout=self.options.timeout, said=self.options.prompt)
        self.events = read_events(done.out)
        turn = self._turn = Turn.read(self.events)
        if turn.completed and done.code == 0:
            return f"the turn ended: {self.clean(turn.says) or 'without a word'}"
        said = turn.error or (turn.errors[-1] if turn.errors else "")
        if done.code is None and not said:
            said = f"no end after {self.options.timeout} s"
        raise explain(self.clean(said or done.err or f"exit code {done.code}"), self.codex, self.options)

    def tool_call(self) -> str:
        """The model called the shell, and the command went well."""
        turn = self._turn
        if not turn.commands:
            raise explain_silence(self.clean(turn.says), self.codex, self.options)
        last = turn.commands[-1]
        ran = self.clean(last["command"])
        if any(command["exit_code"] == 0 for command in turn.commands):
            return f"{len(turn.commands)} command(s), such as {ran}"
        raise explain_command(f"{ran} ended with {last['exit_code']}: {self.clean(last['aggregated_output'])}")

    def effect(self) -> str:
        """The file is there."""
        path = os.path.join(self.work, self.options.expect_file)
        try:
            with acting_as(self.record.pw_name), open(path, encoding="utf-8", errors="replace") as stream:
                content = stream.read(EXCERPT).strip()
        except OSError as error:
            if all(command["exit_code"] != 0 for command in self._turn.commands):
                raise NotApplicable("no command went well") from None
            raise CheckFailed(
                f"{self.options.expect_file} cannot be read after the turn: {error.strerror}",
                "the model's command did something else than it was asked for",
                "read the events: the command and its output are in them",
            ) from None
        if content != self.options.expect_content.strip():
            raise CheckFailed(
                f"{self.options.expect_file} holds {self.clean(content)!r}, and not {self.options.expect_content!r}",
                "the model's command did something else than it was asked for",
                "try again; a small model may not follow the prompt to the letter",
            )
        return f"{self.options.expect_file} holds {content!r}"


def _texts(table: str) -> dict[str, str]:
    """Return the keys of a TOML table whose values are texts on one line."""
    return {key: value for key, _quote, value in re.findall(r"""^\s*(\w+)\s*=\s*(["'])(.*?)\2""", table, re.MULTILINE)}


def _detail(done: Done) -> str:
    """Return why the strict validator refuses a configuration."""
    for line in done.out.splitlines():
        try:
            return str(json.loads(line)["error"]["data"]["detail"])
        except (ValueError, KeyError, TypeError):
            continue
    return done.err or f"exit code {done.code}"


def _end(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def _ended_after(process: subprocess.Popen[str], seconds: float) -> Iterator[None]:
    """End the process and its children on leaving, or when the time is over."""
    timer = threading.Timer(seconds, _end, [process])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        _end(process)
