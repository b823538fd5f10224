"""After cleanup: nothing of the role is left on the gateway, but for packages."""

from lab import testing
from lab.testing import ROOT


def test_nothing_is_left():
    gateway = testing.host("gw1", ROOT / "molecule/gateway_caddy/inventory")
    assert gateway.run("find / -xdev -name '*ownmetal-gateway*' -not -path '/proc/*'").stdout == ""
    assert not gateway.user("ownmetal-gateway").exists
    assert gateway.run("pgrep -x 'caddy|nginx|certbot'").rc == 1
    assert gateway.package("caddy").is_installed
