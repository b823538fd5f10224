"""What real dnf makes of the names and streams that the role's tables have for the Red Hat family, in a root of its own."""

from __future__ import annotations

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils.cuda_packages import OPEN, PROPRIETARY, SYSTEMS, driver, toolkit
from conftest import NEW, NEXT

# noscripts: a root with nothing but these packages has no shell
DNF = (
    "dnf -y --installroot=/srv/root{release} --releasever={release} --setopt=module_platform_id=platform:el{release} "
    "--setopt=reposdir=/none "
    "--repofrompath=cuda,file:///srv/vendor/www/rhel{release}/x86_64 --nogpgcheck --setopt=install_weak_deps=false "
    "--setopt=tsflags=noscripts {words}"
)


def names(release, kind):
    """What the role installs on a release of the Red Hat family."""
    return driver(SYSTEMS["rocky", release], "repository", 580, kind)


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


@pytest.mark.parametrize("kind", [OPEN, PROPRIETARY])
def test_a_stream_keeps_its_branch_and_its_kind_of_modules(dnf, kind):
    wanted, other = (names("9", one) for one in (kind, OPEN if kind == PROPRIETARY else PROPRIETARY))
    assert dnf("9", f"module enable {wanted.stream}").rc == 0
    done = dnf("9", f"install {' '.join(wanted.packages)} {' '.join(toolkit(SYSTEMS['rocky', '9'], 'repository', 'compiler', '13.0'))}")
    assert done.rc == 0, done.stderr
    versions = dnf.versions("9")
    assert {versions[name] for name in wanted.packages} == {NEW}
    assert versions["cuda-nvcc-13-0"] == "13.0.2"
    assert dnf("9", f"install {wanted.fabric_manager}-{NEW}").rc == 0
    assert dnf("9", "upgrade").rc == 0
    assert {name: version for name, version in dnf.versions("9").items() if name in versions} == versions
    assert dnf("9", f"install {other.packages[1]}").rc != 0


def test_without_streams_only_a_lock_keeps_the_branch(dnf):
    wanted = names("10", OPEN)
    assert not wanted.stream
    assert dnf("10", f"install {' '.join(wanted.packages)}").rc == 0
    assert {dnf.versions("10")[name] for name in wanted.packages} == {NEXT}
    assert dnf("10", f"downgrade {' '.join(f'{name}-{NEW}' for name in wanted.packages)}").rc == 0
    assert {dnf.versions("10")[name] for name in wanted.packages} == {NEW}
