"""Files in homes as people have them: a right result, or a sentence and nothing changed."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from pathlib import Path

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.tree import Entry, apply, inspect
from ansible_collections.ownmetal.codex.plugins.module_utils.tree_plan import plan, wanted

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")

NOBODY = pwd.getpwnam("nobody")
MINE = '# mine\r\nmodel = "theirs"\r\nshell = {set = {A = "1"}}\r\n[[hooks]]\r\nx = 1\r\n[[hooks]]\r\nx = 2\r\n'
OURS = 'model = "ours"\n[model_providers.vllm]\nbase_url = "u"\n'


FOLDER = {"dest": "~nobody/.codex", "state": "directory", "mode": "0700"}


def roundtrip(*before, **more):
    """Merge into ~nobody/.codex/config.toml as the role does, after other entries."""
    path = "~nobody/.codex/config.toml"
    asked = {"dest": path, "content": OURS, "merge": "toml", "mode": "0600", "original": f"{path}.before", **more}
    files = [wanted(entry, lambda *_: "") for entry in (*before, asked)]
    todo = plan(files, inspect([Entry(**entry.question(True)) for entry in files]))
    apply([Entry(**one) for one in todo.entries])
    return todo


@pytest.fixture
def home(monkeypatch):
    """The home of the user nobody, with a configuration of his own."""
    base = Path(tempfile.mkdtemp(dir="/var/tmp"))
    base.chmod(0o755)
    (base / "home/.codex").mkdir(parents=True)
    (base / "home/.codex/config.toml").write_bytes(MINE.encode())
    for path in (base / "home", *(base / "home").rglob("*")):
        os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    monkeypatch.setattr(pwd, "getpwnam", lambda _name: pwd.struct_passwd((*NOBODY[:5], str(base / "home"), NOBODY[6])))
    yield base / "home"
    shutil.rmtree(base)


def everything(home):
    """Return each path with its owner, its mode, and its text or target."""
    found = {}
    for path in sorted(home.rglob("*")):
        info = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path)] = (info.st_uid, info.st_mode, content)
    return found


def dotfiles(home):
    """His configuration lives in a repository of dotfiles."""
    os.seteuid(NOBODY.pw_uid)
    (home / "dotfiles").mkdir()
    (home / ".codex/config.toml").rename(home / "dotfiles/codex.toml")
    (home / ".codex/config.toml").symlink_to("../dotfiles/codex.toml")
    os.seteuid(0)


def linked_folder(home):
    """The whole folder is in the repository."""
    os.seteuid(NOBODY.pw_uid)
    (home / "dotfiles").mkdir()
    (home / ".codex").rename(home / "dotfiles/codex")
    (home / ".codex").symlink_to("dotfiles/codex")
    os.seteuid(0)


def folder_elsewhere(home):
    """The folder is his, and outside of his home."""
    (home / ".codex").rename(home.parent / "codex")
    (home / ".codex").symlink_to(home.parent / "codex")


def folder_of_roots(home):
    """The link leads to what root keeps in his home."""
    linked_folder(home)
    os.chown(home / "dotfiles/codex", 0, 0)


def folder_that_is_none(home):
    """The repository is not there."""
    shutil.rmtree(home / ".codex")
    (home / ".codex").symlink_to("none")


def dangling(home):
    """The repository is not there."""
    (home / ".codex/config.toml").unlink()
    (home / ".codex/config.toml").symlink_to("../none/codex.toml")


def read_only(home):
    """The home is read-only, and so is the folder."""
    (home / ".codex").chmod(0o500)


def roots_secret(home):
    """Somebody ran an editor with sudo."""
    os.chown(home / ".codex/config.toml", 0, 0)
    (home / ".codex/config.toml").chmod(0o600)


def roots_folder(home):
    """Somebody ran Codex with sudo."""
    os.chown(home / ".codex", 0, 0)


def hidden_folder(home):
    """The same, and with a tighter umask."""
    os.chown(home / ".codex", 0, 0)
    (home / ".codex").chmod(0o700)


def broken(home):
    """A quote is missing."""
    (home / ".codex/config.toml").write_text('model = "x\n')


REFUSED = [
    (dangling, "cannot be written: No such file or directory"),
    (read_only, "cannot be written: Permission denied"),
    (roots_secret, "config.toml: cannot be read by nobody, whose home it is in."),
    (roots_folder, "cannot be written: Permission denied"),
    (hidden_folder, "cannot be read by nobody, whose home it is in."),
    (broken, "line 1"),
]
FOLDERS = [
    (folder_elsewhere, "is a link, and has to be a directory. It leads to .*: only a folder in the home that is the user's own"),
    (folder_of_roots, "is a link, and has to be a directory. It leads to dotfiles/codex"),
    (folder_that_is_none, "is a link, and has to be a directory. It leads to none"),
]


@pytest.mark.parametrize(("made", "words"), REFUSED, ids=[made.__name__ for made, _words in REFUSED])
def test_what_cannot_be_merged_is_said_and_left_as_it_was(made, words, home):
    made(home)
    before = everything(home)
    with pytest.raises(Refused, match=words):
        roundtrip()
    assert everything(home) == before


@pytest.mark.parametrize(("made", "words"), FOLDERS, ids=[made.__name__ for made, _words in FOLDERS])
def test_a_folder_that_is_not_the_users_own_is_not_followed(made, words, home):
    made(home)
    before = everything(home.parent)
    with pytest.raises(Refused, match=words):
        roundtrip(FOLDER)
    assert everything(home.parent) == before


def test_a_configuration_in_a_repository_stays_a_link_and_comes_back(home):
    dotfiles(home)
    before = everything(home)
    roundtrip()
    file = home / "dotfiles/codex.toml"
    assert (home / ".codex/config.toml").is_symlink()
    assert b'model = "ours"\r\n' in file.read_bytes()
    assert file.stat().st_uid == NOBODY.pw_uid
    assert roundtrip().entries == []
    roundtrip(state="absent")
    assert {path: (owner, content) for path, (owner, _mode, content) in everything(home).items()} == {
        path: (owner, content) for path, (owner, _mode, content) in before.items()
    }


def test_a_folder_in_a_repository_stays_a_link_and_comes_back(home):
    linked_folder(home)
    before = everything(home)
    roundtrip(FOLDER)
    assert os.readlink(home / ".codex") == "dotfiles/codex"
    assert b'model = "ours"\r\n' in (home / "dotfiles/codex/config.toml").read_bytes()
    assert (home / "dotfiles/codex").stat().st_mode & 0o777 == 0o700
    assert {info[0] for path, info in everything(home).items()} == {NOBODY.pw_uid}
    assert roundtrip(FOLDER).entries == []
    roundtrip(state="absent")
    assert {path: (owner, content) for path, (owner, _mode, content) in everything(home).items()} == {
        path: (owner, content) for path, (owner, _mode, content) in before.items()
    }


def test_a_readable_file_of_roots_becomes_the_users_with_all_that_is_in_it(home):
    os.chown(home / ".codex/config.toml", 0, 0)
    (home / ".codex/config.toml").chmod(0o644)
    roundtrip()
    text = (home / ".codex/config.toml").read_bytes().decode()
    assert (home / ".codex/config.toml").stat().st_uid == NOBODY.pw_uid
    assert text.replace('"ours"', '"theirs"').startswith(MINE.split("[[", maxsplit=1)[0])
    assert text.count("[[hooks]]\r\n") == 2
    assert "\n" not in text.replace("\r\n", "")
    roundtrip(state="absent")
    assert (home / ".codex/config.toml").read_bytes().decode() == MINE
