# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Certificates by ACME: what the inventory has to say of the authority."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from typing import Any

from .errors import Refused

SETTINGS = ("acme_directory", "acme_email", "acme_ca", "acme_agreed")
MAIL = re.compile(r"[^@\s\"'\\{}]+@[A-Za-z0-9.-]+")
DIRECTORY = re.compile(r"https://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~/-]*)?")


def problems(settings: Mapping[str, Any]) -> list[Refused]:
    """Return what is wrong with the settings of ACME."""
    if settings["tls"] != "acme":
        return [
            Refused(f"gateway_{name}", "is read with gateway_tls: acme alone.", "Set that, or remove this.")
            for name in SETTINGS
            if settings[name]
        ]
    found = []
    if not DIRECTORY.fullmatch(str(settings["acme_directory"])):
        why = f"{settings['acme_directory']!r} is no https address."
        found.append(Refused("gateway_acme_directory", why, "Write that of the authority's directory."))
    if not MAIL.fullmatch(str(settings["acme_email"])):
        why = f"{settings['acme_email']!r} is no address for mail."
        found.append(Refused("gateway_acme_email", why, "Write one: the authority tells it of what goes wrong."))
    if settings["acme_agreed"] is not True:
        why = "is not true, and an authority wants its terms agreed to."
        found.append(Refused("gateway_acme_agreed", why, "Read them, then write true."))
    if settings["acme_ca"] and not os.path.isfile(os.path.expanduser(str(settings["acme_ca"]))):
        found.append(Refused("gateway_acme_ca", f"{settings['acme_ca']} is no file of the controller.", "Correct the path."))
    names = settings["names"] if isinstance(settings["names"], list) else []
    return found + [
        Refused("gateway_names", f"{name} is an address, and ACME is asked for names.", "Write the names that clients use.")
        for name in names
        if _is_address(name)
    ]


def _is_address(name: Any) -> bool:
    try:
        ipaddress.ip_address(str(name))
    except ValueError:
        return False
    return True
