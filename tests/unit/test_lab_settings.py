"""What the lab makes of an operator's package settings: text in, text out."""

from __future__ import annotations

import base64

import pytest
import tomllib

from lab import settings
from lab.settings import Archive, Pip

PIP_USER = "[global]\nindex-url = https://user.example/simple\nfind-links = ~/wheels /srv/wheels\n"
PIP_MACHINE = "[global]\nindex-url = https://machine.example/simple\nconstraint = /etc/constraints.txt\ncert = /etc/corp.pem\n"


@pytest.mark.parametrize(
    ("files", "env", "expected"),
    [
        pytest.param([], {}, Pip(), id="nothing is set"),
        pytest.param(
            [PIP_MACHINE, PIP_USER],
            {},
            Pip(
                {"index-url": "https://user.example/simple"},
                {"find-links": ["/home/ann/wheels", "/srv/wheels"]},
                "/etc/corp.pem",
            ),
            id="the later file wins, the constraint is dropped, ~ is the user's home",
        ),
        pytest.param(
            [PIP_USER],
            {"PIP_INDEX_URL": "https://env.example/simple", "PIP_FIND_LINKS": "/opt/w", "PIP_NO_INDEX": "", "HOME": "/x"},
            Pip({"index-url": "https://env.example/simple"}, {"find-links": ["/opt/w"]}),
            id="variables win, empty ones do not count",
        ),
        pytest.param(
            ["[global]\nextra-index-url =\n    https://a.example/simple\n    file:///opt/b/simple\n[install]\ntrusted_host = a.example\n"],
            {"PIP_DEFAULT_TIMEOUT": "180"},
            Pip(
                {"timeout": "180"},
                {"extra-index-url": ["https://a.example/simple", "file:///opt/b/simple"], "trusted-host": ["a.example"]},
            ),
            id="lists over several lines, the install section, underscores, the timeout's other name",
        ),
        pytest.param(
            ["[global]\nproxy = http://user:100%25@proxy.example\n"], {}, Pip({"proxy": "http://user:100%25@proxy.example"}), id="%"
        ),
    ],
)
def test_pip_settings(files: list[str], env: dict[str, str], expected: Pip) -> None:
    assert settings.pip_settings(files, env, "/home/ann") == expected


def test_pip_conf_reads_back_as_the_same_settings() -> None:
    pip = settings.pip_settings([PIP_MACHINE, PIP_USER], {"PIP_EXTRA_INDEX_URL": "https://a.example/s https://b.example/s"})
    again = settings.pip_settings([settings.pip_conf(pip)], {})
    assert (again.words, again.lists) == (pip.words, pip.lists)
    assert again.cert == settings.SYSTEM_BUNDLE
    assert "constraint" not in settings.pip_conf(pip)


@pytest.mark.parametrize("read", [lambda: settings.pip_settings(["index-url = x"], {}), lambda: settings.uv_settings(Pip(), ["= x"], {})])
def test_a_file_that_cannot_be_read_is_refused(read) -> None:
    with pytest.raises(ValueError, match="configuration file can't be read"):
        read()


@pytest.mark.parametrize(
    ("pip", "files", "env", "expected"),
    [
        pytest.param({}, [], {}, {}, id="nothing is set"),
        pytest.param(
            {"PIP_INDEX_URL": "https://p.example/s", "PIP_EXTRA_INDEX_URL": "file:///opt/p/simple", "PIP_FIND_LINKS": "/opt/w"},
            [],
            {},
            {"index-url": "https://p.example/s", "extra-index-url": ["file:///opt/p/simple"], "find-links": ["/opt/w"]},
            id="pip's serve uv",
        ),
        pytest.param(
            {"PIP_INDEX_URL": "https://p.example/s", "PIP_EXTRA_INDEX_URL": "https://p2.example/s", "PIP_TRUSTED_HOST": "p.example"},
            [
                '[[index]]\nurl = "https://u.example/s"\ndefault = true\n[[index]]\nurl = "https://u2.example/s"\n'
                '[[index]]\nname = "only"\nurl = "https://e.example/s"\nexplicit = true\n[pip]\nfind-links = ["/opt/u"]\n'
            ],
            {},
            {
                "index-url": "https://u.example/s",
                "extra-index-url": ["https://u2.example/s", "https://p2.example/s"],
                "find-links": ["/opt/u"],
                "allow-insecure-host": ["p.example"],
            },
            id="uv's own index wins, the others add up, an explicit one is for a project that names it",
        ),
        pytest.param(
            {"PIP_INDEX_URL": "https://p.example/s", "PIP_NO_INDEX": "1"},
            ['index-url = "https://u.example/s"'],
            {"UV_DEFAULT_INDEX": "corp=https://v.example/s", "UV_INDEX": "cpu=https://c.example/s", "UV_FIND_LINKS": "/a,/b"},
            {
                "index-url": "https://v.example/s",
                "extra-index-url": ["https://c.example/s"],
                "find-links": ["/a", "/b"],
                "no-index": True,
            },
            id="uv's variables win",
        ),
    ],
)
def test_uv_toml(pip: dict[str, str], files: list[str], env: dict[str, str], expected: dict[str, object]) -> None:
    uv = settings.uv_settings(settings.pip_settings([], pip), files, env)
    always = {"system-certs": True, "index-strategy": "unsafe-best-match"}
    assert tomllib.loads(settings.uv_toml(uv)) == always | expected


def test_uv_environment_says_what_uv_toml_says() -> None:
    pip = Pip({"index-url": "https://p.example/s", "timeout": "60"}, {"extra-index-url": ["file:///a", "file:///b"], "find-links": ["/w"]})
    assert settings.uv_environment(settings.uv_settings(pip, [], {})) == {
        "UV_SYSTEM_CERTS": "1",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_DEFAULT_INDEX": "https://p.example/s",
        "UV_EXTRA_INDEX_URL": "file:///a file:///b",
        "UV_FIND_LINKS": "/w",
        "UV_HTTP_TIMEOUT": "60",
    }


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (["https://a.example/simple", ""], []),
        (["/srv/wheels", "file:///srv/wheels"], ["/srv/wheels"]),
        (["file:///srv/index/simple", "file:///srv/index/simple/"], ["/srv/index"]),
        (["file:///srv/with%20space"], ["/srv/with space"]),
    ],
)
def test_local_folders(places: list[str], expected: list[str]) -> None:
    assert settings.local_folders(places) == expected


@pytest.mark.parametrize(
    ("files", "env", "expected"),
    [
        pytest.param([], {"PATH": "/bin"}, {}, id="nothing is set"),
        pytest.param(
            ["; c\n# c\nregistry = https://one.example/\nprefix=/usr\nfund=false\n", "registry=https://two.example/\n"],
            {},
            {"registry": "https://two.example/"},
            id="the later file wins, only what reaches a registry is kept",
        ),
        pytest.param(
            ['@corp:registry="https://c.example/"\n//c.example/:_authToken=${NPM_TOKEN}\ncafile=/etc/corp.pem\n'],
            {"NPM_TOKEN": "t", "NPM_CONFIG_HTTPS_PROXY": "http://p.example", "npm_config_strict_ssl": "false"},
            {
                "@corp:registry": "https://c.example/",
                "//c.example/:_authToken": "t",
                "cafile": "/etc/corp.pem",
                "https-proxy": "http://p.example",
                "strict-ssl": "false",
            },
            id="a scope, a variable within a value, settings by variable",
        ),
    ],
)
def test_npm_settings(files: list[str], env: dict[str, str], expected: dict[str, str]) -> None:
    assert settings.npm_settings(files, env) == expected


def test_npmrc_names_the_hosts_own_bundle() -> None:
    assert settings.npmrc({"registry": "https://r.example/", "cafile": "/etc/corp.pem"}) == (
        f"registry=https://r.example/\ncafile={settings.SYSTEM_BUNDLE}\n"
    )


DUMP = """\
APT::Architecture "amd64";
Acquire "";
Acquire::Check-Valid-Until "false";
Acquire::http "";
Acquire::http::Proxy "http://apt.example:3142";
Acquire::http::Proxy::plain.example "DIRECT";
Acquire::https::Timeout "30";
Acquire::http::Proxy-Auto-Detect "/usr/local/bin/find-proxy";
"""


@pytest.mark.parametrize(
    ("dump", "env", "expected"),
    [
        ("", {}, []),
        (
            DUMP,
            {"http_proxy": "http://p.example", "HTTPS_PROXY": "http://p.example"},
            [
                'Acquire::Check-Valid-Until "false";',
                'Acquire::http::Proxy "http://apt.example:3142";',
                'Acquire::http::Proxy::plain.example "DIRECT";',
                'Acquire::https::Timeout "30";',
                'Acquire::https::Proxy "http://p.example";',
            ],
        ),
    ],
)
def test_apt_settings(dump: str, env: dict[str, str], expected: list[str]) -> None:
    assert settings.apt_settings(dump, env).splitlines() == expected


MAIN, SECURITY = "http://deb.example/debian", "http://deb.example/debian-security"
DEB822 = f"""\
Types: deb
# a snapshot
URIs: {MAIN}/
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: {SECURITY}
Suites: bookworm-security
Components: main
"""
ONE_LINE = f"""\
deb-src {MAIN} bookworm main
deb [arch=amd64 signed-by=/a/b.gpg] {MAIN} bookworm main contrib # the packages
deb {SECURITY} bookworm-security main
"""
FOREIGN = "deb [signed-by=/a.gpg] https://apt.maker.example bookworm main\n"
CLOUD = """\
Types: deb deb-src
URIs: mirror+file:///etc/apt/mirrors/debian.list
Suites: bookworm bookworm-updates
 bookworm-backports
Components: main

Types: deb
URIs: mirror+file:///etc/apt/mirrors/debian-security.list
Suites: bookworm-security
Components: main
"""
LISTS = {"/etc/apt/mirrors/debian.list": MAIN + "\n", "/etc/apt/mirrors/debian-security.list": SECURITY + "\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, None, id="nothing"),
        pytest.param({"debian.sources": DEB822}, Archive(MAIN, SECURITY), id="deb822"),
        pytest.param({"sources.list": ONE_LINE}, Archive(MAIN, SECURITY), id="one line each"),
        pytest.param({"maker.list": FOREIGN, "sources.list": ONE_LINE}, Archive(MAIN, SECURITY), id="a maker's archive comes first"),
        pytest.param({"maker.list": FOREIGN}, None, id="a maker's archive alone"),
        pytest.param({"debian.sources": CLOUD}, Archive(MAIN, SECURITY), id="mirrors named in lists"),
        pytest.param({"debian.sources": DEB822.replace("Types", "Enabled: no\nTypes", 2)}, None, id="switched off"),
        pytest.param({"sources.list": f"deb {MAIN} bookworm main"}, Archive(MAIN, ""), id="no security archive"),
        pytest.param({"sources.list": f"deb {MAIN} trixie main"}, None, id="another release than the machine's"),
        pytest.param({"sources.list": "deb cdrom:[Debian]/debian bookworm main"}, None, id="a disc"),
    ],
)
def test_debian_archive(files: dict[str, str], expected: Archive | None) -> None:
    assert settings.debian_archive(files, "bookworm", lambda path: LISTS[path]) == expected


@pytest.mark.parametrize(
    ("archive", "expected"),
    [
        (
            settings.archive_at("http://deb.example/debian/"),
            [f"deb [signed-by=/k] {MAIN} {suite} main" for suite in ("trixie", "trixie-updates")]
            + [f"deb [signed-by=/k] {SECURITY} trixie-security main"],
        ),
        (
            settings.archive_at("http://deb.example/mirror"),
            [f"deb [signed-by=/k] http://deb.example/mirror {suite} main" for suite in ("trixie", "trixie-updates")],
        ),
    ],
)
def test_source_lines(archive: Archive, expected: list[str]) -> None:
    assert settings.source_lines(archive, "trixie", "/k") == expected


STUB = "# managed\nnameserver 127.0.0.53\noptions edns0\n"


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], None),
        ([STUB], None),
        ([STUB, "nameserver 192.0.2.1\nsearch corp.example\n"], "nameserver 192.0.2.1\nsearch corp.example\n"),
        (["nameserver 192.0.2.1\nnameserver ::1\n", "nameserver 192.0.2.9\n"], "nameserver 192.0.2.1\n"),
    ],
)
def test_resolv_conf(texts: list[str], expected: str | None) -> None:
    assert settings.resolv_conf(texts) == expected


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, {}),
        ({"no_proxy": "corp.example"}, {}),
        (
            {"HTTPS_PROXY": "http://p.example", "no_proxy": "corp.example, localhost"},
            {"https_proxy": "http://p.example", "no_proxy": "corp.example,localhost,server1"},
        ),
    ],
)
def test_proxies(env: dict[str, str], expected: dict[str, str]) -> None:
    capitals = {name.upper(): value for name, value in expected.items()}
    assert settings.proxies(env, ["localhost", "server1"]) == expected | capitals


def pem(text: str) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(text.encode()).decode()}\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("bundles", "expected"),
    [
        ([], []),
        ([pem("shipped")], []),
        ([f"# bundle\n{pem('corp')}{pem('shipped')}", pem("corp") + pem("team")], [pem("corp"), pem("team")]),
    ],
)
def test_certificates_are_those_debian_does_not_ship_each_once(bundles: list[str], expected: list[str]) -> None:
    assert settings.certificates(bundles, [pem("shipped")]) == expected


@pytest.mark.parametrize(
    ("extra", "bundles"), [(False, set()), (True, {f'{name}="{settings.SYSTEM_BUNDLE}"' for name in settings.BUNDLE_VARIABLES})]
)
def test_environment(extra: bool, bundles: set[str]) -> None:
    assert set(settings.environment({"http_proxy": "http://p.example"}, extra).splitlines()) == bundles | {'http_proxy="http://p.example"'}
