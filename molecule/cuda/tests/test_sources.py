"""The vendor's repository changes its key, or goes away in the middle."""

from __future__ import annotations

import pytest
from conftest import NEW, OLD, installed, state


@pytest.fixture
def away(mirror):
    """A function: the repository loses what a shell pattern matches, until the test ends."""
    mirror.check_output("rm -rf /srv/vendor/lost")

    def lose(pattern):
        mirror.check_output(f"cd /srv/vendor/www && tar -cf ../lost.tar {pattern} && rm {pattern}")

    def back():
        mirror.check_output("cd /srv/vendor/www && [ ! -e ../lost.tar ] || { tar -xf ../lost.tar && rm ../lost.tar; }")

    lose.back = back
    yield lose
    back()


def test_the_repository_is_lost_before_the_first_package(blank, play, away):
    away("debian1?/x86_64/nvidia-kernel-open-dkms_*.deb")
    code, said = play()
    assert code != 0, said
    assert "cuda_repository" in said
    assert {installed(server) for server in blank.values()} == {""}
    away.back()
    code, said = play()
    assert code == 0, said
    assert {installed(server) for server in blank.values()} == {NEW}


def test_the_repository_is_lost_in_the_middle_of_an_upgrade(driven, play, away):
    servers = driven(OLD)
    away("debian1?/x86_64/libcuda1_*.deb")
    code, said = play(cuda_driver_upgrade=True)
    assert code != 0, said
    assert "cuda_repository" in said
    for server in servers.values():
        assert {installed(server, name) for name in ("nvidia-driver-cuda", "libcuda1", "nvidia-kernel-open-dkms")} == {OLD}
        assert "nvidia-smi" not in server.check_output("dpkg --audit")
    away.back()
    code, said = play(cuda_driver_upgrade=True)
    assert code == 0, said
    assert {installed(server) for server in servers.values()} == {NEW}


def test_the_key_is_another_one(blank, play, mirror):
    code, said = play(cuda_driver_source="none")
    mirror.check_output("cd /srv/vendor && cp -a www www.before && python3 -m vendor rotate")
    try:
        code, said = play()
        assert code == 0, said
        assert {installed(server) for server in blank.values()} == {NEW}
        assert {installed(server, "cuda-keyring") for server in blank.values()} == {"1.2"}
    finally:
        mirror.check_output("cd /srv/vendor && rm -rf www && mv www.before www && systemctl restart vendor")
    # the other way round: a repository that nobody's key has signed is said, and nothing comes from it
    before = {name: state(server) for name, server in blank.items()}
    code, said = play()
    assert code == 0, said
    assert {name: state(server) for name, server in blank.items()} == before
