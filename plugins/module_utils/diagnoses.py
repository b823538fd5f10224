# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What went wrong, why, and the next command: one table for start-up logs, one for requests, one for answers.

The tables are plain data (the one for start-up is start_up_signatures.py). The start program on the server is
shipped ``journal_signatures()`` as JSON, so that a cause is worded once, wherever it is met.

In causes and next commands, ``{instance}`` is the name of the entry in ``vllm_instances``, ``{server}`` the host
that runs it, ``{url}`` the base URL, ``{host}`` its host, ``{model}`` the model asked for, and ``{what}`` the part
of the evidence that the signature's group of that name caught.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import NamedTuple, Optional

from .check import CheckFailed
from .client import EndpointError, HttpStatus
from .start_up_signatures import APPLY, JOURNAL, LATER, NEVER, START_UP


@dataclass(frozen=True)
class Diagnosis:
    """A named cause. ``kind`` is "never" (until something is changed) or "later" (trying again may be enough)."""

    id: str
    cause: str
    next_command: str
    kind: str


class Where(NamedTuple):
    """The names that causes and commands are filled with."""

    url: str
    host: str
    model: str
    instance: str
    server: str


_COMPILED = [(row, re.compile(row.pattern, re.MULTILINE)) for row in START_UP]


def journal_signatures() -> list[dict[str, str]]:
    """Return the start-up table as JSON-ready data: id, pattern, kind, cause and next of each row, in order."""
    return [asdict(row) for row in START_UP]


def diagnose_journal(text: str, instance: str, server: str = "SERVER") -> Diagnosis:
    """Return why ``instance`` did not start, from what its log or journal holds of the last start.

    An unknown cause is of the kind "later", and quotes the last line that names an error.
    """
    for row, pattern in _COMPILED:
        found = list(pattern.finditer(text))
        if found:
            what = (found[-1].groupdict().get("what") or "").strip()
            names = {"instance": instance, "server": server, "what": what}
            return Diagnosis(row.id, row.cause.format(**names), row.next.format(**names), row.kind)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if re.search(r"\b\w*(?:Error|Exception)\b|rror:", line)), "")
    cause = f"unknown; the last error in its log: {last[:300]}" if last else "unknown; its log names no error"
    return Diagnosis("unknown", cause, JOURNAL.format(instance=instance), LATER)


# ---- requests -----------------------------------------------------------------------------------------------------
SEE_UNIT = "on {server}: systemctl status vllm@{instance}"

# (id, class of the exception, status or 0 for any, pattern in its text, kind, cause, next); the first match wins
# fmt: off
REQUESTS: tuple[tuple[str, str, int, str, str, str, str], ...] = (
    ("refused", "Refusal", 0, "", LATER, "nothing listens there: the instance is down or still starting", SEE_UNIT),
    ("name_unknown", "NameUnknown", 0, "", NEVER, "the name {host} is unknown here", "getent hosts {host}"),
    ("tls_plain", "TlsFailed", 0, "(?i)wrong.version|record layer", NEVER,
     "base_url says https and the server speaks plain http", "correct base_url ({url})"),
    ("tls_name", "TlsFailed", 0, "(?i)hostname mismatch|not valid for", NEVER,
     "the server's certificate is for another name than {host}",
     "use the name in the certificate: openssl s_client -connect {host}:443 </dev/null | openssl x509 -noout -text"),
    ("tls_expired", "TlsFailed", 0, "(?i)expired|not yet valid", NEVER,
     "the server's certificate is not valid today", "renew it, or set the clock: date"),
    ("tls_untrusted", "TlsFailed", 0, "", NEVER,
     "this machine does not trust the authority of the server's certificate", "name it with ca_file"),
    ("timed_out", "TimedOut", 0, "", LATER,
     "the server is overloaded or frozen, or a firewall drops the connection", SEE_UNIT),
    ("cut_short", "CutShort", 0, "", LATER,
     "the server died, or a proxy in between cut the connection, in the middle of the answer",
     "on {server}: " + JOURNAL),
    ("unreachable", "Unreachable", 0, "", LATER,
     "there is no way to {host}, or what listens there speaks TLS and base_url says http",
     "curl -v {url}/models"),
    ("key_rejected", "HttpStatus", 401, "", NEVER, "the server does not accept this key",
     "compare it with the key of {instance}"),
    ("forbidden", "HttpStatus", 403, "", NEVER, "this key may not use this model or path", "ask who runs {host}"),
    ("model_unknown", "HttpStatus", 404, "does not exist|NotFoundError", NEVER,
     "the server serves other names than {model}", "correct served_model_name of {instance}; see: curl {url}/models"),
    ("path_unknown", "HttpStatus", 404, "", NEVER,
     "what answers offers no such path: an old release of vLLM, a proxy that does not pass it on, or no vLLM",
     "curl -i {url}/models"),
    ("method_unknown", "HttpStatus", 405, "", NEVER, "what answers is no OpenAI-compatible server at this path",
     "correct base_url ({url})"),
    ("auto_tools_off", "HttpStatus", 400, "enable-auto-tool-choice", NEVER,
     "the server was started without automatic tool choice",
     "set enable_auto_tool_choice: true and tool_call_parser of {instance}, " + APPLY),
    ("prompt_too_long", "HttpStatus", 400, "maximum context length", NEVER,
     "max_model_len of {instance} is too small for even this short request", "raise max_model_len of {instance}"),
    ("template_role", "HttpStatus", 400, "(?i)message role|roles must alternate|system message", NEVER,
     "the model's chat template rejects a role that Codex sends",
     "set chat_template of {instance} to a template that accepts it"),
    ("plain_on_tls", "HttpStatus", 400, "(?i)plain HTTP request", NEVER,
     "base_url says http and the server speaks TLS", "correct base_url ({url})"),
    ("overloaded", "HttpStatus", 429, "", LATER, "too many requests", "try again in a minute"),
    ("backend_down", "HttpStatus", 502, "", LATER, "a gateway answers, and the vLLM behind it is down", SEE_UNIT),
    ("not_ready", "HttpStatus", 503, "", LATER, "the server is up and its engine is not, or not yet", SEE_UNIT),
    ("backend_slow", "HttpStatus", 504, "", LATER, "a gateway answers, and the vLLM behind it is too slow", SEE_UNIT),
    ("server_error", "HttpStatus", 0, "^.* answered 5", LATER, "the server failed on this request",
     "on {server}: " + JOURNAL),
    ("rejected", "HttpStatus", 0, "", NEVER, "the server rejects this request", "on {server}: " + JOURNAL),
    ("not_vllm", "BadAnswer", 0, "", NEVER, "what answers is no OpenAI-compatible server, or one that failed midway",
     "curl -i {url}/models"),
)

# what a check concludes from an answer that came: id -> (cause, next)
ANSWERS: dict[str, tuple[str, str]] = {
    "model_not_listed": ("the server serves other names than {model}: {what}",
                         "correct served_model_name of {instance}, or the model asked for"),
    "no_key_needed": ("the server answers without the right key", "give {instance} a key, " + APPLY),
    "empty": ("the model said nothing: its chat template may not fit it", "on {server}: " + JOURNAL),
    "cut_by_limit": ("the answer was cut at {what}, before it was complete: the model reasons for long, or never ends",
                     "raise max_model_len of {instance}, or look at its chat template and generation_config.json"),
    "reasoning_leaks": ("the model reasons, and no reasoning parser takes its reasoning out of the text",
                        "set reasoning_parser of {instance} in vllm_instances, " + APPLY),
    "reasoning_took_all": ("the reasoning parser of {instance} takes the whole answer for reasoning",
                           "set reasoning_parser of {instance} to the one for this model, " + APPLY),
    "reasoning_absent": ("the model did not reason, or its reasoning parser does not know its marks",
                         "set reasoning_parser of {instance} to the one for this model, or expect no reasoning"),
    "stream_unfinished": ("the stream ended without its end mark: the engine died, or a proxy cut it",
                          "on {server}: " + JOURNAL),
    "stream_in_one_piece": ("the answer came in one piece: something in between, or the parser, holds it back",
                            "curl -N {url}{what} from {server} itself, to see whether a proxy is the cause"),
    "stream_held_back": ("a proxy in between collects the answer before it passes it on",
                         "switch its buffering off (nginx: proxy_buffering off)"),
    "call_as_text": ("the tool call came as plain text: {what}",
                     "set tool_call_parser and enable_auto_tool_choice: true of {instance}, " + APPLY),
    "call_in_reasoning": ("the reasoning parser swallowed the tool call",
                          "set reasoning_parser of {instance} to the one for this model, or remove it, " + APPLY),
    "no_call": ("the model answered in words: its chat template may not show it the tools, or it cannot call any",
                "compare chat_template and tool_call_parser of {instance} with the model's documentation"),
    "bad_call": ("the tool call does not fit the tool that was offered: {what}",
                 "set tool_call_parser of {instance} to the one for this model, " + APPLY),
    "calls_again": ("the model calls the tool again and again: its chat template may not show it tool results",
                    "compare chat_template of {instance} with the model's documentation"),
}

# (pattern of a tool call in raw text, the parser that reads it); the first match wins
RAW_CALLS: tuple[tuple[str, str], ...] = (
    (r"<tool_call>\s*\{", "hermes"),
    (r"<tool_call>[^<{]*<arg_key>", "glm45"),
    (r"\[TOOL_CALLS\]", "mistral"),
    (r"<\|python_tag\|>|\{\s*\"name\"\s*:\s*\"[\w.-]+\"\s*,\s*\"parameters\"", "llama3_json"),
    (r"<\uff5ctool\u2581calls?\u2581begin\uff5c>", "deepseek_v31"),
    (r"<\|tool_calls_section_begin\|>", "kimi_k2"),
    (r"<minimax:tool_call>", "minimax_m2"),
    (r"<seed:tool_call>", "seed_oss"),
    (r"<tool_call>\s*<function=|<function=\w+>", "qwen3_coder"),
    (r"\[\w+\(\w+=.*\)\]", "pythonic"),
    (r"</?tool_call>|\{\s*\"name\"\s*:\s*\"[\w.-]+\"\s*,\s*\"arguments\"", ""),
)


# fmt: on


def raw_call(text: str) -> Optional[str]:
    """Return what a text that holds an unparsed tool call looks like, or None where it holds none."""
    for pattern, parser in RAW_CALLS:
        if re.search(pattern, text):
            return f"it looks like the format of the parser {parser}" if parser else "the format of no known parser"
    return None


def diagnose_error(error: EndpointError, where: Where) -> Diagnosis:
    """Return why a request failed."""
    status = error.status if isinstance(error, HttpStatus) else 0
    for row_id, kind_of_error, row_status, pattern, kind, cause, command in REQUESTS:
        if type(error).__name__ == kind_of_error and row_status in (0, status) and re.search(pattern, str(error)):
            names = where._asdict()
            return Diagnosis(row_id, cause.format(**names), command.format(**names), kind)
    raise TypeError(f"no row for {type(error).__name__}")


def failed(answer_id: str, evidence: str, where: Where, what: str = "") -> CheckFailed:
    """Return the failure that a row of ``ANSWERS`` words."""
    cause, command = ANSWERS[answer_id]
    names = {**where._asdict(), "what": what}
    return CheckFailed(evidence, cause.format(**names), command.format(**names))
