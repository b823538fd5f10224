"""After uninstall: nothing of the collection is left on the hosts, and what was the user's is."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from conftest import ROOT, lab_host

TRACES = "vllm|ownmetal|codex"


@pytest.mark.parametrize("name", ["server1", "dev1"])
def test_no_file_is_left(name):
    found = lab_host(name).check_output(
        f"find / -xdev -regextype egrep -regex '.*({TRACES}).*' -not -path '/proc/*' -not -path '/sys/*' -not -path '/srv/*' "
        "-not -path '/var/log/journal/*' -not -path '/home/dev/.codex*' -prune"
    )
    assert found == ""


def test_the_user_has_their_own_file_back():
    developer = lab_host("dev1")
    own = (ROOT / "lab/files/own-config.toml").read_text()
    assert developer.file("/home/dev/.codex/config.toml").content_string == own
    assert developer.check_output("find /home/dev/.codex -name '*ownmetal*'") == ""


def test_no_unit_process_or_user_is_left():
    server = lab_host("server1")
    assert server.check_output("systemctl list-units --all --plain --no-legend 'vllm*'") == ""
    assert server.run("pgrep -fi vllm").rc == 1
    assert not server.user("vllm").exists
