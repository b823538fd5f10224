# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A key in a file that only its owner can read."""

from __future__ import annotations

import os
import secrets

from .errors import Refused

KEY_BYTES = 32  # 256 bits, 43 characters
PLACEHOLDER = "made-when-not-in-check-mode"


def read_or_make(path: str, make: bool = True) -> str:
    """Return the key in ``path``; make it (mode 0600, its folder 0700) when there is none and ``make`` is true.

    Raises Refused for a file that others can read, or that holds anything but one word of at least 16 characters.
    """
    path = os.path.expanduser(path)
    if not os.path.isabs(path):
        instead = "Write an absolute path, such as {{ inventory_dir }}/.secrets/vllm_api_key."
        raise Refused("vllm_api_key_file", f"{path} depends on where Ansible is started.", instead)
    try:
        return _read_or_make(path, make)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise Refused(path, f"cannot be used as a key file: {reason}.", "Correct vllm_api_key_file, or that file.") from error


def _read_or_make(path: str, make: bool) -> str:
    try:
        return _read(path)
    except FileNotFoundError:
        if not make:
            return PLACEHOLDER
    aside = write_aside(path, secrets.token_urlsafe(KEY_BYTES) + "\n")
    try:
        os.link(aside, path)  # whole or not at all; another host's worker process may have been faster
    except FileExistsError:
        pass
    finally:
        os.unlink(aside)
    return _read(path)


def write_aside(path: str, text: str) -> str:
    """Write a secret (mode 0600, its folder 0700) beside its final place, and return where."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, mode=0o700, exist_ok=True)
    aside = os.path.join(folder, f".{os.path.basename(path)}.{os.getpid()}")
    with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    return aside


def replace(path: str) -> None:
    """Put a new key into ``path``, whole or not at all."""
    os.replace(write_aside(path, secrets.token_urlsafe(KEY_BYTES) + "\n"), path)


def usable(key: object) -> bool:
    """Tell whether a key is one: with an empty one vLLM would ask for none, and a short one can be guessed."""
    return isinstance(key, str) and len(key) >= 16 and len(key.split()) == 1 and key == key.strip() and key.isascii()


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as stream:
        mode = os.fstat(stream.fileno()).st_mode & 0o777
        key = stream.read().strip()
    if mode & 0o077:
        raise Refused(path, f"can be read by others (mode {mode:04o}).", f"Run: chmod 600 {path}")
    if key.startswith("$ANSIBLE_VAULT"):
        raise Refused(
            path,
            "is encrypted by ansible-vault, which this file is not read with.",
            "Set vllm_api_key in a vaulted variables file instead.",
        )
    if not usable(key):
        raise Refused(
            path, "does not hold one word of at least 16 ASCII characters.", "Remove it to have a key made, or write the key into it."
        )
    return key
