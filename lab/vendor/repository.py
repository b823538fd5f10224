"""Signed apt repositories: keys that are made at test time, flat folders with Packages and a signed Release."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterable
from email.utils import formatdate
from pathlib import Path

from .debs import Package, build


class Key:
    """A throw-away key in a keyring of its own."""

    def __init__(self, home: Path) -> None:
        """Makes the key where there is none."""
        self.home = home
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.public():
            self._gpg("--passphrase", "", "--quick-generate-key", f"Lab {home.name} <lab@example.com>", "ed25519", "sign", "never")

    def _gpg(self, *words: str, text: bytes = b"") -> bytes:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", "--yes", "--pinentry-mode", "loopback", *words]
        return subprocess.run(command, input=text, check=True, stdout=subprocess.PIPE).stdout

    def public(self, armour: bool = False) -> bytes:
        """The public key, as apt reads it."""
        return self._gpg(*(["--armor"] if armour else []), "--export")

    def sign(self, text: bytes, *how: str) -> bytes:
        """A signed text (--clearsign) or a signature (--detach-sign)."""
        return self._gpg("--armor", *how, text=text)


def publish(folder: Path, packages: Iterable[Package], key: Key) -> None:
    """Build the packages that are not there yet into a flat repository, list them and sign the list."""
    folder.mkdir(parents=True, exist_ok=True)
    paragraphs = []
    for package in packages:
        path = folder / package.file
        if not path.exists():
            build(package, folder)
        body = path.read_bytes()
        sums = f"Filename: ./{path.name}\nSize: {len(body)}\nSHA256: {hashlib.sha256(body).hexdigest()}\n"
        paragraphs.append(package.control + sums)
    (folder / "Packages").write_text("\n".join(paragraphs))
    sign(folder, key)


def sign(folder: Path, key: Key) -> None:
    """Sign what a folder lists, and lay the key beside it."""
    listed = (folder / "Packages").read_bytes()
    release = (
        "Origin: NVIDIA\nLabel: NVIDIA CUDA\nArchitectures: amd64 all\n"
        f"Date: {formatdate(usegmt=True)}\nSHA256:\n {hashlib.sha256(listed).hexdigest()} {len(listed)} Packages\n"
    ).encode()
    (folder / "Release").write_bytes(release)
    (folder / "InRelease").write_bytes(key.sign(release, "--clearsign"))
    (folder / "Release.gpg").write_bytes(key.sign(release, "--detach-sign"))
