"""A secret reaches a running job by a pipe, and no file has it."""

import json
import os
import threading

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.handed import receive


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    return tmp_path / "pipe"


def test_what_is_handed_over_arrives(pipe):
    long = "x" * 200_000
    threading.Timer(0.2, lambda: pipe.write_text(json.dumps({"token": "geheim", "long": long}) + "\n")).start()
    assert receive(str(pipe), 10) == {"token": "geheim", "long": long}
    assert not pipe.exists()


def test_nothing_comes(pipe):
    with pytest.raises(Refused, match="a token that did not come"):
        receive(str(pipe), 0.3)
    assert not pipe.exists()


def test_a_file_is_no_pipe(tmp_path):
    (tmp_path / "file").write_text('{"token": "old"}\n')
    with pytest.raises(Refused, match="is no pipe"):
        receive(str(tmp_path / "file"), 1)
