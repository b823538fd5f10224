"""What all parts need: how much is measured, the packages, and the hosts."""

from __future__ import annotations

import json
import re
import sys
from functools import cached_property
from typing import Any, Optional

from bench import hosts, wheels
from bench.index import Index

sys.path.append(str(hosts.ROOT / ".collections"))
MODEL = hosts.ROOT / ".cache/micro-model"
# beside the environment of the peer, on the same host
OURS, CACHE, POOL = "/srv/ours", "/srv/ours-cache", "/srv/ours-pool"
THEIRS, THEIR_CACHE = "/srv/plain-venv", "/srv/plain-cache"


class Setup:
    """The packages and the hosts of one run of the bench."""

    def __init__(self, full: bool, rounds: Optional[int], most: int) -> None:
        """Take whether vLLM itself is installed, how many rounds, and how many hosts."""
        self.full, self._rounds, self.most = full, rounds, most
        self._index: Optional[Index] = None
        self.address = ""
        self.booted = 0

    def rounds(self, usual: int) -> int:
        """Return how many rounds a part has."""
        return self._rounds or usual

    def hosts(self, count: int) -> None:
        """Have that many hosts."""
        if count > self.booted:
            self.address = hosts.up(count)
            self.booted = count

    @cached_property
    def lock(self) -> wheels.Lock:
        """The lock that is installed."""
        return wheels.lock(wheels.folder(self.full), self.full)

    @property
    def index(self) -> Index:
        """The index that everything is fetched from. The hosts have to be there: it listens on their network."""
        if self._index is None:
            label = self.lock.label
            print(f"bench: {label}; an index on {self.address}", flush=True)
            self._index = Index(wheels.folder(self.full), self.address)
        return self._index

    def close(self) -> None:
        """Take everything down."""
        if self._index:
            self._index.close()
        hosts.down()

    @cached_property
    def uv(self) -> str:
        """The release of the installer."""
        found = re.search(r"(?m)^uv==(\S+)", (wheels.LOCKS / "uv.txt").read_text())
        assert found  # noqa: S101 - the collection's own lock
        return found[1]

    def record(self, changed: bool = False) -> dict[str, str]:
        """Return the record of our environment, as the role would make it."""
        from ansible_collections.ownmetal.codex.plugins.module_utils.environment import environment_id  # noqa: PLC0415 - on the path by now

        text, interpreter = (self.lock.changed if changed else self.lock.path).read_text(), f"/usr/bin/python{wheels.PYTHON}"
        base = {"track": "bench", "vllm": wheels.VLLM, "python": wheels.PYTHON, "device": "cpu", "machine": "x86_64"}
        return {**base, "id": environment_id(text, "bench", interpreter, "x86_64"), "interpreter": interpreter, "lock": text}

    def ours(self, count: int = 1, changed: bool = False, host: str = "", **variables: Any) -> float:
        """Make our environment on the first hosts, or on one; return the seconds."""
        given = {"bench_record": self.record(changed), "bench_index": self.index.settings, "bench_uv": self.uv, **variables}
        return hosts.play("bench/ours_environment.yml", *(("--limit", host) if host else hosts.limit(count)), **given).seconds

    def theirs(self, changed: bool = False, venv: str = THEIRS) -> float:
        """Make the peer's environment on the first host; return the seconds."""
        return hosts.play("environment.yml", *hosts.limit(1), plain=True, **self.peer(changed, venv)).seconds

    def peer(self, changed: bool = False, venv: str = "") -> dict[str, Any]:
        """Return the peer's variables."""
        found: dict[str, Any] = {"plain_vllm_lock": str(self.lock.changed if changed else self.lock.path), "plain_vllm_model": str(MODEL)}
        found["plain_vllm_pip_environment"] = {**self.index.settings, "PIP_CACHE_DIR": THEIR_CACHE}
        return {**found, "plain_vllm_virtualenv": venv} if venv else found

    def team(self) -> dict[str, Any]:
        """Return the inventory variables of a team whose own track is the lock."""
        instance: dict[str, Any] = {
            "name": "micro",
            "model_source": str(MODEL),
            "port": 8001,
            "max_model_len": 32768,
            "tool_call_parser": "hermes",
        }
        instance |= {"environment": {"VLLM_CPU_KVCACHE_SPACE": 1}, "args": {"enforce-eager": True}}
        track = {"name": "bench", "lock": str(self.lock.path), "vllm": wheels.VLLM, "python": wheels.PYTHON, "device": "cpu"}
        return {
            "vllm_tracks": [track],
            "vllm_track": "bench",
            "vllm_instances": [instance],
            "vllm_proof": self.full,  # a stand-in gives a token and calls no tool
            "vllm_api_key": "a-key-of-the-measurement",
            "vllm_api_key_file": str(wheels.CACHE / "api-key"),  # made even where a key is given
            "vllm_free_space_gib": 1 if not self.full else 6,
            "vllm_installer_environment": self.index.settings,
        }


def say(text: str) -> None:
    """Tell what happens."""
    print(f"bench:   {text}", flush=True)


def dump(value: Any) -> str:
    """Return a value as JSON, to put into a program."""
    return json.dumps(value)
