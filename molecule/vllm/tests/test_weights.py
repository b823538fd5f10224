"""Weights that take a while: who waits is told their share."""

import re

import pytest
from conftest import answers, current, on_server1

WIDE = "/srv/wide"
# The micro model with layers of zeros beside its own: 1.2 GB in eight files, and the same answers.
WIDEN = """
import json, os, pathlib, shutil, struct, sys
small, wide, layers, width = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), 8, 65536
shutil.copytree(small, wide)
text = (wide / "model.safetensors").read_bytes()
(wide / "model.safetensors").unlink()
start = 8 + struct.unpack("<Q", text[:8])[0]
have = {name: row for name, row in json.loads(text[8:start]).items() if name != "__metadata__"}
hidden = have["model.norm.weight"]["shape"][0]
files = [{} for _ in range(layers)]
for name, row in have.items():
    if ".mlp." not in name:
        files[0][name] = row["shape"], text[start + row["data_offsets"][0]:start + row["data_offsets"][1]]
for layer, tensors in enumerate(files):
    for name, row in have.items():
        if layer and name.startswith("model.layers.0.") and ".mlp." not in name:
            tensors[name.replace(".0.", f".{layer}.")] = row["shape"], None
    for part, shape in (("gate", [width, hidden]), ("up", [width, hidden]), ("down", [hidden, width])):
        tensors[f"model.layers.{layer}.mlp.{part}_proj.weight"] = shape, None
places = {}
for number, tensors in enumerate(files, 1):
    file, header, at = f"model-{number:05}-of-{layers:05}.safetensors", {}, 0
    for name, (shape, _) in tensors.items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at, places[name] = at + size, file
    head = json.dumps(header).encode()
    with (wide / file).open("wb") as stream:
        stream.write(struct.pack("<Q", len(head)) + head)
        for name, (_, data) in tensors.items():
            begin, end = header[name]["data_offsets"]
            stream.write(data or bytes(end - begin))
index = {"metadata": {"total_size": sum(file.stat().st_size for file in wide.glob("*.safetensors"))}, "weight_map": places}
(wide / "model.safetensors.index.json").write_text(json.dumps(index))
config = json.loads((wide / "config.json").read_text())
(wide / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers, "intermediate_size": width}))
"""


@pytest.fixture
def wide(server, playbook):
    server.run_expect([0], "cat >/run/widen.py <<'E'" + WIDEN + "E")
    server.check_output(f"python3 /run/widen.py $(readlink -f /var/lib/vllm/micro/current/model) {WIDE}; rm /run/widen.py")
    yield
    code, said = playbook("gpu_servers", "--limit", "server1")
    assert code == 0, said
    server.check_output(f"rm -r {WIDE}")


def test_the_share_of_the_weights_is_told_while_they_are_loaded(server, key, wide, playbook):
    number = current(server)
    watch = "while sleep 0.05; do systemctl show -P StatusText vllm@micro; done >/run/stages"
    server.check_output("systemd-run --quiet --collect --unit=stages sh -c %s", watch)
    try:
        code, said = playbook("gpu_servers", "--limit", "server1", **on_server1(model_source=None, model=WIDE))
    finally:
        server.check_output("systemctl stop stages")
    stages = server.check_output("cat /run/stages; rm /run/stages")
    print(stages)
    assert code == 0, said
    assert current(server) > number
    shares = [int(share) for share in re.findall(r"^starting: loading weights, (\d+) %$", stages, re.MULTILINE)]
    assert len(shares) > 2
    assert shares == sorted(shares)
    assert answers(server, key)
