# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rules about one instance on one host: its model's family, size and context, its GPUs, and the Codex that will use it.

Each rule yields (certain, refusal): what is not certain to fail is a warning.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from . import compatibility, memory
from .catalogue import own_template, world_size
from .compatibility import Pair, Recognised, older
from .errors import Refused
from .flags import find as find_flags
from .flags import number
from .host_rules import Host, better_track, proposal
from .instance_rules import CPU_SPACE, change, model_name, plugin
from .model_shape import Shape, shape
from .pythons import PACKAGES, Source
from .tracks import Track

GIB = 1 << 30
STEP = 1024  # tokens; a context that is proposed is a multiple of it, where it is that long
# flags that change what a server needs in ways that the arithmetic does not know
CHANGE_MEMORY = (
    *("cpu-offload-gb", "offload-backend", "offload-group-size", "kv-offloading-size", "kv-cache-memory-bytes", "speculative-config"),
    *("enable-lora", "hf-overrides", "decode-context-parallel-size", "prefill-context-parallel-size"),
)
# flags by which vLLM reads another description of the model than its config.json
OTHER_CONFIG = ("hf-config-path", "config-format")
NEWEST_CODEX = "0.169.0"  # that roles/codex locks (a test compares them)
# of the configuration that roles/codex writes, by version (codex_config.py; a test compares them)
WRITTEN_BY_ROLE = {"web_search": "disabled", "agents.enabled": False, "features.multi_agent": False}
ANY_FORMAT = ("hf", "beam")  # parsers that read what the checkpoint itself describes (vLLM 0.33)
LONGER = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"

Finding = tuple[bool, Refused]


@dataclass(frozen=True)
class Codex:
    """A developer machine: its inventory name, Codex's version, and the codex_extra_config laid over what the role writes."""

    host: str
    version: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """An instance that is to run, with all that is known of it.

    ``folder`` is what model_folder.read_folder saw; ``shape`` is None where the model was not seen or is not understood, and
    ``unknown`` says what is not; ``others`` are the GPUs of other instances; ``own_track``: it names its track itself.
    """

    entry: Mapping[str, Any]
    server: str
    track: Track
    host: Optional[Host]
    folder: Mapping[str, Any]
    shape: Optional[Shape]
    unknown: Optional[str]
    family: Optional[Recognised]
    others: frozenset[int]
    codex: Sequence[Codex]
    known: Mapping[str, Track]
    own_track: bool = False
    source: Source = PACKAGES
    left_out: frozenset[Any] = frozenset()

    @property
    def name(self) -> str:
        """The instance's name."""
        return str(self.entry["name"])

    @property
    def unplanned(self) -> Optional[str]:
        """The flag because of which nobody can tell what it needs; None where there is none."""
        args = self.entry["args"]
        told = (self.folder.get("config") or {}).get("quantization_config")
        own = told.get("quant_method") if isinstance(told, Mapping) else None
        other = "quantization" if args.get("quantization") not in (None, own) else None
        spread = "enable-expert-parallel" if args.get("enable-expert-parallel") and args.get("data-parallel-size", 1) != 1 else None
        heads = {flag.partition(".")[0] for flag, value in args.items() if value}
        quantised = (self.folder.get("config") or {}).get("quantization_config")
        cache = isinstance(quantised, Mapping) and (quantised.get("kv_cache_scheme") or quantised.get("kv_cache_quant_algo"))
        own_cache = "the cache's own quantisation" if cache and "kv-cache-dtype" not in args else None
        return next((flag for flag in CHANGE_MEMORY if flag in heads), None) or other or spread or own_cache

    def split_problem(self, size: int) -> Optional[str]:
        """Return why the model cannot be split over so many ranks, None where it can or nobody knows."""
        if not self.shape:
            return None
        return memory.tensor_parallel_problem(self.shape, size, bool(self.entry["args"].get("enable-expert-parallel")))

    @property
    def replicas(self) -> int:
        """How many GPUs one tensor-parallel rank stands for: pipeline stages and data-parallel replicas on this server."""
        return max(1, world_size(self.entry) // int(self.entry["tensor_parallel_size"]))

    @property
    def stages(self) -> int:
        """Return the pipeline-parallel size."""
        return number(self.entry["args"].get("pipeline-parallel-size")) or 1

    @property
    def context(self) -> int:
        """Tokens that one request may have; 0 where nothing says it."""
        return int(self.entry["max_model_len"] or (self.shape.default_context if self.shape else 0))

    @property
    def free(self) -> list[int]:
        """The GPUs of the host that no other instance has."""
        return [card["index"] for card in (self.host.gpus if self.host else ()) if card["index"] not in self.others | self.left_out]

    @property
    def cpu_space(self) -> Optional[int]:
        """Bytes of a CPU's cache, where the inventory says it."""
        text = self.entry["environment"].get(CPU_SPACE, "")
        return int(text) * GIB if text.isdecimal() and int(text) else None

    def track_with(self, floor: str) -> tuple[str, Optional[dict[str, Any]]]:
        """Return a track that the host can run with a release not older than ``floor``: as words and as a proposal."""

        def suits(other: Track) -> bool:
            return other.device == self.track.device and not older(other.vllm, floor)

        better = better_track(self.track, self.host, self.known, suits, self.source)
        if not better:
            return "", None
        return f"Write {'track' if self.own_track else 'vllm_track'}: {better.name}.", proposal(
            better, self.name if self.own_track else None
        )

    def refused(self, key: str, why: str, instead: str, **keys: Any) -> Refused:
        """Return a refusal of a key of the instance, with ``keys`` as the proposal."""
        return Refused(f"vllm_instances {self.name}: {key}", why, instead, change(self.name, **keys) if keys else None)

    def fit(self, size: Optional[int] = None, context: Optional[int] = None, space: Optional[int] = None) -> Optional[memory.Fit]:
        """Return whether it fits, as it is or with another tensor-parallel size, context or CPU cache; None: that cannot be told."""
        if not self.shape or not self.host or not self.context or self.unplanned:
            return None
        entry, arguments = self.entry, self.entry["args"]
        cards = [card for card in self.host.gpus if card["index"] in (entry["gpus"] or [])]
        sizes = [self.host.memory] if self.track.device == "cpu" else [card["memory"] for card in cards]
        if not sizes or not all(sizes):
            return None
        size = size or entry["tensor_parallel_size"]
        usual = memory.default_batch(min(sizes), self.track.device, size * self.stages, cards[0]["name"] if cards else "")
        try:
            return memory.fit(
                self.shape,
                min(sizes),
                context or self.context,
                memory.Batch(entry["max_num_batched_tokens"] or usual.tokens, entry["max_num_seqs"] or usual.sequences),
                utilisation=entry["gpu_memory_utilization"] or usual_share(self.track.vllm),
                tensor_parallel=size,
                pipeline_parallel=self.stages,
                kv_dtype=str(arguments.get("kv-cache-dtype", "auto")),
                block=number(arguments.get("block-size")),
                device=self.track.device,
                cpu_space=space or self.cpu_space,
                eager=bool(arguments.get("enforce-eager")),
            )
        except (ValueError, ArithmeticError):  # a shape or a cache that is not understood, a size beyond all memory
            return None


def usual_share(release: str) -> float:
    """Return the share of a GPU's memory that a vLLM release takes when it is told none."""
    known = find_flags(release)
    share = known.find("gpu-memory-utilization") if known else None
    return float((share.default if share else None) or memory.UTILISATION)


def subjects(
    server: str,
    theirs: Mapping[str, Track],
    own: Collection[str],
    instances: Sequence[Mapping[str, Any]],
    host: Optional[Host],
    models: Mapping[str, Mapping[str, Any]],
    codex: Sequence[Codex],
    known: Mapping[str, Track],
    source: Source,
    left_out: Collection[Any] = (),
) -> list[Subject]:
    """Return the instances that are to run, with what is known of their models.

    ``theirs`` are their tracks by name, ``own`` the names of the instances that name their track themselves.
    """
    present = [entry for entry in instances if entry["state"] == "present"]
    found = []
    for entry in present:
        folder, track = models.get(entry["name"]) or {}, theirs[entry["track"]]
        if any(flag in entry["args"] for flag in OTHER_CONFIG):
            folder = {}
        understood = shape(folder["config"], _weight_bytes(folder)) if folder.get("config") else None
        others = frozenset(gpu for other in present if other is not entry for gpu in other["gpus"] or [])
        template = folder.get("chat_template") if entry["chat_template"] is None else None
        family = compatibility.family_of(folder.get("config") or {}, model_name(entry), template)
        usable = understood if understood and not understood.unknown else None
        if usable and usable.yarn_context and older(track.vllm, compatibility.feature("yarn_length_as_configured")):
            usable = dataclasses.replace(usable, max_context=usable.yarn_context, default_context=usable.yarn_context)
        unknown = understood.unknown if understood else None
        mine = (entry["name"] in own, source, frozenset(left_out))
        found.append(Subject(entry, server, track, host, folder, usable, unknown, family, others, codex, known, *mine))
    return found


def _weight_bytes(folder: Mapping[str, Any]) -> Optional[int]:
    """Return the weights' bytes as they are loaded: float32 files become 16-bit, where config.json does not say so itself."""
    size, wide = folder.get("weight_bytes"), (folder.get("dtypes") or {}).get("F32", 0)
    told = {"dtype", "torch_dtype"} & set(folder["config"])
    return size if size is None or told else size - wide // 2


def findings(subject: Subject) -> Iterator[Finding]:
    """Yield what all rules say about an instance."""
    for rule in RULES:
        yield from rule(subject)


def _folder(subject: Subject) -> Iterator[Finding]:
    problem = subject.folder.get("problem")
    if problem:
        key, where = ("model", subject.server) if subject.entry["model"] else ("model_source", "the controller")
        instead = "Put the model's files there, or correct the path."
        if subject.entry["model_repository"]:
            key, where, instead = "model_repository", subject.server, "Take another revision, or look at model_files."
        yield True, subject.refused(key, f"{problem} (on {where}).", instead)


def _context(subject: Subject) -> Iterator[Finding]:
    if not subject.shape or not subject.entry["max_model_len"]:
        return
    longest = subject.shape.max_context
    allowed = subject.entry["environment"].get(LONGER, "").strip().lower() in ("1", "true")
    stretched = allowed or {"hf-overrides", "rope-scaling"} & {flag.partition(".")[0] for flag in subject.entry["args"]}
    if subject.context > longest and not stretched:
        why = f"cannot be {subject.context}: the model's longest context is {longest} tokens."
        yield True, subject.refused("max_model_len", why, f"Write max_model_len: {longest}.", max_model_len=longest)


def _split(subject: Subject) -> Iterator[Finding]:
    """Find a tensor-parallel size that vLLM refuses to split the model over."""
    size = subject.entry["tensor_parallel_size"]
    problem = subject.split_problem(size)
    if problem:
        yield True, _resized(subject, f"cannot be {size}: {problem}.", _largest_size(subject, size))


def _gpus(subject: Subject) -> Iterator[Finding]:
    """Find GPUs that the host does not have."""
    if subject.track.device != "cuda" or not subject.host or not subject.host.gpus:
        return
    wanted, there = subject.entry["gpus"], [card["index"] for card in subject.host.gpus]
    if set(wanted) <= set(there):
        return
    free = subject.free
    taken = "for other instances or left out" if subject.left_out else "for other instances"
    shared = f", {len(there) - len(free)} of them {taken}" if len(free) < len(there) else ""
    why = f"{len(wanted)} GPUs ({_listed(wanted)}) are wanted, and {subject.server} has {len(there)} ({_listed(there)}){shared}."
    if len(wanted) <= len(free):
        own = free[: len(wanted)]
        yield True, subject.refused("gpus", why, f"Write gpus: {own}.", gpus=own)
    else:
        yield True, _resized(subject, why, _largest_size(subject, len(free) // subject.replicas))


def _largest_size(subject: Subject, limit: int) -> int:
    """Return the largest tensor-parallel size up to ``limit`` that the model can be split over; 0 for none."""
    return next((size for size in range(limit, 0, -1) if subject.split_problem(size) is None), 0)


def _resized(subject: Subject, why: str, size: int) -> Refused:
    if not size:
        return subject.refused("tensor_parallel_size", why, "Use a server with more GPUs, or take another instance off this one.")
    return subject.refused("tensor_parallel_size", why, f"Write tensor_parallel_size: {size}.", tensor_parallel_size=size, gpus=None)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) if len(numbers) <= 16 else f"{numbers[0]} to {numbers[-1]}"


def _memory(subject: Subject) -> Iterator[Finding]:
    fit = subject.fit()
    if fit is None or fit.fits:
        return
    rule = _cpu_memory if subject.track.device == "cpu" else _gpu_memory
    yield from rule(subject, fit)


def _gpu_memory(subject: Subject, fit: memory.Fit) -> Iterator[Finding]:
    asked = f"a context of {subject.context}" + (
        "" if subject.entry["max_model_len"] else " (the model's own, since max_model_len is not set)"
    )
    why = (
        f"does not fit: of {_gib(fit.budget)} on each GPU the weights take {_gib(fit.weights)} and vLLM itself about {_gib(fit.reserve)}, "
        f"and {asked} needs {_gib(fit.needed)} of cache."
    )
    longest = _round(fit.largest_context)
    sizes = range(subject.entry["tensor_parallel_size"] + 1, len(subject.free) // subject.replicas + 1)
    wider = {size: subject.fit(size=size) for size in sizes if not subject.split_problem(size)}
    enough = next((size for size, other in wider.items() if _fits(other)), None)
    # the context that the most GPUs leave room for
    most, short = next(((size, _round(other.largest_context)) for size, other in reversed(wider.items()) if other), (None, 0))
    certain = not fit.could_fit
    if longest:
        also = f", or tensor_parallel_size: {enough}" if enough else ""
        yield certain, subject.refused("max_model_len", why, f"Write max_model_len: {longest}{also}.", max_model_len=longest)
    elif enough:
        proposal = {"tensor_parallel_size": enough, "gpus": None}
        yield certain, subject.refused("tensor_parallel_size", why, f"Write tensor_parallel_size: {enough}.", **proposal)
    elif short:
        instead = f"Write tensor_parallel_size: {most} and max_model_len: {short}."
        proposal = {"tensor_parallel_size": most, "max_model_len": short, "gpus": None}
        yield certain, subject.refused("tensor_parallel_size", why, instead, **proposal)
    else:
        instead = f"All {len(subject.free)} GPUs of {subject.server} that are free cannot hold it: take a smaller or a quantised model."
        yield certain, subject.refused("model", why, instead)


def _cpu_memory(subject: Subject, fit: memory.Fit) -> Iterator[Finding]:
    space = subject.cpu_space
    enough = math.ceil(fit.needed / GIB)
    longest = _round(fit.largest_context)
    certain = not fit.could_fit
    if space is not None and fit.needed > space and _fits(subject.fit(space=enough * GIB)):
        why = f"{CPU_SPACE} is {space // GIB} GiB, and a context of {subject.context} needs {_gib(fit.needed)} of cache."
        also = f", or max_model_len: {longest}" if longest else ""
        instead = f"Write environment: {{{CPU_SPACE}: {enough}}}{also}."
        yield certain, subject.refused("environment", why, instead, environment={CPU_SPACE: enough})
        return
    total = subject.host.memory if subject.host else 0
    why = (
        f"does not fit: {subject.server} has {_gib(total)} of memory, the weights take {_gib(fit.weights)}, vLLM itself about "
        f"{_gib(fit.reserve)}, and a context of {subject.context} needs {_gib(fit.needed)} of cache."
    )
    lean = max(1, (total - fit.weights - fit.reserve) // GIB)
    leaner = subject.fit(space=lean * GIB)
    length = _round(leaner.largest_context) if leaner else 0
    if length:
        instead = f"Write max_model_len: {length}, and environment: {{{CPU_SPACE}: {lean}}}."
        length = min(length, subject.context)
        yield certain, subject.refused("max_model_len", why, instead, max_model_len=length, environment={CPU_SPACE: lean})
    else:
        yield certain, subject.refused("model", why, "Take a smaller model, or a server with more memory.")


def _limit(subject: Subject) -> Iterator[Finding]:
    """Find a memory_limit_gib in which a CPU's model cannot live: the kernel would kill it while it loads."""
    fit, limit = subject.fit(), subject.entry["memory_limit_gib"]
    if not limit or fit is None or subject.track.device != "cpu":
        return
    cache = max(fit.needed, subject.cpu_space or 0)
    if limit * GIB < fit.weights + cache:
        enough = math.ceil((fit.weights + fit.reserve + cache) / GIB)
        why = f"is {limit}, the weights take {_gib(fit.weights)}, the cache {_gib(cache)}, and vLLM itself about {_gib(fit.reserve)}."
        yield True, subject.refused("memory_limit_gib", why, f"Write memory_limit_gib: {enough}.", memory_limit_gib=enough)


def together(subjects: Sequence[Subject]) -> Iterator[Refused]:
    """Find instances of a CPU track that fit the server's memory alone, and not together. (GPUs are no two instances'.)"""
    host = subjects[0].host if subjects else None
    if host is None or subjects[0].track.device != "cpu" or len(subjects) < 2:
        return
    fits = {subject.name: fit for subject in subjects if (fit := subject.fit()) and fit.could_fit}
    wanted = sum(fit.weights + fit.kv_space for fit in fits.values())
    if len(fits) > 1 and wanted > host.memory:
        parts = ", ".join(f"{name} {_gib(fit.weights + fit.kv_space)}" for name, fit in fits.items())
        has = f"{subjects[0].server} has {_gib(host.memory)} of memory"
        why = f"do not fit together: {has}, and weights and cache take {_gib(wanted)} ({parts})."
        yield Refused(
            f"vllm_instances {', '.join(fits)}",
            why,
            f"Set or lower environment: {{{CPU_SPACE}: GIB}} of each, or take one off this server.",
        )


def _fits(fit: Optional[memory.Fit]) -> bool:
    return fit is not None and fit.fits


def _round(tokens: int) -> int:
    return tokens // STEP * STEP or tokens


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


def _family(subject: Subject) -> Iterator[Finding]:
    """Compare what the family needs with what the instance says; only the model's own template is certain about its calls."""
    if not subject.family:
        return
    family, entry = subject.family.family, subject.entry
    if older(subject.track.vllm, family.first):
        why = f"{family.name} came with vLLM {family.first}, and the track {subject.track.name} has {subject.track.vllm}."
        words, newer = subject.track_with(family.first)
        instead = words or "No track that can run there has it."
        yield subject.family.evidence == "model_type", Refused(f"vllm_instances {subject.name}: model", why, instead, newer)
    parser = entry["tool_call_parser"]
    other = parser not in (*family.tool_parsers, *ANY_FORMAT) and not own_template(entry) and not plugin(entry, "tool_call_parser")
    if family.tool_parsers and other:
        right = _known_parser(subject, family.tool_parsers)
        if parser is None:
            why = f"is not set, so Codex gets no tool calls from {family.name}."
            yield False, subject.refused("tool_call_parser", why, f"Write tool_call_parser: {right}.", tool_call_parser=right)
        else:
            how = "its chat template asks for calls that" if subject.family.evidence == "template" else "it writes calls that"
            why = f"{parser} does not read {family.name}: {how} {right} reads."
            certain = subject.family.evidence == "template"
            yield certain, subject.refused("tool_call_parser", why, f"Write tool_call_parser: {right}.", tool_call_parser=right)


def _reasoning(subject: Subject) -> Iterator[Finding]:
    """Find a reasoning parser of another family: it can swallow the calls, or leave the thoughts in the text."""
    family, parser = subject.family.family if subject.family else None, subject.entry["reasoning_parser"]
    usual = family.reasoning_parser if family else None
    if family and usual and parser not in (None, usual) and not plugin(subject.entry, "reasoning_parser"):
        why = f"{parser} is not what reads the thoughts of {family.name}."
        yield False, subject.refused("reasoning_parser", why, f"Write reasoning_parser: {usual}.", reasoning_parser=usual)


def _known_parser(subject: Subject, parsers: Sequence[str]) -> str:
    """Return the first of a family's parsers that the track's release has."""
    known = find_flags(subject.track.vllm)
    return next((parser for parser in parsers if not known or parser in known.tool_parsers), parsers[0])


def _template(subject: Subject) -> Iterator[Finding]:
    """Compare a chat template of this collection with the parser, and find a family that needs one."""
    entry, family = subject.entry, subject.family.family if subject.family else None
    chosen = entry["chat_template"]
    if own_template(entry):
        parsers = compatibility.template_parsers(chosen)
        if entry["tool_call_parser"] not in (*parsers, *ANY_FORMAT) and not plugin(entry, "tool_call_parser"):
            right = _known_parser(subject, parsers)
            reader = entry["tool_call_parser"] or "no parser"
            why = f"{reader} {'reads' if reader == 'no parser' else 'does not read'} the calls that the chat template {chosen} asks for."
            yield (
                entry["tool_call_parser"] is not None,
                subject.refused("tool_call_parser", why, f"Write tool_call_parser: {right}.", tool_call_parser=right),
            )
    elif chosen is None and family and family.template and entry["tool_call_parser"] in family.tool_parsers:
        why = f"is not set, and {family.name}'s own does not carry all that Codex sends."
        yield False, subject.refused("chat_template", why, f"Write chat_template: {family.template}.", chat_template=family.template)


def _codex(subject: Subject) -> Iterator[Finding]:
    """Find versions and tools of Codex that the release, or the family, does not carry."""
    family = subject.family.family.name if subject.family else None
    for codex in subject.codex:
        if not compatibility.is_version(codex.version):
            where = f"codex_version on {codex.host}"
            yield (
                True,
                Refused(where, f"{codex.version!r} is no version.", f"Write it as in {NEWEST_CODEX}.", {"codex_version": NEWEST_CODEX}),
            )
            continue
        yield from _codex_keys(codex)
        for pair in compatibility.pairs(codex.version, subject.track.vllm, family):
            wrong = {key: value for key, value in pair.set.items() if _effective(codex, key) != value}
            if wrong or not pair.set:
                yield _pair(subject, codex, pair, wrong)


def _pair(subject: Subject, codex: Codex, pair: Pair, wrong: Mapping[str, Any]) -> Finding:
    # a family that is only told by a name may be another
    certain = pair.certain and not (pair.family and subject.family and subject.family.evidence == "name")
    why = f"{pair.why} (vLLM {subject.track.vllm}, instance {subject.name})."
    words, newer = subject.track_with(pair.mended) if pair.mended else ("", None)
    if wrong:
        where = f"codex_extra_config on {codex.host}: {', '.join(wrong)}"
        values = ", ".join(f"{key}: {str(value).lower() if isinstance(value, bool) else value}" for key, value in wrong.items())
        instead = "Remove it." if None in wrong.values() else f"Write {values}, as the role codex does by itself."
        return certain, Refused(
            where, why, instead, {"codex_extra_config": _nested({tuple(key.split(".")): value for key, value in wrong.items()})}
        )
    instead = words or (f"It is mended in vLLM {pair.mended}." if pair.mended else "")
    return certain, Refused(f"codex_version {codex.version} on {codex.host}", why, instead, newer)


def _nested(settings: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Return values as Codex's configuration nests them below their keys."""
    found: dict[str, Any] = {}
    for (*tables, name), value in settings.items():
        inner = found
        for table in tables:
            inner = inner.setdefault(table, {})
        inner[name] = value
    return found


def _effective(codex: Codex, key: str) -> Any:
    """Return what a key of Codex's configuration will be: by codex_extra_config (null takes the role's away), else by the role codex."""
    value: Any = codex.extra
    for part in key.split("."):
        if value is None:
            return None
        if not isinstance(value, Mapping) or part not in value:
            return WRITTEN_BY_ROLE.get(key)
        value = value[part]
    return value


def _codex_keys(codex: Codex) -> Iterator[Finding]:
    """Find keys in codex_extra_config that this version of Codex does not have, and a wire_api that it refuses."""
    where = f"codex_extra_config on {codex.host}"
    for keys, value in _paths(codex.extra):
        path = ".".join(keys)
        known = compatibility.config_key(path)
        proposal = {"codex_extra_config": _nested({keys: None})}
        if value is not None and known and not known.in_version(codex.version):
            instead = f"Write instead: {known.instead}." if known.instead else "Remove it."
            yield True, Refused(f"{where}: {path}", f"is no key of Codex {codex.version}.", instead, proposal)
        behaviour = compatibility.codex_range(codex.version)
        if path.endswith(".wire_api") and value == "chat" and behaviour and behaviour.chat != "works":
            why = f"chat is {behaviour.chat} in Codex {codex.version}."
            yield (
                True,
                Refused(f"{where}: {path}", why, "Write responses, or leave it out.", proposal),
            )


def _paths(table: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the keys that lead to each value, and it; tables included."""
    for key, value in table.items():
        keys = (*above, str(key))
        yield keys, value
        if isinstance(value, Mapping):
            yield from _paths(value, keys)


Rule = Callable[[Subject], Iterator[Finding]]
RULES: Sequence[Rule] = (_folder, _context, _split, _gpus, _memory, _limit, _family, _reasoning, _template, _codex)
