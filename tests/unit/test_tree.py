"""The tree: what is compared, what is written, and that nothing is half-written."""

import base64
import hashlib
import os
import pwd
import stat

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.observe import observe
from ansible_collections.ownmetal.codex.plugins.module_utils.tree import Entry, apply, inspect
from ansible_collections.ownmetal.codex.plugins.module_utils.tree_plan import plan, wanted


def roundtrip(files, diff=True):
    """What the action does: ask, plan, write. Returns the plan."""
    entries = [wanted(entry, lambda template, _vars: f"rendered {template}\n") for entry in files]
    found = inspect([Entry(**entry.question(diff)) for entry in entries])
    todo = plan(entries, found)
    apply([Entry(**entry) for entry in todo.entries])
    return todo


def file(dest, content, **more):
    return {"dest": str(dest), "content": content, "owner": None, "group": None, **more}


def test_a_second_run_changes_nothing(tmp_path):
    files = [
        {"dest": f"{tmp_path}/d", "state": "directory", "mode": "0750", "owner": None, "group": None},
        file(tmp_path / "d/a", "one\n", mode="0640"),
        {"dest": f"{tmp_path}/d/t", "template": "x.j2", "owner": None, "group": None},
        {"dest": f"{tmp_path}/d/l", "state": "link", "target": "a"},
        {"dest": f"{tmp_path}/gone", "state": "absent"},
    ]
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone/x").write_text("x")
    first = roundtrip(files)
    assert [os.path.basename(path) for path in first.paths] == ["d", "a", "t", "l", "gone"]
    assert (tmp_path / "d/t").read_text() == "rendered x.j2\n"
    assert stat.S_IMODE((tmp_path / "d/a").stat().st_mode) == 0o640
    assert sorted(os.listdir(tmp_path / "d")) == ["a", "l", "t"]
    assert roundtrip(files).entries == []


def test_one_invalid_file_leaves_all_as_they_were(tmp_path):
    (tmp_path / "a").write_text("old a")
    files = [
        {"dest": f"{tmp_path}/new", "state": "directory", "owner": None, "group": None},
        file(tmp_path / "a", "new a"),
        file(tmp_path / "new/b", "bad", validate="grep -q good %s"),
    ]
    with pytest.raises(Refused, match="its validator refused it"):
        roundtrip(files)
    assert (tmp_path / "a").read_text() == "old a"
    assert os.listdir(tmp_path) == ["a"]


def test_files_that_belong_together_are_judged_together(tmp_path):
    (tmp_path / "secrets").write_text("old")
    judge = ["sh", "-c", r'grep -q "$(cat "$(echo "$OWNMETAL_STAGED" | sed -n "s#.*/secrets\t##p")")" "$0"', "%s"]
    with pytest.raises(Refused, match="its validator refused it"):
        roundtrip([file(tmp_path / "secrets", "other"), file(tmp_path / "config", "of the new", validate=judge)])
    assert (tmp_path / "secrets").read_text() == "old"
    roundtrip([file(tmp_path / "secrets", "new"), file(tmp_path / "config", "of the new", validate=judge)])
    assert (tmp_path / "secrets").read_text() == "new"


def test_a_validator_sees_the_files_own_name(tmp_path):
    roundtrip([file(tmp_path / "x.service", "good", validate=["sh", "-c", 'test "$(basename $0)" = x.service', "%s"])])
    assert (tmp_path / "x.service").read_text() == "good"


def test_a_missing_directory_is_told(tmp_path):
    with pytest.raises(Refused, match="cannot be written: No such file or directory"):
        roundtrip([file(tmp_path / "no/a", "x")])


def test_another_kind_of_thing_is_not_replaced(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(Refused, match="is a directory, and has to be a file"):
        roundtrip([file(tmp_path / "a", "x")])


def test_a_link_is_replaced_by_a_link(tmp_path):
    (tmp_path / "l").symlink_to("one")
    roundtrip([{"dest": f"{tmp_path}/l", "state": "link", "target": "two"}])
    assert os.readlink(tmp_path / "l") == "two"


def test_a_secret_is_in_no_diff(tmp_path):
    (tmp_path / "k").write_text("oldkey")
    todo = roundtrip([file(tmp_path / "k", "newkey", secret=True, mode="0600")])
    shown = str(todo.diff)
    assert "oldkey" not in shown
    assert "newkey" not in shown
    assert base64.b64encode(b"newkey").decode() not in shown
    assert "content" in shown


def test_a_diff_shows_both_texts(tmp_path):
    (tmp_path / "a").write_text("old\n")
    (difference,) = roundtrip([file(tmp_path / "a", "new\n")]).diff
    assert (difference["before"], difference["after"]) == ("old\n", "new\n")


def test_without_diff_no_content_travels_back(tmp_path):
    (tmp_path / "a").write_text("old\n")
    entry = wanted(file(tmp_path / "a", "new\n"), None)
    (found,) = inspect([Entry(**entry.question(False))])
    assert "content" not in found
    assert found["sha256"] == hashlib.sha256(b"old\n").hexdigest()


def test_a_mode_alone_is_mended(tmp_path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "a").chmod(0o666)
    todo = roundtrip([file(tmp_path / "a", "x", mode="0600")])
    assert "content" not in todo.entries[0]
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


def test_toml_is_merged_and_taken_out_again(tmp_path):
    path, kept = tmp_path / "c.toml", tmp_path / "c.toml.before"
    path.write_text('# mine\nmodel = "theirs"\n[other]\nx = 1\n')
    managed = file(path, 'model = "ours"\n[provider]\nurl = "u"\n', merge="toml", original=str(kept), mode="0600")
    roundtrip([managed])
    assert "# mine" in path.read_text()
    assert 'model = "ours"' in path.read_text()
    assert kept.read_text().startswith("# mine")
    assert roundtrip([managed]).entries == []
    roundtrip([{**managed, "state": "absent"}])
    assert path.read_text() == '# mine\nmodel = "theirs"\n[other]\nx = 1\n'
    assert not kept.exists()


@pytest.mark.parametrize("own", ["", '# mine\nmodel = "theirs"\n'])
def test_what_was_merged_is_taken_out_by_the_hosts_own_note(tmp_path, own):
    path, note, kept = tmp_path / "c.toml", tmp_path / "c.toml.ownmetal", tmp_path / "c.toml.before"
    if own:
        path.write_text(own)
    managed = 'model = "ours"\nold = 1\n'
    roundtrip([file(path, managed, merge="toml", original=str(kept)), file(note, managed)])
    path.write_text(path.read_text() + "since = 1\n")
    path.chmod(0o644)
    gone = {"dest": str(path), "state": "absent", "merge": "toml", "notes": [str(note), str(kept)], "original": str(kept)}
    roundtrip([gone, {"dest": str(note), "state": "absent"}])
    assert path.read_text() == f"{own}since = 1\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644, "others could read it before"
    assert os.listdir(tmp_path) == ["c.toml"]
    # without a note it is somebody else's
    assert roundtrip([gone, {"dest": str(note), "state": "absent"}]).entries == []


def test_names_are_found_by_a_pattern(tmp_path):
    for name in ("b.x", "a.x", "a.y"):
        (tmp_path / name).write_text("")
    found = observe({"paths": [f"{tmp_path}/*.x", f"{tmp_path}/*.z", f"{tmp_path}/none/*"]})["paths"]
    assert list(found.values()) == [
        {"exists": True, "matches": ["a.x", "b.x"]}, {"exists": False, "matches": []}, {"exists": False, "matches": []}
    ]  # fmt: skip


def test_a_merge_shows_no_value_of_a_line_that_was_somebodys(tmp_path):
    (tmp_path / "c.toml").write_text('model = "hush-hush"\nbraces = { x = "hush" }\n[mine]\nfast = 1\n')
    managed = 'model = "ours"\nlog_token = "sk-ours"\ntool_output_token_limit = 4096\n'
    retired = 'ownmetal_retired = [{ path = ["mine", "fast"], why = "no key" }, { path = ["braces", "x"], why = "no key" }]\n'
    (difference,) = roundtrip([file(tmp_path / "c.toml", retired + managed, merge="toml")]).diff
    lines = difference["prepared"].splitlines()
    assert {"-model = (not shown)", '+model = "ours"', "+log_token = (not shown)", "+tool_output_token_limit = 4096"} <= set(lines)
    assert {"+#ownmetal# fast = (not shown)", "+#ownmetal= braces.x = (not shown)"} <= set(lines)
    assert not any(secret in difference["prepared"] for secret in ("hush", "sk-"))


def test_a_file_that_is_no_utf_8_is_not_guessed_at(tmp_path):
    path = tmp_path / "c.toml"
    path.write_bytes("# für mich\n".encode("latin-1"))
    with pytest.raises(Refused, match=r"is no UTF-8 text \(byte 4\), as TOML has to be. Save it as UTF-8."):
        roundtrip([file(path, 'model = "ours"\n', merge="toml")])
    assert path.read_bytes() == "# für mich\n".encode("latin-1")


def test_a_merge_shows_only_its_own_lines(tmp_path):
    (tmp_path / "c.toml").write_text('model = "theirs"\n[mcp_servers.x.env]\nTOKEN = "hush"\n')
    (difference,) = roundtrip([file(tmp_path / "c.toml", 'model = "ours"\n', merge="toml", mode="0600")]).diff
    assert '+model = "ours"' in difference["prepared"]
    assert "hush" not in difference["prepared"]


def test_taking_out_again_makes_no_backup_of_ours(tmp_path):
    (tmp_path / "c.toml").write_text('model = "ours"\nmine = 1\n')
    roundtrip([file(tmp_path / "c.toml", 'model = "ours"\n', merge="toml", original=str(tmp_path / "kept"), state="absent")])
    assert os.listdir(tmp_path) == ["c.toml"]
    assert (tmp_path / "c.toml").read_text() == "mine = 1\n"


def test_a_toml_file_that_was_not_there_goes_again(tmp_path):
    managed = file(tmp_path / "c.toml", 'model = "ours"\n', merge="toml", original=str(tmp_path / "kept"))
    roundtrip([managed])
    roundtrip([{**managed, "state": "absent"}])
    assert os.listdir(tmp_path) == []


def test_an_invalid_toml_file_is_left_alone(tmp_path):
    (tmp_path / "c.toml").write_text("model = \n")
    with pytest.raises(Refused, match=r"c\.toml"):
        roundtrip([file(tmp_path / "c.toml", 'model = "ours"\n', merge="toml")])
    assert (tmp_path / "c.toml").read_text() == "model = \n"


WRONG = [
    ({"dest": "/a", "sorce": "b"}, "cannot be used"),
    ({"dest": "/a"}, "wrong keys"),
    ({"dest": "/a", "content": "x", "template": "y"}, "wrong keys"),
    ({"dest": "/a", "state": "link"}, "wrong keys"),
    ({"dest": "/a", "state": "touch", "content": ""}, "cannot be used: touch"),
]


@pytest.mark.parametrize(("entry", "words"), WRONG)
def test_a_wrong_entry_is_refused(entry, words):
    with pytest.raises(Refused, match=words):
        wanted(entry, lambda *_: "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_a_link_in_a_home_leads_root_nowhere(tmp_path, monkeypatch):
    """A user's config file that is a link to a file of root's must not let root write there."""
    home = tmp_path / "home"
    home.mkdir()
    nobody = pwd.getpwnam("nobody")
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    for folder in (tmp_path, *tmp_path.parents):
        if folder != folder.parent and "pytest" in str(folder):
            folder.chmod(0o755)
    (tmp_path / "roots").write_text("precious")
    (tmp_path / "roots").chmod(0o644)
    (home / "c").symlink_to(tmp_path / "roots")
    monkeypatch.setattr(pwd, "getpwnam", lambda _name: pwd.struct_passwd((*nobody[:5], str(home), nobody[6])))
    with pytest.raises(Refused, match="cannot be written"):
        roundtrip([{"dest": "~nobody/c", "content": "mine", "mode": "0600"}])
    assert (tmp_path / "roots").read_text() == "precious"
