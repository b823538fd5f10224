# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether the GPUs of an instance can work, and work together. A pure function: the instance + what gpu_info saw -> judgement.

A refusal is certain: vLLM would fail, hang, or compute what is wrong. What is only slow, or not known, is a warning.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from .errors import Refused

LEFT_OUT = "vllm_gpus_left_out"
# the fallback: through the host's memory. The first is NCCL's own variable, the second vLLM's own flag
NO_P2P, NO_CUSTOM = "NCCL_P2P_DISABLE", "disable-custom-all-reduce"
FALLBACK = f'environment: {{{NO_P2P}: "1"}} and args: {{{NO_CUSTOM}: true}}'
# what `nvidia-smi topo -p2p` says of a pair besides OK, as its own legend has it
P2P_WORDS = {
    "CNS": "the chipset does not support it",
    "GNS": "the GPUs do not support it",
    "TNS": "their place in the server does not support it",
    "NS": "it is not supported",
    "DR": "it is disabled by the driver's RegKey",
    "U": "nobody knows why",
}
TOLD = ("name", "memory_total", "compute_capability")
MOST_GPUS = 1000  # a number from here on is a serial number whose quotes were forgotten
SICK = (
    "ecc",
    "remap",
    "retired",
)  # kinds of faults that make a GPU's results, or its next hours, unsure; an XID does where it wants a reset
MIB_PER_GIB = 1024


@dataclass(frozen=True)
class Wanted:
    """An instance that is to start.

    ``gpus`` are its GPUs by number, ``share`` the part of each one's memory that vLLM will ask for, ``own`` the MiB that units
    which will be stopped for it hold there now, ``others`` the GPUs of other instances, ``left_out`` those that nobody gets.
    ``group`` is how many work as one: tensor- times pipeline-parallel size (0: all), ``written`` what vllm_gpus_left_out
    says by now.
    """

    name: str
    server: str
    gpus: Sequence[int]
    share: float
    environment: Mapping[str, str] = field(default_factory=dict)
    args: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[int, int] = field(default_factory=dict)
    others: Collection[int] = ()
    left_out: Collection[int] = ()
    group: int = 0
    written: Sequence[Any] = ()

    @property
    def groups(self) -> list[Sequence[int]]:
        """Return the GPUs that speak with one another: data-parallel replicas do not."""
        size = self.group or len(self.gpus)
        return [self.gpus[start : start + size] for start in range(0, len(self.gpus), size)]

    @property
    def together(self) -> bool:
        """Whether any two of its GPUs speak with one another."""
        return any(len(group) > 1 for group in self.groups)

    @property
    def where(self) -> str:
        """Return the name of its GPUs in the inventory."""
        return f"vllm_instances {self.name}: gpus"

    @property
    def fallback(self) -> bool:
        """Whether the operator has chosen to go through the host's memory."""
        return str(self.environment.get(NO_P2P, "0")) == "1" and bool(self.args.get(NO_CUSTOM))


@dataclass(frozen=True)
class Judgement:
    """What came of it: no refusals, and the instance may start. ``line`` says what its GPUs are."""

    refusals: Sequence[Refused]
    warnings: Sequence[Refused]
    line: str


def judge(wanted: Wanted, seen: Mapping[str, Any]) -> Judgement:
    """Judge one instance; ``seen`` is what ownmetal.codex.gpu_info returns."""
    own = [gpu for gpu in seen["gpus"] if gpu["index"] in wanted.gpus]
    host = [*_host(wanted, seen)]
    refusals = [one for certain, one in host if certain]
    refusals += [] if refusals else [*_there(wanted, own), *_health(wanted, own, seen)]
    warnings = [one for certain, one in host if not certain] + [*_persistence(wanted, own)]
    warnings += [] if wanted.together else [*_part(wanted, own)]
    if not refusals and wanted.together:
        refusals += [*_equal(wanted, own), *_divided(wanted, own)]
    refusals += [] if refusals else [*_memory(wanted, own)]
    if not refusals and wanted.together:
        found = [*_peers(wanted, seen)]
        refusals += [one for certain, one in found if certain]
        warnings += [one for certain, one in found if not certain]
        warnings += [*_redirected(wanted, own, seen), *_nodes(wanted, own, seen)]
    return Judgement(refusals, warnings, "" if refusals else _line(wanted, own, seen))


def sick(seen: Mapping[str, Any]) -> dict[int, list[Mapping[str, Any]]]:
    """Return the faults of each GPU that should serve nobody."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    for fault in seen["faults"]:
        if fault["gpu"] is not None and (fault["kind"] in SICK or (fault["kind"] == "xid" and fault["reset"])):
            found.setdefault(fault["gpu"], []).append(fault)
    return found


def left_out(written: Sequence[Any], gpus: Sequence[Mapping[str, Any]], server: str) -> tuple[list[int], list[Refused]]:
    """Return the numbers of the GPUs that ``vllm_gpus_left_out`` names by number, serial number or UUID, and warnings.

    What no GPU has is a warning alone: a card that has fallen off the bus is not listed, and one that is sick and was meant is
    refused when an instance wants it.
    """
    found: list[int] = []
    warnings = []
    for one in written:
        if isinstance(one, int) and one < MOST_GPUS:
            found.append(one)
            continue
        numbers = [gpu["index"] for gpu in gpus if str(one) and str(one) in (gpu["serial"], gpu["uuid"])]
        found += numbers
        if not numbers:
            have = ", ".join(_named(gpu) for gpu in gpus) or "none"
            why = f"no GPU that {server} lists has this serial number or UUID. Listed are: {have}."
            warnings.append(Refused(f"{LEFT_OUT} {one}", why, "Remove it when the card has been replaced."))
    return sorted(set(found)), warnings


def _named(gpu: Mapping[str, Any]) -> str:
    """Return a GPU by its number, serial number (else UUID) and name."""
    told = f"serial {gpu['serial']}" if gpu["serial"] else gpu["uuid"] or "serial not told"
    return f"GPU {gpu['index']} ({told}, {gpu['name'] or 'name not told'})"


def leave_out(gpus: Sequence[Mapping[str, Any]], written: Sequence[Any] = ()) -> str:
    """Return the line that leaves GPUs out, besides those that are: by what stays with the card when numbers change."""
    names = [gpu["serial"] or gpu["uuid"] or gpu["index"] for gpu in gpus]
    return f"{LEFT_OUT}: {json.dumps([*written, *names])}"


def _host(wanted: Wanted, seen: Mapping[str, Any]) -> Iterator[tuple[bool, Refused]]:
    """Find what is wrong with the driver itself, such as a library of another release than the kernel's module.

    Where GPUs are listed, it is about others: a card that has fallen off the bus hinders nobody who does not want it.
    """
    for fault in seen["faults"]:
        if fault["gpu"] is None:
            certain = fault["kind"] == "hung" or (fault["kind"] == "driver" and not seen["gpus"])
            why = f"on {wanted.server}: {fault['text'].rstrip('.')}."
            instead = "Mend the driver there: a reboot loads the one that is installed." if certain else "A reboot may bring it back."
            yield certain, Refused(wanted.where, why, instead)


def _there(wanted: Wanted, own: Sequence[Mapping[str, Any]]) -> Iterator[Refused]:
    have = {gpu["index"] for gpu in own}
    for number in wanted.gpus:
        if number in wanted.left_out:
            yield Refused(wanted.where, f"the GPU {number} is left out by {LEFT_OUT}.", "Name others, or leave gpus out.")
        elif number not in have:
            why = f"{wanted.server} lists no GPU {number}: there is none, or it has fallen off the bus."
            yield Refused(wanted.where, why, f"Name others, or write {LEFT_OUT}: [{number}].")


def _health(wanted: Wanted, own: Sequence[Mapping[str, Any]], seen: Mapping[str, Any]) -> Iterator[Refused]:
    faults = sick(seen)
    bad = [gpu for gpu in seen["gpus"] if gpu["index"] in faults and gpu["index"] not in wanted.left_out]
    for gpu in own:
        found = faults.get(gpu["index"])
        if found:
            told = "; ".join(fault["text"].rstrip(".").rpartition("): ")[2] for fault in found)
            why = f"{_named(gpu)} of {wanted.server} is sick: {told}."
            way = f"reset it (`nvidia-smi --gpu-reset -i {gpu['index']}` while nothing uses it, or reboot)"
            yield Refused(
                wanted.where, why, f"Leave it out: {leave_out(bad, wanted.written)}; or {way}, and replace it when that does not help."
            )


def _equal(wanted: Wanted, own: Sequence[Mapping[str, Any]]) -> Iterator[Refused]:
    """Find a GPU that is another than most: the ranks have equal parts, and wait for one another."""
    for group in wanted.groups:
        kinds: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
        for gpu in own:
            if gpu["index"] in group:
                kinds.setdefault(tuple(gpu[key] for key in TOLD), []).append(gpu)
        if len(kinds) < 2:
            continue
        shown = "; ".join(f"{_numbers(cards)}: {_kind(cards[0])}" for cards in kinds.values())
        why = f"its GPUs are not equal ({shown}), and tensor parallelism gives each an equal part."
        yield Refused(wanted.where, why, "Name GPUs of one kind, or run an instance on each kind.")


def _kind(gpu: Mapping[str, Any]) -> str:
    memory = f"{gpu['memory_total'] / MIB_PER_GIB:.0f} GiB" if gpu["memory_total"] else "memory not told"
    return f"{gpu['name']}, {memory}, compute capability {gpu['compute_capability'] or 'not told'}"


def _numbers(cards: Sequence[Mapping[str, Any]]) -> str:
    return f"{'GPU' if len(cards) == 1 else 'GPUs'} {' '.join(str(card['index']) for card in cards)}"


def _divided(wanted: Wanted, own: Sequence[Mapping[str, Any]]) -> Iterator[Refused]:
    divided = [gpu for gpu in own if gpu["mig"]["enabled"]]
    if divided:
        why = f"{_numbers(divided)} of {wanted.server} {'is' if len(divided) == 1 else 'are'} divided (MIG), and parts reach no other GPU."
        way = "; ".join(f"`nvidia-smi -i {gpu['index']} -mig 0`" for gpu in divided)
        yield Refused(wanted.where, why, f"Name other GPUs, or end it: {way}.")


def _part(wanted: Wanted, own: Sequence[Mapping[str, Any]]) -> Iterator[Refused]:
    for gpu in own:
        if gpu["mig"]["enabled"]:
            why = f"the GPU {gpu['index']} of {wanted.server} is divided (MIG), and CUDA gives an instance its first part alone."
            yield Refused(wanted.where, why, f"`nvidia-smi -i {gpu['index']} -mig 0` ends it.")


def _memory(wanted: Wanted, own: Sequence[Mapping[str, Any]]) -> Iterator[Refused]:
    """Find a GPU with less free than vLLM asks for when it starts, where it ends."""
    for gpu in own:
        if gpu["memory_free"] is None or gpu["mig"]["enabled"]:
            continue
        # what the driver keeps for itself is none of what vLLM takes its share of
        total = gpu["memory_free"] + (gpu["memory_used"] or 0)
        needed, free = total * wanted.share, gpu["memory_free"] + wanted.own.get(gpu["index"], 0)
        if free < needed:
            sizes = f"{free / MIB_PER_GIB:.1f} GiB free of {total / MIB_PER_GIB:.1f}"
            why = f"{_named(gpu)} of {wanted.server} has {sizes}, and vLLM wants {needed / MIB_PER_GIB:.1f} when it starts{_users(gpu)}."
            most = int(free / total * 100) / 100
            less = f", or write gpu_memory_utilization: {most} (and see whether it fits: playbooks/plan.yml)" if most >= 0.1 else ""
            yield Refused(wanted.where, why, f"Stop what uses it, name other GPUs{less}.")


def _users(gpu: Mapping[str, Any]) -> str:
    users = [f"{one['name']} (pid {one['pid']})" for one in gpu["processes"]]
    return f"; it is used by {', '.join(users)}" if users else ""


def _pairs(wanted: Wanted, seen: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [link for link in seen["links"] or () if any(set(link["gpus"]) <= set(group) for group in wanted.groups)]


def _peers(wanted: Wanted, seen: Mapping[str, Any]) -> Iterator[tuple[bool, Refused]]:
    """Find pairs whose GPUs do not read each other's memory: NCCL would go another way, or hang, without a word."""
    pairs = _pairs(wanted, seen)
    bad = [pair for pair in pairs if pair["p2p"] not in (None, "OK")]
    known = len([pair for pair in pairs if pair["p2p"] is not None])
    if bad and not wanted.fallback:
        shown = ", ".join(" and ".join(map(str, pair["gpus"])) for pair in bad[:4]) + (
            f" and {len(bad) - 4} more pairs" if len(bad) > 4 else ""
        )
        reasons = "; ".join(dict.fromkeys(P2P_WORDS.get(pair["p2p"], pair["p2p"]) for pair in bad))
        why = f"on {wanted.server} the GPUs {shown} do not reach each other's memory ({reasons}{_turned(wanted, seen)})."
        instead = f"Mend that, name GPUs that do, or accept the way through the host's memory, which is slower: {FALLBACK}."
        yield True, Refused(wanted.where, why, instead)
    elif not bad and wanted.fallback and known:
        where = f"vllm_instances {wanted.name}: environment {NO_P2P}"
        yield (
            False,
            Refused(where, "its GPUs reach each other's memory, and are told not to.", f"Remove it and {NO_CUSTOM} to have it faster."),
        )
    elif known < sum(len(group) * (len(group) - 1) // 2 for group in wanted.groups):
        why = f"whether they reach each other's memory is not known: {(seen['missing'] or {}).get('p2p', 'nvidia-smi does not tell')}."
        yield False, Refused(wanted.where, why, "The all-reduce shows whether they work together.")


def _bridges(wanted: Wanted, seen: Mapping[str, Any]) -> list[str]:
    """Return the bridges above an instance's GPUs that turn traffic between GPUs aside."""
    places = {gpu["bus_id"] for gpu in seen["gpus"] if gpu["index"] in wanted.gpus}
    return sorted({bridge for one in seen["pci"] or () if one["bus_id"] in places for bridge in one["acs_redirects"] or ()})


def _translated(wanted: Wanted, seen: Mapping[str, Any]) -> bool:
    """Whether an IOMMU translates what these GPUs ask for; in the mode "identity" it passes it on."""
    places = {gpu["bus_id"] for gpu in seen["gpus"] if gpu["index"] in wanted.gpus}
    kinds = [one["iommu_type"] for one in seen["pci"] or () if one["bus_id"] in places]
    return bool(seen["iommu"]) and any(kind not in (None, "identity") for kind in kinds)


def _turned(wanted: Wanted, seen: Mapping[str, Any]) -> str:
    bridges = _bridges(wanted, seen)
    iommu = "; an IOMMU translates their addresses" if _translated(wanted, seen) else ""
    return iommu + (f"; ACS turns their traffic aside at {', '.join(bridges)}" if bridges else "")


def _redirected(wanted: Wanted, own: Sequence[Mapping[str, Any]], seen: Mapping[str, Any]) -> Iterator[Refused]:
    pairs = _pairs(wanted, seen)
    reach = [pair for pair in pairs if pair["p2p"] == "OK" and not str(pair["link"] or "").startswith("NV")]
    turned = _turned(wanted, seen).lstrip("; ")
    if reach and turned:
        why = f"on {wanted.server} {turned}: GPUs that reach each other over PCIe are slow then, and may hang."
        instead = "Switch ACS off on these bridges (firmware), or the IOMMU to passing through (iommu=pt on the kernel's command line)."
        yield Refused(wanted.where, why, instead)


def _nodes(wanted: Wanted, own: Sequence[Mapping[str, Any]], seen: Mapping[str, Any]) -> Iterator[Refused]:
    """Say where GPUs of one NUMA node would do: what goes between two sockets is slower."""
    nodes = {gpu["numa_node"] for gpu in own}
    if len(nodes) < 2 or None in nodes:
        return
    taken = {*wanted.others, *wanted.left_out, *sick(seen)}
    kind = [own[0][key] for key in TOLD]
    for node in sorted(nodes):
        able = [gpu["index"] for gpu in seen["gpus"] if gpu["numa_node"] == node and gpu["index"] not in taken]
        able = [number for number in able if [_card(seen, number)[key] for key in TOLD] == kind]
        if len(able) >= len(wanted.gpus):
            why = f"its GPUs are on the NUMA nodes {' and '.join(map(str, sorted(nodes)))} of {wanted.server}."
            yield Refused(wanted.where, why, f"gpus: {able[: len(wanted.gpus)]} are all on node {node}.")
            return


def _card(seen: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    return next(gpu for gpu in seen["gpus"] if gpu["index"] == number)


def _persistence(wanted: Wanted, own: Sequence[Mapping[str, Any]]) -> Iterator[Refused]:
    off = [gpu for gpu in own if gpu["persistence"] is False]
    if off:
        why = f"persistence is off on {_numbers(off)} of {wanted.server}: the driver starts anew with each first user."
        yield Refused(wanted.where, why, "The role cuda runs nvidia-persistenced.")


def _line(wanted: Wanted, own: Sequence[Mapping[str, Any]], seen: Mapping[str, Any]) -> str:
    """Return what the GPUs are and how they reach one another."""
    names = " and ".join(dict.fromkeys(str(gpu["name"] or "GPU").removeprefix("NVIDIA ") for gpu in own))
    parts = [f"{wanted.name}: {len(own)} x {names}"]
    if wanted.together:
        parts.append(_way(wanted, _pairs(wanted, seen)))
    return ", ".join(parts)


def _way(wanted: Wanted, pairs: Sequence[Mapping[str, Any]]) -> str:
    links = [str(pair["link"]) for pair in pairs if pair["link"]]
    if wanted.fallback:
        return f"through the host's memory ({NO_P2P})"
    if not links:
        return "links not told"
    if all(link.startswith("NV") for link in links):
        return "all pairs by NVLink"
    counts = {link: links.count(link) for link in links}
    return ", ".join(f"{count} {'pair' if count == 1 else 'pairs'} by {link}" for link, count in counts.items())


def verdict(
    name: str, server: str, outcome: Mapping[str, Any], gpus: Sequence[Mapping[str, Any]], written: Sequence[Any] = ()
) -> Optional[Refused]:
    """Return the refusal that an all-reduce leads to, None where the sums were right; ``outcome`` is one of all_reduce, as a mapping."""
    kind, members = outcome["kind"], list(outcome["members"])
    if kind == "ok":
        return None
    cards = [gpu for gpu in gpus if gpu["index"] in members]
    shown = ", ".join(_named(gpu) for gpu in cards) or f"ranks {members}"
    many = len(members) > 1
    words = {
        "wrong": f"the sums that went through {shown} are wrong ({outcome['said']})",
        "silent": f"{shown} did not answer in time (while {outcome['stage']})",
        "failed": f"{shown} failed (while {outcome['stage']})",
    }[kind]
    said = f" {'They' if many else 'It'} said: {outcome['said']}" if outcome["said"] and kind != "wrong" else ""
    pairs = ", ".join(" and ".join(map(str, pair)) for pair in outcome["pairs"])
    alone = f" Of pairs tried alone, these fail: {pairs}." if pairs else ""
    one = f"leave it out: {leave_out(cards, written)}" if len(cards) == 1 else "name other GPUs"
    instead = f"See `nvidia-smi -q`, `dmesg` and docs/tensor_parallel.md there; mend what is wrong, or {one}."
    return Refused(f"vllm_instances {name}: gpus", f"in an all-reduce on {server} {words}.{alone}{said}", instead)
