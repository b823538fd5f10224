"""An archive becomes a model, or leaves nothing behind; nothing in it leads out of its folder."""

import hashlib
import io
import shutil
import stat
import subprocess
import tarfile
import zipfile

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import model_archive
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.folder_digest import archive_kind, source_digest
from ansible_collections.ownmetal.codex.plugins.module_utils.model_archive import unpack
from ansible_collections.ownmetal.codex.plugins.module_utils.progress import Progress, alone

from lab.model_hub import folder

FILES = {"config.json": b"{}", "a/b.safetensors": b"w" * 100_000}


@pytest.fixture(autouse=True)
def locks(monkeypatch, tmp_path):
    monkeypatch.setattr(model_archive, "alone", lambda thing, progress: alone(thing, progress, str(tmp_path)))


def tar(path, files, mode="w", links=()):
    with tarfile.open(path, mode) as packed:
        for name, body in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            packed.addfile(member, io.BytesIO(body))
        for name, target, kind in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            packed.addfile(member)


def pack(tmp_path, kind, files):
    path = tmp_path / f"model{kind}"
    if kind == ".zip":
        with zipfile.ZipFile(path, "w") as packed:
            for name, body in files.items():
                packed.writestr(name, body)
    elif kind == ".tar.zst":
        tar(tmp_path / "x.tar", files)
        subprocess.run(["zstd", "-q", tmp_path / "x.tar", "-o", path], check=True)
    else:
        tar(path, files, "w" if kind == ".tar" else "w:gz")
    return path


def run(path, tmp_path, kind=None, sha256=None):
    (tmp_path / "models").mkdir(exist_ok=True)
    digest = sha256 or hashlib.sha256(path.read_bytes()).hexdigest()
    return unpack(str(path), kind or archive_kind(str(path)), digest, str(tmp_path / "models"), digest[:12], "model_source", Progress())


@pytest.mark.parametrize("top", ["", "./", "coder-7b/"])
@pytest.mark.parametrize("kind", [".tar", ".tar.gz", ".tgz", ".tar.zst", ".zip"])
def test_an_archive_becomes_a_model(tmp_path, kind, top):
    if kind == ".tar.zst" and not shutil.which("zstd"):
        pytest.skip("no zstd here")
    path = pack(tmp_path, kind, {top + name: body for name, body in FILES.items()})
    name = source_digest(str(path))
    assert run(path, tmp_path)
    assert folder(tmp_path / "models" / name) == FILES
    assert {stat.S_IMODE(one.stat().st_mode) for one in (tmp_path / "models" / name).rglob("*")} == {0o444, 0o555}
    assert not path.exists()
    assert [one.name for one in (tmp_path / "models").iterdir()] == [name]


EVIL = {
    "up": ({"../x": b""}, (), "leads out"),
    "up, later": ({"a/../../x": b""}, (), "leads out"),
    "absolute": ({"/x": b""}, (), "leads out"),
    "a link": ({}, [("x", "/etc/passwd", tarfile.SYMTYPE)], "link or a device.*--dereference"),
    "a link to write through": ({}, [("a", "/srv", tarfile.SYMTYPE)], "link or a device"),
    "a hard link": ({}, [("x", "/etc/passwd", tarfile.LNKTYPE)], "link or a device"),
    "a device": ({}, [("x", "", tarfile.CHRTYPE)], "link or a device"),
    "no model": ({"readme": b""}, (), "no config.json at its top"),
}


@pytest.mark.parametrize(("files", "links", "words"), EVIL.values(), ids=EVIL)
def test_what_is_no_model_leaves_nothing(tmp_path, files, links, words):
    path = tmp_path / "model.tar"
    tar(path, files if "readme" in files else {**FILES, **files}, links=links)
    with pytest.raises(Refused, match=words):
        run(path, tmp_path)
    assert list((tmp_path / "models").iterdir()) == []
    assert not (tmp_path / "x").exists()


def test_a_zip_with_a_link(tmp_path):
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("config.json", "{}")
        entry = zipfile.ZipInfo("x")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(entry, "/etc/passwd")
    with pytest.raises(Refused, match=r"link or a device"):
        run(path, tmp_path)


@pytest.mark.parametrize("kind", [".tar", ".tar.gz", ".tar.zst", ".zip"])
def test_half_an_archive(tmp_path, kind):
    if kind == ".tar.zst" and not shutil.which("zstd"):
        pytest.skip("no zstd here")
    path = pack(tmp_path, kind, FILES)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(Refused, match=r"cannot be read|unpacking failed"):
        run(path, tmp_path)
    assert list((tmp_path / "models").iterdir()) == []


def test_one_that_was_damaged_on_the_way(tmp_path):
    with pytest.raises(Refused, match="came damaged"):
        run(pack(tmp_path, ".tar", FILES), tmp_path, sha256="0" * 64)


def test_a_server_without_zstd(tmp_path, monkeypatch):
    path = pack(tmp_path, ".tar", FILES)
    monkeypatch.setattr(model_archive.shutil, "which", lambda _: None)
    with pytest.raises(Refused, match=r"no program zstd.*Install the package zstd"):
        run(path, tmp_path, ".tar.zst")


def test_no_space(tmp_path, monkeypatch):
    path = pack(tmp_path, ".tar", FILES)
    monkeypatch.setattr(model_archive.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(Refused, match=r"takes 100\.0 kB, and 1\.0 kB are free"):
        run(path, tmp_path)
