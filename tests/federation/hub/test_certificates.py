"""Certificates, judged by the path validation of `cryptography` and by OpenSSL, which made neither."""

import hashlib
import ssl
import stat
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from polyclinic.federation.hub.certificates import fingerprint, make_certificates, to_der, to_pem

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def make(folder, hosts=("hub.example.org",), now=NOW):
    return make_certificates(folder, folder / "server", hosts, now=now)


def certificate(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def is_good(folder, name, now, ca=None):
    store = Store([certificate(ca or folder / "ca.pem")])
    verifier = PolicyBuilder().store(store).time(now).build_server_verifier(name)
    try:
        verifier.verify(certificate(folder / "server" / "server.pem"), [])
    except VerificationError:
        return False
    return True


def test_the_servers_certificate_is_good_for_its_hosts_and_no_others(tmp_path):
    assert make(tmp_path, ["hub.example.org", "192.0.2.7"])
    for name in (x509.DNSName("hub.example.org"), x509.IPAddress(ip_address("192.0.2.7")), x509.DNSName("localhost")):
        assert is_good(tmp_path, name, NOW)
    for name in (x509.DNSName("other.example.org"), x509.IPAddress(ip_address("192.0.2.8"))):
        assert not is_good(tmp_path, name, NOW)


def test_a_clock_that_is_an_hour_or_a_day_behind_is_no_matter(tmp_path):
    make(tmp_path)
    name = x509.DNSName("hub.example.org")
    assert is_good(tmp_path, name, NOW - timedelta(days=1))
    assert not is_good(tmp_path, name, NOW - timedelta(days=3))
    assert not is_good(tmp_path, name, NOW + timedelta(days=800))


def test_another_authority_is_not_believed(tmp_path):
    make(tmp_path / "ours")
    make(tmp_path / "theirs")
    name = x509.DNSName("hub.example.org")
    assert not is_good(tmp_path / "ours", name, NOW, ca=tmp_path / "theirs" / "ca.pem")


def test_a_servers_certificate_cannot_sign_another(tmp_path):
    make(tmp_path)
    constraints = certificate(tmp_path / "server" / "server.pem").extensions.get_extension_for_class(
        x509.BasicConstraints
    )
    assert not constraints.value.ca
    assert constraints.critical


def test_nothing_is_made_anew_without_need(tmp_path):
    assert make(tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert not make(tmp_path, now=NOW + timedelta(days=600))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == files


@pytest.mark.parametrize(
    ("hosts", "later"), [(["hub.example.org"], 700), (["hub2.example.org"], 1)], ids=["old", "other-host"]
)
def test_the_servers_certificate_is_renewed_under_the_same_authority(tmp_path, hosts, later):
    make(tmp_path)
    authority, old = (tmp_path / "ca.pem").read_bytes(), (tmp_path / "server" / "server.pem").read_bytes()
    now = NOW + timedelta(days=later)
    assert make(tmp_path, hosts, now=now)
    assert (tmp_path / "ca.pem").read_bytes() == authority
    assert (tmp_path / "server" / "server.pem").read_bytes() != old
    assert is_good(tmp_path, x509.DNSName(hosts[0]), now + timedelta(days=300))


def test_keys_are_for_their_owner_only_and_openssl_takes_them(tmp_path):
    make(tmp_path)
    for name in ("ca.key", "server/server.key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server" / "server.pem", tmp_path / "server" / "server.key")


def test_text_and_bytes_of_a_certificate_are_the_same_thing(tmp_path):
    make(tmp_path)
    pem = (tmp_path / "ca.pem").read_text()
    assert to_der(pem) == ssl.PEM_cert_to_DER_cert(pem)
    assert to_pem(to_der(pem)) == pem
    assert fingerprint(pem) == hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    with pytest.raises(ValueError):
        to_pem(b"no certificate")
