# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The keys of an instance, and what each may hold.

They are vLLM's own flag names with underscores (sources: `vllm serve` of the release, by tools/flag_catalogue.py), so an
operator who knows vLLM knows the inventory.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any, Callable

from .chat_templates import names as chat_templates
from .model_manifest import COMMIT, REPOSITORY
from .networks import is_sources

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


@dataclass(frozen=True)
class Key:
    """A key of an instance: what it must be, and what it is when not given."""

    check: Callable[[Any], bool]
    kind: str
    default: Any = None
    flag: bool = True


def is_text(value: Any) -> bool:
    """Tell whether a value is text of one line, and not empty."""
    return isinstance(value, str) and bool(value.strip()) and "\n" not in value


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 40


def _ranks(value: Any) -> bool:
    return _count(value) and value <= 1024


def _names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(is_text(name) for name in value)


def _share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1


def _yes(value: Any) -> bool:
    return isinstance(value, bool)


def _port(value: Any) -> bool:
    return _count(value) and 1024 <= value <= 65535


def _path(value: Any) -> bool:
    return is_text(value) and value.startswith("/")


def _template(value: Any) -> bool:
    return _path(value) or value in chat_templates()


def _gpus(value: Any) -> bool:
    numbers = isinstance(value, list) and all(isinstance(gpu, int) and not isinstance(gpu, bool) and gpu >= 0 for gpu in value)
    return numbers and len(set(value)) == len(value) > 0


def _host(value: Any) -> bool:
    if not is_text(value):
        return False
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return bool(re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", value)) and not re.fullmatch(r"[\d.]+", value)
    return True


def _cpus(value: Any) -> bool:
    """Tell whether a value is what systemd's CPUAffinity takes, with each range the right way round."""
    if not is_text(value) or not re.fullmatch(r"\d{1,4}(-\d{1,4})?([, ]\d{1,4}(-\d{1,4})?)*", value):
        return False
    ranges = [[int(number) for number in part.split("-")] for part in re.split("[, ]", value)]
    return all(one[0] <= one[-1] for one in ranges)


def is_mapping(value: Any) -> bool:
    """Tell whether a value is a mapping with names for keys."""
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


KEYS: dict[str, Key] = {
    "name": Key(
        lambda value: is_text(value) and bool(NAME.fullmatch(value)), "lower-case letters, digits and dashes, at most 40", flag=False
    ),
    "state": Key(lambda value: value in ("present", "absent"), "present or absent", "present", flag=False),
    "track": Key(is_text, "the name of a track", flag=False),
    "model": Key(_path, "the path of a folder on the server, starting with /", flag=False),
    "model_source": Key(_path, "the path of a folder or archive on the controller, starting with /", flag=False),
    "model_repository": Key(
        lambda value: is_text(value) and bool(REPOSITORY.fullmatch(value)), "a repository of the hub, organisation/name", flag=False
    ),
    "model_revision": Key(
        lambda value: isinstance(value, str) and bool(COMMIT.fullmatch(value)), "the 40 digits of a commit, in quotes", flag=False
    ),
    "model_files": Key(_names, "a list of patterns, such as ['*.json', '!*.gguf']", flag=False),
    "model_manifest": Key(_path, "the path of a manifest on the controller, starting with /", flag=False),
    "served_model_name": Key(_names, "a list of names", flag=True),
    "host": Key(_host, "an address or a name", "127.0.0.1"),
    "allowed_sources": Key(is_sources, "a list of addresses and networks, such as [192.0.2.0/24]", flag=False),
    "port": Key(_port, "a number from 1024 to 65535", 8000),
    "gpus": Key(_gpus, "a list of the GPUs' numbers, as nvidia-smi counts them, such as [0, 1]", flag=False),
    "tensor_parallel_size": Key(_ranks, "a whole number of GPUs, from 1 to 1024", 1),
    "enable_auto_tool_choice": Key(_yes, "true or false"),
    "tool_call_parser": Key(is_text, "the name of a parser"),
    "reasoning_parser": Key(is_text, "the name of a parser"),
    "chat_template": Key(_template, "a chat template of this collection, or the path of a file on the server, starting with /"),
    "response_role": Key(is_text, "the name of a role"),
    "max_model_len": Key(_count, "a whole number of tokens"),
    "max_num_seqs": Key(_count, "a whole number of requests"),
    "max_num_batched_tokens": Key(_count, "a whole number of tokens"),
    "gpu_memory_utilization": Key(_share, "a share above 0 and at most 1, such as 0.9"),
    "trust_remote_code": Key(_yes, "true or false", False),
    "memory_limit_gib": Key(_count, "a whole number of GiB", flag=False),
    "cpus": Key(_cpus, "the CPUs as a text, such as '0-15' or '0-7,16-23'", flag=False),
    "args": Key(is_mapping, "a mapping of further vLLM flags", {}, flag=False),
    "environment": Key(is_mapping, "a mapping of environment variables", {}, flag=False),
}
