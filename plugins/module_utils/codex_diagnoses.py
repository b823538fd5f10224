# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why a run of Codex failed: from Codex's own words to a cause and the next command.

What the server answered is worded in ``diagnoses``; here stands only what Codex itself says. Codex never says why a
connection failed, so the server is asked once more, without Codex.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional, Protocol

from .check import CheckFailed
from .client import BaseUrl, Client, CutShort, EndpointError, HttpStatus, TimedOut, error_message
from .diagnoses import Where, diagnose_error, failed, raw_call
from .errors import Refused

AGAIN = "ansible-playbook playbooks/developers.yml"

_STATUS = re.compile(
    r"(?:unexpected status|last status:?) (?P<status>\d{3})[^:]*(?:: (?P<body>.*?))?(?:, url: (?P<url>\S+?))?(?:, request id.*)?$"
)
_NO_CONNECTION = re.compile(r"Connection failed|waiting for network|error sending request")
_CUT = re.compile(r"stream disconnected|stream closed|idle timeout")

# (pattern in Codex's words, cause, next); the first match wins; groups fill the texts
# fmt: off
SAYINGS: tuple[tuple[str, str, str], ...] = (
    (r"Missing environment variable: `(?P<what>\w+)`",
     "the key is expected in {what}, which the login environment of {user} does not have",
     "export {what}=... in the profile of {user}, or set codex_key_source: file"),
    (r"provider auth command `(?P<command>\w+)`.*?: (?P<what>[^:]+): No such file",
     "the file with the key is gone: {what}", AGAIN),
    (r"provider auth command `(?P<what>\w+)`",
     "the command that prints the key failed", AGAIN),
    (r"(?i)context window|maximum context length",
     "the model's context is too small for Codex's own prompt", "raise max_model_len of {instance}"),
)
READ_ONLY = ("Codex's sandbox does not let commands write here", "set codex_sandbox_mode: workspace-write, then " + AGAIN)
COMMANDS: tuple[tuple[str, str, str], ...] = (
    (r"bwrap:|uid map|Landlock|seccomp",
     "Codex's sandbox cannot be set up: this machine does not let users make namespaces",
     "sysctl user.max_user_namespaces kernel.unprivileged_userns_clone kernel.apparmor_restrict_unprivileged_userns"),
    (r"Read-only file system|Permission denied", *READ_ONLY),
    (r"", "the command that the model called for failed", "read the events: the command and its output are in them"),
)
# what a developer's machine does about a cause that ``diagnoses`` words for a request of our own
NEXT = {
    "key_rejected": AGAIN + " writes the file with the key again; a key in the environment is the developer's to correct",
    "tls_untrusted": "put the authority into the system's store (update-ca-certificates), or name its file in CODEX_CA_CERTIFICATE",
}
# fmt: on


@dataclass(frozen=True)
class Codex:
    """The settings of Codex that matter here: the provider's id and base URL, the model, the sandbox mode ("" for unknown)."""

    provider: str = ""
    model: str = ""
    url: str = ""
    sandbox: str = ""

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Codex:
        """Take them out of the answer to config/read; a provider that is not named is the vendor's own."""
        provider = str(config.get("model_provider") or "openai")
        entry = (config.get("model_providers") or {}).get(provider) or {}
        return cls(provider, str(config.get("model") or ""), str(entry.get("base_url") or ""), str(config.get("sandbox_mode") or ""))


class Names(Protocol):
    """The names that a caller may know better than Codex does."""

    @property
    def user(self) -> str:
        """The developer."""

    @property
    def instance(self) -> Optional[str]:
        """The name in vllm_instances."""

    @property
    def server(self) -> Optional[str]:
        """The inventory name of the server."""


def explain(said: str, codex: Codex, names: Names) -> CheckFailed:
    """Return the failure of a turn that ended in ``said``."""
    where = _where(codex, names)
    if _NO_CONNECTION.search(said):
        return _no_connection(said, codex, where)
    error = _request_error(said, codex)
    if error:
        return _failure(said, error, where)
    for pattern, cause, command in SAYINGS:
        match = re.search(pattern, said)
        if match:
            texts = {**where._asdict(), "user": names.user, **match.groupdict()}
            return CheckFailed(said, cause.format(**texts), command.format(**texts))
    return CheckFailed(said, "unknown; these are Codex's own words", f"as {names.user}: codex exec --skip-git-repo-check hello")


def _request_error(said: str, codex: Codex) -> Optional[EndpointError]:
    """Return what Codex's words are in the client's terms, or None where they are about something else."""
    status = _STATUS.search(said)
    if status:
        return HttpStatus(f"POST {status['url'] or codex.url}", int(status["status"]), error_message(status["body"] or ""))
    if said.startswith("no end after"):
        return TimedOut(said)
    return CutShort(said) if _CUT.search(said) else None


def explain_config(detail: str, path: str) -> CheckFailed:
    """Return the failure of a configuration that the strict validator refuses with ``detail``."""
    return CheckFailed(detail, f"this release of Codex does not take {path} as it is", f"correct that line, or {AGAIN}")


def explain_silence(says: str, codex: Codex, names: Names) -> CheckFailed:
    """Return the failure of a turn in which no command ran, though the model said something."""
    where = _where(codex, names)
    raw = raw_call(says)
    evidence = f"no command was run; the model said: {says or 'nothing'}"
    if raw:
        return failed("call_as_text", evidence, where, raw)
    if codex.sandbox == "read-only":  # Codex may turn the call down by itself, and prints no event then
        return CheckFailed(evidence, *READ_ONLY)
    return failed("no_call", evidence, where)


def explain_command(evidence: str) -> CheckFailed:
    """Return the failure of a turn whose every command failed."""
    cause, command = next((cause, command) for pattern, cause, command in COMMANDS if re.search(pattern, evidence))
    return CheckFailed(evidence, cause, command)


def _no_connection(said: str, codex: Codex, where: Where) -> CheckFailed:
    """Ask the server once more: Codex says the same words for a wrong name, a closed port and a foreign certificate."""
    try:
        Client(BaseUrl.parse(codex.url), timeout=10).get("/models")
    except HttpStatus:
        pass  # it answers: that it wants a key is right
    except EndpointError as error:
        return _failure(f"{said}; {error}", error, where)
    except Refused as refused:
        return CheckFailed(said, refused.why, refused.instead)
    cause = "the server did not answer Codex, and answers now"
    if codex.url.startswith("https:"):
        cause += ", or Codex does not trust its certificate, which other programs here do"
    return CheckFailed(said, cause, "run the check again; with https, look at SSL_CERT_FILE and CODEX_CA_CERTIFICATE in the environment")


def _failure(evidence: str, error: EndpointError, where: Where) -> CheckFailed:
    found = diagnose_error(error, where)
    return CheckFailed(evidence, found.cause, NEXT.get(found.id, found.next_command))


def _where(codex: Codex, names: Names) -> Where:
    host = re.sub(r"^https?://|[:/].*$", "", codex.url) or "the server"
    model = codex.model or "the model"
    return Where(codex.url, host, model, names.instance or model, names.server or host)
