"""Debian packages: what one is made of, and how a file of it is built."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

PROGRAM, TEXT = 0o755, 0o644


@dataclass(frozen=True)
class Package:
    """Control fields and files. A path's content is a program where it lies in a folder of programs."""

    name: str
    version: str
    source: str = ""  # by it the vendor's pins find a package
    fields: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    scripts: Mapping[str, str] = field(default_factory=dict)
    architecture: str = "amd64"

    @property
    def file(self) -> str:
        """The file's name; an epoch is no part of it."""
        return f"{self.name}_{self.version.rpartition(':')[2]}_{self.architecture}.deb"

    @property
    def control(self) -> str:
        """The control file."""
        lines = {
            "Package": self.name,
            "Version": self.version,
            "Architecture": self.architecture,
            "Maintainer": "Lab <lab@example.com>",
            "Section": "non-free/libs",
            "Priority": "optional",
            **({"Source": self.source} if self.source else {}),
            **self.fields,
            "Description": f"stand-in for {self.name}",
        }
        return "".join(f"{key}: {value}\n" for key, value in lines.items())


def build(package: Package, folder: Path) -> Path:
    """Build a package into a folder, and return its file."""
    target = folder / package.file
    with TemporaryDirectory() as work:
        root = Path(work)
        root.chmod(0o755)
        for path, text in package.files.items():
            _write(
                root / path.lstrip("/"), text, PROGRAM if {"bin", "sbin", "libexec", "common.postinst"} & set(Path(path).parts) else TEXT
            )
        _write(root / "DEBIAN/control", package.control, TEXT)
        for name, text in package.scripts.items():
            _write(root / "DEBIAN" / name, f"#!/bin/sh\nset -e\n{text}", PROGRAM)
        settings = [path for path in package.files if path.startswith("/etc/")]
        if settings:
            _write(root / "DEBIAN/conffiles", "".join(f"{path}\n" for path in settings), TEXT)
        # without compression: they are a few hundred bytes each, and there are hundreds
        subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", work, str(target)], check=True, capture_output=True)
    return target


def _write(path: Path, content: str | bytes, mode: int) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
