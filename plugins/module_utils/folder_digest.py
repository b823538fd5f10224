# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The digest of a folder of model files on the controller."""

from __future__ import annotations

import hashlib
import pathlib

from .errors import Refused


def folder_digest(path: str) -> str:
    """Return 12 hexadecimal digits of SHA-256 over the names and contents of a folder's files.

    Raises Refused for a path that is no folder or has no config.json, as every model folder has.
    """
    folder = pathlib.Path(path)
    if not (folder / "config.json").is_file():
        instead = "Write the path of a folder on the controller with config.json, the tokenizer and the weights."
        raise Refused("model_source", f"{path} holds no model: it has no config.json.", instead)
    total = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        with file.open("rb") as stream:
            inner = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{inner}  {file.relative_to(folder)}\n".encode())
    return total.hexdigest()[:12]
