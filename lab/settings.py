"""The operator's package settings, as a host (or the controller's own uv) needs them.

Pure functions from the text of the operator's files and environment to the text of a host's files. `inherit.py` reads
the operator's files. A host trusts the operator's certificates in its own system bundle, so wherever an operator's file
names a bundle, a host's names that one.
"""

from __future__ import annotations

import base64
import configparser
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import tomllib

SYSTEM_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"

# Variables by which programs are told of a bundle of certificates.
BUNDLE_VARIABLES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",
)
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")

# What a host takes over of pip's settings. Not `constraint`: a lock says all there is to say about versions.
PIP_LISTS = ("extra-index-url", "find-links", "trusted-host")
PIP_WORDS = ("index-url", "no-index", "timeout", "retries", "proxy")
NPM_KEYS = ("registry", "proxy", "https-proxy", "noproxy", "strict-ssl", "fetch-timeout", "fetch-retries")
APT_KEYS = re.compile(r'Acquire::(Check-Valid-Until|Check-Date|Retries|https?::(Proxy|Timeout|Verify-Peer)(::\S+)?) ".*";')


@dataclass(frozen=True)
class Pip:
    """pip's settings. `words` are single values by key, `lists` many; `cert` is the bundle it is told to use, or ''."""

    words: dict[str, str] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)
    cert: str = ""


@dataclass(frozen=True)
class Uv:
    """uv's settings: URLs or absolute paths; '' and [] where uv's own defaults are meant. `timeout` is in seconds."""

    index_url: str = ""
    extra_index_url: list[str] = field(default_factory=list)
    find_links: list[str] = field(default_factory=list)
    insecure_hosts: list[str] = field(default_factory=list)
    no_index: bool = False
    timeout: str = ""


@dataclass(frozen=True)
class Archive:
    """A Debian mirror: URI of the packages, and of the security updates ('' where it has none)."""

    main: str
    security: str


def pip_settings(files: Iterable[str], env: Mapping[str, str], home: str = "/root") -> Pip:
    """What pip reads, later files over earlier ones, PIP_* over all; ValueError where a file can't be read."""
    merged: dict[str, str] = {}
    for text in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read_string(text)
        except configparser.Error as error:
            raise ValueError(f"a pip configuration file can't be read: {error}") from error
        for section in ("global", "install"):
            if parser.has_section(section):
                merged |= dict(parser.items(section))
    merged |= {name[4:].lower(): value for name, value in env.items() if name.startswith("PIP_") and value}
    merged = {key.lower().replace("_", "-"): value.strip() for key, value in merged.items()}
    if "default-timeout" in merged:
        merged.setdefault("timeout", merged["default-timeout"])
    lists = {key: merged[key].split() for key in PIP_LISTS if merged.get(key)}
    if "find-links" in lists:
        lists["find-links"] = [re.sub("^~(?=/|$)", home, link) for link in lists["find-links"]]
    return Pip({key: merged[key] for key in PIP_WORDS if merged.get(key)}, lists, merged.get("cert", ""))


def pip_conf(pip: Pip) -> str:
    """A host's /etc/pip.conf."""
    lines = ["[global]", f"cert = {SYSTEM_BUNDLE}", "disable-pip-version-check = true"]
    lines += [f"{key} = {value}" for key, value in pip.words.items()]
    for key, values in pip.lists.items():
        lines += [f"{key} =", *(f"    {value}" for value in values)]
    return "\n".join(lines) + "\n"


def uv_settings(pip: Pip, files: Iterable[str], env: Mapping[str, str]) -> Uv:
    """uv's own settings, and pip's where uv, which reads none of pip's files, has none; ValueError for a bad file."""
    default, extra, links = "", [], []
    for text in files:
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"a uv configuration file can't be read: {error}") from error
        # uv's pip section is over the top level
        for table in (document, document.get("pip", {})):
            default = table.get("index-url", default)
            for index in table.get("index", []):
                if index.get("default"):
                    default = index["url"]
                elif not index.get("explicit"):
                    extra.append(index["url"])
            extra += table.get("extra-index-url", [])
            links += table.get("find-links", [])
    default = env.get("UV_DEFAULT_INDEX") or env.get("UV_INDEX_URL") or default
    extra += [_unnamed(word) for word in (env.get("UV_INDEX", "") + " " + env.get("UV_EXTRA_INDEX_URL", "")).split()]
    links += [link for link in env.get("UV_FIND_LINKS", "").split(",") if link]
    return Uv(
        index_url=_unnamed(default) or pip.words.get("index-url", ""),
        extra_index_url=_once(extra + pip.lists.get("extra-index-url", [])),
        find_links=_once(links + pip.lists.get("find-links", [])),
        insecure_hosts=pip.lists.get("trusted-host", []),
        no_index=pip.words.get("no-index", "").lower() in ("1", "true", "yes", "on"),
        timeout=env.get("UV_HTTP_TIMEOUT") or pip.words.get("timeout", ""),
    )


def uv_toml(uv: Uv) -> str:
    """A uv.toml."""
    lines = ["# the operator's package settings, taken over by the lab", "system-certs = true"]
    # As pip does. uv's own strategy looks no further than the first index that has a package at all, and a lock's
    # version may be on the second; its hashes keep a stranger's package out.
    lines.append('index-strategy = "unsafe-best-match"')
    if uv.no_index:
        lines.append("no-index = true")
    if uv.index_url:
        lines.append(f"index-url = {json.dumps(uv.index_url)}")
    for key, values in (
        ("extra-index-url", uv.extra_index_url),
        ("find-links", uv.find_links),
        ("allow-insecure-host", uv.insecure_hosts),
    ):
        if values:
            lines.append(f"{key} = {json.dumps(values)}")
    return "\n".join(lines) + "\n"


def uv_environment(uv: Uv) -> dict[str, str]:
    """The same settings as uv's variables."""
    variables = {
        "UV_SYSTEM_CERTS": "1",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_NO_INDEX": "1" if uv.no_index else "",
        "UV_DEFAULT_INDEX": uv.index_url,
        "UV_EXTRA_INDEX_URL": " ".join(uv.extra_index_url),
        "UV_FIND_LINKS": ",".join(uv.find_links),
        "UV_INSECURE_HOST": " ".join(uv.insecure_hosts),
        "UV_HTTP_TIMEOUT": uv.timeout,
    }
    return {name: value for name, value in variables.items() if value}


def local_folders(places: Iterable[str]) -> list[str]:
    """The folders of this machine that indexes or links name, which a host must see at the same path.

    The pages of an index called `simple` link to files beside it, so its parent is needed.
    """
    folders = []
    for place in places:
        path = unquote(urlsplit(place).path) if place.startswith("file:") else place
        if path.startswith("/"):
            folder = PurePosixPath(path)
            folders.append(str(folder.parent if folder.name == "simple" else folder))
    return _once(folders)


def npm_settings(files: Iterable[str], env: Mapping[str, str]) -> dict[str, str]:
    """What npm reads, later files over earlier ones, npm_config_* over all; `cafile` is kept as it stands."""

    def keep(key: str) -> bool:
        # a scope's registry, and what a registry wants to be shown, are keys that contain names
        return key in (*NPM_KEYS, "cafile") or key.startswith("//") or bool(re.fullmatch("@[^:]+:registry", key))

    merged: dict[str, str] = {}
    for text in files:
        for line in text.splitlines():
            key, equals, value = (part.strip() for part in line.partition("="))
            if equals and not key.startswith((";", "#")):
                value = re.sub(r"\$\{([^}]+)\}", lambda match: env.get(match[1], match[0]), value)
                merged[key] = value.strip("\"'")
    for name, value in env.items():
        if name.lower().startswith("npm_config_") and value:
            merged[name[len("npm_config_") :].lower().replace("_", "-")] = value
    return {key: value for key, value in merged.items() if keep(key)}


def npmrc(npm: Mapping[str, str]) -> str:
    """A host's /etc/npmrc."""
    return "".join(f"{key}={value}\n" for key, value in (dict(npm) | {"cafile": SYSTEM_BUNDLE}).items())


def apt_settings(dump: str, env: Mapping[str, str]) -> str:
    """The lines of `apt-config dump` that say how archives are reached, as a file for apt.conf.d.

    apt itself reads the proxy variables, but not every apt in a host is run with them.
    """
    lines = [line for line in dump.splitlines() if APT_KEYS.fullmatch(line)]
    for scheme in ("http", "https"):
        proxy = proxies(env).get(f"{scheme}_proxy")
        if proxy and not any(line.startswith(f"Acquire::{scheme}::Proxy ") for line in lines):
            lines.append(f'Acquire::{scheme}::Proxy "{proxy}";')
    return "".join(f"{line}\n" for line in lines)


def debian_archive(files: Mapping[str, str], codename: str, read: Callable[[str], str] = lambda path: "") -> Archive | None:
    """The Debian mirror in apt's source files (text by file name), or None; `read` gives the text of a mirror list.

    Other makers' archives may use Debian's release names too: Debian's own has updates beside it, or is called debian.
    """
    entries: list[tuple[str, list[str], list[str]]] = []
    for name, text in files.items():
        entries += _deb822(text) if name.endswith(".sources") else _one_line(text)
    entries = [(_resolved(uri, read), suites, components) for uri, suites, components in entries]
    uris: dict[str, set[str]] = {}
    for uri, suites, components in entries:
        if "main" in components and re.match("(https?|file|copy)://", uri):
            uris.setdefault(uri.rstrip("/"), set()).update(suite.rstrip("/") for suite in suites)
    main = next(
        (uri for uri, suites in uris.items() if codename in suites and (f"{codename}-updates" in suites or uri.endswith("/debian"))),
        None,
    )
    if main is None:
        return None
    return Archive(main, next((uri for uri, suites in uris.items() if f"{codename}-security" in suites), ""))


def archive_at(mirror: str) -> Archive:
    """The archive at a mirror that was named by hand; mirrors keep security updates beside the packages."""
    main = mirror.rstrip("/")
    return Archive(main, f"{main}-security" if main.endswith("/debian") else "")


def source_lines(archive: Archive, suite: str, keyring: str) -> list[str]:
    """The lines of a host's sources.list."""
    lines = [f"deb [signed-by={keyring}] {archive.main} {release} main" for release in (suite, f"{suite}-updates")]
    if archive.security:
        lines.append(f"deb [signed-by={keyring}] {archive.security} {suite}-security main")
    return lines


def resolv_conf(texts: Iterable[str]) -> str | None:
    """The first resolver configuration that works from another address than this machine's own, or None.

    A server on a loopback address serves this machine alone.
    """
    for text in texts:
        lines = [line.split() for line in text.splitlines() if line.split()[:1] and line[0] not in "#;"]
        reachable = [words for words in lines if not (words[0] == "nameserver" and _is_loopback(words[1]))]
        if any(words[0] == "nameserver" for words in reachable):
            return "".join(" ".join(words) + "\n" for words in reachable)
    return None


def proxies(env: Mapping[str, str], no_proxy: Iterable[str] = ()) -> dict[str, str]:
    """The proxy variables, in the small letters that every program reads and the capitals that some do.

    `no_proxy` is what must never go through a proxy: the lab itself. {} where the operator has no proxy.
    """
    found = {name: env.get(name) or env.get(name.upper()) or "" for name in PROXY_VARIABLES}
    if not any(found[name] for name in PROXY_VARIABLES if name != "no_proxy"):
        return {}
    found["no_proxy"] = ",".join(_once([*found["no_proxy"].replace(" ", "").split(","), *no_proxy]))
    both = {name: value for name, value in found.items() if value}
    return both | {name.upper(): value for name, value in both.items()}


def certificates(bundles: Iterable[str], known: Iterable[str]) -> list[str]:
    """The certificates (PEM) of the operator's bundles that Debian does not ship, each once."""
    shipped = {der for text in known for der in _ders(text)}
    found = dict.fromkeys(der for text in bundles for der in _ders(text) if der not in shipped)
    return [_pem(der) for der in found]


def environment(variables: Mapping[str, str], extra_certificates: bool) -> str:
    """A host's /etc/environment, which ssh sessions read and units do not."""
    told = dict.fromkeys(BUNDLE_VARIABLES, SYSTEM_BUNDLE) if extra_certificates else {}
    return "".join(f'{name}="{value}"\n' for name, value in (told | dict(variables)).items())


def _unnamed(index: str) -> str:
    """uv's variables may give an index a name: name=URL."""
    return re.sub(r"^[A-Za-z0-9._-]+=(?=\w+://|/)", "", index)


def _once(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(value for value in values if value))


def _ders(text: str) -> list[bytes]:
    blocks = re.findall("-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", text, re.DOTALL)
    return [base64.b64decode("".join(block.split())) for block in blocks]


def _pem(der: bytes) -> str:
    body = re.findall(".{1,64}", base64.b64encode(der).decode())
    return "\n".join(["-----BEGIN CERTIFICATE-----", *body, "-----END CERTIFICATE-----"]) + "\n"


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def _deb822(text: str) -> list[tuple[str, list[str], list[str]]]:
    entries = []
    for stanza in re.split(r"\n\s*\n", text):
        lines = [line for line in stanza.splitlines() if not line.startswith("#")]
        fields: dict[str, str] = {}
        key = ""
        for line in lines:
            if line[:1].isspace():
                fields[key] = fields.get(key, "") + " " + line.strip()
            elif ":" in line:
                key, _, value = line.partition(":")
                key = key.strip().lower()
                fields[key] = value.strip()
        if "deb" in fields.get("types", "").split() and fields.get("enabled", "yes").lower() != "no":
            suites, components = fields.get("suites", "").split(), fields.get("components", "").split()
            entries += [(uri, suites, components) for uri in fields.get("uris", "").split()]
    return entries


def _one_line(text: str) -> list[tuple[str, list[str], list[str]]]:
    entries = []
    for line in text.splitlines():
        words = re.sub(r"\[[^]]*\]", " ", line.partition("#")[0]).split()
        if words[:1] == ["deb"] and len(words) >= 3:
            entries.append((words[1], [words[2]], words[3:]))
    return entries


def _resolved(uri: str, read: Callable[[str], str]) -> str:
    """Cloud images name their mirror in a file of its own: mirror+file:/PATH."""
    if not uri.startswith("mirror+file:"):
        return uri
    listed = read("/" + uri.removeprefix("mirror+file:").lstrip("/")).split()
    return listed[0] if listed else uri
