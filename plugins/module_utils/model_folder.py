# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a model's folder says about itself, read on the host that has it. Python 3.9, standard library alone.

Only headers of weights are read, never the weights: a model of hundreds of files takes milliseconds.
The format of a safetensors file: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import glob
import json
import os
import struct
from typing import Any, Optional

TEMPLATE_LIMIT = 64 * 1024  # characters; the longest published ones have under 20,000
HEADER_LIMIT = 100_000_000  # bytes: what the format's own reader allows
SIZE_LIMIT = 1e18  # bytes; what is not under it is no size (JSON's NaN and Infinity too)
INDEX = "model.safetensors.index.json"


class Broken(Exception):
    """The reason why a file of the folder cannot be used."""


def read_folder(path: str) -> dict[str, Any]:
    """Return what is in a model's folder; every value can be written as JSON.

    ``config``: config.json, or None. ``weight_bytes``: bytes of all tensors, from the headers of the safetensors files, or
    from the index's ``total_size`` when those files are not there (yet); None when neither is. ``dtypes``: bytes per dtype of the
    safetensors headers ({"BF16": 123}). ``chat_template``: its text (at most TEMPLATE_LIMIT characters), or None.
    ``problem``: a sentence about the first thing that is wrong, or None. A broken folder raises nothing.
    """
    found: dict[str, Any] = {"config": None, "weight_bytes": None, "dtypes": {}, "chat_template": None, "problem": None}
    if not os.path.isdir(path):
        return {**found, "problem": f"there is no folder {path}"}
    problems = []
    for part in (_config, _weights, _template):
        try:
            found.update(part(path))
        except Broken as problem:
            problems.append(str(problem))
    return {**found, "problem": problems[0] if problems else None}


def _config(path: str) -> dict[str, Any]:
    config = _json(os.path.join(path, "config.json"))
    if config is None and os.path.exists(os.path.join(path, "params.json")):
        return {"config": None}  # Mistral's own format, which vLLM reads too
    if config is None:
        raise Broken(f"{path} has no config.json")
    return {"config": config}


def _weights(path: str) -> dict[str, Any]:
    index = _json(os.path.join(path, INDEX))
    files = _weight_files(path, index)
    missing = [name for name in files if not os.path.exists(os.path.join(path, name))]
    if files and not missing:
        dtypes: dict[str, int] = {}
        for name in files:
            for dtype, size in _tensor_bytes(os.path.join(path, name)).items():
                dtypes[dtype] = dtypes.get(dtype, 0) + size
        return {"weight_bytes": sum(dtypes.values()), "dtypes": dtypes}
    metadata = (index or {}).get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    return {"weight_bytes": int(total) if isinstance(total, (int, float)) and 0 <= total < SIZE_LIMIT else None}


def _weight_files(path: str, index: Optional[dict[str, Any]]) -> list[str]:
    """Return the names of the weights' files: those that the index names, else all safetensors files but Mistral's own copy."""
    names = (index or {}).get("weight_map")
    if isinstance(names, dict):
        return sorted({str(name) for name in names.values()})
    found = [os.path.basename(name) for name in glob.glob(os.path.join(glob.escape(path), "*.safetensors"))]
    return sorted(name for name in found if not name.startswith("consolidated") or len(found) == 1)


def _tensor_bytes(path: str) -> dict[str, int]:
    """Return dtype -> bytes of the tensors that a safetensors file's header names."""
    try:
        with open(path, "rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > HEADER_LIMIT:
                raise ValueError
            header = json.loads(stream.read(length))
        sizes: dict[str, int] = {}
        for name, tensor in header.items():
            if name != "__metadata__":
                begin, end = tensor["data_offsets"]
                sizes[tensor["dtype"]] = sizes.get(tensor["dtype"], 0) + end - begin
    except OSError as error:
        raise Broken(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, struct.error, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Broken(f"{path} is not a whole safetensors file") from error
    return sizes


def _template(path: str) -> dict[str, Any]:
    """Return the chat template: a file of its own, else what tokenizer_config.json has (of several, the default one)."""
    own = _text(os.path.join(path, "chat_template.jinja"))
    template: Any = own if own is not None else (_json(os.path.join(path, "tokenizer_config.json")) or {}).get("chat_template")
    if isinstance(template, list):
        template = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}.get("default")
    return {"chat_template": template[:TEMPLATE_LIMIT] if isinstance(template, str) else None}


def _text(path: str) -> Optional[str]:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Broken(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Broken(f"{path} is not UTF-8 text") from error


def _json(path: str) -> Optional[dict[str, Any]]:
    text = _text(path)
    if text is None:
        return None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Broken(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise Broken(f"{path} is not a JSON object")
    return data
