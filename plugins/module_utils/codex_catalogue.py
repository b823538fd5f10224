# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The catalogue of models that Codex reads: the context of each, and what a model is told. Also the memory of the last run."""

from __future__ import annotations

import json
from typing import Any

from .codex_config import Wanted, compacts_at, output_limit

# What a model that Codex does not know is told, instead of 17,000 characters that are written for its vendor's models.
INSTRUCTIONS = """\
You are a coding agent that works in a terminal on the user's machine, in the folder that you were started in.

- Do what the user asks for, all of it, and nothing else. When it is done, say in a few sentences what you did.
- Use the shell tool for everything: to look at files, to change them, to build and to test. Never say that you ran a command
  without having called the tool.
- Look before you change: list the folder, search with rg or grep, read the part of the file that matters.
- Change files with small edits, in the style of what stands around them. Do not touch what the task does not need.
- Files named AGENTS.md hold the rules of a project: follow those of the folder and of the folders above it.
- When a command fails, read what it printed and mend the cause. After two tries that fail alike, try another way or ask.
- Prove what you did: run the tests or the program where there are any. Never claim what you did not see.
- Never undo work of the user that you did not make, and never delete what cannot be had again, unless the user asks for it.
"""


def catalogue(wanted: Wanted, instructions: str = "") -> str:
    """Return the catalogue of models as JSON: all that the servers have, in the order of their names."""
    rows = [_catalogue_row(wanted, name, length, instructions or INSTRUCTIONS) for name, length in sorted(wanted.models.items())]
    return json.dumps({"models": rows}, indent=1) + "\n"


def _catalogue_row(wanted: Wanted, name: str, length: int, instructions: str) -> dict[str, Any]:
    return {
        "slug": name,
        "display_name": name,
        "description": "own server",
        "supported_reasoning_levels": [],
        "shell_type": "default",
        "visibility": "list",
        "supported_in_api": True,
        "priority": 1 if name == wanted.choices[0].model else 2,
        "support_verbosity": False,
        "supports_reasoning_summaries": False,
        "default_reasoning_summary": "none",
        "truncation_policy": {"mode": "tokens", "limit": output_limit(length)},
        "supports_parallel_tool_calls": True,
        "context_window": length,
        "max_context_window": length,
        "auto_compact_token_limit": compacts_at(length),
        "experimental_supported_tools": [],
        "input_modalities": ["text"],
        "base_instructions": instructions,
    }
