"""Make the repositories, or sign them with another key: `python3 -m vendor build URL KERNEL`, `python3 -m vendor rotate`.

They are laid out below the folder `www` as the vendor has them, for any server of files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from . import packages, repository

ROOT = Path("/srv/vendor")
DISTRIBUTIONS = ("debian12", "debian13")


def build(url: str, kernel: str) -> None:
    """Make everything there is."""
    www = ROOT / "www"
    key = repository.Key(ROOT / "keys/first")
    for name in DISTRIBUTIONS:
        ring = packages.keyring("1.1-1", key.public(), url, name)
        repository.publish(www / name / "x86_64", [*packages.vendor(), ring], key)
    repository.publish(www / "libnvidia-container/stable/deb/amd64", packages.containers(), key)
    (www / "libnvidia-container/gpgkey").write_bytes(key.public(armour=True))
    repository.publish(www / "distribution", packages.distribution(kernel), key)
    (ROOT / "settings.json").write_text(json.dumps({"url": url}))


def rotate() -> None:
    """Sign with a new key, which only a newer keyring package has."""
    url = json.loads((ROOT / "settings.json").read_text())["url"]
    key = repository.Key(ROOT / "keys/second")
    for name in DISTRIBUTIONS:
        ring = packages.keyring("1.2-1", key.public(), url, name)
        repository.publish(ROOT / "www" / name / "x86_64", [*packages.vendor(), ring], key)


if __name__ == "__main__":
    if sys.argv[1] == "build":
        build(*sys.argv[2:])
    else:
        rotate()
