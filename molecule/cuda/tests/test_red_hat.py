"""The role's tasks for the Red Hat family, run with real dnf on a Debian host that calls itself Rocky Linux and has no dpkg any more."""

from __future__ import annotations

import pytest
from conftest import INVENTORY, NEW, OLD

from lab import testing

GROUP = {"gpu_servers_group": "red_hats"}
TURN = r"""
set -e
DEBIAN_FRONTEND=noninteractive apt-get install -qqy --no-install-recommends dnf rpm dnf-plugins-core gpg >/dev/null
rm /usr/lib/python3/dist-packages/dnf-plugins/local.py  # Debian's own; no system of the family has it on
mkdir -p /etc/dnf/vars /etc/yum.repos.d
mv /var/lib/dpkg /var/lib/dpkg.away
"""
# a system of its own, on which nobody installed anything
BLANK = r"""
set -e
rpm -qa | grep . | xargs -r rpm -e --nodeps --noscripts 2>/dev/null || true
rm -rf /var/lib/rpm/* /var/lib/dnf/* /var/cache/dnf/* /etc/yum.repos.d/* /etc/dnf/modules.d/* \
    /etc/pki/rpm-gpg/* /etc/modprobe.d/*ownmetal* /usr/local/bin/nvcc /lib/modules/$(uname -r)/updates
: >/etc/dnf/plugins/versionlock.list
printf 'ID=rocky\nVERSION_ID="RELEASE.1"\n' >/etc/os-release
printf '[main]\ngpgcheck=1\nbest=True\nmodule_platform_id=platform:elRELEASE\n' >/etc/dnf/dnf.conf
echo RELEASE >/etc/dnf/vars/releasever
rpm --initdb
systemctl daemon-reload
systemctl restart stand-in-machine
"""


@pytest.fixture(scope="session")
def rocky(built):
    """The host, once it is one."""
    server = testing.host("rocky1", INVENTORY)
    server.check_output(f"test -e /var/lib/dpkg.away || {{ {TURN} }}")
    return server


@pytest.fixture
def release(rocky):
    """A function: a bare server of a release."""

    def bare(number):
        rocky.check_output(BLANK.replace("RELEASE", number))
        return rocky

    return bare


def versions(server):
    """What is installed, by name."""
    return dict(line.split() for line in server.check_output("rpm -qa --qf '%{NAME} %{VERSION}\\n'").splitlines())


def state(server):
    return server.check_output(
        "rpm -qa | sort; cat /etc/yum.repos.d/* /etc/dnf/modules.d/* /etc/dnf/plugins/versionlock.list 2>/dev/null || true"
    )


@pytest.mark.parametrize("number", ["9", "10"])
def test_a_bare_server_and_what_is_left_of_it(release, play, number):
    server = release(number)
    before = state(server)
    code, said = play("--check", **GROUP)
    assert code == 0, said
    assert state(server) == before
    asked = {**GROUP, "cuda_dcgm": True, "cuda_container_toolkit": True}
    code, said = play(**asked)
    assert code == 0, said
    found = versions(server)
    assert {found[name] for name in ("nvidia-driver-cuda", "kmod-nvidia-open-dkms")} == {NEW}  # of the branch, not the newest
    assert found["nvidia-container-toolkit"] == "1.18.0"
    assert "release 13.0" in server.check_output("runuser -u nobody -- nvcc --version")
    for unit in ("nvidia-persistenced", "nvidia-dcgm"):
        assert server.service(unit).is_running
        assert server.service(unit).is_enabled
    code, said = play(**asked)
    assert (code, said.count("changed=0")) == (0, 1), said
    server.check_output("dnf -y upgrade")  # an operator's own
    assert versions(server)["nvidia-driver-cuda"] == NEW
    code, said = testing.playbook(INVENTORY)("uninstall", cuda_uninstall_packages=True, **GROUP)
    assert code == 0, said
    assert not [name for name in versions(server) if "nvidia" in name]
    left = state(server).splitlines()
    assert not [line for line in left if line.startswith(("[cuda", "[ownmetal", "nvidia", "kmod", "state=enabled"))], left


def test_an_older_driver_moves_only_with_leave_and_its_fabric_manager_with_it(release, play):
    server = release("10")
    server.check_output(
        "mkdir -p /etc/stand-in/pci/0000:a1:00.0 && cd /etc/stand-in/pci/0000:a1:00.0 && echo 0x10de >vendor && "
        "echo 0x068000 >class && echo 0x22a3 >device && systemctl restart stand-in-machine"
    )
    described = "curl -fsS http://mirror1/rhel10/x86_64/cuda-rhel10.repo | sed 's|https://.*/repos/|http://mirror1/|'"
    server.check_output(f"{described} >/etc/yum.repos.d/cuda-rhel10.repo")
    server.check_output(f"dnf -y install nvidia-driver-cuda-{OLD} kmod-nvidia-open-dkms-{OLD}")
    for options, version in (({}, OLD), ({"cuda_driver_upgrade": True}, NEW)):
        code, said = play(**GROUP, **options)
        assert code == 0, said
        found = versions(server)
        assert {found[name] for name in ("nvidia-driver-cuda", "kmod-nvidia-open-dkms", "nvidia-fabricmanager")} == {version}
        locked = server.check_output("cat /etc/dnf/plugins/versionlock.list")
        assert f"nvidia-driver-cuda-3:{version}" in locked
        assert f"nvidia-fabricmanager-0:{version}" in locked
    code, said = play(**GROUP)
    assert (code, said.count("changed=0")) == (0, 1), said


def test_another_stream(release, play):
    server = release("9")
    code, said = play(**GROUP, cuda_driver_branch="570", vllm_track="cu12-py310", cuda_toolkit="none")
    assert code == 0, said
    assert versions(server)["nvidia-driver-cuda"].startswith("570.")
    code, said = play(**GROUP)
    assert code != 0, said
    assert "cuda_driver_upgrade: true" in said
    code, said = play(**GROUP, cuda_driver_upgrade=True)
    assert code == 0, said
    assert versions(server)["nvidia-driver-cuda"] == NEW
    code, said = play(**GROUP, cuda_driver_upgrade=True)  # the permission may stay
    assert (code, said.count("changed=0")) == (0, 1), said


def test_what_does_not_come_is_told(release, play):
    server = release("9")
    before = state(server)
    code, said = play(**GROUP, cuda_repository="http://mirror1/nowhere")
    assert code != 0, said
    assert "cuda_repository: rocky1 did not get cuda-rhel9.repo from http://mirror1/nowhere/rhel9/x86_64" in said
    assert state(server) == before
