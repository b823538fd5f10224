# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What vLLM and systemd write when an instance does not start, as plain data: see diagnoses.py for its use.

In causes and next commands, ``{instance}`` is the name of the entry in ``vllm_instances``, ``{server}`` the host that
runs it, and ``{what}`` what the pattern's group of that name caught.
"""

from __future__ import annotations

from dataclasses import dataclass

NEVER, LATER = "never", "later"  # will not work until something is changed; may work when started again


@dataclass(frozen=True)
class Signature:
    """One row of the start-up table: a regular expression (Python's) for a line of the log, and what it means."""

    id: str
    pattern: str
    kind: str
    cause: str
    next: str


JOURNAL = "journalctl -u vllm@{instance} -n 100"
APPLY = "then run ansible-playbook site.yml"

# The order is the order of trust: the first row with a match wins, at its last match. "Engine core initialization
# failed" and the like are in no row: they follow every cause. Rows marked (reported) rest on public reports of
# vLLM's operators; the log of every other row was recorded from the real vLLM and is a test fixture.
START_UP: tuple[Signature, ...] = (
    Signature(
        "unknown_option",
        r"error: unrecognized arguments: (?P<what>.+)",
        NEVER,
        "this release of vLLM has no option {what}",
        "remove or rename it under {instance} in vllm_instances (args), " + APPLY,
    ),
    Signature(
        "bad_option_value",
        r"error: argument (?P<what>--[\w-]+: (?:invalid|expected) .+)",
        NEVER,
        "vLLM does not accept the value of {what}",
        "correct that key of {instance} in vllm_instances, " + APPLY,
    ),
    Signature(
        "tool_parser_unknown",
        r"invalid tool call parser: (?P<what>[^ ]+)",
        NEVER,
        "this release of vLLM has no tool-call parser {what}",
        "set tool_call_parser of {instance} to a name that this prints: " + JOURNAL + " | grep 'chose from'",
    ),
    Signature(
        "reasoning_parser_unknown",
        r"Reasoning parser '(?P<what>[^']*)' not found",
        NEVER,
        "this release of vLLM has no reasoning parser {what}",
        "set reasoning_parser of {instance} to a name that this prints: " + JOURNAL + " | grep 'Available parsers'",
    ),
    Signature(
        "tool_parser_missing",
        r"--enable-auto-tool-choice requires --tool-call-parser",
        NEVER,
        "enable_auto_tool_choice is on and no tool_call_parser is named",
        "set tool_call_parser of {instance} in vllm_instances, " + APPLY,
    ),
    Signature(
        "parser_not_for_model",
        r"(?P<what>--\S+-parser \S+(?: and --\S+-parser \S+)?) cannot be used with the tokenizer",
        NEVER,
        "the model's tokenizer has no tokens that {what} look for: a parser for another family of models",
        "set tool_call_parser and reasoning_parser of {instance} to those of its model's family, " + APPLY,
    ),
    Signature(
        "model_path_missing",
        r"Repo id must be in the form .*?: '(?P<what>[^']*)'",
        NEVER,
        "the model directory {what} does not exist on the server",
        "correct model of {instance} in vllm_instances, or see what is there: ls -l {what}",
    ),
    Signature(
        "model_not_downloaded",
        r"LocalEntryNotFoundError|Cannot find an appropriate cached snapshot",
        NEVER,
        "the model is named by its hub name, is not on the server, and the server may not download it",
        "set model of {instance} in vllm_instances to a directory on the server, " + APPLY,
    ),
    Signature(
        "model_files_missing",
        r"Invalid repository ID or local directory specified: '(?P<what>[^']*)'",
        NEVER,
        "{what} holds no config.json that the service's user may read: its copy is incomplete, or its mode too strict",
        "see what is there, and who may read it: ls -la {what}",
    ),
    Signature(
        "weights_missing",
        r"Cannot find any model weights with `?(?P<what>[^`\s]+)",
        NEVER,
        "{what} holds no weights: its copy is incomplete",
        "see what is there, and copy the model again: ls -l {what}",
    ),
    Signature(
        "weights_damaged",
        r"Error while deserializing header|SafetensorError",
        NEVER,
        "a weights file is damaged or cut short",
        "copy the model of {instance} again, and compare checksums with its source",
    ),
    Signature(
        "architecture_unknown",
        r"Model architectures \[(?P<what>[^\]]*)\] are not supported",
        NEVER,
        "this release of vLLM does not know the model's architecture {what}",
        "choose a newer release of vLLM, or another model for {instance}",
    ),
    Signature(
        "remote_code",
        r"[Pp]lease pass the argument `trust_remote_code=True`",
        NEVER,
        "the model brings its own Python code, which vLLM runs only when told to",
        "read that code; then set trust_remote_code of {instance} to true in vllm_instances, or choose another model",
    ),
    Signature(
        "context_too_long",
        # its end is not in the warning of a server that is told to do so all the same (VLLM_ALLOW_LONG_MAX_MODEL_LEN)
        r"User-specified max_model_len \((?P<what>\d+)\) is greater than the derived max_model_len.*To allow overriding",
        NEVER,
        "max_model_len {what} is more than the model was made for",
        "lower max_model_len of {instance} in vllm_instances, " + APPLY,
    ),
    Signature(
        "kv_cache_too_small",
        r"larger than the available KV cache memory.*?estimated maximum model length is (?P<what>\d+)",
        NEVER,
        "the KV cache holds no request of max_model_len tokens; {what} tokens would fit",
        "set max_model_len of {instance} to {what} or less, or raise gpu_memory_utilization, " + APPLY,
    ),
    Signature(
        "kv_cache_none",  # (reported)
        r"No available memory for the cache blocks",
        NEVER,
        "the weights leave no memory for the KV cache",
        "raise gpu_memory_utilization of {instance}, spread it over more GPUs, or choose a smaller model",
    ),
    Signature(
        "heads_not_divisible",
        r"Total number of attention heads \((?P<what>\d+)\) must be divisible by tensor parallel size",
        NEVER,
        "the model's {what} attention heads cannot be shared by that many GPUs",
        "set tensor_parallel_size of {instance} to a divisor of {what}, " + APPLY,
    ),
    Signature(
        "too_few_gpus",  # (reported)
        r"World size \((?P<what>\d+)\) is larger than the number of available GPUs",
        NEVER,
        "tensor_parallel_size asks for {what} GPUs, and the server has fewer",
        "lower tensor_parallel_size of {instance}; what is there: nvidia-smi -L",
    ),
    Signature(
        "template_missing",
        r"supplied chat template string \((?P<what>[^)]*)\) appears path-like, but doesn't exist",
        NEVER,
        "the chat template {what} does not exist on the server",
        "correct chat_template of {instance} in vllm_instances, " + APPLY,
    ),
    Signature(
        "config_missing",
        r"No such file or directory: '(?P<what>[^']*\.ya?ml)'",
        NEVER,
        "the configuration file {what} is gone",
        "write it again: ansible-playbook site.yml --limit {server}",
    ),
    Signature(
        "permission",
        r"Permission denied: '?(?P<what>[^'\n]+)",
        NEVER,
        "the service's user may not read {what}",
        "look at owner and mode of every part of the path: namei -l {what}",
    ),
    Signature(
        "address_not_here",
        r"\[Errno 99\]|Cannot assign requested address",
        NEVER,
        "the server has no such address to listen on",
        "correct host of {instance} in vllm_instances; what is there: ip -brief address",
    ),
    Signature(
        "port_taken",
        # the second: the start program looks before it starts vLLM
        r"\[Errno 98\]|[Aa]ddress already in use|^vllm-run: .*another process listens on the port of",
        LATER,
        "another process listens on the port of {instance}",
        "see which one, as root: ss -ltnp; then stop it, or change port of {instance} in vllm_instances",
    ),
    Signature(
        "gpu_memory_taken",  # (reported)
        r"Free memory on device.*less than desired GPU memory utilization",
        LATER,
        "another process holds the GPU's memory",
        "see which one: nvidia-smi; then stop it, or lower gpu_memory_utilization of {instance}",
    ),
    Signature(
        "gpu_memory_full",  # (reported)
        r"CUDA out of memory|torch\.OutOfMemoryError|CUDA error: out of memory",
        LATER,
        "the GPU's memory ran out",
        "see what holds it: nvidia-smi; lower gpu_memory_utilization, max_num_seqs or max_model_len of {instance}",
    ),
    Signature(
        "memory_short",
        r"Available memory on node \d+ .*less than requested memory for kv|Cannot allocate memory|MemoryError"
        r"|DefaultCPUAllocator: can't allocate memory",
        LATER,
        "the server's memory is too small, or taken",
        "see what is free: free -m; lower what {instance} asks for (max_model_len, max_num_seqs), or give it more",
    ),
    Signature(
        "disk_full",
        r"No space left on device",
        LATER,
        "a file system of the server is full",
        "see which one: df -h",
    ),
    Signature(
        "driver_mismatch",  # (reported)
        r"Driver/library version mismatch",
        NEVER,
        "the driver was upgraded under the running kernel module",
        "reboot the server, and keep the driver out of unattended upgrades",
    ),
    Signature(
        "driver_too_old",  # (reported)
        r"NVIDIA driver on your system is too old|CUDA driver version is insufficient|libcudart\.so\.\d+: cannot open",
        NEVER,
        "the NVIDIA driver is older than this build of vLLM needs",
        "see which one runs: nvidia-smi; then choose a newer driver, or a lock for its CUDA",
    ),
    Signature(
        "no_gpu",  # (reported)
        r"No CUDA GPUs are available|Failed to infer device type|libcuda\.so\.1: cannot open",
        NEVER,
        "vLLM finds no GPU, or no driver for it",
        "see what the server finds: nvidia-smi -L",
    ),
    Signature(
        "libnuma_missing",
        r"libnuma\.so\S*: cannot open shared object file",
        NEVER,
        "the system library libnuma is missing",
        "install it: apt-get install libnuma1",
    ),
    Signature(
        "library_missing",
        r"(?P<what>lib[\w.+-]+\.so[\w.]*): cannot open shared object file",
        NEVER,
        "the system library {what} is missing",
        "find its package: apt-file search {what}",
    ),
    Signature(
        "interpreter_damaged",
        r"Fatal Python error: init_|No module named '(?P<what>encodings)'",
        NEVER,
        "the Python that the environment of {instance} was made with lacks files of its own",
        "see which one: readlink -f /var/lib/vllm/{instance}/current/environment/bin/python; install it again (apt-get install "
        "--reinstall, or remove the directory of a managed or unpacked one), " + APPLY,
    ),
    Signature(
        "environment_damaged",
        r"No module named '(?P<what>[^']*)'",
        NEVER,
        "the environment lacks the Python module {what}",
        "build it again: ansible-playbook site.yml --limit {server}",
    ),
    Signature(
        "socket_family",
        r"Address family not supported by protocol",
        NEVER,
        "the unit may not open a socket that vLLM needs (RestrictAddressFamilies lacks AF_NETLINK or the like)",
        "look for overrides of the unit: systemctl cat vllm@{instance}",
    ),
    Signature(
        "meminfo_hidden",
        r"No such file or directory: '/proc/(?P<what>meminfo|cpuinfo)'",
        NEVER,
        "the unit hides /proc/{what} from vLLM (ProcSubset=pid)",
        "look for overrides of the unit: systemctl cat vllm@{instance}",
    ),
    Signature(
        "peer_absent",  # (reported)
        r"Connection (?:refused|reset by peer)|connect\(\) timed out|DistNetworkError",
        LATER,
        "another rank of this instance is not there yet, or not any more",
        "look at its other servers: systemctl status vllm@{instance}",
    ),
    Signature(
        "setting_refused",
        r"(?:Value error, |(?=Input should be ))(?P<what>[^\[\n]+)",
        NEVER,
        "vLLM refuses a setting: {what}",
        "correct that key of {instance} in vllm_instances; which one: " + JOURNAL + " | grep -B1 -A1 'rror, \\|should be'",
    ),
    # What systemd itself writes about the unit, when vLLM had no last word.
    Signature(
        "start_too_slow",
        r"start operation timed out",
        LATER,
        "no first token came within the unit's start limit",
        "see how far it came: " + JOURNAL,
    ),
    Signature(
        "credential_missing",
        r"status=243/CREDENTIALS|Failed (?:to set up credentials|at step CREDENTIALS)",
        NEVER,
        "the file with the server's key is missing",
        "write it again: ansible-playbook site.yml --limit {server}",
    ),
    Signature(
        "program_missing",
        r"status=(?:127|203/EXEC)|Failed to (?:locate|execute) .*: No such file or directory|: not found$"
        r"|^vllm-run: .*the environment of \S+ is missing",
        NEVER,
        "the environment of {instance} is missing",
        "build it again: ansible-playbook site.yml --limit {server}",
    ),
    Signature(
        "killed",
        r"status=9/KILL|oom-kill|Out of memory: Killed process",
        LATER,
        "it was killed, most likely because the server or the unit ran out of memory",
        "ask the kernel: journalctl -k | grep -i 'out of memory'",
    ),
    Signature(
        "frozen",
        r"Failed with result 'watchdog'|Watchdog timeout",
        LATER,
        "it was up and gave no token for too long, so systemd ended it",
        "see what it did last: " + JOURNAL,
    ),
)
