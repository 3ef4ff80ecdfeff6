"""The hub's own certificate authority, and the server's certificate.

Parties pin the authority, which their join token brings. It signs nothing but certificates of this hub's servers, so no
public authority is needed, and none can be talked into making a false one. The server's certificate is renewed at a
start of the hub, two months before its end or when the host names change; parties do not notice.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from polyclinic.federation.over_nats.identity import write_secret

_CA_DAYS = 20 * 365
_SERVER_DAYS = 2 * 365
_RENEW_DAYS = 60
# A party's clock may be behind.
_BACKDATED = timedelta(days=2)
_ALWAYS = ("localhost", "127.0.0.1", "::1")


def make_certificates(folder: Path, server: Path, hosts: Iterable[str], *, now: datetime | None = None) -> bool:
    """Makes what is missing, out of date, or for other hosts.

    Args:
        folder: of ``ca.pem`` and ``ca.key``.
        server: of ``server.pem`` and ``server.key``.
        hosts: names and addresses that the server is dialled by; this machine's own are added.

    Returns:
        Whether the server has a new certificate.
    """
    now = now or datetime.now(UTC)
    names = list(dict.fromkeys([*hosts, *_ALWAYS]))
    if not (folder / "ca.pem").exists():
        _make_authority(folder, now)
    ca = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    if (server / "server.pem").exists():
        old = x509.load_pem_x509_certificate((server / "server.pem").read_bytes())
        same = {*_names(old)} == {*names} and old.issuer == ca.subject and _is_signed_by(old, ca)
        if same and old.not_valid_after_utc - now > timedelta(days=_RENEW_DAYS):
            return False
    key = ec.generate_private_key(ec.SECP256R1())
    ca_key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    certificate = (
        _builder("Polyclinic hub server", ca.subject, key.public_key(), now, _SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        # The servers of a cluster are each other's clients.
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    _write(server, "server", key, certificate)
    return True


def fingerprint(pem: str) -> str:
    """SHA-256 of a certificate, in hexadecimal digits."""
    return x509.load_pem_x509_certificate(pem.encode("ascii")).fingerprint(hashes.SHA256()).hex()


def to_der(pem: str) -> bytes:
    """The certificate's bytes."""
    return x509.load_pem_x509_certificate(pem.encode("ascii")).public_bytes(serialization.Encoding.DER)


def to_pem(der: bytes) -> str:
    """The certificate as text.

    Raises:
        ValueError: if it is none.
    """
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM).decode("ascii")


def _make_authority(folder: Path, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Polyclinic hub")])
    certificate = (
        _builder("Polyclinic hub", name, key.public_key(), now, _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=False,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(folder, "ca", key, certificate)


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + timedelta(days=days))
    )


def _write(folder: Path, stem: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_secret(folder / f"{stem}.key", pem.decode("ascii").strip())
    # The certificate comes last: what has one has its key.
    (folder / f"{stem}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name.encode("idna").decode("ascii"))


def _names(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


def _is_signed_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except Exception:  # of cryptography or of its back end, by what does not fit
        return False
    return True
