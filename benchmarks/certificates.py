"""A certificate chain of our own to sign pictures with: an authority that nobody trusts, and a signer."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

USES = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
MORE_USES = ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
KEYS = {
    "es256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "es384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ps256": lambda: rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


def write_chain(folder: Path, algorithm: str = "es256") -> tuple[Path, Path]:
    """Makes an authority and a signer. Returns the files of the signer's chain and of its key."""
    root, own = KEYS["es256"](), KEYS[algorithm]()
    authority = certificate("Test authority", root.public_key(), "Test authority", root, authority=True)
    signer = certificate("Test signer", own.public_key(), "Test authority", root, authority=False)
    chain, key = folder / f"{algorithm}.pem", folder / f"{algorithm}.key"
    chain.write_bytes(b"".join(one.public_bytes(serialization.Encoding.PEM) for one in (signer, authority)))
    key.write_bytes(
        own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return chain, key


def certificate(name: str, public: Any, issuer: str, issuer_key: Any, *, authority: bool) -> x509.Certificate:
    """A certificate of C2PA's profile: of an authority, or of a signer that may sign and protect mail."""
    now = datetime.datetime.now(datetime.timezone.utc)
    uses = {"key_cert_sign", "crl_sign"} if authority else {"digital_signature"}
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**{use: use in uses for use in (*USES, *MORE_USES)}), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=True)
    return builder.sign(issuer_key, hashes.SHA256())


def named(name: str) -> x509.Name:
    """A subject of an organization."""
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "latentrt"), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )
