"""After uninstall: nothing of the collection is left on the hosts, and what was the user's is."""

import pytest

from lab import testing
from lab.testing import ROOT

INVENTORY = ROOT / "inventories/lab"
TRACES = "vllm|ownmetal|codex"


@pytest.mark.parametrize("name", ["server1", "dev1"])
def test_no_file_is_left(name):
    found = testing.host(name, INVENTORY).check_output(
        f"find / -xdev -regextype egrep -regex '.*({TRACES}).*' -not -path '/proc/*' -not -path '/sys/*' -not -path '/srv/*' "
        # the lab's own, of the host's image: see lab/images.py
        "-not -path '/usr/lib/systemd/system/vllm@.service.d*' "
        "-not -path '/var/log/journal/*' -not -path '/home/dev/.codex*' -prune"
    )
    assert found == ""


def test_the_user_has_their_own_file_back():
    developer = testing.host("dev1", INVENTORY)
    own = (ROOT / "lab/files/own-config.toml").read_text()
    assert developer.file("/home/dev/.codex/config.toml").content_string == own
    assert developer.check_output("find /home/dev/.codex -name '*ownmetal*'") == ""


def test_no_unit_process_or_user_is_left():
    server = testing.host("server1", INVENTORY)
    assert server.check_output("systemctl list-units --all --plain --no-legend 'vllm*'") == ""
    assert server.run("pgrep -fi vllm").rc == 1
    assert not server.user("vllm").exists
