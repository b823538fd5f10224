"""What stands in the way on a machine, said before anything is changed; and the reboot, which comes only when it is allowed."""

from __future__ import annotations

import pytest
from conftest import BOOTED, INVENTORY, NEW, OLD, everywhere, installed, loaded, state

from lab import testing

OBSTACLES = {
    "no room in /boot": ("mount -t tmpfs -o size=64k boot /boot && head -c 60000 /dev/zero >/boot/full", "/boot"),
    "Secure Boot": ("touch /etc/stand-in/secure-boot && systemctl restart stand-in-machine", "mokutil --import"),
    "a package that somebody holds": ("echo 'libcuda1 hold' | dpkg --set-selections", "libcuda1"),
}


@pytest.mark.parametrize(("command", "words"), list(OBSTACLES.values())[:2], ids=list(OBSTACLES)[:2])
def test_what_stands_in_the_way_of_a_bare_server(blank, play, command, words):
    for server in blank.values():
        server.check_output(command)
    before = {name: state(server) for name, server in blank.items()}
    code, said = play()
    assert code != 0, said
    assert words in said
    assert {name: state(server) for name, server in blank.items()} == before


def test_a_held_package_is_named(driven, play):
    servers = driven(OLD)
    for server in servers.values():
        server.check_output(OBSTACLES["a package that somebody holds"][0])
    before = {name: state(server) for name, server in servers.items()}
    code, said = play(cuda_driver_upgrade=True)
    assert code != 0, said
    assert "libcuda1" in said
    assert {name: state(server) for name, server in servers.items()} == before


def test_nouveau_goes_with_the_reboot_and_the_driver_comes(blank, play):
    for server in blank.values():
        server.check_output("touch /etc/stand-in/nouveau && systemctl restart stand-in-machine && test -d /sys/module/nouveau")
    code, said = play()
    assert code == 0, said
    assert "reboot" in said
    assert "nouveau" in said
    boots = {}
    for name, server in blank.items():
        assert (installed(server), loaded(server)) == (NEW, "")
        assert server.file(f"/boot/initrd.img-{server.check_output('uname -r')}").exists
        boots[name] = server.check_output(BOOTED)
    code, said = play(cuda_reboot=True)
    assert code == 0, said
    for name, server in blank.items():
        assert server.check_output(BOOTED) != boots[name]
        assert not server.file("/sys/module/nouveau").exists
        assert loaded(server) == NEW
        assert server.service("nvidia-persistenced").is_running
        boots[name] = server.check_output(BOOTED)
    code, said = play(cuda_reboot=True)
    assert (code, said.count("changed=0")) == (0, 2), said
    assert {name: server.check_output(BOOTED) for name, server in blank.items()} == boots


def test_in_batches_a_server_that_fails_leaves_the_next_ones_alone_and_each_boots_in_its_turn(blank, away):
    run = testing.playbook(INVENTORY)
    everywhere(blank, "touch /etc/stand-in/nouveau && systemctl restart stand-in-machine")
    boots, before = everywhere(blank, BOOTED), state(blank["server2"])
    away("debian12/x86_64/libcuda1_*.deb")  # server1's
    code, said = run("cuda", cuda_serial=1, cuda_reboot=True)
    assert code != 0, said
    assert (installed(blank["server1"]), state(blank["server2"])) == ("", before)
    assert everywhere(blank, BOOTED) == boots
    away.back()
    code, said = run("cuda", cuda_serial=1, cuda_reboot=True)
    assert code == 0, said
    _, *batches = said.split("PLAY [Driver and toolkit]")
    for name, other, batch in zip(blank, reversed(blank), batches, strict=True):
        assert "Reboot | Boot the machine]" in batch
        assert f"changed: [{name}]" in batch
        assert f"[{other}]" not in batch
        assert (loaded(blank[name]), blank[name].check_output(BOOTED) != boots[name]) == (NEW, True)
