# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One rank of an all-reduce: sums that are known, then a bandwidth. all_reduce.py runs it with an environment's own Python.

It gets a JSON object as its argument (member, rank, ranks, device, store, bytes, rounds, seconds) and says a line of JSON,
after MARK, whenever it begins something: where it was when it fell silent is what the others are told by.
"""

from __future__ import annotations

import datetime
import importlib
import json
import sys
import time
from typing import Any

MARK = "ownmetal-rank "
# in the order in which a rank comes by
STAGES = ("importing", "device", "joining", "adding", "timing", "adding again", "done")
PATTERN = 251  # each element has its own value, and every sum is a whole number that a 32-bit float holds exactly


def say(at: str, **more: Any) -> None:
    """Tell where this rank is."""
    print(MARK + json.dumps({"at": at, **more}), flush=True)


def wrong_sums(torch: Any, job: dict[str, Any], device: Any) -> int:
    """Add up what all ranks have, and count the elements that are not what they should be."""
    ranks = job["ranks"]
    pattern = torch.arange(job["bytes"] // 4, device=device).remainder_(PATTERN).float()
    mine = pattern + (job["rank"] + 1)
    torch.distributed.all_reduce(mine)
    return int((mine != pattern * ranks + ranks * (ranks + 1) // 2).sum().item())


def seconds_of_one(torch: Any, job: dict[str, Any], device: Any) -> float:
    """Return how long one all-reduce takes, from the mean of many that follow one another."""
    zeros = torch.zeros(job["bytes"] // 4, device=device)
    wait = torch.cuda.synchronize if job["device"] == "cuda" else (lambda: None)
    for _ in range(3):
        torch.distributed.all_reduce(zeros)
    wait()
    start = time.perf_counter()
    for _ in range(job["rounds"]):
        torch.distributed.all_reduce(zeros)
    wait()
    return (time.perf_counter() - start) / int(job["rounds"])


def main() -> None:
    """Run this rank."""
    job = json.loads(sys.argv[1])
    say("importing")
    torch: Any = importlib.import_module("torch")
    distributed: Any = importlib.import_module("torch.distributed")
    say("device")
    cuda = job["device"] == "cuda"
    if cuda:
        torch.cuda.set_device(job["rank"])
    else:
        torch.set_num_threads(1)
    device = torch.device("cuda", job["rank"]) if cuda else torch.device("cpu")
    torch.zeros(1, device=device)
    say("joining")
    # a file, so that no port is taken; who waits too long is ended by all_reduce.py, which knows about whom
    store = distributed.FileStore(job["store"], job["ranks"])
    limit = datetime.timedelta(seconds=2 * job["seconds"])
    backend = "nccl" if cuda else "gloo"
    distributed.init_process_group(backend, store=store, rank=job["rank"], world_size=job["ranks"], timeout=limit)
    say("adding")
    wrong = wrong_sums(torch, job, device)
    say("timing")
    seconds = seconds_of_one(torch, job, device)
    say("adding again")
    wrong += wrong_sums(torch, job, device)
    say("done", wrong=wrong, seconds=seconds, torch=str(torch.__version__))


if __name__ == "__main__":
    main()
