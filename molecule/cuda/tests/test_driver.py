"""The driver: fresh, older, newer, another branch; what is refused leaves the server as it was."""

from __future__ import annotations

import pytest
from conftest import NEW, NEXT, OLD, installed, loaded, state


def test_a_bare_server(blank, play):
    code, said = play()
    assert code == 0, said
    for server in blank.values():
        assert installed(server) == NEW
        assert installed(server, "nvidia-kernel-open-dkms") == NEW
        assert "nvidia-driver-cuda" in server.check_output("apt-mark showhold")
        assert "nvidia" in server.check_output("apt-config dump Unattended-Upgrade::Package-Blacklist")
        assert server.service("nvidia-persistenced").is_enabled
        # everyone, with nothing of a login shell's own settings
        assert "release 13" in server.check_output("runuser -u nobody -- env -i PATH=/usr/local/bin:/usr/bin:/bin nvcc --version")
    before = {name: state(server) for name, server in blank.items()}
    code, said = play()
    assert (code, said.count("changed=0")) == (0, 2), said
    assert {name: state(server) for name, server in blank.items()} == before
    # an operator's own upgrade of everything leaves the driver alone
    for server in blank.values():
        assert "nvidia-driver-cuda" not in server.check_output("apt-get -s dist-upgrade | grep ^Inst || true")


def test_check_mode_changes_nothing_and_says_what_would(blank, play):
    before = {name: state(server) for name, server in blank.items()}
    code, said = play("--check", "--diff")
    assert code == 0, said
    assert "nvidia-driver-cuda is installed" in said
    assert {name: state(server) for name, server in blank.items()} == before


def test_an_older_driver_stays_until_an_upgrade_is_allowed(driven, play):
    servers = driven(OLD)
    code, said = play()
    assert code == 0, said
    assert "cuda_driver_upgrade" in said
    assert {installed(server) for server in servers.values()} == {OLD}
    code, said = play(cuda_driver_upgrade=True)
    assert code == 0, said
    for server in servers.values():
        assert (installed(server), loaded(server)) == (NEW, OLD)
    assert "reboot" in said.lower()


@pytest.mark.parametrize("version", [NEXT, "570.172.08"])
def test_another_branch(driven, play, version):
    servers = driven(version)
    before = {name: state(server) for name, server in servers.items()}
    code, said = play()
    assert code != 0, said
    assert {name: state(server) for name, server in servers.items()} == before
    code, said = play(cuda_driver_upgrade=True)
    if version == NEXT:  # never back
        assert code != 0, said
        assert {name: state(server) for name, server in servers.items()} == before
    else:
        assert code == 0, said
        assert {installed(server) for server in servers.values()} == {NEW}
