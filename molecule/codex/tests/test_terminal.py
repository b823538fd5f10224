"""Codex as people have it before them: its own screen, in a real terminal."""

from __future__ import annotations

import json
import time

import pytest
from conftest import HOMES


@pytest.fixture
def screen(machine):
    """Codex on Ann's screen: a function that presses keys, and waits until the screen shows some words; it returns what is shown."""
    machine.check_output("DEBIAN_FRONTEND=noninteractive apt-get install -qqy --no-install-recommends tmux")
    ann = "runuser -l ann -c 'cd work && tmux {}'"
    config = f"{HOMES['ann']}/config.toml"
    machine.check_output(
        f"cp {config} /srv/anns; install -d -o ann /home/ann/work; rm -f /home/ann/work/hello.txt; systemctl restart stand-in"
    )
    machine.check_output(ann.format("new-session -d -x 120 -y 40 codex"))

    def press(*keys, shows):
        for key in keys:
            machine.check_output(ann.format(f'send-keys "{key}"'))
            time.sleep(0.5)  # a key that comes at once is taken for pasted text
        for _ in range(60):
            shown = machine.check_output(ann.format("capture-pane -p"))
            if shows in shown:
                return shown
            time.sleep(0.5)
        raise AssertionError(f"{shows!r} is not on the screen:\n{shown}")

    yield press
    machine.run(ann.format("kill-server"))
    machine.check_output(f"cat /srv/anns >{config}")  # Codex notes there by itself what it has seen


def test_the_screen_comes_without_a_login_and_another_model_of_the_servers_is_one_key_away(machine, screen):
    assert "sign in" not in screen(shows="small default").lower()
    listed = screen("/model", "Enter", shows="Select Model")
    assert [line.split()[-3:] for line in listed.splitlines() if "own server" in line] == [
        ["(current)", "own", "server"],
        ["large", "own", "server"],
    ]
    screen("Down", "s", shows="large default")
    screen("hello", "Enter", shows="Done.")
    asked = json.loads(machine.check_output("sleep 0.2; cat /srv/stand-in/seen.json"))
    assert {body["model"] for _path, _key, body in asked if body} == {"large"}
    assert machine.file("/home/ann/work/hello.txt").exists
    assert any(line.startswith('model = "small"') for line in machine.file(f"{HOMES['ann']}/config.toml").content_string.splitlines())
