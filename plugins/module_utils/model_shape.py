# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a model's config.json says about its size: layers and their caches, heads, experts, weights, context.

Sources: vLLM 0.32.0, ``transformers_utils/model_arch_config_convertor.py`` (heads, head size, context), the models in
``model_executor/models`` (which layers have a window, which matrices exist), ``config/model.py``
``_get_and_verify_max_len`` (context); Transformers' configuration classes (what a missing key means).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

FULL, SLIDING, LATENT, STATE = "full attention", "sliding window", "latent attention (MLA)", "linear attention state"

# model_type of the text model -> nothing but attention with heads of one size, and a gated MLP or experts
ATTENTION = frozenset((
    "llama", "mistral", "mixtral", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gpt_oss", "gemma3_text", "glm4_moe",
    "seed_oss", "minimax_m2", "qwen2_5_vl_text", "qwen3_vl_text", "qwen3_vl_moe_text",
))  # fmt: skip
MLA = frozenset(("deepseek_v2", "deepseek_v3", "kimi_k2", "glm4_moe_lite"))
GATED_DELTA_NET = frozenset(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"))

# where layer_types is missing: the other layers' kind, and every how many layers there is full attention (a key, else a number)
EVERY_NTH = {
    "gpt_oss": ("sliding_attention", "", 2),
    "gemma3_text": ("sliding_attention", "sliding_window_pattern", 6),
    **dict.fromkeys(GATED_DELTA_NET, ("linear_attention", "full_attention_interval", 4)),
}
TIED_UNLESS_TOLD = frozenset(("gemma3_text",))

DTYPE_BYTES = 2  # bfloat16 or float16: `--dtype auto` loads float32 as one of them too (vLLM's config/model.py _get_and_verify_dtype)


@dataclass(frozen=True)
class State:
    """The recurrent state of one gated delta net layer, before it is split over tensor-parallel ranks.

    A convolution of ``conv_channels`` that remembers ``conv_steps``, in the model's dtype, and a matrix of
    ``key_size`` x ``value_size`` per head, in numbers of ``number_bytes``.
    """

    conv_channels: int
    conv_steps: int
    key_heads: int
    heads: int
    key_size: int
    value_size: int
    number_bytes: int


@dataclass(frozen=True)
class Experts:
    """A mixture of experts: how many, how many of them a token uses, their width, and the width of the shared ones."""

    count: int
    active: int
    intermediate: int
    shared_intermediate: int


@dataclass(frozen=True)
class Quantisation:
    """How weights are stored: vLLM's name of the method, bits per weight with its scales, and the parts left alone.

    ``kept`` has "attention", "state" or "mlp" for parts that stay in the model's dtype. ``block`` is the width of a
    block that shares a scale in both directions (fp8), into which each rank's part has to divide.
    """

    method: str
    bits: float
    kept: frozenset[str] = frozenset()
    block: int | None = None


@dataclass(frozen=True)
class LayerWeights:
    """Bytes of one layer: ``split`` over the ranks, ``kv`` (key and value heads, at least one a rank), ``every`` on each rank.

    ``copies`` is what vLLM makes from the latent attention's weights while it loads, split over the ranks; it is not in the files.
    """

    split: float
    kv: float
    every: float
    copies: float = 0.0

    @property
    def bytes(self) -> float:
        """Return the bytes in the files."""
        return self.split + self.kv + self.every


@dataclass(frozen=True)
class Shape:
    """A model's size, as far as it decides about memory.

    ``layers`` has the kind of each layer's cache, in order. ``head_size`` is that of keys and of values, or with latent
    attention the length of the latent (one for all heads). ``plain_mlp``: some layer has one instead of experts. Sizes
    are counts of numbers; ``embedding``, ``head`` (the output layer), ``weights`` and ``drafts`` are bytes by arithmetic,
    ``weight_bytes`` are the bytes that a server loads: those of the files, if told, without ``drafts`` (layers that only
    speculative decoding loads). ``default_context`` is what holds where no length is asked for, ``yarn_context`` what
    releases before 0.32 take for the longest of a yarn model. ``unknown`` says what is not understood; nothing may be
    computed then.
    """

    architecture: str
    model_type: str
    layers: tuple[str, ...] = ()
    heads: int = 0
    kv_heads: int = 0
    head_size: int = 0
    window: int | None = None
    state: State | None = None
    hidden: int = 0
    intermediate: int = 0
    vocabulary: int = 0
    experts: Experts | None = None
    plain_mlp: bool = True
    tied: bool = False
    dtype: str = "bfloat16"
    quantisation: Quantisation | None = None
    max_context: int = 0
    default_context: int = 0
    yarn_context: int = 0
    weight_bytes: int | None = None
    embedding: float = 0.0
    head: float = 0.0
    weights: tuple[LayerWeights, ...] = ()
    drafts: float = 0.0
    unknown: str | None = None

    @property
    def computed_bytes(self) -> float:
        """Return the bytes of all weights by arithmetic (norms and biases left out: under 0.1 %)."""
        return self.embedding + self.head + sum(layer.bytes for layer in self.weights)


def shape(config: Mapping[str, Any], weight_bytes: int | None = None) -> Shape:
    """Return the shape that a parsed config.json describes.

    ``weight_bytes`` is the size of the weights' files (``model_folder.read_folder``); without it, it is computed.
    Never raises for the content of ``config``: what is not understood is in ``Shape.unknown``.
    """
    text = _text_config(config)
    names = config.get("architectures")
    architecture = str(names[0]) if isinstance(names, list) and names else "a model without architectures"
    model_type = str(text.get("model_type", "?"))
    try:
        return _shape(config, text, architecture, model_type, weight_bytes)
    except NotUnderstood as problem:
        return Shape(architecture, model_type, weight_bytes=weight_bytes, unknown=str(problem))
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as problem:
        words = f"config.json of {architecture} " + (
            f"lacks {problem}" if isinstance(problem, KeyError) else f"has an unusable value ({problem})"
        )
        return Shape(architecture, model_type, weight_bytes=weight_bytes, unknown=words)


class NotUnderstood(Exception):
    """The reason why a shape cannot be told."""


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the text model's part: of a model that also sees, ``text_config``, which inherits what it does not say."""
    nested = config.get("text_config")
    if not isinstance(nested, Mapping):
        return config
    inherited = {key: config[key] for key in ("tie_word_embeddings", "torch_dtype", "dtype") if key in config}
    own_type = nested.get("model_type") or f"{config.get('model_type')}_text"  # the name that newer configurations write
    return {**inherited, **nested, "model_type": own_type}


def _shape(config: Mapping[str, Any], text: Mapping[str, Any], architecture: str, model_type: str, weight_bytes: int | None) -> Shape:
    if model_type not in ATTENTION | MLA | GATED_DELTA_NET:
        raise NotUnderstood(f"the cache of {architecture} (model_type {model_type}) is not known here")
    if text.get("index_topk") is not None:
        raise NotUnderstood(f"{architecture} has a cache of indices beside its attention (index_topk), which is not known here")
    heads = int(text["num_attention_heads"])
    latent = model_type in MLA
    if latent and text.get("kv_lora_rank") is None:
        raise NotUnderstood(f"{architecture} without kv_lora_rank is not known here")
    kinds = _kinds(text, model_type)
    experts = _experts(text)
    quantisation = _quantisation(config, text, weight_bytes)
    dtype = str(text.get("dtype") or text.get("torch_dtype") or "bfloat16")
    found = Shape(
        architecture=architecture,
        model_type=model_type,
        layers=kinds,
        heads=heads,
        kv_heads=1 if latent else int(text.get("num_key_value_heads") or heads),
        head_size=_latent_size(text) if latent else int(text.get("head_dim") or int(text["hidden_size"]) // heads),
        window=int(text["sliding_window"]) if SLIDING in kinds else None,
        state=_state(text) if STATE in kinds else None,
        hidden=int(text["hidden_size"]),
        intermediate=int(text.get("intermediate_size") or 0),
        vocabulary=int(text["vocab_size"]),
        experts=experts,
        plain_mlp=not all(experts and _has_experts(text, number) for number in range(len(kinds))),
        tied=bool(text.get("tie_word_embeddings", model_type in TIED_UNLESS_TOLD)),
        dtype=dtype,
        quantisation=quantisation,
        max_context=_max_context(config, text),
        default_context=_default_context(config, text),
        yarn_context=_yarn_context(text),
    )
    if min(found.heads, found.head_size, found.hidden, found.vocabulary, len(kinds), found.max_context) < 1:
        raise ValueError("a size under 1")
    table = float(found.vocabulary * found.hidden * DTYPE_BYTES)
    weights = tuple(_layer_weights(found, text, number) for number in range(len(kinds)))
    found = replace(found, embedding=table, head=0.0 if found.tied else table, weights=weights, drafts=_drafts(found, text, weights[-1]))
    if weight_bytes is None:
        if any(key in config for key in ("vision_config", "audio_config")):
            raise NotUnderstood(f"{architecture} also sees or hears: the size of that part is only known from the weights' files")
        return replace(found, weight_bytes=round(found.computed_bytes))
    if dtype == "float32" and quantisation is None:
        weight_bytes //= 2  # four bytes on the disk, two in memory
    loaded = weight_bytes * found.computed_bytes / (found.computed_bytes + found.drafts)
    return replace(found, weight_bytes=round(loaded))


def _drafts(found: Shape, text: Mapping[str, Any], last: LayerWeights) -> float:
    """Return bytes of the layers for multi-token prediction: like the last one, joined by a matrix; DeepSeek's with tables of their own."""
    own_tables = 2 * found.vocabulary * found.hidden * DTYPE_BYTES if text.get("num_nextn_predict_layers") else 0
    count = int(text.get("num_nextn_predict_layers") or text.get("mtp_num_hidden_layers") or 0)
    return count * (last.bytes + 2 * found.hidden**2 * DTYPE_BYTES + own_tables)


def _kinds(text: Mapping[str, Any], model_type: str) -> tuple[str, ...]:
    """Return the kind of every layer's cache.

    A window without ``layer_types`` holds for all layers (Mistral 7B v0.1), unless ``use_sliding_window`` is false
    (Qwen): vLLM's ``engine/arg_utils.py`` hands it to ``CacheConfig.sliding_window``.
    """
    count = int(text["num_hidden_layers"])
    if model_type in MLA:
        return (LATENT,) * count
    windows = text.get("use_sliding_window", "qwen" not in model_type)
    window = text.get("sliding_window") if windows else None
    names = text.get("layer_types")
    if not names and model_type in EVERY_NTH:
        others, key, default = EVERY_NTH[model_type]
        interval = int(text.get(key) or default)
        names = ["full_attention" if (number + 1) % interval == 0 else others for number in range(count)]
    if not names:
        if window and text.get("max_window_layers"):
            raise NotUnderstood("a window that only layers from max_window_layers on have is not known here")
        return (SLIDING if window else FULL,) * count
    words = {"full_attention": FULL, "attention": FULL, "sliding_attention": SLIDING if windows else FULL, "linear_attention": STATE}
    strange = sorted({str(name) for name in names} - set(words))
    if strange:
        raise NotUnderstood(f"layers of kind {', '.join(strange)} are not known here")
    if len(names) != count:
        raise NotUnderstood(f"layer_types has {len(names)} entries for {count} layers")
    return tuple(words[name] for name in names)


def _latent_size(text: Mapping[str, Any]) -> int:
    return int(text["kv_lora_rank"]) + int(text["qk_rope_head_dim"])


def _state(text: Mapping[str, Any]) -> State:
    """Return the state of a gated delta net layer.

    vLLM: ``mamba_utils.py`` ``MambaStateShapeCalculator.gated_delta_net_state_shape``. The matrix has the model's dtype,
    unless ``mamba_ssm_dtype`` says another (Qwen3.5).
    """
    key_heads, value_heads = int(text["linear_num_key_heads"]), int(text["linear_num_value_heads"])
    key_size, value_size = int(text["linear_key_head_dim"]), int(text["linear_value_head_dim"])
    return State(
        conv_channels=2 * key_heads * key_size + value_heads * value_size,
        conv_steps=int(text["linear_conv_kernel_dim"]) - 1,
        key_heads=key_heads,
        heads=value_heads,
        key_size=key_size,
        value_size=value_size,
        number_bytes=4 if text.get("mamba_ssm_dtype") == "float32" else DTYPE_BYTES,
    )


def _experts(text: Mapping[str, Any]) -> Experts | None:
    """Return the experts. vLLM: ``model_arch_config_convertor.py`` ``get_num_experts``."""
    count = next((int(text[key]) for key in ("num_experts", "n_routed_experts", "num_local_experts") if text.get(key)), 0)
    if not count:
        return None
    width = int(text.get("moe_intermediate_size") or text["intermediate_size"])
    shared = text.get("shared_expert_intermediate_size")
    active = text.get("num_experts_per_tok") or text.get("experts_per_token")
    return Experts(count, int(active or 1), width, int(text.get("n_shared_experts") or 0) * width if shared is None else int(shared))


def _has_experts(text: Mapping[str, Any], number: int) -> bool:
    """Return whether layer ``number`` has experts: DeepSeek's first layers and what Qwen lists have a plain MLP."""
    return (
        number >= int(text.get("first_k_dense_replace") or 0)
        and number % int(text.get("moe_layer_freq") or 1) == 0
        and (number + 1) % int(text.get("decoder_sparse_step") or 1) == 0
        and number not in (text.get("mlp_only_layers") or ())
    )


def _quantisation(config: Mapping[str, Any], text: Mapping[str, Any], weight_bytes: int | None) -> Quantisation | None:
    """Return how weights are quantised. vLLM: ``model_arch_config_convertor.py`` ``get_quantization_config``.

    The keys of each method are those that its ``from_config`` in ``model_executor/layers/quantization`` reads.
    """
    found = next((part[key] for part in (config, text) for key in ("quantization_config", "compression_config") if part.get(key)), None)
    if found is None:
        return None
    method = str(found.get("quant_method", "")).replace("compressed_tensors", "compressed-tensors")
    left_alone = " ".join(str(name) for key in ("ignore", "modules_to_not_convert", "ignored_layers") for name in found.get(key) or ())
    parts = {"attention": "self_attn", "state": "linear_attn", "mlp": "mlp.down_proj"}
    kept = frozenset(part for part, name in parts.items() if name in left_alone)
    if method in ("awq", "gptq", "auto-round"):
        bits, group = int(found.get("bits") or found["w_bit"]), int(found.get("group_size") or found.get("q_group_size") or -1)
        return Quantisation(method, bits + (0 if group < 1 else (16 + bits) / group), kept)  # a 16 bit scale and a zero point a group
    if method in ("fp8", "fbgemm_fp8"):
        block = found.get("weight_block_size")
        return Quantisation(method, 8 + (32 / (block[0] * block[1]) if block else 0), kept, block[0] if block else None)
    if method == "mxfp4":
        return Quantisation(method, 4 + 8 / 32, kept | {"attention"})
    if method == "compressed-tensors":
        group, *_ = found["config_groups"].values()
        weights = group["weights"]
        bits, size = int(weights["num_bits"]), int(weights.get("group_size") or -1)
        scale = 8 if weights.get("type") == "float" else 16
        zero = 0 if weights.get("symmetric", True) else bits
        return Quantisation(method, bits + ((scale + zero) / size if size > 0 else 0), kept)
    if weight_bytes is None:
        raise NotUnderstood(f"how many bytes {method or 'this quantisation'} needs is not known here; the weights' files tell")
    return Quantisation(method, 8 * DTYPE_BYTES, kept)


def _layer_weights(found: Shape, text: Mapping[str, Any], number: int) -> LayerWeights:
    """Return the bytes of one layer's matrices: which there are, and which of them vLLM splits over the ranks.

    ``model_executor/models``: ``llama.py``, ``mixtral.py``, ``qwen3_moe.py``, ``gpt_oss.py``, ``deepseek_v2.py``
    ``DeepseekV2MLAAttention``, ``qwen3_next.py``; ``attention/mla_attention.py`` ``process_weights_after_loading`` (copies).
    """
    kept = found.quantisation.kept if found.quantisation else frozenset(("attention", "state", "mlp"))
    small = found.quantisation.bits / 8 if found.quantisation else DTYPE_BYTES
    attention = DTYPE_BYTES if "attention" in kept else small
    linear = DTYPE_BYTES if "state" in kept else small
    mlp = DTYPE_BYTES if "mlp" in kept else small
    hidden, kind = found.hidden, found.layers[number]
    split, kv, every, copies = 0.0, 0.0, 0.0, 0.0
    if kind == LATENT:
        nope, rope, value = int(text["qk_nope_head_dim"]), int(text["qk_rope_head_dim"]), int(text["v_head_dim"])
        rank, q_rank = int(text["kv_lora_rank"]), int(text.get("q_lora_rank") or 0)
        from_latent = rank * found.heads * (nope + value)
        split += ((q_rank or hidden) * found.heads * (nope + rope) + from_latent + found.heads * value * hidden) * attention
        every += (hidden * q_rank + hidden * (rank + rope)) * attention
        copies = from_latent * DTYPE_BYTES
    elif kind == STATE:
        state = _state(text)
        values = state.heads * state.value_size
        convolution = state.conv_channels * (state.conv_steps + 1) * DTYPE_BYTES
        split += (hidden * (state.conv_channels + values) + values * hidden) * linear + 2 * hidden * state.heads * DTYPE_BYTES + convolution
    else:
        queries = found.heads * found.head_size
        gated = 2 if text.get("attn_output_gate", found.model_type in GATED_DELTA_NET) else 1
        split += (gated + 1) * hidden * queries * attention
        kv += 2 * hidden * found.kv_heads * found.head_size * attention
    if found.experts and _has_experts(text, number):
        experts = found.experts
        split += 3 * hidden * (experts.count * experts.intermediate + experts.shared_intermediate) * mlp
        every += hidden * experts.count * DTYPE_BYTES  # the router
    else:
        split += 3 * hidden * found.intermediate * mlp
    return LayerWeights(split, kv, every, copies)


def _max_context(config: Mapping[str, Any], text: Mapping[str, Any]) -> int:
    """Return the longest context that vLLM allows by config.json, in tokens.

    ``config/model.py`` ``_get_and_verify_max_len``. Releases before 0.32 took a yarn factor times
    ``original_max_position_embeddings``. A ``model_max_length`` of config.json counts instead of the others.
    """
    keys = (
        *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length"),
        *("max_target_positions", "max_seq_length", "seq_len"),
    )
    told = [int(text[key]) for key in keys if text.get(key) is not None]
    length = int(text.get("model_max_length") or min(told, default=2048))
    ropes = text.get("rope_parameters") or text.get("rope_scaling") or {}
    if not any(key in ropes for key in ("rope_type", "type")):  # one entry per kind of layer
        ropes = {"": {}, **{key: rope for key, rope in ropes.items() if isinstance(rope, Mapping)}}
    else:
        ropes = {"": ropes}
    already = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")  # the length is the scaled one
    factor = 1.0
    for rope in ropes.values():
        if (rope.get("rope_type") or rope.get("type")) not in already:
            factor = float(rope.get("factor") or factor)
    return length if "gemma3" in str(config.get("model_type")) else int(length * factor)


def _default_context(config: Mapping[str, Any], text: Mapping[str, Any]) -> int:
    """Return what vLLM takes where ``max_model_len`` is not set: of a longrope model the length before it was stretched."""
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    original = rope.get("original_max_position_embeddings") or text.get("original_max_position_embeddings")
    longrope = (rope.get("rope_type") or rope.get("type")) in ("longrope", "su")
    return int(original) if longrope and original else _max_context(config, text)


def _yarn_context(text: Mapping[str, Any]) -> int:
    """Return what releases before 0.32 take for the longest context of a yarn model, factor times original length; 0 for others."""
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    original = rope.get("original_max_position_embeddings")
    yarn = (rope.get("rope_type") or rope.get("type")) == "yarn"
    return int(float(rope["factor"]) * int(original)) if yarn and original and rope.get("factor") else 0
