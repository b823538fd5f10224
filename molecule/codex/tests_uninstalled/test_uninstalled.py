"""After uninstall both have what was theirs, and nothing else is left."""

from lab import testing
from lab.testing import ROOT

INVENTORY = ROOT / "molecule/codex/inventory"


def test_both_have_their_own_files_back():
    machine = testing.host("dev1", INVENTORY)
    # byte for byte: testinfra's text would have other line ends
    assert machine.check_output("sha256sum </home/ben/.codex/config.toml") == machine.check_output("sha256sum </srv/stand-in/ben.toml")
    # Codex itself notes which folders it worked in
    hers = machine.check_output("cat /home/ann/.codex/config.toml").replace('\n[projects."/home/ann/work"]\ntrust_level = "trusted"', "")
    assert hers.rstrip("\n") == (ROOT / "lab/files/own-config.toml").read_text().rstrip("\n")
    # below packages Codex has a copy of its own program, which its screen made
    places = "/home /etc/codex /etc/profile.d /opt/codex /usr/local/bin"
    look = f"find {places} -path '*/.codex/packages' -prune -o -name '*ownmetal*' -print -o -name codex -print 2>/dev/null || true"
    assert machine.check_output(look) == ""
