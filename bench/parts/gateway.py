"""What the way through a gateway costs: time to the first token, and requests of 100 tokens a second.

The real vLLM with the micro model answers, and vLLM's own `vllm bench serve` asks: at the server itself, through the gateway with each
engine, through LiteLLM, a proxy for language models from PyPI, as the peer, and through vLLM's own router, which would need a proxy
with TLS and keys before it. All share this machine's cores, with TLS for the gateway alone.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
from pathlib import Path
from typing import Any

from bench import measure
from bench.hosts import BENCH, LAB, ROOT, Failed, run
from bench.setup import Setup, say

INVENTORY = BENCH / "gateway"
ENGINES = ("nginx", "caddy")
HOSTS = ("server1", "gw1", "gw2", "peer1")
ASKED = "--dataset-name random --random-input-len 200 --random-output-len 100 --num-prompts 40 --max-concurrency 4 --ignore-eos"
MISREAD = "json.decoder.JSONDecodeError"
PEER_KEY = "sk-of-the-peer-in-the-measurement"
# as its documentation has it: one model of an OpenAI-compatible server, a key for clients
PEER = """
model_list: [{model_name: micro, litellm_params: {model: openai/micro, api_base: "http://%s:8001/v1", api_key: os.environ/UPSTREAM_KEY}}]
"""


def measured(setup: Setup) -> list[measure.Row]:
    """Deploy all of it, then ask in turns."""
    addresses = _hosts()
    setup.booted = 0  # those of the other parts are gone
    say("site.yml: a server, and a gateway of each engine")
    _play("site.yml")
    key = next(INVENTORY.glob(".secrets/gateway/keys/bench/load.key")).read_text().strip()
    own = (INVENTORY / ".secrets/vllm_api_key").read_text().strip()
    say("LiteLLM by its lock")
    _peer(addresses, own)
    say("vLLM's router by its lock")
    _router(addresses)
    ways = {
        "direct": (f"http://{addresses['server1']}:8001", own),
        "nginx": (f"https://{addresses['gw1']}", key),
        "caddy": (f"https://{addresses['gw2']}", key),
        "LiteLLM": (f"http://{addresses['peer1']}:4000", PEER_KEY),
        "vLLM's router": (f"http://{addresses['peer1']}:30000", own),
    }
    rounds = setup.rounds(5)
    first: dict[str, list[float]] = {name: [] for name in ways}
    rate: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in list(ways) if number % 2 else reversed(list(ways)):
            found = _ask(*ways[name])
            if number:  # the first round warms everything up
                first[name].append(found["median_ttft_ms"] / 1000)  # a mean tells of the moments in which two cores were asked by five
                # not tokens: where an answer does not say how many it had, the client counts those of its own tokenizer
                rate[name].append(found["request_throughput"])
        if number:
            say(f"round {number} of {rounds}: " + ", ".join(f"{name} {measure.seconds(times[-1])}" for name, times in first.items()))
    ttft = {name: statistics.median(times) for name, times in first.items()}
    asked = {name: statistics.median(times) for name, times in rate.items()}
    rows = []
    for name in list(ways)[1:]:
        label = f"gateway, {name}" if name in ENGINES else name
        rows.append(measure.share(f"first token through {label} ({rounds} rounds)", "vLLM itself", ttft["direct"], ttft[name]))
        ratio = asked[name] / asked["direct"]
        rows.append(
            measure.Row(f"requests a second through {label}", "vLLM itself", f"{asked['direct']:.1f}", f"{asked[name]:.1f}", f"{ratio:.3f}")
        )
    for name in ENGINES:
        added, peers = ttft[name] - ttft["direct"], ttft["LiteLLM"] - ttft["direct"]
        rows.append(measure.share(f"time that {name} adds to the first token", "LiteLLM", peers, added))
    return rows


def _hosts() -> dict[str, str]:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ownmetal/uv"
    cache.mkdir(parents=True, exist_ok=True)
    subprocess.run([*LAB, "down", "--all"], cwd=ROOT, check=True)
    binds = ("--bind-rw", f"{cache}:/srv/uv-cache", "--bind", f"{ROOT}:/srv/codex")
    subprocess.run([*LAB, "up", *(f"{name}:bookworm" for name in HOSTS), *binds], cwd=ROOT, check=True)
    listing = subprocess.run([*LAB, "list", "--json"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {host["name"]: host["address"] for host in json.loads(listing)}


def _play(playbook: str) -> None:
    words = ["ansible-playbook", playbook, "-i", str(INVENTORY)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{playbook} failed:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")


def _peer(addresses: dict[str, str], own: str) -> None:
    """Install LiteLLM on its host by its lock, and start it."""
    packages = "apt-get -qqy install --no-install-recommends python3-venv libsndfile1 >/dev/null"
    run("peer1", f"apt-get -qq update && DEBIAN_FRONTEND=noninteractive {packages}")
    _environment("litellm")
    run("peer1", f"cat >/srv/litellm.yaml <<'E'{PEER % addresses['server1']}E")
    run("peer1", f"umask 077; printf 'UPSTREAM_KEY=%s\\nLITELLM_MASTER_KEY=%s\\n' {shlex.quote(own)} {PEER_KEY} >/srv/litellm.env")
    start = "systemd-run --quiet --unit=litellm --property=EnvironmentFile=/srv/litellm.env"
    run("peer1", f"{start} /srv/litellm/bin/litellm --config /srv/litellm.yaml --host 0.0.0.0 --port 4000")
    _answers("litellm", "4000/health/liveliness")


def _router(addresses: dict[str, str]) -> None:
    """Install vLLM's router beside the peer, and start it; the server's key comes with each request."""
    _environment("router")
    words = f"--worker-urls http://{addresses['server1']}:8001 --host 0.0.0.0 --port 30000"
    run("peer1", f"systemd-run --quiet --unit=router /srv/router/bin/vllm-router {words}")
    _answers("router", "30000/health")


def _environment(name: str) -> None:
    install = f"/srv/{name}/bin/pip install --quiet --require-hashes --no-deps --requirement /srv/codex/bench/peers/{name}.txt"
    run("peer1", f"python3 -m venv /srv/{name} && {install}")


def _answers(unit: str, path: str) -> None:
    up = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{path}', timeout=5)"
    tried = f'python3 -c "{up}" 2>/dev/null && exit 0; systemctl -q is-active {unit} || break; sleep 2'
    run("peer1", f"for n in $(seq 60); do {tried}; done; journalctl -u {unit} -n 30; exit 1")


def _ask(url: str, key: str) -> dict[str, Any]:
    """Ask from the model server's host, which has the program; return what it measured."""
    run("server1", f"umask 077; printf %s {shlex.quote(key)} >/run/bench.key; rm -f /run/bench.json")
    words = "$(ls -d /opt/vllm/environments/cpu-*)/bin/vllm bench serve --backend openai-chat --endpoint /v1/chat/completions"
    words += f" --base-url {url} --insecure --model micro --tokenizer $(readlink -f /var/lib/vllm/micro/current/model) {ASKED}"
    words += " --percentile-metrics ttft --save-result --save-detailed --result-dir /run --result-filename bench.json --disable-tqdm"
    run("server1", f"OPENAI_API_KEY=$(cat /run/bench.key) HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 {words} >/run/bench.log 2>&1")
    found: dict[str, Any] = json.loads(run("server1", "cat /run/bench.json; rm -f /run/bench.key"))
    # It strips each piece that the network brings, so one that ends after "data: " it cannot read: a mistake of its own, not a lost answer.
    lost = [error for error in found["errors"] if error and MISREAD not in error]
    if lost:
        raise Failed(f"{url}: {len(lost)} of 40 requests did not come whole: {sorted(set(lost))}")
    return found
