# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What Caddy is told: the digests of keys, the servers' own key, the answer to /v1/models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

NEVER = 9999999999  # a key without an end

# Caddy itself compares words and cannot hash them. Its templates can: they answer its own question about each request's key,
# with who it is and when it ends.
KNOWN = """\
{{ $said := .Req.Header.Get "Authorization" -}}
{{ $word := regexFind "^[Bb]earer +[^ ]+$" $said | regexFind "[^ ]+$" -}}
{{ $found := get $keys (sha256sum $word) -}}
{{ if not (and $word $found) }}{{ httpError 401 }}{{ end -}}
{{ .RespHeader.Set "X-Gateway-Key" (splitList " " $found | first) -}}
{{ .RespHeader.Set "X-Gateway-Until" (splitList " " $found | last) -}}
"""

# while the servers' own key is rotated, some have the new one, and some the one before
WHICH = """\
	reverse_proxy {http.vars.gateway_server} {
		method GET
		rewrite /v1/models
		header_up -X-*
		header_up Authorization "%s"
		transport http {
			dial_timeout 3s
			response_header_timeout 10s
			keepalive 4s
		}
		@old status 401
		handle_response @old {
			vars gateway_authorization "%s"
		}
		@new status 2xx 3xx 4xx 5xx
		handle_response @new {
			vars gateway_authorization "%s"
		}
	}
"""


def secrets(keys: Mapping[str, Mapping[str, Any]], authorizations: Sequence[str], settings: str) -> str:
    """Return the snippets that the Caddyfile imports. ``keys`` is by digest; ``authorizations`` has that of before second, if any.

    ``settings`` is a digest of all other settings: the text's own then tells whether they were loaded.
    """
    rows = "".join(f'\n\t"{key}" "{row["key"]} {row["expires"] or NEVER}"' for key, row in sorted(keys.items()))
    new, old = authorizations[0], authorizations[1:]
    which = WHICH % (new, old[0], new) if old else f'\tvars gateway_authorization "{new}"\n'
    return (
        f"# of the settings {settings}\n"
        f"(gateway_keys) {{\n\trespond `{{{{ $keys := dict{rows} -}}}}\n{KNOWN}`\n}}\n"
        f"(gateway_authorization) {{\n{which}}}\n"
    )


def listing(models: Sequence[Mapping[str, Any]]) -> str:
    """Return the answer to /v1/models, fit to stand between backticks."""
    data = [
        {"id": model["name"], "object": "model", "created": 0, "owned_by": "vllm", "max_model_len": model["max_model_len"]}
        for model in sorted(models, key=lambda model: str(model["name"]))
    ]
    return json.dumps({"object": "list", "data": data}, separators=(",", ":")).replace("`", "\\u0060")
