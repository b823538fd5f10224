# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A gateway's certificate: judged when it is given, made by a private CA when it is not.

Runs on the controller alone. ``cryptography`` is there: ansible-core itself needs it.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import ipaddress
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Optional, Union

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .errors import Refused

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
CA_DAYS, LEAF_DAYS, RENEW_DAYS = 3650, 397, 30  # clients refuse certificates that live longer than 397 days
SLACK = datetime.timedelta(minutes=5)  # a client's clock may be behind


@dataclass(frozen=True)
class Pair:
    """A certificate with its chain, its private key, and the CA's certificate (empty where it is not ours), as PEM."""

    certificate: str
    key: str
    ca: str = ""


PLACEHOLDER = Pair("(made when not in check mode)\n", "(made when not in check mode)\n", "(made when not in check mode)\n")


def given(certificate: str, key: str, names: Sequence[str], now: Optional[datetime.datetime] = None) -> Pair:
    """Return the pair in two files of the controller. Raises Refused where a client would not accept it."""
    pair = Pair(_read("gateway_tls_certificate", certificate), _read("gateway_tls_key", key))
    why = unfit(pair, names, now or _now())
    if why:
        raise Refused("gateway_tls_certificate", f"{certificate} {why}.", "Name another one, or set gateway_tls: private_ca.")
    return pair


def made(directory: str, host: str, names: Sequence[str], make: bool = True, now: Optional[datetime.datetime] = None) -> Pair:
    """Return a gateway's pair, signed by the CA in ``directory``; both are made when they are not there.

    A pair that ends within 30 days (or with the CA), or lacks one of the names, is made anew. Without ``make`` nothing is, and a
    placeholder stands for what would be. Raises Refused where the CA has ended, and where half of it is missing and a certificate has
    to be signed.
    """
    now = now or _now()
    files = {part: os.path.join(directory, f"{name}.{ending}") for part, name, ending in _names(host)}
    if not make:
        return _ready(files, host, names, now) or PLACEHOLDER
    os.makedirs(directory, mode=0o700, exist_ok=True)
    with _alone(directory):  # several gateways are several processes, and there is one CA
        ready = _ready(files, host, names, now)
        if ready:
            return ready
        if not os.path.exists(files["ca"]):
            _write_ca(files, now)
        _write_leaf(files, names, now)
        return _pair(files)


def _ready(files: Mapping[str, str], host: str, names: Sequence[str], now: datetime.datetime) -> Optional[Pair]:
    """Return the pair that is there and good; None where one is to be made. A CA's key may be kept elsewhere until then."""
    have = {part: os.path.exists(file) for part, file in files.items()}
    end = _end(_read("gateway_secrets", files["ca"])) if have["ca"] else None
    if end and now >= end:  # before all else: a certificate that was made without this rule may be good for longer, and nobody takes it
        why = f"its CA, {files['ca']}, has ended on {end:%Y-%m-%d}."
        instead = f"Remove it and {files['ca_key']}, and run site.yml: a new CA is made then, which every machine has to trust anew."
        raise Refused("gateway_tls: private_ca", why, instead)
    if have["ca"] and have["certificate"] and have["key"]:
        pair = _pair(files)
        # none outlives its CA: in its last days a new one would end no later
        by_then = max(now, min(now + datetime.timedelta(days=RENEW_DAYS), _end(pair.ca) - SLACK))
        if _signed_by(pair) and not unfit(pair, names, by_then):
            return pair
    if have["ca"] != have["ca_key"]:
        missing, other = (files[part] for part in (("ca_key", "ca") if have["ca"] else ("ca", "ca_key")))
        why = f"has to sign a certificate for {host}, and {missing} is not there."
        instead = f"Put it back, or remove {other} too: a new CA is made then, which no client trusts yet."
        raise Refused("gateway_tls: private_ca", why, instead)
    return None


def _names(host: str) -> tuple[tuple[str, str, str], ...]:
    return (("ca", "ca", "crt"), ("ca_key", "ca", "key"), ("certificate", f"gateway-{host}", "crt"), ("key", f"gateway-{host}", "key"))


def unfit(pair: Pair, names: Sequence[str], now: datetime.datetime) -> str:
    """Return why a client would refuse a pair; empty when none would."""
    try:
        leaf = x509.load_pem_x509_certificates(pair.certificate.encode())[0]
        key = serialization.load_pem_private_key(pair.key.encode(), password=None)
    except (ValueError, TypeError, IndexError):
        return "and its key are not PEM, or the key has a password"
    if _public(leaf.public_key()) != _public(key.public_key()):
        return "is not of that key"
    if not leaf.not_valid_before_utc <= now < leaf.not_valid_after_utc:
        return f"is good from {leaf.not_valid_before_utc:%Y-%m-%d} to {leaf.not_valid_after_utc:%Y-%m-%d} only"
    missing = [name for name in names if not _covers(leaf, name)]
    return f"does not name {', '.join(missing)}" if missing else ""


def _covers(leaf: x509.Certificate, name: str) -> bool:
    try:
        stated = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    address = _address(name)
    if address:
        return address in stated.get_values_for_type(x509.IPAddress)
    wildcard = "*." + name.partition(".")[2]
    return bool({name.lower(), wildcard.lower()} & {one.lower() for one in stated.get_values_for_type(x509.DNSName)})


def _signed_by(pair: Pair) -> bool:
    leaf, ca = (x509.load_pem_x509_certificate(text.encode()) for text in (pair.certificate, pair.ca))
    try:
        leaf.verify_directly_issued_by(ca)
    except Exception:  # of several kinds; any of them means no
        return False
    return True


def _end(certificate: str) -> datetime.datetime:
    return x509.load_pem_x509_certificate(certificate.encode()).not_valid_after_utc


def _write_ca(files: Mapping[str, str], now: datetime.datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"ownmetal.codex gateway CA {now:%Y-%m-%d}")])
    builder = _builder(name, name, key.public_key(), now, now - SLACK + datetime.timedelta(days=CA_DAYS))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    _store(files["ca_key"], _pem(key))
    _store(files["ca"], builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode())


def _write_leaf(files: Mapping[str, str], names: Sequence[str], now: datetime.datetime) -> None:
    ca = x509.load_pem_x509_certificate(_read("gateway_secrets", files["ca"]).encode())
    ca_key = serialization.load_pem_private_key(_read("gateway_secrets", files["ca_key"]).encode(), password=None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise Refused(files["ca_key"], "is not the key that was made here.", "Put it back, or remove the CA's two files to have one made.")
    key = ec.generate_private_key(ec.SECP256R1())
    # the common name is history, and takes 64 characters: clients read the alternative names
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    builder = _builder(
        subject, ca.subject, key.public_key(), now, min(now - SLACK + datetime.timedelta(days=LEAF_DAYS), ca.not_valid_after_utc)
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    _store(files["key"], _pem(key))
    _store(files["certificate"], builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime.datetime, end: datetime.datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(now - SLACK).not_valid_after(end)


def _usage(signs: bool) -> x509.KeyUsage:
    others = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
    )
    return x509.KeyUsage(digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, **others)


def _general(name: str) -> x509.GeneralName:
    address = _address(name)
    return x509.IPAddress(address) if address else x509.DNSName(name)


def _address(name: str) -> Optional[Address]:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _public(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    form, shape = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(form, shape, serialization.NoEncryption()).decode()


def _pair(files: Mapping[str, str]) -> Pair:
    return Pair(*(_read("gateway_secrets", files[part]) for part in ("certificate", "key", "ca")))


def _read(variable: str, file: str) -> str:
    try:
        with open(os.path.expanduser(file), encoding="ascii") as stream:
            mode = os.fstat(stream.fileno()).st_mode & 0o777
            text = stream.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not PEM"
        raise Refused(variable, f"{file} cannot be read: {reason}.", "Correct the path, or that file.") from error
    if "PRIVATE KEY" in text and mode & 0o077:
        raise Refused(file, f"can be read by others (mode {mode:04o}).", f"Run: chmod 600 {file}")
    return text


def _store(file: str, text: str) -> None:
    aside = f"{file}.part"
    with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as stream:
        stream.write(text)
    os.replace(aside, file)


@contextlib.contextmanager
def _alone(directory: str) -> Iterator[None]:
    with open(os.path.join(directory, ".lock"), "w", encoding="ascii") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)
