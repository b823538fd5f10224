"""The vendor's repository changes its key, or goes away in the middle."""

from __future__ import annotations

from conftest import NEW, OLD, installed


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


def test_the_key_is_another_one(driven, play, rotated):
    servers = driven(OLD)
    rotated("second")
    code, said = play(cuda_driver_upgrade=True)
    assert code == 0, said
    assert {installed(server) for server in servers.values()} == {NEW}
    assert {installed(server, "cuda-keyring") for server in servers.values()} == {"1.2"}
