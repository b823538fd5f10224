"""Reads the operator's own settings off this machine and turns them into what a host gets."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from . import settings
from .proc import KEYRING, LabError
from .state import Bind, invoking_user


@dataclass(frozen=True)
class Operator:
    """What an image (certificates, apt) and a host (the rest) take over; `files` are texts by absolute path."""

    certificates: list[str]
    archive: settings.Archive | None
    apt_conf: str
    files: dict[str, str]
    binds: tuple[Bind, ...]
    variables: dict[str, str]

    def sources(self, suite: str) -> list[str]:
        """sources.list of a suite; empty where mmdebstrap's own default archive serves."""
        return settings.source_lines(self.archive, suite, str(KEYRING)) if self.archive else []

    def environment(self, lab: Iterable[str]) -> str:
        """/etc/environment of a host; `lab` holds the names and addresses that no proxy is to be asked for."""
        proxies = settings.proxies(os.environ, ["localhost", "127.0.0.1", *lab])
        return settings.environment(self.variables | proxies, bool(self.certificates))


def operator() -> Operator:
    """Reads it all; LabError names what can't be used."""
    try:
        pip, uv, npm = package_settings()
    except ValueError as error:
        raise LabError(f"{error}; correct that file and run again") from error
    env = os.environ
    bundles = [env.get(name, "") for name in settings.BUNDLE_VARIABLES] + [pip.cert, npm.get("cafile", "")]
    local = sorted(Path("/usr/local/share/ca-certificates").glob("**/*.crt"))
    certificates = settings.certificates(
        _texts([*local, *(Path(bundle) for bundle in bundles if bundle)]),
        _texts(sorted(Path("/usr/share/ca-certificates").glob("**/*.crt"))),
    )
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    folders = settings.local_folders([uv.index_url, *uv.extra_index_url, *uv.find_links])
    return Operator(
        certificates=certificates,
        archive=_archive(),
        apt_conf=settings.apt_settings(dump, env),
        files={
            "/etc/resolv.conf": _resolv_conf(),
            "/etc/pip.conf": settings.pip_conf(pip),
            "/etc/uv/uv.toml": settings.uv_toml(uv),
            "/etc/npmrc": settings.npmrc(npm),
        },
        binds=tuple(Bind(folder, folder) for folder in folders if Path(folder).is_dir()),
        variables={"UV_HTTP_TIMEOUT": uv.timeout} if uv.timeout else {},
    )


def package_settings() -> tuple[settings.Pip, settings.Uv, dict[str, str]]:
    """The settings of pip, uv and npm of the person who asked; ValueError for a file that can't be read."""
    env = os.environ
    home = Path(invoking_user().pw_dir)
    config = Path(env.get("XDG_CONFIG_HOME") or home / ".config")
    named = env.get("PIP_CONFIG_FILE", "")
    pip_files = [
        Path("/etc/xdg/pip/pip.conf"),
        Path("/etc/pip.conf"),
        home / ".pip/pip.conf",
        config / "pip/pip.conf",
        *([Path(named)] if named else []),
    ]
    if named == os.devnull:  # pip's way to be told: read none
        pip_files = []
    uv_files = [Path("/etc/uv/uv.toml"), config / "uv/uv.toml"]
    npm_files = [Path("/usr/etc/npmrc"), Path("/etc/npmrc"), home / ".npmrc"]
    pip = settings.pip_settings(_texts(pip_files), env, str(home))
    return pip, settings.uv_settings(pip, _texts(uv_files), env), settings.npm_settings(_texts(npm_files), env)


def _archive() -> settings.Archive | None:
    if mirror := os.environ.get("LAB_DEBIAN_MIRROR"):
        return settings.archive_at(mirror)
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    if release.get("ID", "").strip('"') != "debian":
        return None
    folder = Path("/etc/apt/sources.list.d")
    files = [Path("/etc/apt/sources.list"), *sorted(folder.glob("*.list")), *sorted(folder.glob("*.sources"))]
    return settings.debian_archive(
        {path.name: text for path in files for text in _texts([path])},
        release.get("VERSION_CODENAME", "").strip('"'),
        lambda path: "".join(_texts([Path(path)])),
    )


def _resolv_conf() -> str:
    if given := os.environ.get("LAB_NAMESERVERS"):
        return "".join(f"nameserver {address}\n" for address in given.replace(",", " ").split())
    # systemd-resolved puts its own loopback address into the first, and the real servers into the second
    found = settings.resolv_conf(_texts([Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")]))
    if found is None:
        raise LabError(
            "this machine resolves names on a loopback address, which a lab host can't reach;"
            " set LAB_NAMESERVERS to the address of a resolver that it can"
        )
    return found


def _texts(paths: Iterable[Path]) -> list[str]:
    """The texts of those files that are there."""
    texts = []
    for path in dict.fromkeys(paths):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            texts.append(path.read_text())
    return texts
