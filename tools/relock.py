#!/usr/bin/env python3
"""Make every hash-locked requirements file anew from its .in file, and show what changed.

`make relock` runs this with the operator's package settings for uv. A track's lock is resolved for the oldest glibc that the
track promises and from wheels alone, so what is in it installs there without a compiler; ``until`` keeps an old release
with the packages of its own time.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = Path("roles/vllm/files/locks")
TRACKS = ROOT / "plugins/module_utils/data/tracks.json"
# no index and no folder is written into a lock: it holds on every machine, whatever it downloads from
ALWAYS = ("--generate-hashes", "--no-emit-index-url", "--no-emit-find-links", "--no-header", "--no-annotate", "--quiet")


def lock(source: Path, *options: str) -> bool:
    """Make one lock beside its source; say why when it does not resolve, and leave the old one as it was."""
    target = source.with_suffix(".txt")
    before = pins(target)
    print(f"locking {target}", flush=True)
    if subprocess.run(["uv", "pip", "compile", source, "--output-file", target, *ALWAYS, *options], cwd=ROOT, check=False).returncode == 0:
        print("".join(f"  {line}\n" for line in differences(before, pins(target))) or "  as it was\n", end="", flush=True)
        return True
    why = f"relock: {target} does not resolve with today's index (uv says why above). The old lock is untouched"
    print(f"{why}: keep it, or pin an older release in {source}.", file=sys.stderr)
    return False


def pins(lock: Path) -> dict[str, str]:
    """Return what a lock pins: package and version."""
    text = (ROOT / lock).read_text(encoding="utf-8") if (ROOT / lock).exists() else ""
    return dict(re.findall(r"^([A-Za-z0-9][\w.-]*)==(\S+)", text, re.MULTILINE))


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return a line for each package that came, went or has another version."""
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    return [f"{name} {before.get(name, '(not there)')} -> {after.get(name, '(gone)')}" for name in changed]


def track_options(name: str, track: dict[str, str]) -> list[str]:
    """Return what a track's lock is resolved for."""
    platform = f"{track['machine']}-manylinux_{track['glibc'].replace('.', '_')}"
    options = ["--no-build", "--python-version", track["python"], "--python-platform", platform]
    overrides = LOCKS / f"{name}.overrides.txt"
    if (ROOT / overrides).exists():
        options += ["--override", str(overrides)]
    if "until" in track:
        options += ["--exclude-newer", track["until"]]
    return options


def main() -> int:
    """Lock the tool environment, the installer and every track, or the tracks that are named; return the exit code."""
    tracks = json.loads(TRACKS.read_text(encoding="utf-8"))
    names = sys.argv[1:] or list(tracks)
    done = True
    if not sys.argv[1:]:
        done &= lock(Path("requirements/dev.in"), "--universal", "--python-version", "3.11")
        for name in ("litellm", "router"):
            done &= lock(Path(f"bench/peers/{name}.in"), "--python-version", "3.11")
        done &= lock(LOCKS / "uv.in", "--universal", "--python-version", "3.10")
    for name in names:
        done &= lock(LOCKS / f"{name}.in", *track_options(name, tracks[name]))
    subprocess.run(["git", "--no-pager", "diff", "--stat", "--", "requirements", "bench", LOCKS], cwd=ROOT, check=False)
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
