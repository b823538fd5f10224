"""What a look at a host says of its environments."""

import os

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import environment_manifest, observe

WHOLE, DAMAGED, HALF, AWAY = range(4)
LOOKS = [
    # the environment   the units of the instances that link to it            it can be used
    (WHOLE, {}, True),
    (WHOLE, {"coder": "failed"}, True),
    (AWAY, {}, False),
    (AWAY, {"coder": "active"}, False),
    (DAMAGED, {}, False),  # an upgrade to it failed, and the instance went back to another
    (DAMAGED, {"coder": "failed"}, False),
    (DAMAGED, {"coder": "activating"}, False),
    (DAMAGED, {"coder": "active", "chat": "failed"}, False),  # what it needs of it was loaded before
    (DAMAGED, {"coder": "active", "chat": "active"}, True),  # nobody looks: a second for each run would be for nothing
    (HALF, {"coder": "failed"}, False),
]


@pytest.mark.parametrize(("kind", "units", "usable"), LOOKS)
def test_an_environment_that_is_damaged_counts_as_missing(kind, units, usable, tmp_path, monkeypatch):
    environment = tmp_path / "environments/cpu-1"
    (environment / "lib").mkdir(parents=True)
    (environment / "lib/vllm.py").write_text("x = 1\n")
    if kind != HALF:
        environment_manifest.write(str(environment), environment_manifest.make(str(environment)))
    if kind == DAMAGED:
        (environment / "lib/vllm.py").unlink()
    for name in [*units, "other"]:
        (tmp_path / f"instances/{name}/releases/1").mkdir(parents=True)
        (tmp_path / f"instances/{name}/current").symlink_to("releases/1")
        (tmp_path / f"instances/{name}/current/environment").symlink_to("/elsewhere" if name == "other" else environment)
    if kind == AWAY:
        environment_manifest.remove(str(environment))
    states = {f"vllm@{name}.service": {"ActiveState": state} for name, state in units.items()}
    monkeypatch.setattr(observe, "_units", lambda names: {name: states[name] for name in names})
    homes = [str(tmp_path / "instances/coder"), f"{tmp_path}/instances/*"]
    found = observe.observe({"environments": [str(environment)], "releases": homes})
    assert found["environments"] == {str(environment): usable}
    assert len(found["releases"]) == len({"coder", *os.listdir(tmp_path / "instances")})
