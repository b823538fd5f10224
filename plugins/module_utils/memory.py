# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a model fits its GPUs: weights, the cache of keys and values, and what vLLM needs besides, in bytes per rank.

The cache is vLLM's own arithmetic (0.32.0, V1 engine): ``v1/core/kv_cache_utils.py`` and ``v1/kv_cache_interface.py``; it
equals what a server logs as "KV cache size". Weights are the files' bytes, shared out as the models split them.
The reserve is an estimate (see ``reserve``).

Layers of one kind are cut into groups of as many layers, a block of cache belongs to one group, and all groups draw
from one pool. So a model with a few layers of full attention among many with a window costs little per token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .model_shape import DTYPE_BYTES, FULL, LATENT, SLIDING, STATE, Shape

GIB = 1 << 30
FINEST_BLOCK = 32
UTILISATION = 0.92  # config/cache.py gpu_memory_utilization
CACHE_BYTES: Mapping[str, int] = {"auto": 2, "bfloat16": 2, "float16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}


@dataclass(frozen=True)
class Batch:
    """The most tokens in one step (``max_num_batched_tokens``) and requests at once (``max_num_seqs``)."""

    tokens: int
    sequences: int


def default_batch(memory_bytes: int, device: str = "cuda", ranks: int = 1, gpu: str = "") -> Batch:
    """Return what `vllm serve` takes when the flags are absent.

    ``engine/arg_utils.py`` ``get_batch_defaults``: by the memory of one GPU (bytes) and its name ("NVIDIA A100-SXM4-80GB");
    on a CPU by the number of ranks.
    """
    if device == "cpu":
        return Batch(2048 * ranks, 128 * ranks)
    if memory_bytes >= 160 * GIB:
        return Batch(16384, 1024)
    if memory_bytes >= 70 * GIB and "a100" not in gpu.lower():
        return Batch(8192, 1024)
    return Batch(2048, 256)


@dataclass(frozen=True)
class Cache:
    """How vLLM lays out a model's cache.

    ``dtype`` is ``kv_cache_dtype``; ``block`` is ``block_size`` where the operator sets it; ``batched_tokens`` is
    ``max_num_batched_tokens``, of which a window keeps a batch (or the batches in flight) besides itself.
    """

    shape: Shape
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    dtype: str = "auto"
    block: int | None = None
    batched_tokens: int = 2048
    device: str = "cuda"

    def __post_init__(self) -> None:
        """Raise ValueError where there is no arithmetic: a shape that is not understood, a dtype of cache that is packed."""
        if self.shape.unknown:
            raise ValueError(self.shape.unknown)
        if self.dtype not in CACHE_BYTES:
            raise ValueError(f"the size of a cache in {self.dtype} is not known here; known are {', '.join(CACHE_BYTES)}")

    @property
    def layer_token_bytes(self) -> int:
        """Return bytes of one token in one attention layer: ``AttentionSpec`` and ``MLAAttentionSpec``."""
        shape = self.shape
        numbers = shape.head_size if LATENT in shape.layers else 2 * shape.head_size * max(1, shape.kv_heads // self.tensor_parallel)
        return numbers * CACHE_BYTES[self.dtype]

    @property
    def state_bytes(self) -> int:
        """Return bytes of one request's state in one layer: ``MambaSpec``. 0 where there is none."""
        state = self.shape.state
        if state is None:
            return 0
        convolution = state.conv_channels // self.tensor_parallel * state.conv_steps * DTYPE_BYTES
        return convolution + state.heads // self.tensor_parallel * state.key_size * state.value_size * state.number_bytes

    @property
    def block_tokens(self) -> int:
        """Return tokens per block.

        16 on a GPU (64 with latent attention: FlashMLA), 128 on a CPU (16 with latent attention, unless it has AMX):
        ``platforms/cpu.py`` ``check_and_update_config``, ``config/cache.py`` ``DEFAULT_BLOCK_SIZE``. Beside states, as many
        as make a block as large as a state: ``platforms/interface.py`` ``_align_hybrid_block_size``.
        """
        latent = LATENT in self.shape.layers
        default = {"cpu": 16 if latent else 128}.get(self.device, 64 if latent else 16)
        block = self.block or default
        return max(block, block * -(-self.state_bytes // (block * self.layer_token_bytes)))

    @property
    def groups(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Return (kind, numbers of its layers) per group: ``_get_kv_cache_groups_uniform_page_size``.

        The smallest kind sets the size of a group, or the largest when they differ by less than half.
        """
        kinds = {kind: [at for at, of in enumerate(self.shape.layers) if of == kind] for kind in dict.fromkeys(self.shape.layers)}
        least, most = min(map(len, kinds.values())), max(map(len, kinds.values()))
        size = most if most < least * 1.5 else least
        found = []
        for kind, layers in kinds.items():
            count = -(-len(layers) // size)
            found += [(kind, tuple(layers[start::count])) for start in range(count)]
        return tuple(found)

    @property
    def block_bytes(self) -> int:
        """Return bytes of one block of the pool, on the rank where it is largest: ``_get_kv_cache_bytes_per_block``."""
        page = self.block_tokens * self.layer_token_bytes
        stages = stage_layers(len(self.shape.layers), self.pipeline_parallel)
        return page * max(sum(layer in stage for layer in layers) for _, layers in self.groups for stage in stages)

    def blocks(self, tokens: int) -> int:
        """Return the blocks that vLLM sets aside for one request of that length: ``max_memory_usage_bytes`` of each spec.

        A window keeps itself and the batches in flight (``max_in_flight_tokens``: one per pipeline stage, and one more
        where scheduling is asynchronous, as on a GPU). A state is kept twice, as prefix caching (the default) does.
        """
        in_flight = self.batched_tokens * (self.pipeline_parallel + (self.device != "cpu"))
        window = min((self.shape.window or 0) - 1 + in_flight, tokens)
        of_kind = {FULL: self._whole(tokens), LATENT: self._whole(tokens), SLIDING: self._whole(window) + 1, STATE: 2}
        return sum(of_kind[kind] for kind, _ in self.groups)

    def _whole(self, tokens: int) -> int:
        return -(-tokens // self.block_tokens)

    def concurrency(self, space_bytes: int, tokens: int) -> float:
        """Return how many requests of that length the space holds: ``get_max_concurrency_for_kv_cache_config``."""
        return max(0, space_bytes) // self.block_bytes / self.blocks(tokens)

    def holds(self, space_bytes: int, tokens: int) -> bool:
        """Return whether vLLM starts with this space and ``max_model_len``: ``get_kv_cache_configs`` (one block is never handed out)."""
        return space_bytes >= (self.blocks(tokens) + 1) * self.block_bytes

    def largest_context(self, space_bytes: int, limit: int) -> int:
        """Return the longest request, up to ``limit`` tokens, that the space holds; 0 for none: ``estimate_max_model_len``."""
        low, high = 0, limit
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.holds(space_bytes, middle) else (low, middle - 1)
        return low


def stage_layers(layers: int, stages: int) -> list[range]:
    """Return the layers of each pipeline stage: ``distributed/utils.py`` ``get_pp_indices`` (the rest goes to stages before the last)."""
    sizes = [layers // stages] * stages
    for place in range(layers % stages):
        sizes[-2 - place] += 1
    return [range(sum(sizes[:number]), sum(sizes[: number + 1])) for number in range(stages)]


def kv_bytes_per_token(shape: Shape, tensor_parallel: int = 1, dtype: str = "auto") -> int:
    """Return bytes per token of one rank's full and latent attention layers, all pipeline stages together."""
    return Cache(shape, tensor_parallel, dtype=dtype).layer_token_bytes * sum(kind in (FULL, LATENT) for kind in shape.layers)


def kv_bytes(cache: Cache, tokens: int) -> int:
    """Return bytes per rank that one request of that length is given: windows, states and whole blocks included."""
    return cache.blocks(tokens) * cache.block_bytes


def kv_tokens(cache: Cache, space_bytes: int, context: int) -> int:
    """Return N of vLLM's log line "KV cache size: N tokens", for ``max_model_len`` ``context``.

    ``get_kv_cache_capacity``: the requests of that length that fit, times their length. With windows or states, or when
    ``context`` is no multiple of a block, another context gives another N.
    """
    return int(cache.concurrency(space_bytes, context) * context)


def weights_per_rank(shape: Shape, tensor_parallel: int = 1, pipeline_parallel: int = 1) -> int:
    """Return bytes of weights on the rank that has most.

    Matrices are split over tensor-parallel ranks; key and value heads fewer than ranks are repeated
    (``model_executor/layers/linear.py`` ``QKVParallelLinear``), routers and the way into the latent are whole on each.
    The first pipeline stage has the embedding, the last the output layer (or the embedding again, where they are one).
    What latent attention copies while it loads comes on top.
    """
    if shape.unknown or shape.weight_bytes is None:
        raise ValueError(shape.unknown or "the size of the weights is not known")
    stages = stage_layers(len(shape.layers), pipeline_parallel)
    repeated = max(1.0, tensor_parallel / shape.kv_heads)
    scale = shape.weight_bytes / shape.computed_bytes
    needs = []
    for number, stage in enumerate(stages):
        layers = [shape.weights[at] for at in stage]
        ends = shape.embedding if number == 0 else 0.0
        if number == len(stages) - 1:
            ends += shape.embedding if shape.tied and number else shape.head
        files = (ends + sum(layer.split + layer.kv * repeated for layer in layers)) / tensor_parallel + sum(layer.every for layer in layers)
        needs.append(files * scale + sum(layer.copies for layer in layers) / tensor_parallel)
    return math.ceil(max(needs))


def reserve(
    shape: Shape, batch: Batch, tensor_parallel: int = 1, pipeline_parallel: int = 1, device: str = "cuda", eager: bool = False
) -> int:
    """Return bytes per rank that a server needs besides weights and cache: an estimate, meant to be on the safe side.

    vLLM measures this by running one full batch (``v1/worker/gpu_worker.py`` ``determine_available_memory``). Its parts here:

    - activations of ``batch.tokens``, two bytes a number: residual and hidden state, queries, keys, values and their result,
      the MLP's inner vectors, or three vectors per chosen expert (``fused_moe`` workspaces); of a gated delta net 80 bytes a channel;
    - logits for ``batch.sequences`` (``_dummy_sampler_run``): the model's dtype, and three times float32;
    - CUDA graphs of up to 512 tokens: 0.6 GiB, 2.5 with experts or a gated delta net; none with ``enforce_eager``;
    - workspaces of kernels 0.8 GiB, and of NCCL and all-reduce 1.4 GiB where there are several ranks.

    The constants are from public start-up logs (three of them are rows of tests/unit/test_memory.py). The CUDA context is not
    in it: vLLM takes it from what ``gpu_memory_utilization`` leaves. On a CPU it is the activations, the logits and 2 GiB for the
    server's processes (measured: 3.1 GB with one rank and 1 GiB of cache).
    """
    heads = shape.heads + 2 * shape.kv_heads
    inner = 3.0 * shape.intermediate / tensor_parallel
    if shape.experts:
        experts = shape.experts
        routed = 3 * experts.active * max(shape.hidden, 2 * experts.intermediate / tensor_parallel)
        inner = max(inner if shape.plain_mlp else 0, routed + 3.0 * experts.shared_intermediate / tensor_parallel)
    size = 256 if LATENT in shape.layers else shape.head_size  # the heads of latent attention have 192 and 128, not the latent's
    activations = batch.tokens * DTYPE_BYTES * (2 * shape.hidden + 2 * heads * size / tensor_parallel + inner)
    if shape.state:
        activations += batch.tokens * 80 * shape.state.conv_channels / tensor_parallel
    needs = activations + min(batch.sequences, batch.tokens) * shape.vocabulary * (DTYPE_BYTES + 3 * 4)
    if device == "cpu":
        return math.ceil(needs + 2 * GIB)
    graphs = 0.0 if eager else (2.5 if shape.experts or shape.state else 0.6) * min(1.0, 2 * batch.sequences / 512)
    several = 1.4 if tensor_parallel * pipeline_parallel > 1 else 0.0
    return math.ceil(needs + (graphs + 0.8 + several) * GIB)


@dataclass(frozen=True)
class Fit:
    """What one rank's memory is used for, in bytes, and what the rest is enough for.

    ``budget`` is what vLLM may use; ``kv_space`` may be negative, ``needed`` is what one request of the asked context takes of it.
    ``tokens`` is vLLM's "KV cache size" at the asked context, ``largest_context`` the longest single request, ``concurrency`` how
    many requests of the asked context fit at once. ``fits``: vLLM starts; ``could_fit``: it would if the reserve, the one
    estimate in this, were nothing.
    """

    budget: int
    weights: int
    reserve: int
    kv_space: int
    needed: int
    tokens: int
    largest_context: int
    concurrency: float
    fits: bool
    could_fit: bool


def fit(
    shape: Shape,
    memory_bytes: int,
    context: int,
    batch: Batch | None = None,
    utilisation: float = UTILISATION,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    kv_dtype: str = "auto",
    block: int | None = None,
    device: str = "cuda",
    cpu_space: int | None = None,
    eager: bool = False,
) -> Fit:
    """Return how a model fits ranks of ``memory_bytes`` each: a GPU's memory, or on a CPU that of the rank's NUMA node.

    ``batch`` is that of the flags, else vLLM's default. On a CPU the cache takes ``cpu_space`` bytes
    (VLLM_CPU_KVCACHE_SPACE, in GiB there); without it what ``utilisation`` of the memory leaves
    (``v1/worker/cpu_worker.py`` ``determine_available_memory``). Raises ValueError for a shape that is not understood.
    """
    batch = batch or default_batch(memory_bytes, device, tensor_parallel * pipeline_parallel)
    cache = Cache(shape, tensor_parallel, pipeline_parallel, kv_dtype, block, batch.tokens, device)
    weights = weights_per_rank(shape, tensor_parallel, pipeline_parallel)
    besides = reserve(shape, batch, tensor_parallel, pipeline_parallel, device, eager)
    explicit = device == "cpu" and cpu_space is not None
    budget = memory_bytes if explicit else math.ceil(memory_bytes * utilisation)
    left = budget - weights - besides
    space = min(cpu_space, left) if explicit and cpu_space is not None else left
    needed = (cache.blocks(context) + 1) * cache.block_bytes
    at_least = max(needed, cpu_space or 0) if explicit else needed  # of memory, which a CPU's cache takes whether it is used or not
    return Fit(
        budget=budget,
        weights=weights,
        reserve=besides,
        kv_space=space,
        needed=needed,
        tokens=kv_tokens(cache, space, context),
        largest_context=cache.largest_context(space, shape.max_context),
        concurrency=cache.concurrency(space, context),
        fits=left >= at_least and cache.holds(space, context),
        could_fit=left + besides >= at_least and (not explicit or cache.holds(cpu_space or 0, context)),
    )


def tensor_parallel_problem(shape: Shape, size: int, whole_experts: bool = False) -> str | None:
    """Return why vLLM would refuse to split the model over ``size`` ranks, as the end of a sentence; None when it would not.

    ``config/model.py`` ``verify_with_parallel_config`` (heads), ``linear.py`` ``QKVParallelLinear`` (key and value heads are split
    or repeated), ``ColumnParallelLinear`` (the MLP's width), ``quantization/utils/fp8_utils.py`` (blocks of scales). The
    vocabulary is padded, never refused. ``whole_experts``: with `--enable-expert-parallel` a rank has some experts, each whole.
    """
    if shape.heads % size:
        return f"its {shape.heads} attention heads do not divide by {size}"
    if max(shape.kv_heads, size) % min(shape.kv_heads, size):
        return f"its {shape.kv_heads} key and value heads neither divide by {size} nor go into it"
    if shape.state and (shape.state.key_heads % size or shape.state.heads % size):
        return f"its {shape.state.key_heads} and {shape.state.heads} linear attention heads do not divide by {size}"
    block = (shape.quantisation.block if shape.quantisation else None) or 1
    widths = [("MLP", shape.intermediate)] if shape.plain_mlp else []
    if shape.experts:
        experts = shape.experts.intermediate
        # vLLM cuts scales of experts finer, down to blocks of 32 (fused_moe/oracle/fp8.py)
        fine = experts % size == 0 and math.gcd(block, experts // size) >= FINEST_BLOCK
        widths += [] if whole_experts or fine else [("experts", experts)]
        widths += [("shared experts", shape.experts.shared_intermediate)]
    for name, width in widths:
        if width % size:
            return f"the width of its {name}, {width}, does not divide by {size}"
        if width // size % block:
            return f"the width of its {name}, {width}, cut in {size} is not whole blocks of {block} that share a scale"
    return None
