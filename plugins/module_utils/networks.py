# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Addresses and networks as an inventory writes them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any, Union

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]


def network(text: Any) -> Network:
    """Read an address or a network; raise ValueError with what is wrong, and the right one where the bits of a host are set."""
    if not isinstance(text, str):
        raise ValueError("is no text: write it in quotes, such as '192.0.2.0/24'")
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        try:
            near = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise ValueError("is neither an address nor a network such as 192.0.2.0/24 or 2001:db8::/64") from None
        raise ValueError(f"is an address with a network's length: write {near}, or {text.partition('/')[0]} alone") from None


def is_loopback(text: Any) -> bool:
    """Tell whether a host's name or address means the one who asks. IPv6 may have brackets."""
    try:
        return ipaddress.ip_address(str(text).strip("[]")).is_loopback
    except ValueError:
        return str(text) == "localhost"


def is_sources(value: Any) -> bool:
    """Tell whether a value is a list of addresses and networks."""
    return isinstance(value, list) and not [*bad_sources(value)]


def bad_sources(value: Any) -> Iterator[str]:
    """Yield what is wrong with a list of addresses and networks."""
    if not isinstance(value, list):
        yield "is not a list."
        return
    for source in value:
        try:
            network(source)
        except ValueError as error:
            yield f"{source!r} {error}."
