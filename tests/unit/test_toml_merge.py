"""Merging into a file that is somebody else's: their part stays, ours wins, and uninstalling gives the file back."""

import datetime
import random
from pathlib import Path

import pytest
import tomlkit
import tomllib
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.toml_merge import dump_toml, merge_toml, unmerge_toml

FIXTURES = Path(__file__).parent / "fixtures/toml"
MANAGED = (FIXTURES / "managed.toml").read_text()
FILES = {path.stem: path.read_text() for path in sorted((FIXTURES / "before").glob("*.toml"))}
# the same files with another end of line, mark or end: an editor's settings would undo these in a fixture
SHAPES = {
    "as it is": lambda text: text,
    "Windows line ends": lambda text: text.replace("\n", "\r\n"),
    "byte order mark": lambda text: "\ufeff" + text,
    "no newline at the end": lambda text: text.rstrip("\n"),
}
EVERY_FILE = [
    pytest.param(shape(text), id=f"{name}, {what}")
    for name, text in FILES.items()
    for what, shape in SHAPES.items()
    # a newline inside an inline table is TOML 1.1, which tomllib does not read; it has a test of its own
    if name != "newer_toml"
]


def data(text):
    """Read TOML by another reader than the one under test."""
    return tomllib.loads(text.removeprefix("\ufeff"))


def wanted(text):
    """Say what a merge of MANAGED must hold, by plain dictionaries."""

    def over(below, above):
        below = below if isinstance(below, dict) else {}
        return {**below, **{key: over(below.get(key), value) if isinstance(value, dict) else value for key, value in above.items()}}

    managed = data(MANAGED)
    absent = managed.pop("ownmetal_absent")
    result = over(data(text), managed)
    for *tables, key in absent:
        table = result
        for name in tables:
            table = table[name]
        table.pop(key, None)
    return result


def full(value):
    """Leave out empty tables, which come and go with the way a table is written."""
    if not isinstance(value, dict):
        return value
    return {key: full(item) for key, item in value.items() if full(item) != {}}


@pytest.mark.parametrize("name", FILES)
def test_the_merged_file_is_what_a_person_would_write(name):
    assert merge_toml(FILES[name], MANAGED) == (FIXTURES / "after" / f"{name}.toml").read_text()


@pytest.mark.parametrize("text", EVERY_FILE)
def test_the_merged_file_holds_both_and_merging_again_changes_nothing(text):
    merged = merge_toml(text, MANAGED)
    assert full(data(merged)) == full(wanted(text))
    assert merge_toml(merged, MANAGED) == merged


@pytest.mark.parametrize("text", EVERY_FILE)
def test_unmerging_gives_the_file_back(text):
    assert unmerge_toml(merge_toml(text, MANAGED), MANAGED, text) == text


@pytest.mark.parametrize("text", EVERY_FILE)
def test_unmerging_keeps_what_the_user_wrote_since(text):
    merged = merge_toml(text, MANAGED).rstrip("\n")
    edited = f'{merged}\n[since]\nnote = "mine" # and a comment\n'.replace('"micro"', '"my-own"')
    left = unmerge_toml(edited, MANAGED, text)
    assert full(data(left)) == full({**data(text), "model": "my-own", "since": {"note": "mine"}})
    assert "# and a comment" in left


def test_a_newer_toml_is_kept_as_it_is():
    merged = merge_toml(FILES["newer_toml"], MANAGED)
    assert '  command = "docs", # a comment in an inline table\n' in merged
    assert tomlkit.parse(merged).unwrap()["features"] == {"goals": False, "plugins": False}
    assert merge_toml(merged, MANAGED) == merged
    assert unmerge_toml(merged, MANAGED, FILES["newer_toml"]) == FILES["newer_toml"]


@pytest.mark.parametrize("nothing", ["", "\n", "\ufeff", " \r\n"], ids=repr)
def test_an_empty_file_becomes_the_managed_one(nothing):
    merged = merge_toml(nothing, MANAGED)
    assert merged == MANAGED.replace('ownmetal_absent = [["model_providers", "vllm", "env_key"]]\n', "")
    assert merge_toml(merged, MANAGED) == merged


def test_a_file_that_was_not_there_goes_again():
    assert unmerge_toml(merge_toml("", MANAGED), MANAGED, "") == ""


def test_a_file_that_was_not_there_goes_again_after_the_role_changed_its_mind():
    auth = '[model_providers.vllm.auth]\ncommand = "cat"\nargs = ["ownmetal-vllm.key"]\n'
    other = MANAGED.replace('"env_key"]]', '"auth"]]').replace(auth, "").replace("base_url", 'env_key = "KEY"\nbase_url')
    there_and_back = merge_toml(merge_toml(merge_toml("", MANAGED), other), MANAGED)
    assert there_and_back != merge_toml("", MANAGED)  # the table of the key has moved to the end
    assert unmerge_toml(there_and_back, MANAGED, "") == ""


def test_of_a_file_that_was_not_there_the_users_keys_stay():
    merged = merge_toml("", MANAGED).replace("[features]", "[features]\nmine = true")
    assert unmerge_toml(merged + '# said by the user\n[tui]\ntheme = "dark"\n', MANAGED, "") == (
        '[features]\nmine = true\n# said by the user\n[tui]\ntheme = "dark"\n'
    )


BROKEN = [
    ("a = \n", "line 1, column 5"),
    ("ok = 1\nok = 2\n", "line 2"),
    ("[a]\nx = 1\n[a]\ny = 2\n", 'line 4, column 1 is not valid TOML (Key "a" already exists)'),
    ('a = "no end\n', "line 1, column 12"),
    ("a = { b = 1 }\n[a.c]\n", "line 2"),
    ("<<<<<<< HEAD\n", "line 1, column 1"),
]


@pytest.mark.parametrize(("text", "place"), BROKEN, ids=[text for text, _place in BROKEN])
def test_a_broken_file_is_refused_with_its_place(text, place):
    for attempt in (
        lambda: merge_toml(text, MANAGED, "/home/dev/config.toml"),
        lambda: unmerge_toml(text, MANAGED, "", "/home/dev/config.toml"),
    ):
        with pytest.raises(Refused) as refused:
            attempt()
        assert str(refused.value).startswith(f"/home/dev/config.toml: {place}")
        assert "left untouched" in str(refused.value)


LEAVES = [
    # existing, managed, merged: the same number of another kind is another value
    ("a = 1\n", "a = true\n", "a = true\n"),
    ("a = 1\n", "a = 1.0\n", "a = 1.0\n"),
    ("a = nan\n", "a = nan\n", "a = nan\n"),
    ("a = 0x10 # hex\n", "a = 16\n", "a = 0x10 # hex\n"),
    ("a = 1979-05-27 07:32:00 # space\n", "a = 1979-05-27T07:32:00\n", "a = 1979-05-27 07:32:00 # space\n"),
    ('a = """\none\n"""\n', 'a = "one\\n"\n', 'a = """\none\n"""\n'),
    ("a = [\n  1, # one\n  2,\n]\n", "a = [1, 3]\n", "a = [1, 3]\n"),
    ("a = '''it's # fine'''\n", "b = 1\n", "a = '''it's # fine'''\nb = 1\n"),
    ('a = """quotes"""""\n', "b = 1\n", 'a = """quotes"""""\nb = 1\n'),
    ("[a]\n", "[a]\nb = [{ c = 1 }]\n", "[a]\nb = [{ c = 1 }]\n"),
    ("[a] # head", '[a]\n"b c" = 1\n', '[a] # head\n"b c" = 1\n'),
    ("a = {}\n", "[a.b]\nc = 1\n", "a = { b.c = 1 }\n"),
]


@pytest.mark.parametrize(("existing", "managed", "merged"), LEAVES, ids=[f"{row[0]!r} + {row[1]!r}" for row in LEAVES])
def test_values(existing, managed, merged):
    assert merge_toml(existing, managed) == merged


def test_dump():
    text = dump_toml(
        {
            "t": {"x": {"y": True, "none": None}, "only_tables": {"z": {"list": [1, "a", {"k": 2.5}]}}},
            "first": 'quote " and\nnewline',
            "empty": {},
            "day": datetime.date(2026, 1, 2),
            "two words": {"a.b": 1},
        }
    )
    assert text == (
        'first = "quote \\" and\\nnewline"\nday = 2026-01-02\n\n[t.x]\ny = true\n\n[t.only_tables.z]\nlist = [1, "a", { k = 2.5 }]\n'
        '\n[empty]\n\n["two words"]\n"a.b" = 1\n'
    )
    assert data(text)["t"]["x"] == {"y": True}


def test_dump_refuses_what_toml_has_no_kind_for():
    with pytest.raises(Refused, match=r"features\.x: TOML has no kind for \[None\]"):
        dump_toml({"features": {"x": [None]}})


class Writer:
    """Writes TOML as badly as it is allowed to, the same for the same seed."""

    KEYS = ("model", "features", "goals", "model_providers", "vllm", "auth", "name", "env_key", "x", '"q.u"', "'l it'")
    SCALARS = (
        "1", "true", '"s"', "'l#['",
        '"""m\nl # [x]\n"""', "'''a'''", "1979-05-27 07:32:00", "[1, 2]", '[ "a", # c\n  "]" ]', '[{a=1},{b="}"}]',
    )  # fmt: skip

    def __init__(self, seed):
        self.random = random.Random(seed)  # noqa: S311 - repeatable is what is wanted here

    def key(self):
        return ".".join(self.random.choice(self.KEYS) for _ in range(self.random.choice((1, 1, 1, 2, 3))))

    def value(self, depth=0):
        if depth < 3 and self.random.random() < 0.2:
            return "{ " + ", ".join(f"{self.key()} = {self.value(depth + 1)}" for _ in range(self.random.randrange(3))) + " }"
        return self.random.choice(self.SCALARS)

    def document(self):
        lines = []
        for part in range(self.random.randrange(6)):
            if part:
                header = self.random.choice((self.key(), "model_providers.vllm", "features", "model_providers.other"))
                lines += [*self.random.choice(([], [""], ["# above"])), f"[[{header}]]" if self.random.random() < 0.15 else f"[{header}]"]
            for _ in range(self.random.randrange(4)):
                comment = self.random.choice(("", "", "  # behind"))
                lines.append(f"{self.random.choice(('', '  '))}{self.key()} = {self.value()}{comment}")
        return self.random.choice(list(SHAPES.values()))("\n".join([*lines, ""]))


def test_any_file_merges_and_unmerges():
    """Random documents, most of them stranger than anyone would write. The seeds are fixed: a failure comes again."""
    tried = 0
    for seed in range(400):
        text = Writer(seed).document()
        try:
            before = tomlkit.parse(text.removeprefix("\ufeff")).unwrap()
            data(text)
        except (tomllib.TOMLDecodeError, tomlkit.exceptions.TOMLKitError):
            continue
        tried += 1
        merged = merge_toml(text, MANAGED)
        assert full(data(merged)) == full(wanted(text)), seed
        assert merge_toml(merged, MANAGED) == merged, seed
        edited = merged.rstrip("\r\n") + "\n[since]\nx = 1\n"
        left = tomlkit.parse(unmerge_toml(edited, MANAGED, text).removeprefix("\ufeff")).unwrap()
        assert full(left) == full({**before, "since": {"x": 1}}), seed
    assert tried > 200
