"""Certificates from an authority, with each engine: Caddy's own acme_server on the client's machine."""

import datetime

import pytest
from conftest import ENGINES, INVENTORY, NAME, streams_through
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

AUTHORITY = """
{
	admin off
	auto_https disable_redirects
	skip_install_trust
}
https://client1:9443 {
	tls internal
	acme_server
}
"""
INSTALL = """
command -v caddy && exit
printf 'exit 101' | install -m 755 /dev/stdin /usr/sbin/policy-rc.d
apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends caddy >/dev/null
rm /usr/sbin/policy-rc.d
"""
HOME = "/var/lib/authority"
PKI = f"{HOME}/caddy/pki/authorities/local"
START = (
    f"systemd-run --quiet --collect --unit=authority --setenv=XDG_DATA_HOME={HOME} --setenv=HOME={HOME} "
    "caddy run --adapter caddyfile --config /run/authority"
)
ISSUED = f"openssl s_client -connect {NAME}:443 -servername {NAME} </dev/null 2>/dev/null | openssl x509 -noout -issuer -startdate"


@pytest.fixture(scope="module")
def authority(client):
    """Return the settings of the role that lead to it; on the client /root/acme.crt is its CA."""
    client.check_output(INSTALL)
    client.check_output("cat >/run/authority <<'E'" + AUTHORITY + "E")
    client.check_output(
        f"{START}; for n in $(seq 50); do [ -e {PKI}/intermediate.key ] && break; sleep 0.2; done; cp {PKI}/root.crt /root/acme.crt"
    )
    ca = INVENTORY / ".secrets/acme-ca.crt"
    ca.write_text(client.check_output("cat /root/acme.crt") + "\n")
    yield {
        "gateway_tls": "acme",
        "gateway_acme_directory": "https://client1:9443/acme/local/directory",
        "gateway_acme_email": "ops@example.com",
        "gateway_acme_agreed": True,
        "gateway_acme_ca": str(ca),
    }
    client.check_output("systemctl stop authority")


def began(issued):
    """Return the moment from which a certificate is good."""
    return datetime.datetime.strptime(issued.rpartition("notBefore=")[2].strip(), "%b %d %H:%M:%S %Y GMT")


def near_its_end(chain, issuer_key):
    """Return the chain with a leaf that has an hour of eleven left, of the same key and by the same issuer."""
    leaf, issuer = x509.load_pem_x509_certificates(chain.encode())[:2]
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder(issuer.subject, leaf.subject, leaf.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(hours=10)).not_valid_after(now + datetime.timedelta(hours=1))
    for extension in leaf.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    signed = builder.sign(serialization.load_pem_private_key(issuer_key.encode(), None), hashes.SHA256())
    return "".join(one.public_bytes(serialization.Encoding.PEM).decode() for one in (signed, issuer))


@pytest.fixture
def renew(client, gateway):
    """Return, by engine, what renews a certificate now."""

    def caddy():
        # it decides by itself, when it reads a certificate and every ten minutes: this one is due
        path = gateway.check_output(f"find /var/lib/ownmetal-gateway/caddy/certificates -name {NAME}.crt")
        ending = near_its_end(gateway.check_output(f"cat {path}"), client.check_output(f"cat {PKI}/intermediate.key"))
        gateway.run_expect([0], f"cat >{path} <<'E'\n{ending}E\nsystemctl reload ownmetal-gateway")

    # certbot renews what ends within 30 days, and the authority's are good for hours: each turn of the timer asks for a new one
    return {"caddy": caddy, "nginx": lambda: gateway.check_output("systemctl start ownmetal-gateway-acme")}


@pytest.mark.parametrize("engine", ENGINES)
def test_obtained_and_renewed_without_a_lost_stream(converge, authority, client, gateway, ask, renew, engine):
    ask("/v1/models")  # leaves the key on the client
    try:
        converge(gateway_engine=engine, **authority)
        first = client.check_output(ISSUED)
        assert "Caddy Local Authority" in first
        asks = f"curl -s --cacert /root/acme.crt -H @/root/header https://{NAME}/v1/models -o /dev/null -w '%{{http_code}}'"
        assert client.check_output(asks) == "200"
        assert "changed=0" in converge(gateway_engine=engine, **authority)
        ends = streams_through(client, renew[engine], 6, 400, "/root/acme.crt")
        assert [(status, whole) for status, _, _, _, whole in ends] == [(200, True)] * 6
        # the one that was made due has an hour left, and is from before the first
        last = client.check_output(ISSUED)
        print(first, last)
        assert "Caddy Local Authority" in last
        assert began(last) > began(first)
    finally:
        converge()
    assert gateway.run("find /etc /var/lib -path '*ownmetal-gateway*' -name '*acme*' -o -name certificates -path '*ownmetal*'").stdout == ""
    assert gateway.run("systemctl is-active ownmetal-gateway-acme.timer").stdout.strip() != "active"
    assert ask("/v1/models")[0] == 200
