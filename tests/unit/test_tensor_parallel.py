"""Whether an instance's GPUs may serve it: synthetic machines, as they are and with one thing changed."""

import json

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import environment_manifest, gpu_gate
from ansible_collections.ownmetal.codex.plugins.module_utils.all_reduce import Outcome
from ansible_collections.ownmetal.codex.plugins.module_utils.catalogue import instances
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.gpu_gate import Gate, gate, rows
from ansible_collections.ownmetal.codex.plugins.module_utils.resolver import Spec, apply, resolve
from ansible_collections.ownmetal.codex.plugins.module_utils.tensor_parallel import Wanted, judge, left_out, verdict
from ansible_collections.ownmetal.codex.plugins.module_utils.tracks import track

from tests.unit.gpu_machines import read

H100, L40S = "h100-8-nvswitch", "l40s-4-pcie"
HOST_MEMORY = {"environment": {"NCCL_P2P_DISABLE": "1"}, "args": {"disable-custom-all-reduce": True}}
CUDA = track("cu13-py312")


def big(*gpus, **more):
    return Wanted("big", "gpu1", gpus, 0.9, **more)


def judged(machine, folder, wanted, change=None):
    seen = read(machine, folder)
    if change:
        change(seen)
    return judge(wanted, seen)


FIT = [
    # machine, wanted                                    the line
    (H100, big(1, 2, 3, 4), "big: 4 x H100 80GB HBM3, all pairs by NVLink"),
    (H100, big(*range(8), own={0: 69999}), "big: 8 x H100 80GB HBM3, all pairs by NVLink"),  # its own old release holds GPU 0
    ("gh200", big(0), "big: 1 x GH200 480GB"),
    ("ecc", big(0, 2), "big: 2 x H100 80GB HBM3, all pairs by NVLink"),
    ("xid", big(0, 1), "big: 2 x L40S, 1 pair by NODE"),
    (L40S, big(0, 1, **HOST_MEMORY), "big: 2 x L40S, through the host's memory (NCCL_P2P_DISABLE)"),
    (L40S, big(0, 1, group=1), "big: 2 x L40S"),  # data-parallel replicas do not speak with one another
]


@pytest.mark.parametrize(("machine", "wanted", "line"), FIT)
def test_what_is_fit_is_told_in_a_line(machine, wanted, line, tmp_path):
    found = judged(machine, tmp_path, wanted)
    assert ([str(one) for one in found.refusals], found.line) == ([], line)


def with_(**values):
    """Change keys of the second GPU."""
    return lambda seen: seen["gpus"][1].update(values)


def test_replicas_need_not_be_equal_to_one_another(tmp_path):
    """Data-parallel groups do not wait for one another's sums: on each kind of GPUs runs one."""

    def change(seen):
        for number in (2, 3):
            seen["gpus"][number].update(name="NVIDIA H200", memory_total=143771)

    assert judged(H100, tmp_path / "two", big(1, 4, 2, 3, group=2), change).refusals == []
    found = judged(H100, tmp_path / "one", big(1, 2, 3, 4, group=2), change)
    assert [str(one).count("not equal") for one in found.refusals] == [1, 1]


UNFIT = [
    # machine, wanted, what is changed                          words of the refusal
    ("xid", big(0, 1, 2), None, ["GPU 2 (serial 9900325000002, NVIDIA L40S) of gpu1 is sick: XID 79", 'left_out: ["9900325000002"]']),
    ("xid", big(2), None, ["GPU 2 (serial 9900325000002, NVIDIA L40S)"]),  # alone, too
    ("ecc", big(1), None, ["3 errors in memory that ECC could not correct", 'left_out: ["9900299000001", "9900299000003"]']),
    ("ecc", big(3), None, ["a row of memory could not be replaced"]),
    ("ecc", big(1, left_out=[3], written=["9900299000003"]), None, ['left_out: ["9900299000003", "9900299000001"]']),
    ("ecc", big(0, 3, left_out=[3]), None, ["the GPU 3 is left out by vllm_gpus_left_out"]),
    ("ecc", big(0, 9), None, ["lists no GPU 9"]),
    ("a100-mig", big(0, 1), None, ["GPU 0 of gpu1 is divided (MIG)", "`nvidia-smi -i 0 -mig 0`"]),
    (H100, big(0, 1), None, ["10.7 GiB free of 79.1, and vLLM wants 71.2", "VLLM::Worker (pid 4242)", "gpu_memory_utilization: 0.13"]),
    (H100, big(1, 2), with_(name="NVIDIA H200"), ["not equal (GPU 1: NVIDIA H200, 80 GiB, compute capability 9.0; GPU 2: NVIDIA H100"]),
    (H100, big(1, 2), with_(memory_total=40960), ["not equal"]),
    (H100, big(1, 2), with_(compute_capability="8.0"), ["not equal"]),
    (
        L40S,
        big(0, 1),
        None,
        ["the chipset does not support it", "an IOMMU translates", "ACS turns", '{NCCL_P2P_DISABLE: "1"} and args: {disable-custom-all'],
    ),
    # one of the two words alone would leave vLLM's own kernels to try it
    (L40S, big(0, 1, environment=HOST_MEMORY["environment"]), None, ["do not reach each other's memory"]),
    ("mismatch", big(0), None, ["Driver/library version mismatch", "reboot"]),
    ("no-driver", big(0), None, ["there is no nvidia-smi"]),
    ("no-gpu", big(0), None, ["lists no GPU 0"]),
]


@pytest.mark.parametrize(("machine", "wanted", "change", "words"), UNFIT)
def test_what_is_unfit_is_refused_with_what_to_write(machine, wanted, change, words, tmp_path):
    found = judged(machine, tmp_path, wanted, change)
    text = "\n".join(str(one) for one in found.refusals)
    assert [word for word in words if word not in text] == []
    assert text.startswith("vllm_instances big: gpus: ")
    assert found.line == ""


def aside(seen):
    for pair in seen["links"]:
        pair["p2p"] = "OK"


WARNED = [
    (H100, big(2, 3), None, []),
    (H100, big(3, 4, others=[0, 1, 2]), None, ["NUMA nodes 0 and 1 of gpu1. gpus: [4, 5] are all on node 1."]),
    (H100, big(3, 4, others=[0, 1, 2, 5, 6, 7]), None, []),  # there is no better choice
    (H100, big(1, 2), with_(persistence=False), ["persistence is off on GPU 1"]),
    (H100, big(1, 2), lambda seen: seen.update(links=[]), ["whether they reach each other's memory is not known"]),
    (H100, big(1, 2, **HOST_MEMORY), None, ["its GPUs reach each other's memory, and are told not to"]),
    (L40S, big(0, 1), aside, ["ACS turns their traffic aside at 0000:00:01.0, 0000:00:01.1: GPUs that", "iommu=pt"]),
    ("a100-mig", big(0), None, ["CUDA gives an instance its first part alone"]),
]


@pytest.mark.parametrize(("machine", "wanted", "change", "words"), WARNED)
def test_what_is_slow_or_not_known_is_a_warning(machine, wanted, change, words, tmp_path):
    found = judged(machine, tmp_path, wanted, change)
    text = "\n".join(str(one) for one in found.warnings)
    assert found.refusals == []
    assert [word for word in words if word not in text] == []
    assert bool(text) == bool(words)


def test_a_card_that_fell_off_the_bus_hinders_nobody_else(tmp_path):
    def gone(seen):
        seen["gpus"].pop()
        seen["faults"].append({"gpu": None, "kind": "driver", "text": "the GPU at 0000:db:00.0 is not served by a driver", "reset": None})

    found = judged(H100, tmp_path, big(1, 2), gone)
    assert found.refusals == []
    assert "0000:db:00.0" in str(found.warnings[0])


def test_who_is_left_out_is_named_by_what_stays_with_the_card(tmp_path):
    gpus = read("ecc", tmp_path)["gpus"]
    numbers, warnings = left_out([0, gpus[1]["serial"], gpus[3]["uuid"], int(gpus[2]["serial"]), "4711"], gpus, "gpu1")
    assert numbers == [0, 1, 2, 3]
    assert ["4711" in str(one) and gpus[0]["serial"] in str(one) for one in warnings] == [True]


PAIR = [{"name": "a", "model": "/m", "port": 8001, "tensor_parallel_size": 2}, {"name": "b", "model": "/m", "port": 8002}]


def test_others_are_handed_out_around_it():
    assert [one["gpus"] for one in instances([PAIR], CUDA, None, [1])] == [[0, 2], [3]]
    with pytest.raises(Refused, match=r"leaves out the GPU 1. Write gpus: \[0\]"):
        instances([[{**PAIR[1], "gpus": [1]}]], CUDA, None, [1])


def test_a_proposal_leaves_out_what_is_left_out():
    spec = Spec("gpu1", "cu13-py312", "", [[{**PAIR[1], "gpus": [0]}], [], []], left_out=[0, 1])
    verdict = resolve(spec)
    assert verdict.proposal == {"vllm_instances_host": [{"name": "b", "gpus": [2]}]}
    assert not resolve(apply(spec, verdict.proposal)).refusals


def asked(folder, python="/bin/true", **more):
    one = {"name": "big", "starts": True, "device": "cuda", "gpus": [1, 2], "group": 2, "share": 0.9, "environment": {}, "args": {}}
    return Gate("gpu1", [{**one, "python": python, **more.pop("one", {})}], memory=str(folder / "memory"), **more)


class Measured:
    """Stands in for the all-reduce, which test_all_reduce.py runs."""

    def __init__(self, monkeypatch, **outcome):
        self.rings = []
        self.outcome = Outcome(**{"kind": "ok", "busbw": 411.9, "algbw": 235.4, **outcome})
        monkeypatch.setattr(gpu_gate, "measure", self)

    def __call__(self, ring):
        self.rings.append(ring)
        return self.outcome


def test_it_runs_once_per_environment_gpus_driver_and_variables(tmp_path, monkeypatch):
    measured, seen = Measured(monkeypatch), read(H100, tmp_path)
    line = "big: 2 x H100 80GB HBM3, all pairs by NVLink, all-reduce 412 GB/s"
    assert gate(asked(tmp_path), seen)["lines"] == [line]
    assert gate(asked(tmp_path), seen)["lines"] == [f"{line} (measured since the last boot)"]
    assert len(measured.rings) == 1
    other_environment = tmp_path / "other/bin/python"
    other_environment.parent.mkdir(parents=True)
    other_environment.touch()
    for other in ({"gpus": [2, 3]}, {"environment": {"NCCL_ALGO": "Ring"}}, {"python": str(other_environment)}):
        assert gate(asked(tmp_path, one=other), seen)["lines"] == [line]
    gate(asked(tmp_path), {**seen, "driver": "590.1"})
    assert len(measured.rings) == 5


BAD = [
    # what came of it                                                     the refusal
    (
        {"kind": "silent", "members": [2], "stage": "adding", "pairs": [(1, 2)]},
        ["did not answer in time (while adding)", 'left_out: ["990'],
    ),
    ({"kind": "wrong", "members": [1, 2], "said": "4 sums are wrong"}, ["GPU 1 (serial 9900249000001", "are wrong (4 sums", "name other"]),
    ({"kind": "failed", "members": [1], "stage": "joining", "said": "NCCL WARN no"}, ["failed (while joining)", "It said: NCCL WARN no"]),
]


@pytest.mark.parametrize(("outcome", "words"), BAD)
def test_a_sum_that_fails_is_refused_and_not_remembered(outcome, words, tmp_path, monkeypatch):
    measured, seen = Measured(monkeypatch, **{"busbw": None, **outcome}), read(H100, tmp_path)
    for _ in range(2):
        found = gate(asked(tmp_path), seen)
        assert [word for word in words if word not in found["refused"][0]] == []
        assert found["lines"] == []
    assert len(measured.rings) == 2
    assert json.dumps(found["measured"])


QUIET = [
    # why nothing is run                            what is said
    ({"one": {"starts": False}}, "all pairs by NVLink"),
    ({"one": {"group": 1}}, "big: 2 x H100 80GB HBM3"),
    ({"trial": True}, "all-reduce not run in check mode"),
    ({"seconds": 0}, "all-reduce not asked for"),
    ({"python": "/nowhere/bin/python"}, "all-reduce not run yet: its environment is not there"),
    ({"one": {"gpus": [0, 1], "share": 0.1}}, "all-reduce not run: its GPUs are in use by VLLM::Worker (pid 4242)"),
]


@pytest.mark.parametrize(("more", "said"), QUIET)
def test_nobody_is_disturbed(more, said, tmp_path, monkeypatch):
    measured = Measured(monkeypatch)
    found = gate(asked(tmp_path, **more), read(H100, tmp_path))
    assert (found["refused"], measured.rings) == ([], [])
    assert found["lines"][0].endswith(said)


UNITS = [
    # whose the process on GPU 0 is       whether its memory counts as free
    ("vllm@old.service", True),
    ("ollama.service", True),
    ("jupyter.service", False),
    (None, False),
]


def test_an_environment_that_will_be_built_again_is_not_asked(tmp_path, monkeypatch):
    python = tmp_path / "e/bin/python"
    python.parent.mkdir(parents=True)
    python.touch()
    environment_manifest.write(str(tmp_path / "e"), environment_manifest.make(str(tmp_path / "e")))
    (tmp_path / "e/torch.py").touch()
    measured = Measured(monkeypatch)
    found = gate(asked(tmp_path, python=str(python)), read(H100, tmp_path))
    assert (found["refused"], measured.rings) == ([], [])
    assert found["lines"][0].endswith("all-reduce not run: its environment is damaged")


@pytest.mark.parametrize(("unit", "free"), UNITS)
def test_what_will_be_stopped_holds_nothing(unit, free, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_gate, "unit_of", lambda _pid: unit)
    found = gate(asked(tmp_path, one={"gpus": [0]}, stopped=["ollama.service"]), read(H100, tmp_path))
    assert bool(found["refused"]) != free


def test_one_that_runs_on_is_not_refused(tmp_path):
    found = gate(asked(tmp_path, one={"starts": False, "gpus": [1]}), read("ecc", tmp_path))
    assert (found["refused"], found["lines"]) == ([], [])
    assert "is sick" in found["warnings"][0]


def test_an_outcome_that_nobody_can_place_is_refused():
    assert "ranks [7]" in str(verdict("big", "gpu1", {"kind": "silent", "members": [7], "stage": "device", "said": "", "pairs": []}, []))


def test_the_gate_is_told_what_matters_of_an_instance():
    entry = {
        **PAIR[0],
        "args": {"pipeline_parallel_size": "2", "data-parallel-size": 2, "disable_custom_all_reduce": True},
        "environment": {"NCCL_P2P_DISABLE": 1, "HF_TOKEN": "secret"},
    }
    found = instances([[entry, PAIR[1]]], CUDA)
    environments = [{"track": "cu13-py312", "device": "cuda", "vllm": "0.32.0"}]
    first, second = rows(found, environments, {"cu13-py312": "/opt/vllm/environments/x"}, ["big", "a"], lambda _release: 0.92)
    assert (first["gpus"], first["group"], first["starts"], second["starts"]) == (list(range(8)), 4, True, False)
    assert (first["environment"], first["args"]) == ({"NCCL_P2P_DISABLE": "1"}, {"disable-custom-all-reduce": True})
    assert (first["share"], first["python"]) == (0.92, "/opt/vllm/environments/x/bin/python")
