"""Make the repositories, or sign them with another key: `python3 -m vendor build KERNEL`, `python3 -m vendor sign second`.

They are laid out below the folder `www` as the vendor has them, for any server of files.
"""

from __future__ import annotations

import sys
from pathlib import Path

from . import packages, repository

ROOT = Path("/srv/vendor")
DISTRIBUTIONS = ("debian12", "debian13")


def sign(name: str) -> None:
    """Sign what the vendor has with a key of that name; each key but the first comes with a newer keyring package."""
    key = repository.Key(ROOT / "keys" / name)
    version = "1.1-1" if name == "first" else "1.2-1"
    for distribution in DISTRIBUTIONS:
        ring = packages.keyring(version, key.public(), distribution)
        repository.publish(ROOT / "www" / distribution / "x86_64", [*packages.vendor(), ring], key)


def build(kernel: str) -> None:
    """Make everything there is."""
    www = ROOT / "www"
    sign("first")
    key = repository.Key(ROOT / "keys/first")
    containers = www / "libnvidia-container"
    repository.publish(containers / "stable/deb/amd64", packages.containers(), key)
    (containers / "gpgkey").write_bytes(key.public(armour=True))
    repository.publish(www / "distribution", packages.distribution(kernel), key)
    (www / "distribution/key.gpg").write_bytes(key.public())
    (ROOT / "complete").touch()


if __name__ == "__main__":
    if sys.argv[1] == "build":
        build(*sys.argv[2:])
    else:
        sign(sys.argv[2])
