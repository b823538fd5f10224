"""What the engine refuses takes nobody's place: the tree and the program that asks the engine, with a stand-in for the engine.

The stand-in reads what a configuration names, as the real one does, and refuses where the two are not of one kind.
"""

import os
import sys
from pathlib import Path

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.tree import Entry, apply, inspect
from ansible_collections.ownmetal.codex.plugins.module_utils.tree_plan import plan, wanted

PROGRAM = Path(__file__).resolve().parents[2] / "roles/gateway/files/usr/local/libexec/ownmetal-gateway/check"
ENGINE = f"""#!{sys.executable}
import pathlib, re, sys
text = pathlib.Path(sys.argv[-1]).read_text()
named = [path.replace("?", "gate") for path in re.findall(r"^named (.*)$", text, re.M)]
kinds = {{pathlib.Path(path).read_text() for path in named}}
sys.exit(0 if kinds == {{re.search("^kind (.*)$", text, re.M)[1]}} else f"the files are of {{kinds}}")
"""
ENGINES = {"nginx": ("nginx.conf", "etc/state.json", "libexec/gate.lua"), "caddy": ("Caddyfile", "etc/secrets.caddy", "etc/tls.key")}


@pytest.fixture(params=ENGINES)
def write(request, tmp_path, monkeypatch):
    """Return the function that writes an engine's configuration and what it names, each of a kind; and the function that reads them."""
    config, *others = ENGINES[request.param]
    for folder in ("etc", "libexec", "bin"):
        (tmp_path / folder).mkdir()
    program = tmp_path / "bin/check"
    program.write_text(PROGRAM.read_text().replace("/etc/ownmetal-gateway", str(tmp_path / "etc")))
    (tmp_path / "bin" / request.param).write_text(ENGINE)
    for file in (tmp_path / "bin").iterdir():
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    named = "".join(f"named {tmp_path}/{other.replace('gate.lua', '?.lua')}\n" for other in others)

    def write(kind, *kinds):
        texts = dict(zip(others, kinds)) | {f"etc/{config}": f"{named}kind {kind}\n"}
        judge = {"validate": f"{program} {request.param}", "owner": None, "group": None}
        entries = [wanted({"dest": f"{tmp_path}/{name}", "content": text, **judge}, None) for name, text in texts.items()]
        apply([Entry(**entry) for entry in plan(entries, inspect([Entry(**entry.question(False)) for entry in entries])).entries])

    return write, lambda: [(tmp_path / name).read_text() for name in (*others, f"etc/{config}")]


def test_all_change_together_or_none_does(write):
    write, read = write
    write("a", "a", "a")
    old = read()
    for kinds in (("b", "a", "a"), ("a", "b", "a"), ("a", "a", "b"), ("b", "b", "a"), ("b", "a", "b")):
        with pytest.raises(Refused, match=r"its validator refused it: the files are of .* Nothing was replaced."):
            write(*kinds)
        assert read() == old
    write("b", "b", "b")
    assert read() != old
