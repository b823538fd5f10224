"""Each way that Codex comes: by npm (converge) or from an archive, for the machine or for users alone."""

from conftest import VERSION


def test_a_wrong_archive_is_refused_before_anything_changes(configure, archive, machine):
    code, said = configure(**{**archive, "codex_scope": "user", "codex_archive_sha256": "0" * 64})
    assert code != 0
    assert "codex_archive_sha256: is not that of" in said
    assert "changed=0" in said
    assert not machine.file("/home/ann/.local").exists


def test_users_have_their_own_from_an_archive_and_nothing_there_is_roots(configure, archive, machine, codex):
    asked = {**archive, "codex_scope": "user"}
    code, said = configure("--check", **asked)
    assert code == 0, said
    assert not machine.file("/home/ann/.local").exists
    code, said = configure(**asked)
    assert code == 0, said
    for user in ("ann", "ben"):
        assert machine.check_output(f"find /home/{user} ! -user {user}") == ""
        assert machine.check_output(f"runuser -l {user} -c '~/.local/bin/codex --version'").split()[-1] == VERSION
        turn = codex(user, program="~/.local/bin/codex")
        assert (turn["ended"], turn["made"]) == (True, True), turn
    code, said = configure(**asked)
    assert "changed=0" in said, said


def test_a_release_of_the_machine_comes_from_an_archive_too(configure, archive, machine, codex):
    machine.check_output("rm -rf /opt/codex /usr/local/bin/codex")
    code, said = configure(**archive)
    assert code == 0, said
    turn = codex("ann", program="/usr/local/bin/codex")
    assert (turn["ended"], turn["made"]) == (True, True), turn
    assert machine.check_output("find /opt/codex -mindepth 1 -maxdepth 1").split() == [f"/opt/codex/{VERSION}"]
