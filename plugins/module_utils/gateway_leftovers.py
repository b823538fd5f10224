# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What one engine, or one way to a certificate, has on a gateway, and another has not: after a change of either it goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ETC, STATE, UNITS = "/etc/ownmetal-gateway", "/var/lib/ownmetal-gateway", "/etc/systemd/system"
RENEWAL = "ownmetal-gateway-acme"


def leftovers(settings: Mapping[str, Any]) -> list[str]:
    """Return the paths that a gateway with these settings must not have, those in a folder after it."""
    caddy, acme = settings["engine"] == "caddy", settings["tls"] == "acme"
    rows = (
        # who has them                 what
        (not caddy, (f"{ETC}/nginx.conf", f"{ETC}/state.json", "/etc/logrotate.d/ownmetal-gateway")),
        (caddy, (f"{ETC}/Caddyfile", f"{ETC}/secrets.caddy")),
        (not acme, (f"{ETC}/tls.crt", f"{ETC}/tls.key")),
        (acme and settings["acme_ca"], (f"{ETC}/acme-ca.crt",)),
        (caddy or acme, (STATE,)),
        (caddy, (f"{STATE}/caddy",)),
        (caddy and acme, (f"{STATE}/caddy/acme", f"{STATE}/caddy/certificates")),
        (not caddy and acme, (f"{STATE}/acme", f"{UNITS}/{RENEWAL}.service", f"{UNITS}/{RENEWAL}.timer")),
        (not caddy and acme, (f"{UNITS}/timers.target.wants/{RENEWAL}.timer", f"/var/lib/systemd/timers/stamp-{RENEWAL}.timer")),
    )
    return [path for has, paths in rows if not has for path in paths]
