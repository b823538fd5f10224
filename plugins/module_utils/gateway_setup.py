# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a gateway's page /setup says: its address, its models, and a configuration of Codex for each version.

Pure, and for every engine the same: the files are made on the controller, a gateway hands them out as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

from . import codex_config
from .toml_merge import dump_toml

NAME = "gateway"  # of the provider and of the profile: a name that roles/codex does not take by itself
OLDEST, NEWEST = 63, 200  # minor versions that are looked at; a newer one gets what the newest gets
SYSTEM_FROM = 80  # reads /etc/codex/config.toml
# A developer's own affair, and what is only an instruction for a merge.
NOT_OURS = ("approval_policy", "sandbox_mode", "ownmetal_absent", "ownmetal_retired")
LENGTHS = ("model_context_window", "model_auto_compact_token_limit", "tool_output_token_limit")
ENV_KEY = "VLLM_API_KEY"


def setup(instances: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the templates of the page need. ``instances``: as a gateway's clients are told of them.

    ``variants`` has a configuration for each minor version from which on it is another one, the newest first.
    """
    url = str(instances[0]["base_url"])
    lengths = {name: row["max_model_len"] for row in instances for name in row["served_model_name"]}
    models = [{"name": name, "length": length} for name, length in lengths.items()]
    variants: list[dict[str, Any]] = []
    for minor in range(OLDEST, NEWEST):
        text = _text(minor, url, lengths)
        if not variants or variants[0]["text"] != text:
            variants.insert(0, {"floor": minor, "text": text})
    return {
        "name": NAME,
        "base_url": url,
        "page": url.removesuffix("/v1") + "/setup",
        "models": models,
        "variants": variants,
        "oldest": OLDEST,
        "profile_from": codex_config.PROFILE_FILES[1],
        "system_from": SYSTEM_FROM,
        "own_ca_from": codex_config.OWN_CA[1],
        "key_file": codex_config.key_file(NAME),
        "env_key": ENV_KEY,
        "compacts_at": codex_config.COMPACTS_AT,
        "output_limit": codex_config.OUTPUT_LIMIT,
    }


def _text(minor: int, url: str, lengths: Mapping[str, Optional[int]]) -> str:
    known = {name: length for name, length in lengths.items() if length}
    first = next(iter(lengths))
    smallest = min(known.values(), default=0)
    wanted = codex_config.Wanted(
        version=f"0.{minor}.0",
        choices=[codex_config.Choice(NAME, first, url, known.get(first, smallest), "our own models")],
        models=known,
        env_key=ENV_KEY,
        key_command=codex_config.key_command(codex_config.key_file(NAME), own_home=False),
    )
    text = dump_toml({key: value for key, value in codex_config.config(wanted).items() if key not in NOT_OURS})
    return text if smallest else _unknown_lengths(text)


def _unknown_lengths(text: str) -> str:
    """Return a configuration whose lengths nobody stated: 0 would stop Codex, and none would be taken for 272,000."""
    lines = [f"# {line.partition(' = ')[0]} = see max_model_len in /v1/models" if _is_length(line) else line for line in text.split("\n")]
    return "\n".join(lines)


def _is_length(line: str) -> bool:
    return line.partition(" = ")[0] in LENGTHS
