"""The stand-in for the models, as a service: its models are in a file, and what it was asked last is written into another one."""

import json
import time
from pathlib import Path

from codex_stand_in import stand_in

HERE = Path("/srv/stand-in")
with stand_in(json.loads((HERE / "models.json").read_text()), port=8001) as (_port, seen):
    told = 0
    while True:
        if len(seen.requests) != told:
            told = len(seen.requests)
            (HERE / "seen.part").write_text(json.dumps(seen.requests))
            (HERE / "seen.part").rename(HERE / "seen.json")
        time.sleep(0.05)
