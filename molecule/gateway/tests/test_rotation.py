"""New keys for people: what is asked for, and what is where. (What a rotation costs is in test_both.py.)"""

import json

from conftest import SECRETS, answered


def key(team, name):
    return (SECRETS / f"keys/{team}/{name}.key").read_text().strip()


def test_a_key_that_leaked_ends_at_once(playbook, developer):
    before, other = key("red", "anna"), key("red", "bot")
    code, said = playbook("rotate_keys", key_team="red", key_name="anna", gateway_key_overlap_hours=0)
    assert code == 0, said
    assert [answered(developer, word) for word in (before, key("red", "anna"))] == ["401", "200"]
    assert key("red", "bot") == other


def test_a_name_that_nobody_has_is_refused(playbook):
    code, said = playbook("rotate_keys", key_team="rad")
    assert code != 0
    assert "-e key_team: gateway_keys has no rad. Did you mean red?" in said


def test_each_team_has_its_own_key_and_only_digests_are_on_the_gateway(developer, gateway):
    state = json.loads(gateway.check_output("cat /etc/ownmetal-gateway/state.json"))
    assert {row["team"] for row in state["keys"].values()} == {"red", "blue"}
    there = gateway.check_output("find /etc/ownmetal-gateway -type f -exec cat {} +")
    assert [team for team, name in (("red", "anna"), ("blue", "bea")) if key(team, name) in there] == []
