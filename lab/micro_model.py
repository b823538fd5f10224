#!/usr/bin/env python3
"""Write the micro model: a test fixture that the real vLLM serves, and that makes real tool calls.

usage: micro_model.py OUT_DIR [--heads N] [--kv-heads N] [--layers N]

It is a Llama checkpoint of a few megabytes that knows a handful of answers by heart. It needs no download and
no training, only the standard library, and its bytes are the same every time. It is no language model: it reads
the request's tools, who spoke last, and a few triggers in the last user message, and nothing else.

===================== ================================================================================
request               answer
===================== ================================================================================
a tool of ``TOOLS``   a tool call in the Hermes format, with the arguments in ``TOOLS``; the shell tools'
                      command writes ``hello.txt``, holding ``hi``
the same, ``[two]``   two calls of that tool at once
after a tool result   the text ``DONE``
``[text]``, no tool   the text ``TEXT``
``[loop]``            the words ``LOOP`` over and over, until the request's limit
``[mcp]``             the tool of an MCP server, which is left alone without this word
``[think]``           any of the above, after the reasoning ``THOUGHT``
===================== ================================================================================

It is a reasoning model as Qwen3 is, to be served with that model's parsers (tool calls ``hermes``, reasoning
``qwen3``): its answer starts with the end of a reasoning block, which is empty unless ``[think]`` or the template's
argument ``enable_thinking=true`` asks for more, and is left out by ``enable_thinking=false``. A server without a
reasoning parser therefore shows ``</think>`` in its text, as it would with the real one.

``CAPABILITIES`` states this as data; the tests prove every row on the live server, on both of its APIs.

How it works. The chat template ends each prompt with one *mode* token, such as ``<|m:shell|>``. A mode has a
*chain*: the tokens of its answer, in order. Every position of the network holds a mark for its own token; the one
attention head that is used looks only at mode tokens, and adds the mark of the mode. The output layer is linear:
a token scores when it follows the present one in some chain, and again when it belongs to the mode's chain.
No token stands in two answers, so only one token scores twice, by a margin that no sampling temperature crosses.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import struct
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMMAND = "printf hi > hello.txt"
SECOND_COMMAND = "printf ho > second.txt"

# tool name -> the arguments of the call, and of the second one where two are asked for.
# The shell tools are every name that Codex has given its own, each with that tool's form of arguments.
TOOLS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "exec_command": ({"cmd": COMMAND}, {"cmd": SECOND_COMMAND}),
    "shell_command": ({"command": COMMAND}, {"command": SECOND_COMMAND}),
    "shell": ({"command": ["bash", "-lc", COMMAND]}, {"command": ["bash", "-lc", SECOND_COMMAND]}),
    "local_shell": ({"command": ["bash", "-lc", COMMAND]}, {"command": ["bash", "-lc", SECOND_COMMAND]}),
    "container.exec": ({"command": ["bash", "-lc", COMMAND]}, {"command": ["bash", "-lc", SECOND_COMMAND]}),
    "bash": ({"command": COMMAND}, {"command": SECOND_COMMAND}),
    "write_file": ({"path": "hello.txt", "content": "hi"}, {"path": "second.txt", "content": "ho"}),
    "get_weather": ({"city": "Paris", "unit": "celsius"}, {"city": "Oslo", "unit": "celsius"}),
    # of an MCP server named weather, as Codex calls it and as vLLM flattens what newer releases call it
    "mcp__weather__get_weather": ({"city": "Rome", "unit": "celsius"}, {"city": "Bonn", "unit": "celsius"}),
}
DONE = "Done: the tool has answered."
TEXT = "Hello from the micro model, a test fixture. No tool was needed."
LOOP = (" one", " two", " three", " four", " five", " six", " seven", " eight")
THOUGHT = "\nThe last speaker and the offered tools decide what comes next.\n"

CONTEXT = 131072  # tokens; more than any server of the lab is told to serve
HEAD_SIZE = 64
EOS, BOS, TURN = "<|eos|>", "<|bos|>", "<|turn|>"
REASON, NO_REASON = "<|reason|>", "<|no_reason|>"  # after the mode token: how the answer starts
THINK, THINK_END, CALL, CALL_END = "<think>", "</think>", "<tool_call>", "</tool_call>"
MARKS = (THINK, THINK_END, CALL, CALL_END)  # visible text, but one token each, as in the models that use them


# ---- what it can do -------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Capability:
    """One row of what the model can do: a request, and the answer that must come.

    ``says`` is the last user message, ``tool`` the offered one; ``after_result`` puts a tool result after that
    message. The answer is ``text``, or calls of ``tool`` with ``arguments``; an ``endless`` text only begins so.
    """

    id: str
    says: str
    tool: str | None = None
    after_result: bool = False
    text: str = ""
    arguments: tuple[dict[str, Any], ...] = ()
    endless: bool = False


def _mcp(tool: str) -> str:
    """Return the word that lets the model call the tool of an MCP server."""
    return " [mcp]" if tool.startswith("mcp__") else ""


CAPABILITIES: tuple[Capability, ...] = (
    *(Capability(f"call_{tool}", f"Do it.{_mcp(tool)}", tool, arguments=pair[:1]) for tool, pair in TOOLS.items()),
    *(Capability(f"two_calls_{tool}", f"Do both. [two]{_mcp(tool)}", tool, arguments=pair) for tool, pair in TOOLS.items()),
    *(Capability(f"result_{tool}", "Do it.", tool, after_result=True, text=DONE) for tool in TOOLS),
    Capability("text", "Hello.", text=TEXT),
    Capability("text_beside_a_tool", "Hello. [text]", "exec_command", text=TEXT),
    Capability("text_beside_the_tool_of_an_mcp_server", "Do it.", "mcp__weather__get_weather", text=TEXT),
    Capability("endless_text", "Count. [loop]", text="".join(LOOP) * 3, endless=True),
)


# ---- chains -----------------------------------------------------------------------------------------------------
def tool_call(tool: str, arguments: Mapping[str, Any]) -> str:
    """Return the inside of a Hermes tool call."""
    return "\n" + json.dumps({"name": tool, "arguments": arguments}) + "\n"


def cut(text: str, taken: set[str]) -> list[str]:
    """Cut ``text`` into pieces that are not in ``taken`` yet, and add them to it.

    So every piece has one successor in all chains together.
    """
    pieces: list[str] = []

    def is_new(piece: str) -> bool:
        return len(piece) > 1 and piece not in taken and piece not in pieces  # single characters are bytes' tokens

    piece = ""
    for word in re.findall(r"\s*\w{1,6}|\s*[^\w\s]|\s+$", text):
        piece += word
        if is_new(piece):
            pieces.append(piece)
            piece = ""
    while piece and not is_new(piece):  # the end of the text is taken: it joins the piece before it
        piece = pieces.pop() + piece
    pieces += [piece] if piece else []
    taken.update(pieces)
    return pieces


def build_chains() -> tuple[dict[str, list[str]], list[str]]:
    """Return mode -> its tokens in order (without the end token; ``loop`` has none), and the reasoning's tokens."""
    taken = set(LOOP)
    chains: dict[str, list[str]] = {"loop": list(LOOP)}
    for tool, (first, second) in TOOLS.items():
        chains[tool] = [CALL, *cut(tool_call(tool, first), taken), CALL_END]
        # A chain holds no token twice: the tags in the middle are spelt out, which reads the same to a parser.
        both = tool_call(tool, first) + CALL_END + "\n" + CALL + tool_call(tool, second)
        chains[f"two:{tool}"] = [CALL, *cut(both, taken), CALL_END]
    chains["done"] = cut(DONE, taken)
    chains["text"] = cut(TEXT, taken)
    return chains, [THINK, *cut(THOUGHT, taken), THINK_END]


# ---- vocabulary -------------------------------------------------------------------------------------------------
def byte_alphabet() -> dict[int, str]:
    """Return the printable character that a byte-level tokenizer writes for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{byte: chr(byte) for byte in printable}, **{byte: chr(256 + n) for n, byte in enumerate(others)}}


@dataclass(frozen=True)
class Vocabulary:
    """All tokens. ``base`` is spelt in the byte alphabet; ``ids`` holds only the tokens that the network knows."""

    base: dict[str, int]
    added: dict[str, int]
    ids: dict[str, int]

    @property
    def size(self) -> int:
        """Return the number of rows of the embedding: all tokens, rounded up so that ranks can share them."""
        return round_up(len(self.base) + len(self.added), 64)


def mode_token(mode: str) -> str:
    """Return the token that ends a prompt of this mode."""
    return f"<|m:{mode}|>"


def build_vocabulary(chains: Mapping[str, list[str]], thought: Iterable[str]) -> Vocabulary:
    """Return the vocabulary: every byte, every piece of a chain, then the tokens that the template writes."""
    alphabet = byte_alphabet()
    base = {character: number for number, character in enumerate(alphabet.values())}
    ids: dict[str, int] = {}
    for token in [token for chain in chains.values() for token in chain] + list(thought):
        if token not in MARKS:
            ids[token] = base.setdefault("".join(alphabet[byte] for byte in token.encode()), len(base))
    names = [EOS, BOS, TURN, REASON, NO_REASON, *map(mode_token, chains), *MARKS]
    added = {name: len(base) + number for number, name in enumerate(names)}
    return Vocabulary(base, added, {**ids, **added})


# ---- weights ----------------------------------------------------------------------------------------------------
@dataclass
class Matrix:
    """A weight of bfloat16 numbers: all ``fill``, but for the cells in ``cells`` ((row, column) -> value)."""

    shape: tuple[int, ...]
    fill: float = 0.0
    cells: dict[tuple[int, int], float] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the numbers row by row, as a safetensors file holds them."""
        count = self.shape[0] * (self.shape[1] if len(self.shape) > 1 else 1)
        data = bytearray(bfloat16(self.fill) * count)
        for (row, column), value in self.cells.items():
            at = 2 * (row * self.shape[1] + column)
            data[at : at + 2] = bfloat16(value)
        return bytes(data)


def bfloat16(value: float) -> bytes:
    """Return the upper half of the single-precision number, little endian."""
    return struct.pack("<f", value)[2:]


def round_up(number: int, step: int) -> int:
    """Return the next multiple of ``step``."""
    return -(-number // step) * step


def successors(chains: Mapping[str, list[str]], thought: list[str]) -> dict[str, set[str]]:
    """Return token -> the tokens that follow it in some chain."""
    follows: dict[str, set[str]] = {}

    def walk(tokens: list[str]) -> None:
        for before, after in zip(tokens, tokens[1:]):
            follows.setdefault(before, set()).add(after)

    walk([REASON, *thought])
    walk([NO_REASON, THINK_END])
    for mode, chain in chains.items():
        end = chain[0] if mode == "loop" else EOS
        walk([mode_token(mode), *chain, end])
        walk([thought[-1], chain[0]])
        for token, after in zip(chain, [*chain[1:], end]):
            if follows[token] & {*chain, EOS} != {after}:
                raise ValueError(f"mode {mode}: {token!r} does not lead to {after!r} alone")
    return follows


def build_weights(
    chains: Mapping[str, list[str]], thought: list[str], vocabulary: Vocabulary, heads: int, kv_heads: int, layers: int
) -> dict[str, Matrix]:
    """Return name -> weight. Only the first head of the first layer does anything; the others hold zeros.

    The hidden state has a dimension per token (its mark), one that is always 1, and one per mode.
    """
    ids, modes = vocabulary.ids, list(chains)
    if len(modes) > HEAD_SIZE:
        raise ValueError(f"{len(modes)} modes do not fit one head of {HEAD_SIZE}")
    mark = {token: number for number, token in enumerate(ids)}
    always, first_mode = len(mark), len(mark) + 1
    hidden = round_up(first_mode + len(modes), 64)
    # RMS norm scales a state of n ones to sqrt(hidden / n) each; these undo it, so that the numbers below are exact.
    two_ones, three_ones = (hidden / 2) ** -0.5, (hidden / 3) ** -0.5
    attention = (64 * HEAD_SIZE**0.5) ** 0.5 * two_ones  # a mode token scores 64 nats above any other
    follow, belong, restart = 120 * three_ones, 60 * three_ones, 30 * three_ones  # nats

    def zeros(rows: int, columns: int) -> Matrix:
        return Matrix((rows, columns))

    embedding, output = zeros(vocabulary.size, hidden), zeros(vocabulary.size, hidden)
    embedding.cells.update({(number, always): 1.0 for number in range(vocabulary.size)})
    embedding.cells.update({(ids[token], mark[token]): 1.0 for token in ids})
    for token, after in successors(chains, thought).items():
        output.cells.update({(ids[next_token], mark[token]): follow for next_token in after})
    output.cells[ids[LOOP[0]], always] = restart  # a bare prompt (no mode token) is answered by the loop

    weights = {"model.embed_tokens.weight": embedding}
    for layer in range(layers):
        query = zeros(heads * HEAD_SIZE, hidden)
        key, value = (zeros(kv_heads * HEAD_SIZE, hidden) for _ in range(2))
        back = zeros(hidden, heads * HEAD_SIZE)
        if layer == 0:
            slowest = HEAD_SIZE // 2 - 1  # the pair that the rotary embedding turns least: blind to distance
            query.cells[slowest, always] = attention
            for number, mode in enumerate(modes):
                token = mode_token(mode)
                key.cells[slowest, mark[token]] = attention
                value.cells[number, mark[token]] = two_ones
                back.cells[first_mode + number, number] = 1.0
                output.cells.update({(ids[member], first_mode + number): belong for member in chains[mode]})
                if mode != "loop":
                    output.cells[ids[EOS], first_mode + number] = belong
        prefix = f"model.layers.{layer}."
        weights |= {
            prefix + "input_layernorm.weight": Matrix((hidden,), 1.0),
            prefix + "self_attn.q_proj.weight": query,
            prefix + "self_attn.k_proj.weight": key,
            prefix + "self_attn.v_proj.weight": value,
            prefix + "self_attn.o_proj.weight": back,
            prefix + "post_attention_layernorm.weight": Matrix((hidden,), 1.0),
            prefix + "mlp.gate_proj.weight": zeros(HEAD_SIZE, hidden),
            prefix + "mlp.up_proj.weight": zeros(HEAD_SIZE, hidden),
            prefix + "mlp.down_proj.weight": zeros(hidden, HEAD_SIZE),
        }
    return {**weights, "model.norm.weight": Matrix((hidden,), 1.0), "lm_head.weight": output}


# ---- files ------------------------------------------------------------------------------------------------------
TEMPLATE = """\
{#- The chat template of the micro model, a test fixture: it chooses the answer (see lab/micro_model.py). -#}
{%- macro words(message) -%}
  {%- if message.content is string -%}{{ message.content }}
  {%- else -%}{%- for part in message.content or [] -%}{{ part.text or '' }}{%- endfor -%}{%- endif -%}
{%- endmacro -%}
{%- set turn = namespace(tool='', asked='', mode='text') -%}
{%- for message in messages -%}
  {%- if message.role == 'user' -%}{%- set turn.asked = words(message) -%}{%- endif -%}
{%- endfor -%}
{%- for name in KNOWN_TOOLS if name.startswith('mcp__') == ('[mcp]' in turn.asked) -%}
  {%- for tool in tools or [] -%}
    {%- if not turn.tool and (tool.function or tool).name == name -%}{%- set turn.tool = name -%}{%- endif -%}
  {%- endfor -%}
{%- endfor -%}
{%- if messages[-1].role == 'tool' -%}{%- set turn.mode = 'done' -%}
{%- elif '[loop]' in turn.asked -%}{%- set turn.mode = 'loop' -%}
{%- elif turn.tool and '[two]' in turn.asked -%}{%- set turn.mode = 'two:' + turn.tool -%}
{%- elif turn.tool and '[text]' not in turn.asked -%}{%- set turn.mode = turn.tool -%}
{%- endif -%}
{#- Text that quotes a mode token must not switch the mode. -#}
<|bos|><|turn|>{{ words(messages[-1]) | replace('<|', '< |') }}
{%- if add_generation_prompt -%}
<|m:{{ turn.mode }}|>
{%- if enable_thinking or '[think]' in turn.asked -%}<|reason|>
{%- elif enable_thinking is not defined -%}<|no_reason|>{%- endif -%}
{%- endif -%}
"""


def chat_template() -> str:
    """Return the template with the names of the tools in it."""
    return TEMPLATE.replace("KNOWN_TOOLS", json.dumps(list(TOOLS)))


def safetensors(weights: Mapping[str, Matrix]) -> bytes:
    """Return the weights as a safetensors file: the length of a JSON header, the header, the numbers."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs: list[bytes] = []
    offset = 0
    for name, matrix in weights.items():
        blobs.append(matrix.to_bytes())
        end = offset + len(blobs[-1])
        header[name] = {"dtype": "BF16", "shape": matrix.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(blobs)


def tokenizer(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return tokenizer.json: byte-level, without merges, so a prompt's own text becomes single bytes."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{"id": number, "content": token, **flags, "special": token not in MARKS} for token, number in vocabulary.added.items()]
    model: dict[str, Any] = {"type": "BPE", "unk_token": None, "byte_fallback": False, "vocab": vocabulary.base, "merges": []}
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": model,
    }


def build_files(heads: int = 1, layers: int = 1, kv_heads: int | None = None) -> dict[str, bytes]:
    """Return file name -> content of the whole model directory; as many key and value heads as heads, unless told."""
    kv_heads = kv_heads or heads
    chains, thought = build_chains()
    vocabulary = build_vocabulary(chains, thought)
    weights = build_weights(chains, thought, vocabulary, heads, kv_heads, layers)
    end, begin = vocabulary.ids[EOS], vocabulary.ids[BOS]
    ends = {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": end}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary.size,
        "hidden_size": weights["model.norm.weight"].shape[0],
        "intermediate_size": HEAD_SIZE,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": HEAD_SIZE,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e8},
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "bfloat16",
        **ends,
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": EOS,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
    }

    def as_json(data: Any) -> bytes:
        return (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode()

    return {
        "README.md": b"# The micro model\n\nA test fixture written by lab/micro_model.py: "
        b"it knows a handful of answers by heart and is good for nothing but tests.\n",
        "chat_template.jinja": chat_template().encode(),
        "config.json": as_json(config),
        "generation_config.json": as_json(ends),
        "model.safetensors": safetensors(weights),
        "tokenizer.json": as_json(tokenizer(vocabulary)),
        "tokenizer_config.json": as_json(tokenizer_config),
    }


def write(out: Path, heads: int = 1, layers: int = 1, kv_heads: int | None = None) -> bool:
    """Make ``out`` hold the model and return whether anything changed. It is never there half written.

    Raises FileExistsError when ``out`` holds something that is not a micro model.
    """
    files = build_files(heads, layers, kv_heads)
    present = {path.name for path in out.iterdir()} if out.is_dir() else set()
    foreign = ["itself, which is no directory"] if out.exists() and not out.is_dir() else sorted(present - set(files))
    if foreign:
        raise FileExistsError(f"{out} holds {foreign[0]}: name a new directory, or remove it first")
    if present == set(files) and all((out / name).read_bytes() == content for name, content in files.items()):
        return False
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as aside:
        new, old = Path(aside, "new"), Path(aside, "old")
        new.mkdir(mode=0o755)
        for name, content in files.items():
            (new / name).write_bytes(content)
            (new / name).chmod(0o644)  # a server's own user reads it, whatever the umask here
        new.chmod(0o755)
        if out.exists():
            os.rename(out, old)
        os.rename(new, out)
        shutil.rmtree(old, ignore_errors=True)
    return True


def main() -> int:
    """Write the model to the directory on the command line, and say what was done."""
    parser = argparse.ArgumentParser(description="Write the micro model, a test fixture for the real vLLM.")
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    parser.add_argument("--heads", type=int, default=1, help="attention heads: at least one per tensor-parallel rank")
    parser.add_argument(
        "--kv-heads", type=int, help="key and value heads, shared by the attention heads in equal parts (default: one each)"
    )
    parser.add_argument("--layers", type=int, default=1, help="layers: at least one per pipeline stage")
    options = parser.parse_args()
    if options.heads < 1 or options.layers < 1:
        parser.error("--heads and --layers start at 1")
    if options.kv_heads is not None and (options.kv_heads < 1 or options.heads % options.kv_heads):
        parser.error("--kv-heads has to divide --heads")
    try:
        changed = write(options.out, options.heads, options.layers, options.kv_heads)
    except FileExistsError as error:
        parser.error(str(error))
    print(f"{'written' if changed else 'unchanged'}: {options.out} (the micro model, a test fixture)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
