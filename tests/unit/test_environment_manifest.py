"""A finished environment is whole, or it is told what is wrong with it."""

import os
import stat
import subprocess

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import environment_manifest as manifest
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused

SITE = "lib/python3.11/site-packages"


@pytest.fixture
def environment(tmp_path):
    root = tmp_path / "cpu-1"
    package = root / SITE / "thing"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("x = 1\n")
    (package / "data").write_bytes(b"12345")
    (root / "bin").mkdir()
    (root / "bin/python").symlink_to("/usr/bin/python3")
    info = root / SITE / "thing-1.dist-info"
    info.mkdir()
    # sha256 of "x = 1\n" as wheels write it
    digest = manifest._encoded(manifest.sha256(str(package / "__init__.py")))
    (info / "RECORD").write_text(f"thing/__init__.py,sha256={digest},6\nthing-1.dist-info/RECORD,,\n")
    manifest.write(str(root), manifest.make(str(root)))
    return root


def test_what_was_just_made_is_whole(environment):
    assert manifest.damage(str(environment)) is None
    assert manifest.damage(str(environment), full=True) is None


def test_a_file_of_the_last_moment_of_a_second_is_whole_after_its_way_through_an_archive(environment, tmp_path):
    os.utime(environment / SITE / "thing/data", ns=(0, 1_763_881_234_999_999_990))
    manifest.write(str(environment), manifest.make(str(environment)))
    archive, other = tmp_path / "archive", tmp_path / "other"
    other.mkdir()
    subprocess.run(["tar", "-C", tmp_path, "-cf", archive, environment.name], check=True)
    subprocess.run(["tar", "-C", other, "-xf", archive], check=True)
    assert manifest.damage(str(other / environment.name)) is None


def reach_nowhere(root):
    """An environment that is as it was built, and whose Python the distribution has taken away since."""
    (root / "bin/python").unlink()
    (root / "bin/python").symlink_to("/usr/bin/python3.99")
    manifest.write(str(root), manifest.make(str(root)))


DAMAGES = {
    "a file is gone": lambda root: (root / SITE / "thing/data").unlink(),
    "a file is longer": lambda root: (root / SITE / "thing/data").write_bytes(b"123456"),
    "a file is newer": lambda root: os.utime(root / SITE / "thing/data", (1, 1)),
    "a file is foreign": lambda root: (root / SITE / "data").write_text(""),
    "a link leads elsewhere": lambda root: (root / "bin/python").unlink() or (root / "bin/python").symlink_to("/bin/sh"),
    "the interpreter is gone": reach_nowhere,
    "a link is a file": lambda root: (root / "bin/python").unlink() or (root / "bin/python").write_text(""),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_seen_and_named(name, environment):
    DAMAGES[name](environment)
    said = manifest.damage(str(environment))
    assert ("data" if "file is" in name and "link" not in name else "bin/python") in said


def test_bytes_that_changed_behind_size_and_time_are_seen_by_the_full_check(environment):
    path = environment / SITE / "thing/data"
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(b"54321")
    os.utime(path, ns=times)
    assert manifest.damage(str(environment)) is None
    assert "thing/data" in manifest.damage(str(environment), full=True)


def test_no_manifest_is_damage(environment):
    (environment / manifest.NAME).unlink()
    assert "manifest" in manifest.damage(str(environment))


def test_a_wheel_that_was_changed_in_the_cache_is_refused(environment):
    root = str(environment)
    manifest.check_records(root, SITE, manifest.make(root))
    (environment / SITE / "thing/__init__.py").write_text("x = 2\n")
    with pytest.raises(Refused, match=r"vllm_cache_directory: .*thing/__init__\.py.*Remove that directory"):
        manifest.check_records(root, SITE, manifest.make(root))


def test_the_records_of_packages_within_packages_do_not_count(environment):
    inner = environment / SITE / "thing/_vendor/other-1.dist-info"
    inner.mkdir(parents=True)
    (inner / "RECORD").write_text("other/__init__.py,sha256=AAAA,1\n")
    manifest.check_records(str(environment), SITE, manifest.make(str(environment)))


def test_frozen_is_read_only_and_can_still_be_removed(environment):
    manifest.freeze(str(environment))
    modes = [os.lstat(os.path.join(folder, name)) for folder, folders, files in os.walk(environment) for name in [*folders, *files]]
    assert not [found for found in modes if found.st_mode & manifest.WRITE and not stat.S_ISLNK(found.st_mode)]
    assert manifest.damage(str(environment)) is None
    manifest.remove(str(environment))
    assert not environment.exists()


def test_removing_follows_no_link(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("")
    (tmp_path / "doomed").mkdir()
    (tmp_path / "doomed/link").symlink_to(tmp_path / "precious")
    manifest.remove(str(tmp_path / "doomed"))
    assert (tmp_path / "precious/file").exists()
