"""Releases of Codex: which archives are refused before anything changes, what is made of one, whose it is, and how it goes."""

from __future__ import annotations

import hashlib
import os
import platform
import pwd
import shutil
import tarfile
import tempfile
from pathlib import Path

import pytest
import yaml
from ansible_collections.ownmetal.codex.plugins.module_utils import codex_release as core
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused

MACHINE = platform.machine()
TRIPLE = core.TRIPLES.get(MACHINE, "")
SAYS = "#!/bin/sh\necho codex-cli 0.169.0\n"
# how it is packed: by npm, by npm before 0.134, on the release page, and there with its helpers
PACKED = [
    {f"package/vendor/{TRIPLE}/bin/codex": SAYS, "package/package.json": '{"version": "0.169.0-linux-x64"}'},
    {f"package/vendor/{TRIPLE}/codex/codex": SAYS, f"package/vendor/{TRIPLE}/path/rg": "rg"},
    {f"codex-{TRIPLE}": SAYS},
    {"./bin/codex": SAYS, "./codex-path/rg": "rg"},
]

pytestmark = pytest.mark.skipif(not TRIPLE, reason="no Codex is made for this processor")


def pack(path, members):
    """Write an archive, and return its sha256; a member is its text, or a link's target in a tuple."""
    with tarfile.open(path, "w:gz") as packed:
        for name, text in members.items():
            row = tarfile.TarInfo(name)
            row.mode = 0o4777
            if isinstance(text, tuple):
                row.type, row.linkname = tarfile.SYMTYPE, text[0]
                packed.addfile(row)
                continue
            file = path.parent / "member"
            file.write_text(text)
            row.size = len(text)
            with file.open("rb") as stream:
                packed.addfile(row, stream)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("members", PACKED)
def test_a_release_is_made_from_each_way_of_packing(members, tmp_path):
    archive, release = tmp_path / "codex.tar.gz", tmp_path / "share/codex/0.169.0"
    sha256 = pack(archive, members)
    assert list(core.archive_problems(str(archive), sha256, "0.169.0", MACHINE)) == []
    core.install(str(archive), sha256.upper(), "0.169.0", str(release), None, str(tmp_path / "bin/codex"))
    assert (release / "codex").resolve().read_text() == SAYS
    assert (release / "codex").resolve().stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "bin").is_dir()
    assert sorted(path.name for path in release.parent.iterdir()) == ["0.169.0"]
    assert not (release / ".home").exists()


def test_a_release_is_made_from_what_npm_fetched(tmp_path):
    # where the role lets npm fetch: beside the release
    role = Path(__file__).resolve().parents[2] / "roles/codex/vars/main.yml"
    beside = yaml.safe_load(role.read_text())["__codex_part"].rpartition("/")[2].replace("{{ codex_version }}", "0.169.0")
    source = tmp_path / beside
    program = source / f"vendor/{TRIPLE}/bin/codex"
    program.parent.mkdir(parents=True)
    program.write_text(SAYS)
    program.chmod(0o755)
    core.install(str(source), None, "0.169.0", str(tmp_path / "0.169.0"), None, str(tmp_path / "bin/codex"))
    assert (tmp_path / "0.169.0/codex").resolve().read_text() == SAYS


# the archive, what is said on the controller, and on the machine
BAD = [
    ({"package/README.md": "x"}, "holds no Codex for the processor", "holds no Codex for the processor"),
    ({"package/vendor/aarch64-apple-darwin/bin/codex": SAYS}, "holds no Codex for the processor", "holds no Codex for the processor"),
    ({**PACKED[0], "package/package.json": '{"version": "0.160.0-linux-x64"}'}, 'Write codex_version: "0.160.0".', None),
    ({**PACKED[0], "package/package.json": '{"version": "0.169.0-alpha.2-linux-x64"}'}, "holds 0.169.0-alpha.2", None),
    ({f"codex-{TRIPLE}": "#!/bin/sh\necho codex-cli 0.160.0\n"}, None, "what came says: codex-cli 0.160.0."),
    ({f"codex-{TRIPLE}": "#!/bin/sh\nexit 3\n"}, None, "what came says: 3."),
    ({f"codex-{TRIPLE}": "#!/none\n"}, None, "does not run here"),
    ({**PACKED[0], "../../escaped": "x"}, None, "leads out of it, or is no file"),
    ({**PACKED[0], "/etc/escaped": "x"}, None, "leads out of it, or is no file"),
    ({**PACKED[0], "package/link": ("/etc",)}, None, "leads out of it, or is no file"),
]


@pytest.mark.parametrize(("members", "before", "there"), BAD)
def test_what_is_no_such_codex_is_refused_and_leaves_nothing(members, before, there, tmp_path):
    archive, release = tmp_path / "codex.tar.gz", tmp_path / "codex/0.169.0"
    sha256 = pack(archive, members)
    said = [str(refused) for refused in core.archive_problems(str(archive), sha256, "0.169.0", MACHINE)]
    assert len(said) == (before is not None)
    assert before is None or before in said[0]
    if there:
        with pytest.raises(Refused, match=there):
            core.install(str(archive), sha256, "0.169.0", str(release), None, str(tmp_path / "bin/codex"))
        assert list(release.parent.iterdir()) == []
        assert not list(tmp_path.rglob("escaped"))


def test_another_file_than_the_one_that_was_meant_is_refused(tmp_path):
    archive = tmp_path / "codex.tar.gz"
    sha256 = pack(archive, PACKED[0])
    said = [str(refused) for refused in core.archive_problems(str(archive), "0" * 64, "0.169.0", MACHINE)]
    assert said == [
        f"codex_archive_sha256: is not that of {archive}, which has {sha256}. Fetch the file again, or correct the digest.",
    ]
    with pytest.raises(Refused, match="is not that of what came to the machine"):
        core.install(str(archive), "0" * 64, "0.169.0", str(tmp_path / "codex/0.169.0"), None, str(tmp_path / "bin/codex"))
    assert list((tmp_path / "codex").iterdir()) == []


@pytest.mark.parametrize(("text", "words"), [(None, "cannot be read on the controller"), (b"no archive", "cannot be unpacked")])
def test_what_is_no_archive_is_refused(text, words, tmp_path):
    archive = tmp_path / "codex.tar.gz"
    if text:
        archive.write_bytes(text)
    sha256 = hashlib.sha256(text or b"").hexdigest()
    assert [words in str(refused) for refused in core.archive_problems(str(archive), sha256, "0.169.0", MACHINE)] == [True]


def test_where_releases_go():
    assert core.places("machine", [{"name": "ann"}], "0.169.0") == [
        {
            "user": "",
            "directory": "/opt/codex",
            "release": "/opt/codex/0.169.0",
            "link": "/usr/local/bin/codex",
            "target": "/opt/codex/0.169.0/codex",
        }
    ]
    homes = core.places("user", [{"name": "ann"}, {"name": "bob"}], "0.169.0")
    assert [place["release"] for place in homes] == ["~ann/.local/share/codex/0.169.0", "~bob/.local/share/codex/0.169.0"]
    assert homes[0]["link"] == "~ann/.local/bin/codex"
    assert homes[0]["target"] == "../share/codex/0.169.0/codex"


def test_a_home_without_rights_to_write_is_refused_in_words(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    (tmp_path / "home").mkdir(mode=0o500)
    sha256 = pack(tmp_path / "codex.tar.gz", PACKED[0])
    with pytest.raises(Refused, match="cannot be written: Permission denied"):
        core.install(
            str(tmp_path / "codex.tar.gz"), sha256, "0.169.0", str(tmp_path / "home/codex/0.169.0"), None, str(tmp_path / "bin/codex")
        )


@pytest.fixture
def home(monkeypatch):
    """A home of the user nobody, whom root becomes; as another user, one's own."""
    base = Path(tempfile.mkdtemp(dir="/var/tmp"))
    base.chmod(0o755)
    (base / "home").mkdir()
    if os.geteuid() == 0:
        record = pwd.getpwnam("nobody")
        os.chown(base / "home", record.pw_uid, record.pw_gid)
    monkeypatch.setattr("ansible_collections.ownmetal.codex.plugins.module_utils.tree.home_of", lambda _user: str(base / "home"))
    yield base / "home"
    shutil.rmtree(base)


def test_in_a_home_everything_is_the_users_and_goes_alone(home, tmp_path):
    sha256 = pack(tmp_path / "codex.tar.gz", PACKED[0])  # in a folder that root alone can read
    place = core.places("user", [{"name": "nobody"}], "0.169.0")[0]
    core.install(str(tmp_path / "codex.tar.gz"), sha256, "0.169.0", place["release"], "nobody", place["link"])
    (home / ".local/bin/codex").symlink_to(place["target"])
    assert (home / ".local/bin/codex").resolve().read_text() == SAYS
    owner = home.stat().st_uid
    files = [path for path in home.rglob("*") if path != home / ".local/bin/codex"]
    assert {path.lstat().st_uid for path in files} == {owner}

    (home / ".local/share/codex/notes").mkdir()
    gone = [str(home / ".local/bin/codex"), str(home / ".local/share/codex/0.169.0")]
    assert core.remove(place["directory"], place["link"], "nobody", check=True) == gone
    assert (home / ".local/share/codex/0.169.0").exists()
    assert core.remove(place["directory"], place["link"], "nobody") == gone
    assert core.remove(place["directory"], place["link"], "nobody") == []
    assert sorted(path.name for path in (home / ".local").rglob("*")) == ["bin", "codex", "notes", "share"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
def test_a_link_in_a_home_leads_root_nowhere(home, tmp_path):
    sha256 = pack(tmp_path / "codex.tar.gz", PACKED[0])
    (tmp_path / "of-root").mkdir(mode=0o700)
    (home / ".local").mkdir()
    (home / ".local/share").symlink_to(tmp_path / "of-root")
    place = core.places("user", [{"name": "nobody"}], "0.169.0")[0]
    with pytest.raises(Refused, match="cannot be written: "):
        core.install(str(tmp_path / "codex.tar.gz"), sha256, "0.169.0", place["release"], "nobody", place["link"])
    assert list((tmp_path / "of-root").iterdir()) == []
