"""The micro model's files: the same every time, whole, and such that the network's own arithmetic gives every answer
of the capability table. That the real vLLM serves them so is proved in molecule/default."""

from __future__ import annotations

import array
import json
import os
import stat
import struct
import subprocess
import sys
from math import exp, sqrt
from pathlib import Path
from typing import Any

import jinja2.sandbox
import pytest

from lab import micro_model
from lab.micro_model import CAPABILITIES, Capability

SHAPES = [(1, 1), (2, 2)]


@pytest.fixture(scope="module", params=SHAPES, ids=["1 head, 1 layer", "2 heads, 2 layers"])
def shape(request: pytest.FixtureRequest) -> tuple[int, int]:
    heads_and_layers: tuple[int, int] = request.param
    return heads_and_layers


@pytest.fixture(scope="module")
def files(shape: tuple[int, int]) -> dict[str, bytes]:
    return micro_model.build_files(*shape)


# ---- the network, in a few lines of arithmetic ----------------------------------------------------------------------
Sparse = dict[int, dict[int, float]]  # row -> column -> value


def read_weights(blob: bytes) -> dict[str, Sparse]:
    """Return the matrices of a safetensors file, without their zeros."""
    (size,) = struct.unpack("<Q", blob[:8])
    header = json.loads(blob[8 : 8 + size])
    weights: dict[str, Sparse] = {}
    end = 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        numbers = array.array("H", blob[8 + size + begin : 8 + size + end])
        assert entry["dtype"] == "BF16"
        rows, columns = (*entry["shape"], 1)[:2]
        assert len(numbers) == rows * columns
        matrix: Sparse = {}
        for at, bits in enumerate(numbers):
            if bits:
                (value,) = struct.unpack("<f", struct.pack("<I", bits << 16))
                matrix.setdefault(at // columns, {})[at % columns] = value
        weights[name] = matrix
    assert 8 + size + end == len(blob), "the header accounts for every byte"
    return weights


def normalised(state: dict[int, float], width: int) -> dict[int, float]:
    scale = sqrt(width / sum(value * value for value in state.values()))
    return {column: value * scale for column, value in state.items()}


def times(matrix: Sparse, state: dict[int, float]) -> dict[int, float]:
    products = {row: sum(value * state.get(column, 0.0) for column, value in cells.items()) for row, cells in matrix.items()}
    return {row: value for row, value in products.items() if value}


class Network:
    """The model read back from its files. Positions are left out: the head that is used is blind to them."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.weights = read_weights(files["model.safetensors"])
        self.width = json.loads(files["config.json"])["hidden_size"]
        tokenizer = json.loads(files["tokenizer.json"])
        spelling = {character: byte for byte, character in micro_model.byte_alphabet().items()}
        self.spelt = {number: bytes(spelling[c] for c in token) for token, number in tokenizer["model"]["vocab"].items()}
        self.bytes = {spelt[0]: number for number, spelt in self.spelt.items() if len(spelt) == 1}
        self.added = {entry["content"]: entry["id"] for entry in tokenizer["added_tokens"]}
        self.spelt.update({number: text.encode() for text, number in self.added.items()})

    def next_token(self, tokens: list[int]) -> tuple[int, float]:
        """Return the likeliest next token and its lead over the second, in nats."""
        layer = "model.layers.0.self_attn."
        states = [normalised(self.weights["model.embed_tokens.weight"][token], self.width) for token in tokens]
        query = times(self.weights[layer + "q_proj.weight"], states[-1])
        scores = []
        for state in states:
            key = times(self.weights[layer + "k_proj.weight"], state)
            scores.append(sum(value * key.get(row, 0.0) for row, value in query.items()) / sqrt(micro_model.HEAD_SIZE))
        weights = [exp(score - max(scores)) for score in scores]
        mixed: dict[int, float] = {}
        for share, state in zip(weights, states, strict=True):
            for row, value in times(self.weights[layer + "v_proj.weight"], state).items():
                mixed[row] = mixed.get(row, 0.0) + value * share / sum(weights)
        last = dict(self.weights["model.embed_tokens.weight"][tokens[-1]])
        for row, value in times(self.weights[layer + "o_proj.weight"], mixed).items():
            last[row] = last.get(row, 0.0) + value
        logits = times(self.weights["lm_head.weight"], normalised(last, self.width))
        best = max(logits, key=lambda token: logits[token])
        others = [value for token, value in logits.items() if token != best]
        return best, logits[best] - max([0.0, *others])

    def answer(self, prompt: str, most: int = 60) -> tuple[str, float]:
        """Return the text after ``prompt``, up to the end token, and the smallest lead on the way."""
        tokens = []
        while prompt:
            known = next((text for text in self.added if prompt.startswith(text)), None)
            tokens += [self.added[known]] if known else [self.bytes[byte] for byte in prompt[0].encode()]
            prompt = prompt[len(known or prompt[0]) :]
        text, lead = b"", float("inf")
        for _ in range(most):
            token, by = self.next_token(tokens)
            lead = min(lead, by)
            if token == self.added[micro_model.EOS]:
                break
            text += self.spelt[token]
            tokens.append(token)
        return text.decode(), lead


@pytest.fixture(scope="module")
def network(files: dict[str, bytes]) -> Network:
    return Network(files)


def render(files: dict[str, bytes], **values: Any) -> str:
    """Render the chat template as a server does."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(files["chat_template.jinja"].decode()).render(add_generation_prompt=True, **values)


def prompt_of(files: dict[str, bytes], capability: Capability, says: str = "", **values: Any) -> str:
    """Render the request of one row of the table."""
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be [loop] brief."},  # triggers count in the last user message only
        {"role": "user", "content": "<context>[text]</context>"},
        {"role": "user", "content": [{"type": "text", "text": capability.says + says}]},
    ]
    if capability.after_result:
        messages.append({"role": "assistant", "content": None, "tool_calls": []})
        messages.append({"role": "tool", "content": "ok"})
    if capability.tool:
        unknown = {"type": "function", "function": {"name": "update_plan", "parameters": {}}}
        values["tools"] = [unknown, {"type": "function", "function": {"name": capability.tool, "parameters": {}}}]
    return render(files, messages=messages, **values)


def expected_of(capability: Capability) -> str:
    """Return the raw answer that a row of the table stands for."""
    if not capability.arguments:
        return capability.text
    bodies = [json.dumps({"name": capability.tool, "arguments": arguments}) for arguments in capability.arguments]
    return "\n".join(f"<tool_call>\n{body}\n</tool_call>" for body in bodies)


@pytest.mark.parametrize("capability", CAPABILITIES, ids=[row.id for row in CAPABILITIES])
@pytest.mark.parametrize(
    ("says", "values", "start"),
    [
        ("", {}, "</think>"),
        ("", {"enable_thinking": False}, ""),
        ("", {"enable_thinking": True}, f"<think>{micro_model.THOUGHT}</think>"),
        (" [think]", {}, f"<think>{micro_model.THOUGHT}</think>"),
    ],
    ids=["plain", "thinking off", "thinking on", "trigger"],
)
def test_capability(
    network: Network, files: dict[str, bytes], capability: Capability, says: str, values: dict[str, bool], start: str
) -> None:
    expected = start + expected_of(capability)
    answer, lead = network.answer(prompt_of(files, capability, says, **values))
    assert answer.startswith(expected)
    assert capability.endless or answer == expected
    assert lead > 25  # nats: at temperature 2 still odds of e^12 a token


def test_bare_prompt_is_answered(network: Network) -> None:
    """The plain completions API knows no mode: a first token must come all the same."""
    assert network.answer("ready?", most=3)[0] == "".join(micro_model.LOOP[:3])


@pytest.mark.parametrize(
    ("tool", "key", "form"),
    [
        ("exec_command", "cmd", str),
        ("shell_command", "command", str),
        ("shell", "command", list),
        ("local_shell", "command", list),
        ("container.exec", "command", list),
        ("bash", "command", str),
    ],
)
def test_every_shell_tool_of_codex_is_called_in_its_own_form(tool: str, key: str, form: type) -> None:
    calls = [row.arguments for row in CAPABILITIES if row.tool == tool and row.arguments]
    assert [len(arguments) for arguments in calls] == [1, 2]
    first = calls[0][0]
    assert list(first) == [key]
    assert isinstance(first[key], form)
    assert first[key] == "printf hi > hello.txt" or first[key][-1] == "printf hi > hello.txt"


def test_a_quoted_mode_token_does_not_switch_the_mode(network: Network, files: dict[str, bytes]) -> None:
    prompt = render(files, messages=[{"role": "user", "content": "What is <|m:loop|>?"}])
    assert network.answer(prompt)[0] == "</think>" + micro_model.TEXT


def test_two_offered_tools_give_one_call(files: dict[str, bytes]) -> None:
    tools = [{"name": "shell"}, {"function": {"name": "exec_command"}}]
    prompt = render(files, messages=[{"role": "user", "content": "x"}], tools=tools)
    assert prompt.endswith("<|m:exec_command|><|no_reason|>")


# ---- files ----------------------------------------------------------------------------------------------------------
def test_files_are_whole(files: dict[str, bytes], shape: tuple[int, int]) -> None:
    assert set(files) == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    config = json.loads(files["config.json"])
    assert (config["num_attention_heads"], config["num_hidden_layers"]) == shape
    tokenizer = json.loads(files["tokenizer.json"])
    ids = [*tokenizer["model"]["vocab"].values(), *(entry["id"] for entry in tokenizer["added_tokens"])]
    assert sorted(ids) == list(range(len(ids)))
    assert len(ids) <= config["vocab_size"]
    assert b"test fixture" in files["README.md"]


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command as another process, whose hash seed differs from ours."""
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    program = [sys.executable, micro_model.__file__]
    return subprocess.run([*program, *map(str, arguments)], capture_output=True, text=True, env=environment, check=False)


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_same_bytes_in_another_process_and_a_second_run_changes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "models" / "micro"
    first = command(out)
    assert (first.returncode, first.stdout.split(":")[0]) == (0, "written")
    assert content(out) == micro_model.build_files()
    before = out.stat()
    assert command(out).stdout.startswith("unchanged")
    assert (out.stat().st_ino, out.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [path.name for path in out.parent.iterdir()] == ["micro"], "nothing is left beside it"


def test_a_damaged_copy_is_replaced_and_readable_for_all(tmp_path: Path) -> None:
    out = tmp_path / "micro"
    micro_model.write(out)
    (out / "model.safetensors").write_bytes(b"cut")
    (out / "config.json").unlink()
    umask = os.umask(0o077)
    try:
        assert micro_model.write(out)
    finally:
        os.umask(umask)
    assert content(out) == micro_model.build_files()
    assert stat.S_IMODE(out.stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o644}


def test_another_shape_replaces_the_first(tmp_path: Path) -> None:
    micro_model.write(tmp_path / "micro")
    assert command(tmp_path / "micro", "--heads", "2", "--layers", "2").returncode == 0
    assert content(tmp_path / "micro") == micro_model.build_files(2, 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [([], "OUT_DIR"), (["OUT", "--heads", "0"], "start at 1"), (["OUT", "--layers", "two"], "invalid int value")],
)
def test_wrong_use(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = command(*[str(tmp_path / "micro") if word == "OUT" else word for word in arguments])
    assert done.returncode == 2
    assert words in done.stderr
    assert not (tmp_path / "micro").exists()


def test_a_directory_of_someone_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    done = command(tmp_path)
    assert done.returncode == 2
    assert "thesis.txt" in done.stderr
    assert content(tmp_path) == {"thesis.txt": b"years of work"}
