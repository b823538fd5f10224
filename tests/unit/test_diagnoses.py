"""The diagnoses. The journals in fixtures/journals are the last lines of real failed (and one healthy) starts of the
real vLLM 0.32.0, provoked on purpose, without their tracebacks; only paths were changed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import client, diagnoses
from ansible_collections.ownmetal.codex.plugins.module_utils.start_up_signatures import START_UP

JOURNALS = Path(__file__).parent / "fixtures" / "journals"

# recorded journal -> id, kind, words of the cause, words of the next command
RECORDED = {
    "unknown_option": ("unknown_option", "never", "no option --log-dir /x", "args"),
    "unknown_yaml_key": ("unknown_option", "never", "no option --foo-bar 1", "vllm_instances"),
    "bad_choice": ("bad_option_value", "never", "--dtype: invalid choice: 'foo'", "of micro"),
    "bad_value": ("bad_option_value", "never", "--max-num-seqs: invalid int value: 'abc'", "of micro"),
    "bad_number": ("setting_refused", "never", "Input should be greater than or equal to 1", "of micro"),
    "bad_combination": ("setting_refused", "never", "max_num_batched_tokens (10) must be greater", "of micro"),
    "tool_parser_unknown": ("tool_parser_unknown", "never", "no tool-call parser nosuch", "chose from"),
    "reasoning_parser_unknown": ("reasoning_parser_unknown", "never", "no reasoning parser nosuch", "Available"),
    "tool_parser_missing": ("tool_parser_missing", "never", "enable_auto_tool_choice is on", "tool_call_parser"),
    "parser_not_for_model": ("parser_not_for_model", "never", "--tool-call-parser llama3_json", "family"),
    "model_path_missing": ("model_path_missing", "never", "/srv/models/nosuch does not exist", "/srv/models/nosuch"),
    "model_not_downloaded": ("model_not_downloaded", "never", "not on the server", "model of micro"),
    "model_files_missing": ("model_files_missing", "never", "/srv/models/noconfig holds no", "ls -la"),
    "model_unreadable": ("model_files_missing", "never", "/srv/models/private holds no", "who may read it"),
    "weights_missing": ("weights_missing", "never", "/srv/models/noweights holds no weights", "copy the model again"),
    "weights_damaged": ("weights_damaged", "never", "cut short", "checksums"),
    "architecture_unknown": ("architecture_unknown", "never", "'FooForCausalLM'", "newer release"),
    "remote_code": ("remote_code", "never", "its own Python code", "trust_remote_code"),
    "context_too_long": ("context_too_long", "never", "max_model_len 200000", "lower max_model_len of micro"),
    "kv_cache_too_small": ("kv_cache_too_small", "never", "16256 tokens would fit", "to 16256 or less"),
    "kv_cache_beyond_memory": ("memory_short", "later", "memory is too small", "free -m"),
    "memory_short": ("memory_short", "later", "memory is too small", "free -m"),
    "heads_not_divisible": ("heads_not_divisible", "never", "1 attention heads", "tensor_parallel_size of micro"),
    "template_missing": ("template_missing", "never", "/srv/nosuch.jinja does not exist", "chat_template of micro"),
    "config_missing": ("config_missing", "never", "/etc/vllm/nosuch.yaml is gone", "--limit server1"),
    "address_not_here": ("address_not_here", "never", "no such address", "host of micro"),
    "port_taken": ("port_taken", "later", "another process listens", "port of micro"),
    "libnuma_missing": ("libnuma_missing", "never", "libnuma", "apt-get install libnuma1"),
    "socket_family": ("socket_family", "never", "AF_NETLINK", "systemctl cat vllm@micro"),
    "meminfo_hidden": ("meminfo_hidden", "never", "/proc/meminfo", "systemctl cat vllm@micro"),
}

# rows that no machine at hand can show (GPUs, several servers) or that systemd writes: one line, as reported
REPORTED = [
    ("kv_cache_none", "never", "ValueError: No available memory for the cache blocks. Try increasing it."),
    ("too_few_gpus", "never", "ValueError: World size (4) is larger than the number of available GPUs (2)"),
    ("permission", "never", "PermissionError: [Errno 13] Permission denied: '/srv/models/micro/config.json'"),
    ("gpu_memory_taken", "later", "ValueError: Free memory on device cuda:0 (3.2/79.1 GiB) on startup is less than "
     "desired GPU memory utilization (0.9, 71.2 GiB)."),
    ("gpu_memory_full", "later", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."),
    ("disk_full", "later", "OSError: [Errno 28] No space left on device"),
    ("driver_mismatch", "never", "Failed to initialize NVML: Driver/library version mismatch"),
    ("driver_too_old", "never", "ImportError: libcudart.so.13: cannot open shared object file: No such file"),
    ("no_gpu", "never", "RuntimeError: Failed to infer device type"),
    ("library_missing", "never", "ImportError: libibverbs.so.1: cannot open shared object file: No such file"),
    ("environment_damaged", "never", "ModuleNotFoundError: No module named 'vllm'"),
    ("interpreter_damaged", "never", "Fatal Python error: init_fs_encoding: failed to get the Python codec of the filesystem encoding"),
    ("interpreter_damaged", "never", "ModuleNotFoundError: No module named 'encodings'"),
    ("peer_absent", "later", "torch.distributed.DistNetworkError: The client socket has failed to connect"),
    ("start_too_slow", "later", "vllm@micro.service: start operation timed out. Terminating."),
    ("credential_missing", "never", "vllm@micro.service: Main process exited, code=exited, status=243/CREDENTIALS"),
    ("program_missing", "never", "vllm@micro.service: Main process exited, code=exited, status=127/n/a"),
    ("program_missing", "never", "vllm@micro.service: Main process exited, code=exited, status=203/EXEC"),
    ("killed", "later", "vllm@micro.service: Main process exited, code=killed, status=9/KILL"),
    ("frozen", "later", "vllm@micro.service: Failed with result 'watchdog'."),
]  # fmt: skip


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("prefix", ["", "Nov 22 19:20:55 server1 vllm[123]: "], ids=["log", "journal"])
def test_recorded_failure(name: str, prefix: str) -> None:
    row_id, kind, cause, command = RECORDED[name]
    text = "\n".join(prefix + line for line in (JOURNALS / f"{name}.txt").read_text().splitlines())
    found = diagnoses.diagnose_journal(text, "micro", "server1")
    assert (found.id, found.kind) == (row_id, kind)
    assert cause in found.cause
    assert command in found.next_command


@pytest.mark.parametrize(("row_id", "kind", "line"), REPORTED, ids=[row[0] for row in REPORTED])
def test_reported_failure(row_id: str, kind: str, line: str) -> None:
    found = diagnoses.diagnose_journal(f"INFO starting\n{line}\nINFO bye\n", "micro")
    assert (found.id, found.kind) == (row_id, kind)


def test_every_recorded_journal_has_a_row() -> None:
    assert {path.stem for path in JOURNALS.glob("*.txt")} == {*RECORDED, "healthy"}


def test_every_signature_has_a_case() -> None:
    assert {row.id for row in START_UP} == {row[0] for row in RECORDED.values()} | {row[0] for row in REPORTED}


def test_a_healthy_start_matches_nothing() -> None:
    text = (JOURNALS / "healthy.txt").read_text()
    trusting = text.replace("trust_remote_code=False", "trust_remote_code=True")
    assert trusting != text
    assert diagnoses.diagnose_journal(trusting, "micro").id == "unknown"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("INFO fine\nFooError: the moon is full\nINFO bye", "unknown; the last error in its log: FooError: the moon is full"),
        ("INFO fine", "unknown; its log names no error"),
        ("", "unknown; its log names no error"),
    ],
)
def test_unknown_cause_may_pass(text: str, cause: str) -> None:
    found = diagnoses.diagnose_journal(text, "micro")
    assert (found.id, found.kind, found.cause) == ("unknown", "later", cause)
    assert found.next_command == "journalctl -u vllm@micro -n 100"


def test_the_last_of_several_failures_counts() -> None:
    text = "error: unrecognized arguments: --old\nerror: unrecognized arguments: --new"
    assert "no option --new" in diagnoses.diagnose_journal(text, "micro").cause


def test_signatures_survive_json() -> None:
    rows = json.loads(json.dumps(diagnoses.journal_signatures()))
    assert [row["id"] for row in rows] == [row.id for row in START_UP]
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert set(row) == {"id", "pattern", "kind", "cause", "next"}
        assert row["kind"] in ("never", "later")
        groups = set(re.compile(row["pattern"]).groupindex)
        assert groups <= {"what"}, "the start program fills in no other group"
        assert ("{what}" in row["cause"] + row["next"]) <= bool(groups), row["id"]
        (row["cause"] + row["next"]).format(instance="i", server="s", what="w")


# ---- requests -------------------------------------------------------------------------------------------------------
WHERE = diagnoses.Where("http://server1:8001/v1", "server1", "micro", "micro", "server1")


def status(code: int, body: str = "") -> client.HttpStatus:
    return client.HttpStatus("POST http://server1:8001/v1/chat/completions", code, body)


REQUESTS = [
    ("refused", client.Refusal("connection refused")),
    ("name_unknown", client.NameUnknown("no address")),
    ("unreachable", client.Unreachable("No route to host")),
    ("timed_out", client.TimedOut("no answer in 5 s")),
    ("cut_short", client.CutShort("cut off")),
    ("not_vllm", client.BadAnswer("no JSON: <html>")),
    ("tls_plain", client.TlsFailed("WRONG_VERSION_NUMBER")),
    ("tls_name", client.TlsFailed("Hostname mismatch, certificate is not valid for 'server1'.")),
    ("tls_expired", client.TlsFailed("certificate has expired")),
    ("tls_untrusted", client.TlsFailed("unable to get local issuer certificate")),
    ("key_rejected", status(401, "Unauthorized")),
    ("forbidden", status(403)),
    ("model_unknown", status(404, "The model `x` does not exist. Valid aliases: micro.")),
    ("path_unknown", status(404, "Not Found")),
    ("method_unknown", status(405)),
    ("auto_tools_off", status(400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser')),
    ("prompt_too_long", status(400, "This model's maximum context length is 64 tokens. However, ...")),
    ("template_role", status(400, "Unexpected message role.")),
    ("plain_on_tls", status(400, "The plain HTTP request was sent to HTTPS port")),
    ("overloaded", status(429)),
    ("backend_down", status(502, "Bad Gateway")),
    ("not_ready", status(503)),
    ("backend_slow", status(504)),
    ("server_error", status(500, "Internal Server Error")),
    ("rejected", status(422, "unprocessable")),
]


@pytest.mark.parametrize(("row_id", "error"), REQUESTS, ids=[row[0] for row in REQUESTS])
def test_request(row_id: str, error: client.EndpointError) -> None:
    found = diagnoses.diagnose_error(error, WHERE)
    assert found.id == row_id
    assert "{" not in found.cause + found.next_command


def test_every_request_row_and_every_error_has_a_case() -> None:
    assert {row[0] for row in diagnoses.REQUESTS} == {row[0] for row in REQUESTS}
    assert set(client.EndpointError.__subclasses__()) == {type(error) for _, error in REQUESTS}


@pytest.mark.parametrize("answer_id", diagnoses.ANSWERS)
def test_answer_words_are_filled_in(answer_id: str) -> None:
    failure = diagnoses.failed(answer_id, "what was seen", WHERE, "THIS")
    assert failure.evidence == "what was seen"
    assert "{" not in failure.cause + failure.next_command


# ---- raw tool calls -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "parser"),
    [
        ('<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>', "hermes"),
        ("<tool_call>\n<function=f>\n<parameter=a>1</parameter></function></tool_call>", "qwen3_coder"),
        ("<function=f>{}</function>", "qwen3_coder"),
        ("<tool_call>f\n<arg_key>a</arg_key><arg_value>1</arg_value></tool_call>", "glm45"),
        ('[TOOL_CALLS][{"name": "f", "arguments": {}}]', "mistral"),
        ('<|python_tag|>{"name": "f", "parameters": {}}', "llama3_json"),
        ('{"name": "f", "parameters": {"a": 1}}', "llama3_json"),
        ("<\uff5ctool\u2581calls\u2581begin\uff5c><\uff5ctool\u2581call\u2581begin\uff5c>f", "deepseek_v31"),
        ("<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0", "kimi_k2"),
        ("<minimax:tool_call><invoke name='f'>", "minimax_m2"),
        ("<seed:tool_call><function=f>", "seed_oss"),
        ("[get_weather(city='Paris')]", "pythonic"),
        ('{"name": "f", "arguments": {}}', "no known parser"),
        ("the end </tool_call>", "no known parser"),
    ],
)
def test_raw_call(text: str, parser: str) -> None:
    looks = diagnoses.raw_call(text)
    assert looks is not None
    assert looks.endswith(parser)


@pytest.mark.parametrize("text", ["", "It is 21 degrees.", 'A name: {"name": "Ann"}', "call f(x) [see (a)]"])
def test_no_raw_call(text: str) -> None:
    assert diagnoses.raw_call(text) is None


def test_a_context_that_was_forced_is_not_blamed_for_another_failure():
    """VLLM_ALLOW_LONG_MAX_MODEL_LEN turns that error into a warning, which stands in the log of whatever fails later."""
    warning = "WARNING [model.py:2660] User-specified max_model_len (5000000) is greater than the derived max_model_len (...). Careful.\n"
    log = warning + (JOURNALS / "kv_cache_too_small.txt").read_text()
    assert diagnoses.diagnose_journal(log, "coder").id == "kv_cache_too_small"
