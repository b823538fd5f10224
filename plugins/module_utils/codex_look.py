# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a developer machine knows of Codex before it is configured: its version, the models that there are, those that there were."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Mapping
from typing import Any, Optional

from .client import BaseUrl, Client, EndpointError
from .errors import Refused


def ask_version(program: str) -> Optional[str]:
    """Return the version of the Codex of that name or path, None where there is none that runs."""
    # a home of its own: Codex writes into the one that it has
    with tempfile.TemporaryDirectory() as home:
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": home, "CODEX_HOME": home}
        try:
            command = [program, "--version"]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
    found = re.search(r"^codex(?:-cli)? (\S+)$", done.stdout, re.MULTILINE)
    return found[1] if found and done.returncode == 0 else None


def live_models(url: str, api_key: Optional[str], ca_file: Optional[str], timeout: float) -> tuple[dict[str, int], str]:
    """Return the context length of each model that a server lists, and why it did not answer ('' where it did)."""
    try:
        return read_models(Client(BaseUrl.parse(url), api_key, ca_file, timeout).get("/models")), ""
    except (EndpointError, Refused) as error:
        return {}, str(error)


def read_models(answer: Any) -> dict[str, int]:
    """Return the context length of each model of the answer to /v1/models; a model without one is left out."""
    rows = answer.get("data") if isinstance(answer, Mapping) else None
    found = {}
    for row in rows if isinstance(rows, list) else []:
        length = row.get("max_model_len") if isinstance(row, Mapping) else None
        if isinstance(length, int) and length > 0 and isinstance(row.get("id"), str):
            found[row["id"]] = length
    return found


def remembered_models(path: str) -> dict[str, int]:
    """Return the context length of each model of the catalogue at a path; none where there is no such file, or another one."""
    try:
        with open(path, encoding="utf-8") as stream:
            return {str(row["slug"]): int(row["context_window"]) for row in json.load(stream)["models"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
