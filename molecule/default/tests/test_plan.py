"""The plan before the run: what it says of a server is what the server then does, and what it refuses is not begun."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SHAPES = {
    # instance: how its model is made, its further flags
    "grouped": (["--heads", "4", "--kv-heads", "2", "--layers", "3"], {"max_model_len": 16384}),
    "blocks": (["--heads", "2", "--layers", "5"], {"max_model_len": 20000, "args": {"block-size": 64}}),
}


def planned(playbook, path, **variables):
    code, said = playbook("plan", plan_file=str(path), **variables)
    return code, said, {row["server"]: row for row in json.loads(path.read_text())}


def test_the_plan_says_what_runs(server, playbook, tmp_path):
    code, said, plans = planned(playbook, tmp_path / "plan.json")
    assert code == 0, said
    assert re.search(r"server1 +: ok=\d+ +changed=0", said)
    (micro,) = plans["server1"]["instances"]
    assert plans["server1"]["ok"]
    assert micro["memory"]["fits"]
    assert micro["context"] == 32768
    assert "server1 can run this: debian 12" in said


def test_the_cache_is_as_large_as_the_server_logs(server, playbook, tmp_path):
    """Three shapes of a model: the plan's tokens are those of vLLM's own log line, within 2 %."""
    instances = []
    for number, (name, (options, keys)) in enumerate(SHAPES.items()):
        source = tmp_path / name
        subprocess.run([sys.executable, str(ROOT / "lab/micro_model.py"), str(source), *options], check=True, stdout=subprocess.DEVNULL)
        args = {"enforce-eager": True, **keys.pop("args", {})}
        common = {"name": name, "model_source": str(source), "port": 8101 + number, "tool_call_parser": "hermes"}
        instances.append({**common, **keys, "args": args, "environment": {"VLLM_CPU_KVCACHE_SPACE": 1}})
    try:
        code, said, plans = planned(playbook, tmp_path / "plan.json", vllm_instances_host=instances)
        assert code == 0, said
        # their models reason, and a tool call is not what is shown here
        code, said = playbook("gpu_servers", vllm_instances_host=instances, vllm_proof=False)
        assert code == 0, said
        for row in plans["server1"]["instances"]:
            journal = server.check_output(f"journalctl --no-pager --output=cat --unit vllm@{row['name']}")
            logged = int(re.findall(r"KV cache size: ([\d,]+) tokens", journal)[-1].replace(",", ""))
            assert abs(row["memory"]["kv_tokens"] - logged) <= 0.02 * logged, row["name"]
    finally:
        code, said = playbook("gpu_servers", vllm_instances_host=[{"name": name, "state": "absent"} for name in SHAPES])
    assert code == 0, said
