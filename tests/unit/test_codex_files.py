"""Which files roles/codex makes, and how it takes them away."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from ansible_collections.ownmetal.codex.plugins.filter import codex as filters
from ansible_collections.ownmetal.codex.plugins.module_utils import codex_files as core
from ansible_collections.ownmetal.codex.plugins.module_utils.codex_config import Choice, Wanted
from ansible_collections.ownmetal.codex.plugins.module_utils.codex_judge import in_home, of_machine
from ansible_collections.ownmetal.codex.plugins.module_utils.codex_look import ask_version

CHOICES = [Choice("vllm", "m", "http://s/v1", 8192), Choice("vllm-8b", "n", "http://s/v1", 4096)]


def plan(version="0.169.0", api_key="k", **more):
    command = ["cat", "ownmetal-vllm.key"] if api_key else None
    wanted = Wanted(version, CHOICES, {"m": 8192, "n": 4096}, "VLLM_API_KEY", command, catalogue=core.MODELS)
    return core.Plan(["ann", "bob"], wanted, "vllm", "codex", api_key=api_key, **more)


def entries(asked, seen):
    return [*core.machine_entries(asked, seen), *(entry for user in asked.users for entry in core.user_entries(asked, user, seen))]


def made(found):
    return {entry["dest"] for entry in found if entry.get("state") != "absent"}


HOME = {"", "/ownmetal-vllm.key", "/config.toml", "/config.toml.ownmetal"}
PROFILE = {"/vllm-8b.config.toml", "/vllm-8b.config.toml.ownmetal"}
OF_ALL = {"/etc/codex", core.MODELS}

# what is asked for, what is made in each home, what is made for all
FILES = [
    (plan(), HOME | PROFILE, OF_ALL),
    (plan("0.94.0"), HOME, OF_ALL | {core.ENVIRONMENT}),
    (plan(api_key=None), (HOME | PROFILE) - {"/ownmetal-vllm.key"}, OF_ALL),
    (plan(place="machine"), {"", "/ownmetal-vllm.key"} | PROFILE, OF_ALL | {"/etc/codex/config.toml", "/etc/codex/config.toml.ownmetal"}),
    (plan(enforce=True), HOME | PROFILE, OF_ALL | {"/etc/codex/requirements.toml", "/etc/codex/requirements.toml.ownmetal"}),
    (plan("0.130.0", enforce=True), HOME, OF_ALL | {"/etc/codex/managed_config.toml", "/etc/codex/managed_config.toml.ownmetal"}),
    (plan(rust_log="debug"), HOME | PROFILE, OF_ALL | {core.ENVIRONMENT}),
]


@pytest.mark.parametrize(("asked", "home", "machine"), FILES)
def test_files(asked, home, machine):
    assert made(entries(asked, {})) == machine | {f"~{user}/.codex{path}" for user in ("ann", "bob") for path in home}


def test_the_catalogue_is_there_before_the_first_configuration_names_it():
    order = [entry["dest"] for entry in entries(plan(place="machine"), {})]
    assert order.index(core.MODELS) < order.index("/etc/codex/config.toml")


def test_a_secret_is_in_its_own_file_alone():
    found = entries(plan(api_key="sk-secret"), {})
    assert [(entry["mode"], entry["secret"]) for entry in found if "sk-secret" in json.dumps(entry)] == [("0600", True)] * 2


def test_each_user_has_the_key_that_is_theirs():
    found = entries(plan(api_key="of-all", api_keys={"bob": "of-bob"}), {})
    keys = {entry["dest"]: entry["content"] for entry in found if entry.get("secret")}
    assert keys == {"~ann/.codex/ownmetal-vllm.key": "of-all\n", "~bob/.codex/ownmetal-vllm.key": "of-bob\n"}


def test_the_key_file_goes_when_the_key_comes_from_elsewhere():
    assert {"dest": "~ann/.codex/ownmetal-vllm.key", "state": "absent", "secret": True} in entries(plan(api_key=None), {})


@pytest.mark.parametrize("first", [True, False])
def test_only_a_file_that_is_the_users_own_is_kept_aside(first):
    seen = {} if first else {"~ann/.codex/config.toml.ownmetal": {"exists": True}}
    config = next(entry for entry in entries(plan(), seen) if entry["dest"] == "~ann/.codex/config.toml")
    assert ("original" in config) is first


def test_what_is_laid_over_wins_and_null_leaves_out():
    found = entries(plan(extra={"features": {"goals": True}, "web_search": None}), {})
    keys = next(entry["vars"]["__codex_keys"] for entry in found if entry["dest"] == "~ann/.codex/config.toml")
    assert keys["features"] == {"goals": True, "plugins": False, "apps": False}
    assert keys["web_search"] is None


ENVIRONMENT = [
    (plan(), None),
    (plan("0.94.0", api_key=None), None),
    (plan("0.94.0"), "VLLM_API_KEY=sk"),
    (plan(rust_log="it's"), "RUST_LOG=it's"),
    (plan(ca_file="/ca"), "CODEX_CA_CERTIFICATE=/ca"),
    (plan("0.94.0", ca_file="/ca"), "SSL_CERT_FILE=/ca"),
]


@pytest.mark.parametrize(("asked", "line"), ENVIRONMENT)
def test_the_environment_of_a_login_shell(asked, line, tmp_path):
    (tmp_path / ".codex").mkdir()
    (tmp_path / ".codex/ownmetal-vllm.key").write_text("sk\n")
    script = core.environment_script(asked)
    said = subprocess.run(["sh", "-euc", f"{script}\nenv"], env={"HOME": str(tmp_path)}, capture_output=True, text=True, check=True).stdout
    assert bool(script) is (line is not None)
    assert line is None or line in said.splitlines()


def test_the_environment_of_someone_without_a_key_is_no_error(tmp_path):
    script = core.environment_script(plan("0.94.0"))
    assert (
        "VLLM"
        not in subprocess.run(
            ["sh", "-euc", f"{script}\nenv"], env={"HOME": str(tmp_path)}, capture_output=True, text=True, check=True
        ).stdout
    )


NOTED = "/.codex/*.config.toml.ownmetal"


def unmerged(found):
    """Return the files out of which what was merged into them is taken, each by its own note."""
    places = {entry["dest"]: entry for entry in found if entry["state"] == "absent" and "merge" in entry}
    assert [entry["notes"] for entry in places.values()] == [[f"{path}.ownmetal", f"{path}.before-ownmetal"] for path in places]
    assert {f"{path}.ownmetal" for path in places} <= {entry["dest"] for entry in found}
    return set(places)


def test_uninstalling_goes_by_what_was_merged_also_into_profiles_that_the_inventory_has_no_more():
    seen = {f"~ann{NOTED}": {"exists": True, "matches": ["old.config.toml.ownmetal"]}}
    found = core.absent_entries(["ann"], "vllm", ["vllm-8b"], seen)
    homes = {f"~ann/.codex/{name}.toml" for name in ("config", "vllm-8b.config", "old.config")}
    assert unmerged(found) == homes | {f"/etc/codex/{name}" for name in core.MACHINE_FILES}
    assert {entry["state"] for entry in found} == {"absent"}
    assert {core.MODELS, core.ENVIRONMENT, "~ann/.codex/ownmetal-vllm.key"} <= {entry["dest"] for entry in found}


# what is asked for now, and out of which files what was merged before is taken
OTHER_FORMS = [
    (plan(), {"/etc/codex/config.toml", "/etc/codex/requirements.toml", "/etc/codex/managed_config.toml"}),
    (
        plan(place="machine"),
        {"/etc/codex/requirements.toml", "/etc/codex/managed_config.toml", "~ann/.codex/config.toml", "~bob/.codex/config.toml"},
    ),
    (plan("0.156.0", enforce=True), {"/etc/codex/config.toml", "/etc/codex/requirements.toml"}),
    (plan("0.157.0", enforce=True), {"/etc/codex/config.toml", "/etc/codex/managed_config.toml"}),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "places"), OTHER_FORMS)
def test_what_is_written_in_another_place_now_is_taken_back_in_the_one_before(asked, places):
    found = entries(asked, {})
    assert unmerged([entry for entry in found if entry.get("state") == "absent"]) == places
    assert not places & made(found)


@pytest.mark.parametrize(("version", "left"), [("0.169.0", {"old"}), ("0.130.0", {"old", "vllm-8b"})])
def test_profiles_that_the_inventory_has_no_more_are_taken_back(version, left):
    seen = {f"~ann{NOTED}": {"exists": True, "matches": ["old.config.toml.ownmetal", "vllm-8b.config.toml.ownmetal"]}}
    found = core.left_over(plan(version), seen)
    assert unmerged(found) == {f"~ann/.codex/{name}.config.toml" for name in left}
    assert core.left_over(plan(version), {}) == []


def test_a_user_who_is_taken_out_is_given_back_what_was_theirs():
    given = {"users": [{"name": "ann"}, {"name": "bob", "state": "absent", "gateway_key": "red/bob"}], "place": "user", "enforce": False}
    given |= {"provider": "vllm", "provider_name": "v", "model": "m", "profiles": [{"name": "fast", "model": "m"}], "version": "0.169.0"}
    given |= {"instances": [{"base_url": "u", "served_model_name": ["m"], "max_model_len": 1}], "live": {}, "remembered": {}}
    given |= {key: {} for key in ("model_options", "http_headers", "mcp_servers", "features", "extra", "api_keys")}
    given |= dict.fromkeys(("rust_log", "env_key", "dialect", "log_dir", "catalogue", "program", "instructions", "ca_file"), "")
    given |= {"api_key": "k", "key_source": "file", "approval_policy": "never", "sandbox_mode": "read-only"}
    found = filters.user_files(given, {})
    bobs = [entry for entry in found if entry["dest"].startswith("~bob/")]
    assert unmerged(bobs) == {"~bob/.codex/config.toml"}
    assert {"dest": "~bob/.codex/ownmetal-vllm.key", "state": "absent", "secret": True} in bobs
    assert not any(entry.get("content") == "k\n" for entry in bobs)
    assert f"~bob{NOTED}" in filters.kept_paths(given["users"], given["profiles"])
    # his profiles are found by their notes, whatever the inventory has
    seen = {f"~{user}{NOTED}": {"exists": True, "matches": ["fast.config.toml.ownmetal"]} for user in ("ann", "bob")}
    assert unmerged(filters.left_over(given, seen)) == {"~bob/.codex/fast.config.toml"}


@pytest.mark.parametrize(
    ("script", "version"),
    [
        ("echo codex-cli 0.94.0", "0.94.0"),
        ("echo WARNING: x; echo codex-cli 0.169.0-alpha.1", "0.169.0-alpha.1"),
        ("echo codex-cli 0.94.0; exit 1", None),
        ("echo hello", None),
    ],
)
def test_a_codex_is_asked_for_its_version(script, version, tmp_path):
    program = tmp_path / "codex"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    assert ask_version(str(program)) == version
    assert ask_version(str(tmp_path / "none")) is None


@pytest.mark.parametrize(("program", "judged"), [("~/.local/share/codex/1.0.0/codex", True), ("~/none", False)])
def test_a_configuration_is_judged_by_the_codex_of_its_home(program, judged, tmp_path):
    codex = tmp_path / ".local/share/codex/1.0.0/codex"
    staged = tmp_path / ".codex/.ownmetal-x/config.toml"
    for path in (codex, staged):
        path.parent.mkdir(parents=True)
    codex.write_text("#!/bin/sh\necho asked > ~/asked\n")
    codex.chmod(0o755)
    staged.write_text("")
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([word.replace("%s", str(staged)) for word in in_home(program, "lenient")], env=environment, check=False)
    assert (done.returncode == 0) is judged
    assert (tmp_path / "asked").exists() is judged


@pytest.mark.parametrize("asked", [plan(), plan(place="machine"), plan(enforce=True), plan("0.94.0", place="machine", enforce=True)])
def test_codex_judges_every_file_that_it_will_read(asked):
    merged = [entry for entry in entries(asked, {}) if entry.get("merge") and entry.get("state") != "absent"]
    assert len(merged) >= 2
    assert [entry["dest"] for entry in merged if "validate" not in entry] == []


@pytest.fixture
def codex():
    """A Codex that fails where what it reads has the word wrong, and says what it sees; others than root may run it."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    folder.chmod(0o755)
    (folder / "etc").mkdir()
    program = folder / "codex"
    reads = f"{folder}/etc/config.toml {folder}/etc/managed_config.toml $CODEX_HOME/config.toml"
    program.write_text(f"""#!/bin/sh
id -un >{folder}/said; echo "$@" >>{folder}/said; cat {reads} {folder}/etc/models.json 2>/dev/null >>{folder}/said
! grep -qs odd {reads} || {{ echo "codex: not for you"; exit 1; }}
! grep -qs wrong {reads} || {{ echo "Error: it is wrong"; exit 1; }}
""")
    program.chmod(0o755)
    (folder / "said").touch(0o666)
    (folder / "said").chmod(0o666)
    yield folder
    shutil.rmtree(folder)


def judged(command, staged, **environment):
    environment = {"PATH": os.environ["PATH"], "HOME": str(staged.parent), **environment}
    words = [word.replace("%s", str(staged)) for word in command]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    return done.returncode == 0, done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user, and mount")
@pytest.mark.parametrize("users", [["nobody"], []])
@pytest.mark.parametrize("name", ["config.toml", "managed_config.toml"])
def test_a_file_of_the_machine_is_judged_in_its_place_beside_what_comes_with_it(codex, name, users):
    # the release of before took these, and the one that judges does not
    (codex / "etc/config.toml").write_text("wrong = 1\n")
    (codex / "etc/managed_config.toml").write_text("wrong = 1\n")
    staged = codex / "etc/.ownmetal-1" / name
    staged.parent.mkdir(mode=0o700)
    staged.with_name("models.json").write_text("new models\n")
    before = set(codex.parent.glob("ownmetal-codex*"))
    places = "".join(f"{codex}/etc/{file}\t{staged.with_name(file)}\n" for file in (name, "models.json"))
    for text, right in (("right = 1\n", True), ("wrong = 1\n", False)):
        staged.write_text(text)
        found, said = judged(of_machine(f"{codex}/codex", "lenient", f"{codex}/etc", users), staged, OWNMETAL_STAGED=places)
        assert (found, said) == (right, "" if right else "Codex says: it is wrong\n")
        assert (codex / "said").read_text() == f"{(users or ['root'])[0]}\nfeatures list\n{text}new models\n"
    assert (codex / "etc/config.toml").read_text() == "wrong = 1\n"
    assert set(codex.parent.glob("ownmetal-codex*")) <= before


@pytest.mark.parametrize(
    ("text", "right", "says"),
    [("right = 1\n", True, ""), ("wrong = 1\n", False, "Codex says: it is wrong\n"), ("odd = 1\n", False, "codex: not for you\n")],
)
def test_a_profile_is_judged_by_itself(codex, text, right, says):
    (codex / "home").mkdir()
    (codex / "home/config.toml").write_text("wrong = 1\n")
    staged = codex / "home/.ownmetal-1/fast.config.toml"
    staged.parent.mkdir()
    staged.write_text(text)
    assert judged(in_home(f"{codex}/codex", "lenient"), staged) == (right, says)
    # the provider that it names is in another file
    assert (codex / "said").read_text().split("\n")[1:] == ["features list -c model_provider=openai", text.strip(), ""]
