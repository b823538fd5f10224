"""New keys for people, while they work."""

import json
import time

from conftest import SECRETS, reloads


def key(team, name):
    return (SECRETS / f"keys/{team}/{name}.key").read_text().strip()


def answered(developer, word):
    developer.check_output("umask 077; printf 'Authorization: Bearer %%s' %s >/root/.header", word)
    return developer.check_output("curl -s -o /dev/null -w '%{http_code}' -H @/root/.header https://gw1/v1/models; rm /root/.header")


CODEX = """
cd /home/dev/work && while [ ! -e stop ]; do
codex exec --json --ephemeral --skip-git-repo-check 'Create hello.txt' </dev/null 2>/dev/null |
grep -o '"type":"turn[.][a-z]*"' | tail -n 1 >>turns; done
"""


def test_a_rotation_fails_no_run_of_codex_and_the_old_key_ends(playbook, developer, gateway):
    word = f"autumn-{time.time_ns()}"
    before, others = key("red", "anna"), key("blue", "bea")
    developer.check_output("install -d -o dev -g dev /home/dev/work; rm -f /home/dev/work/turns /home/dev/work/stop")
    developer.check_output("cat >/run/loop.sh <<'E'" + CODEX + "E")
    developer.check_output("systemd-run --quiet --collect --unit=loop --uid=dev --setenv=HOME=/home/dev bash /run/loop.sh")
    count = reloads(gateway)
    try:
        code, said = playbook("rotate_keys", key_team="red", key_rotation=word)
        assert code == 0, said
        developer.check_output("sleep 8")
    finally:
        developer.check_output("touch /home/dev/work/stop; for n in $(seq 60); do systemctl -q is-active loop || break; sleep 1; done")
    turns = developer.check_output("cat /home/dev/work/turns").splitlines()
    print(len(turns), "runs of Codex")
    assert len(turns) > 3
    assert set(turns) == {'"type":"turn.completed"'}
    after = key("red", "anna")
    assert after != before
    assert (answered(developer, before), answered(developer, after)) == ("200", "200")
    assert (key("blue", "bea"), reloads(gateway)) == (others, count + 1)
    assert developer.check_output("cat /home/dev/.codex/ownmetal-vllm.key") == after

    code, said = playbook("rotate_keys", key_team="red", key_rotation=word)
    assert (code, said.count("changed=0")) == (0, 5), said
    code, said = playbook("rotate_keys", key_team="red", key_name="anna", gateway_key_overlap_hours=0)
    assert code == 0, said
    assert [answered(developer, word) for word in (before, after, key("red", "anna"))] == ["401", "401", "200"]


def test_a_name_that_nobody_has_is_refused(playbook):
    code, said = playbook("rotate_keys", key_team="rad")
    assert code != 0
    assert "-e key_team: gateway_keys has no rad. Did you mean red?" in said


def test_each_team_has_its_own_key_and_only_digests_are_on_the_gateway(developer, gateway):
    state = json.loads(gateway.check_output("cat /etc/ownmetal-gateway/state.json"))
    assert {row["team"] for row in state["keys"].values()} == {"red", "blue"}
    there = gateway.check_output("find /etc/ownmetal-gateway -type f -exec cat {} +")
    assert [team for team, name in (("red", "anna"), ("blue", "bea")) if key(team, name) in there] == []
