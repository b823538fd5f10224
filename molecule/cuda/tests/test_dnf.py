"""What real dnf makes of the names and streams that the role's tables have for the Red Hat family, in a root of its own."""

from __future__ import annotations

import pytest
from conftest import NEW, NEXT

DNF = (
    "dnf -y --installroot=/srv/root{release} --releasever={release} --setopt=module_platform_id=platform:el{release} "
    "--setopt=reposdir=/none "
    "--repofrompath=cuda,file:///srv/vendor/www/rhel{release}/x86_64 --nogpgcheck --setopt=install_weak_deps=false {words}"
)


@pytest.fixture(scope="module")
def built(mirror):
    """The host with the repositories, with dnf on it, and the vendor's repositories for dnf."""
    mirror.check_output("DEBIAN_FRONTEND=noninteractive apt-get install -qqy --no-install-recommends dnf rpm createrepo-c dnf-plugins-core")
    mirror.check_output("cd /srv/vendor && python3 -m vendor.rpms")
    return mirror


@pytest.fixture
def dnf(built):
    """Run dnf for a release in a new root."""
    built.check_output("rm -rf /srv/root*")

    def run(release, words):
        return built.run(DNF.format(release=release, words=words))

    run.versions = lambda release: dict(
        line.split() for line in built.check_output(f"rpm --root /srv/root{release} -qa --qf '%{{NAME}} %{{VERSION}}\\n'").splitlines()
    )
    return run


@pytest.mark.parametrize(("kind", "modules"), [("open", "kmod-nvidia-open-dkms"), ("dkms", "kmod-nvidia-latest-dkms")])
def test_a_stream_keeps_its_branch_and_its_kind_of_modules(dnf, kind, modules):
    assert dnf("9", f"module enable nvidia-driver:580-{kind}").rc == 0
    done = dnf("9", f"install nvidia-driver-cuda {modules}")
    assert done.rc == 0, done.stderr
    versions = dnf.versions("9")
    assert (versions["nvidia-driver-cuda"], versions[modules]) == (NEW, NEW)
    assert dnf("9", "upgrade").rc == 0
    assert dnf.versions("9") == versions
    other = "kmod-nvidia-latest-dkms" if kind == "open" else "kmod-nvidia-open-dkms"
    assert dnf("9", f"install {other}").rc != 0


def test_without_streams_only_a_lock_keeps_the_branch(dnf):
    packages = "nvidia-driver-cuda kmod-nvidia-open-dkms"
    assert dnf("10", f"install {packages}").rc == 0
    assert dnf.versions("10")["nvidia-driver-cuda"] == NEXT
