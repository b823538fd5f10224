"""The flag catalogue: read from a wheel's sources, the same as the installed release says, and what values it refuses."""

import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.flags import FOLDER, elsewhere, flags, releases, value_problem

from tools.flag_catalogue import dump, from_wheel, remember

TOOL = Path(__file__).resolve().parents[2] / "tools/flag_catalogue.py"
RELEASE = "0.32.0"

# a package that does in small what vLLM's sources do, a line or two for each way of saying what a flag takes
WHEEL = {
    "vllm/config/__init__.py": "from vllm.config.model import ModelConfig, MoreConfig",
    "vllm/config/utils/__init__.py": "from .sizes import *\nfrom .dtypes import DTypes as DTypes",
    "vllm/config/utils/sizes.py": "GIB = 1024 * 1024",
    "vllm/config/utils/dtypes.py": "DTypes = Literal['half', 'auto']",
    "vllm/config/model.py": '''
from typing import TYPE_CHECKING, Annotated, Any, Literal
from pydantic import Field
from .utils import GIB, DTypes, Moved
if TYPE_CHECKING:
    from vllm.quantization import Methods
else:
    Methods = str
Every = Literal[DTypes, "float32"]

@config
class Nested:
    depth: int = 1

class Backend(Enum):
    FAST = "fast"

@config
class ModelConfig:
    """Not a flag's text."""
    dtype: Every = "auto"
    length: int | None = None
    seed: Annotated[int, Field(ge=0)] = 0

@config
class MoreConfig:
    cache_size: int = Field(default=16 * GIB, ge=1)
    share: float = 0.92
    eager: bool = False
    """Deprecated: it has no effect."""
    methods: Methods | None = None
    names: str | list[str] | None = None
    moved: Moved | None = None
    ranks: list[Literal[1, 8]] = field(default_factory=list)
    backend: Backend = Backend.FAST
    nested: Nested = field(default_factory=Nested)
    overrides: dict[str, Any] = field(default_factory=dict)
    either: dict[str, Any] | str = ""
    token: bool | str | None = None
    stacks: bool = envs.VLLM_STACKS
''',
    "vllm/engine/arg_utils.py": """
import json
from vllm.config import ModelConfig, MoreConfig
def get_kwargs(cls):
    for field in fields(cls):
        if type_hints == {bool, str, type(None)}:
            kwargs[name]["nargs"] = "?"
        elif name in {"length"}:
            kwargs[name]["type"] = human_readable_int
class EngineArgs:
    weights: str = ModelConfig.dtype
    @staticmethod
    def add_cli_args(parser):
        group = parser.add_argument_group("model")
        model = get_kwargs(ModelConfig)
        more = get_kwargs(MoreConfig)
        more["either"]["type"] = optional_type(json.loads)
        for_all = model["dtype"]
        for_all["choices"].remove("float32")
        group.add_argument("--dtype", "-d", **for_all)
        group.add_argument("--length", "--context-length", **model["length"])
        group.add_argument("--seed", **{**model["seed"], "default": None})
        for key, value in more.items():
            group.add_argument(f"--{key.replace('_', '-')}", **value)
        parser.add_argument("--device", choices=["auto"] + ([platform.name] if platform.name else []), default="auto")
        parser.add_argument("--old", help=OLD, default=argparse.SUPPRESS)
        return parser
OLD = "--old is deprecated and will be removed."
class AsyncEngineArgs(EngineArgs):
    @staticmethod
    def add_cli_args(parser, async_args_only=False):
        if not async_args_only:
            parser = EngineArgs.add_cli_args(parser)
        parser.add_argument("--log-requests", action=argparse.BooleanOptionalAction, default=AsyncEngineArgs.log_requests)
        return parser
    log_requests: bool = False
""",
    "vllm/entrypoints/openai/cli_args.py": """
from vllm.engine.arg_utils import AsyncEngineArgs, EngineArgs
class BaseArgs:
    origins: list[str] = field(default_factory=lambda: ["*"])
    @classmethod
    def add_cli_args(cls, parser):
        from vllm.engine.arg_utils import get_kwargs
        for key, value in cls.customise(get_kwargs(cls)).items():
            parser.add_argument(f"--{key}", **value)
        return parser
    @classmethod
    def customise(cls, kwargs):
        kwargs["origins"]["type"] = json.loads
        return kwargs
class Args(BaseArgs):
    port: int = 8000
    hidden: ClassVar[int] = 1
    @classmethod
    def customise(cls, kwargs):
        kwargs = super().customise(kwargs)
        del kwargs["origins"]["nargs"]
        return kwargs
def make_arg_parser(parser):
    parser.add_argument("model_tag", nargs="?")
    parser.add_argument("--headless", action="store_true")
    parser.add_argument("--config", help="a file")
    parser.add_argument("--weights", type=str, default=EngineArgs.weights)
    parser = Args.add_cli_args(parser)
    return AsyncEngineArgs.add_cli_args(parser)
""",
    "vllm/tool_parsers/__init__.py": "_TOOL_PARSERS_TO_REGISTER = {'hermes': ('hermes_tool_parser', 'Hermes'), 'alpha': ('a', 'A')}",
    "vllm/reasoning/__init__.py": "_REASONING_PARSERS_TO_REGISTER = {'qwen3': ('qwen3_reasoning_parser', 'Qwen3')}",
}
READ = {
    "backend": {"kind": "str", "default": None},
    "cache-size": {"kind": "int", "default": 16777216},
    "device": {"kind": "str", "choices": None, "default": "auto"},
    "dtype": {"kind": "str", "choices": ["auto", "half"], "default": "auto"},
    "eager": {"kind": "bool", "default": False, "deprecated": True},
    "either": {"kind": "json", "default": ""},
    "headless": {"kind": "bool", "default": False},
    "length": {"kind": "size", "aliases": ["context-length"]},
    "log-requests": {"kind": "bool", "default": False},
    "methods": {"kind": "str"},
    "moved": {"kind": "any", "choices": None},  # nothing is said of what the reader did not find
    "names": {"kind": "str", "several": True},
    "nested": {"kind": "json", "default": None},
    "old": {"kind": "str", "deprecated": True},
    "origins": {"kind": "json", "default": ["*"]},
    "overrides": {"kind": "json", "default": {}},
    "port": {"kind": "int", "default": 8000},
    "ranks": {"kind": "int", "choices": [1, 8], "default": [], "several": True},
    "seed": {"kind": "int"},
    "share": {"kind": "float", "default": 0.92},
    "stacks": {"kind": "bool", "default": None},
    "token": {"kind": "any"},
    "weights": {"kind": "str", "default": "auto"},
}


def test_a_wheel_is_read_without_being_imported(tmp_path):
    wheel = tmp_path / "vllm-1.2.3+cpu-cp38-abi3-manylinux1_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in WHEEL.items():
            archive.writestr(path, text)
    found = from_wheel(wheel)
    assert found["flags"] == READ
    assert found | {"flags": 0} == {"release": "1.2.3", "flags": 0, "tool_parsers": ["alpha", "hermes"], "reasoning_parsers": ["qwen3"]}
    assert json.loads(dump(found)) == found
    assert '\n  "port": {"kind": "int", "default": 8000},\n' in dump(found)


def test_the_history_keeps_the_first_and_the_last_release():
    history = {"releases": [], "flags": {}}
    read = [("0.10.0", "new", []), ("0.8.5.post1", "old", []), ("0.8.5", "old", ["older"]), ("0.9.1", "old", [])]
    for release, flag, aliases in read:
        history = remember(history, {"release": release, "flags": {flag: {"aliases": aliases}}})
    assert history["releases"] == ["0.8.5", "0.8.5.post1", "0.9.1", "0.10.0"]
    assert history["flags"] == {"new": ["0.10.0", "0.10.0"], "old": ["0.8.5", "0.9.1"], "older": ["0.8.5", "0.8.5"]}


def test_a_release_is_known_or_refused():
    assert releases() == tuple(sorted(releases(), key=lambda name: [int(number) for number in name.split(".")]))
    assert RELEASE in releases()
    with pytest.raises(Refused, match=r"vLLM 0\.1\.0: is a release whose .* Choose one of 0\.19\.1.*RELEASE=0\.1\.0"):
        flags("0.1.0")


def test_a_flag_is_found_by_its_name_and_by_its_alias():
    known = flags(RELEASE)
    assert known.find("gpu-memory-utilization") is known.find("device-memory-utilization") is known.flags["gpu-memory-utilization"]
    assert known.find("log-dir") is None
    assert "hermes" in known.tool_parsers
    assert "qwen3" in known.reasoning_parsers


@pytest.mark.parametrize(
    ("flag", "first_and_last"),
    [
        ("worker-use-ray", ("0.6.0", "0.6.0")),
        ("num-scheduler-steps", ("0.6.0", "0.8.5.post1")),
        ("task", ("0.8.5.post1", "0.11.0")),
        ("swap-space", ("0.6.0", "0.16.0")),
        ("calculate-kv-scales", ("0.8.5.post1", "0.25.1")),
        ("reasoning-effort-map", ("0.33.0", "0.33.0")),
        ("enable-auto-tool-call", None),
        ("log-dir", None),
    ],
)
def test_a_flag_of_another_release(flag, first_and_last):
    assert elsewhere(flag) == first_and_last


@pytest.mark.parametrize("release", releases())
def test_history_and_catalogues_agree(release):
    names = {name for flag in flags(release).flags.values() for name in (flag.name, *flag.aliases)}
    read = json.loads((FOLDER / "history.json").read_text())["releases"]
    around = {name: elsewhere(name) for name in names}
    assert [name for name, found in around.items() if not read.index(found[0]) <= read.index(release) <= read.index(found[1])] == []


WHOLE, SIZE, NUMBER = "must be a whole number", "32k (32000)", "must be a number"
MAPPING, QUOTED, SINGLE = (
    "must be a mapping, or JSON in quotes",
    """must be JSON in quotes, such as '["a", "b"]'""",
    "must be a single value",
)
BOOLEAN, VALUE = "must be true or false", "must have a value"
VALUES = [
    # flag                      value in the inventory        what it must be (None: vLLM takes it)
    ("port", 8000, None),
    ("port", "8000", None),
    ("port", "http", WHOLE),
    ("port", 8000.0, WHOLE),
    ("port", "8k", WHOLE),
    ("port", True, VALUE),
    ("port", [8000], None),
    ("port", [8000, 8001], SINGLE),
    ("port", {"http": 8000}, WHOLE),
    ("max-model-len", 32768, None),
    ("max-model-len", "32k", None),
    ("max-model-len", "25.6k", None),
    ("max-model-len", "32K", None),
    ("max-model-len", "auto", None),
    ("max-model-len", -1, None),
    ("max-model-len", "25.6K", SIZE),
    ("max-model-len", "32kB", SIZE),
    ("max-model-len", 1.5, SIZE),
    ("gpu-memory-utilization", 0.9, None),
    ("gpu-memory-utilization", 1, None),
    ("gpu-memory-utilization", "90%", NUMBER),
    ("enforce-eager", True, None),
    ("enforce-eager", False, None),
    ("enforce-eager", "true", BOOLEAN),
    ("enforce-eager", 1, BOOLEAN),
    ("enforce-eager", {}, BOOLEAN),
    ("disable-log-stats", False, None),
    ("dtype", "bfloat16", None),
    ("dtype", "bf16", "must be one of: auto, bfloat16, float, float16, float32, half"),
    ("dtype", True, VALUE),
    ("moe-backend", "Triton", None),
    ("moe-backend", "fastest", "must be one of: "),
    ("max-lora-rank", 16, None),
    ("max-lora-rank", 17, "must be one of: 1, 8, 16"),
    ("max-lora-rank", "big", WHOLE),
    ("mm-processor-device", "auto", None),
    ("served-model-name", ["coder", "small"], None),
    ("served-model-name", "coder", None),
    ("served-model-name", [], None),
    ("cudagraph-capture-sizes", [1, 2, "4"], None),
    ("cudagraph-capture-sizes", [1, "two"], WHOLE),
    ("collect-detailed-traces", ["model", "worker"], None),
    ("collect-detailed-traces", ["model", "gpu"], "must be one of: all, model, worker"),
    ("chat-template", "/srv/chat.jinja", None),
    ("chat-template", None, None),
    ("chat-template", ["/a", "/b"], SINGLE),
    ("hf-token", True, None),
    ("hf-overrides", {"rope_theta": 1}, None),
    ("compilation-config", {"mode": 3}, None),
    ("compilation-config", '{"mode": 3}', None),
    ("compilation-config", '{"mode": 3', MAPPING),
    ("compilation-config", "fast", MAPPING),
    ("kv-transfer-config", {"kv_connector": "NixlConnector", "kv_role": "kv_both"}, None),
    ("kv-transfer-config", '{"kv_connector": "A", "kv_role": "kv_both", "kv_connector_extra_config": {"size": 80m}}', None),
    ("override-generation-config", {"temperature": 0.6}, None),
    ("override-generation-config", "temperature=0.6", MAPPING),
    ("allowed-origins", '["*"]', None),
    ("allowed-origins", ["*"], MAPPING),
    ("allowed-origins", ["a", "b"], QUOTED),
]


@pytest.mark.parametrize(("flag", "value", "must"), VALUES, ids=[f"{flag}: {value}" for flag, value, _ in VALUES])
def test_values(flag, value, must):
    problem = value_problem(flags(RELEASE).find(flag), value)
    assert (problem is None) if must is None else must in str(problem)


# --- against a real vLLM: molecule names the Python of an environment ---

VLLM_PYTHON = os.environ.get("OWNMETAL_VLLM_PYTHON")
needs_vllm = pytest.mark.skipif(not VLLM_PYTHON, reason="OWNMETAL_VLLM_PYTHON names no Python that has vllm")
# what only a running vLLM knows
COMPUTED = {
    ("log-error-stack", "default"): "an environment variable",
    ("ssl-cert-reqs", "default"): "a constant of Python's ssl module",
    ("mm-processor-device", "choices"): "the device of the platform",
}
# reads [flag, value] pairs, writes for each whether `vllm serve --config` refuses it
ASK = """
import json, sys
sys.path.insert(0, sys.argv[1])
from flag_catalogue import PARSER_MODULES, first_module
arguments = first_module("vllm.utils.argparse_utils", "vllm.utils")
parser = first_module(*PARSER_MODULES).make_arg_parser(arguments.FlexibleArgumentParser(prog="vllm serve"))
def error(message):  # argparse's own prints the whole usage first
    raise ValueError(message)
parser.error = error
def refused(flag, value):
    with open("config.yaml", "w") as file:
        json.dump({flag: value}, file)
    try:
        return parser.parse_args(["--model", "/m", "--config", "config.yaml"]).model_tag is not None
    except Exception:
        return True
print(json.dumps([refused(flag, value) for flag, value in json.load(sys.stdin)]))
"""


def ask(folder, *arguments, **options):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run([VLLM_PYTHON, *arguments], cwd=folder, env=environment, text=True, capture_output=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1] if options else done.stdout)


@needs_vllm
def test_the_installed_release_says_the_same(tmp_path):
    real = ask(tmp_path, TOOL, "--installed")
    ours = json.loads((FOLDER / f"{real['release']}.json").read_text())
    computed = {
        (name, key)
        for name, said in ours["flags"].items()
        for key in ("choices", "default")
        if said.get(key, "said") is None and real["flags"][name].get(key) is not None
    }
    assert computed <= set(COMPUTED)
    for name, key in computed:
        ours["flags"][name][key] = real["flags"][name][key]
    assert ours == real


@needs_vllm
def test_the_installed_release_takes_and_refuses_the_same(tmp_path):
    """The table exactly; and over every flag, nothing that vLLM takes is refused."""
    known = flags(RELEASE)
    probes = [True, False, None, 3, -1, 0.5, "x", "", "32k", "None", [1], ["x"], ["x", "y"], [], {}, {"a": 1}, '{"a": 1k}', "[1]"]
    pairs = [(flag, value) for flag, value, _ in VALUES]
    pairs += [(flag.name, value) for flag in known.flags.values() for value in (*probes, *flag.choices)]
    refused = ask(tmp_path, "-c", ASK, str(TOOL.parent), input=json.dumps(pairs))
    table = zip(VALUES, refused)
    assert [row for row, by_vllm in table if (row[2] is not None) != by_vllm] == []
    by_us = [value_problem(known.find(flag), value) is not None for flag, value in pairs]
    assert [pair for pair, ours, real in zip(pairs, by_us, refused) if ours and not real] == []
    assert sum(by_us) > 0.8 * sum(refused)
