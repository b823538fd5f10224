# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The chat templates that this collection brings, for models whose own does not do for tool calls."""

from __future__ import annotations

import functools
import pathlib

FOLDER = pathlib.Path(__file__).parents[2] / "roles" / "vllm" / "files" / "chat_templates"


@functools.cache
def names() -> tuple[str, ...]:
    """Return what an instance's ``chat_template`` may be besides a path."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.jinja")))


def text(name: str) -> str:
    """Return a template's Jinja text."""
    return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
