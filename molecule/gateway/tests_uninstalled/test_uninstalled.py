"""After cleanup: nothing of the role is left on the gateway, and developers trust it no more."""

from lab import testing
from lab.testing import ROOT

INVENTORY = ROOT / "molecule/gateway/inventory"


def test_nothing_is_left_on_the_gateway():
    gateway = testing.host("gw1", INVENTORY)
    assert gateway.run("find / -xdev -name '*ownmetal-gateway*' -not -path '/proc/*'").stdout == ""
    assert not gateway.user("ownmetal-gateway").exists
    assert gateway.run("pgrep -x nginx").rc == 1
    assert gateway.package("nginx").is_installed


def test_developers_trust_its_ca_no_more():
    developer = testing.host("dev1", INVENTORY)
    assert developer.run("find /etc/ssl /usr/local/share -name '*ownmetal*'").stdout == ""
