"""What the measurements stand on: the index that counts, the wheels that are made, and what counts as reached."""

import subprocess
import sys
import urllib.error
import urllib.request
import zipfile

import pytest

from bench import measure, wheels
from bench.index import Index


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "wheels"
    made.mkdir()
    for number in (1, 2):
        wheels.make_wheel(made, "some-thing", f"{number}.0", {"some_thing.py": f"N = {number}\n"}, "some-thing = some_thing:main")
    return made


@pytest.fixture
def index(folder):
    made = Index(folder, "127.0.0.1")
    yield made
    made.close()


def test_pip_takes_a_made_wheel_from_the_index_and_every_byte_is_counted(index, folder, tmp_path):
    lock = tmp_path / "lock.txt"
    lock.write_text(wheels._row(folder / "some_thing-2.0-py3-none-any.whl") + "\n")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-cache-dir",
        "--require-hashes",
        f"--target={tmp_path / 'in'}",
        "-r",
        str(lock),
    ]
    subprocess.run(pip, env=index.settings, check=True, capture_output=True)
    assert (tmp_path / "in/some_thing.py").read_text() == "N = 2\n"
    assert index.given > (folder / "some_thing-2.0-py3-none-any.whl").stat().st_size


def test_a_wheel_is_the_same_each_time(folder, tmp_path):
    again = wheels.make_wheel(tmp_path, "some-thing", "1.0", {"some_thing.py": "N = 1\n"}, "some-thing = some_thing:main")
    assert again.read_bytes() == (folder / again.name).read_bytes()
    assert zipfile.ZipFile(again).testzip() is None


@pytest.mark.parametrize("path", ["other/", "../../secret", "some-thing"])
def test_the_index_gives_nothing_else(index, path):
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(index.settings["PIP_INDEX_URL"] + path)  # noqa: S310 - of the test itself


@pytest.mark.parametrize(
    ("row", "ratio", "reached"),
    [
        (measure.faster("x", "y", 80, 10, 8), "8.00x", True),
        (measure.faster("x", "y", 79, 10, 8), "7.90x", False),
        (measure.faster("x", "y", 5, 10), "0.50x", None),
        (measure.share("x", "y", 100, 15, 0.15), "0.150", True),
        (measure.share("x", "y", 100, 16, 0.15), "0.160", False),
        (measure.share("x", "y", 0, 16, 0.15), "inf", False),
        (measure.below("x", "y", "-", 100e3, 100e3, measure.size), "-", True),
    ],
)
def test_a_target_is_reached_or_not(row, ratio, reached):
    assert (row.ratio, row.reached) == (ratio, reached)


def test_rounds_are_paired_and_turn_about():
    order = []
    cases = {name: (lambda name=name: order.append(name) or float(len(order))) for name in "ab"}
    assert measure.paired(3, cases, lambda _: None) == {"a": 4.0, "b": 3.0}
    assert "".join(order) == "abbaab"
