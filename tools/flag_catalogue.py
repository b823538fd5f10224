#!/usr/bin/env python3
"""Print the flags and parsers of the vLLM that this Python has installed, as JSON.

Run it with the Python of an environment, and keep what it prints as
plugins/module_utils/data/flags/RELEASE.json. Names only: vLLM's own help sentences stay with vLLM.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
from types import ModuleType


def first_module(*names: str) -> ModuleType:
    """Import the first of several modules that exists: the parser has moved between releases."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise SystemExit(f"none of {names} is in the installed vllm: teach this tool where the release keeps it")


def catalogue() -> dict[str, object]:
    """Return release, flags and the names of the tool and reasoning parsers."""
    arguments = first_module("vllm.utils.argparse_utils", "vllm.utils")
    cli = first_module("vllm.entrypoints.common.cli_args", "vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.openai.cli_args")
    parser = cli.make_arg_parser(arguments.FlexibleArgumentParser(prog="vllm serve"))
    flags = {
        option[2:]
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--") and not option.startswith("--no-")
    }
    tools = importlib.import_module("vllm.tool_parsers")._TOOL_PARSERS_TO_REGISTER
    reasoning = importlib.import_module("vllm.reasoning")._REASONING_PARSERS_TO_REGISTER
    return {
        "release": importlib.metadata.version("vllm").split("+")[0],
        "flags": sorted(flags - {"help", "config"}),
        "tool_parsers": sorted(tools),
        "reasoning_parsers": sorted(reasoning),
    }


if __name__ == "__main__":
    print(json.dumps(catalogue(), indent=1))
