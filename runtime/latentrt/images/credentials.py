"""Content Credentials: a signed statement in a picture's file of how it came about, in the format of C2PA.

The certificate chain and the key are the operator's. Nothing is asked of a network: no time stamp, no revocation list.
Specification: C2PA 2.2, "Actions" (`c2pa.created` with its digital source type). Needs the extra `c2pa`.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from latentrt.errors import EngineError, RequestError
from latentrt.images import xmp
from latentrt.version import VERSION

TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}  # by Pillow's format
# Algorithms of C2PA 2.2, "Digital Signatures": by curve of elliptic keys, and by kind of the others.
CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
KEYS = {"RSAPrivateKey": "ps256", "Ed25519PrivateKey": "ed25519"}
# A thumbnail would be larger than most pictures here: 874 kB for one of 512x512.
SETTINGS = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"ocsp_fetch": False, "remote_manifest_fetch": False},
}


class Signer:
    """Signs pictures with one certificate and key; threads may share it."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """certificate: PEM, the signer's first, then those that vouch for it. key: PEM without a password.

        Raises RequestError for files that cannot be read or do not belong together, EngineError without the extra.
        """
        c2pa = library()
        chain, secret = read_pem("certificate", certificate), read_pem("key", key)
        try:
            check_pair(chain, secret)
            info = c2pa.C2paSignerInfo(algorithm_of(secret), chain, secret, None)
            context = c2pa.Context(c2pa.Settings.from_dict(SETTINGS), c2pa.Signer.from_info(info))
        except (ValueError, TypeError, c2pa.C2paError) as error:
            raise RequestError(
                f"{certificate}, {key}: got what cannot sign ({error}), expected a certificate chain and its key in PEM"
            ) from error
        self._c2pa, self._context = c2pa, context

    def sign(self, file: bytes) -> bytes:
        """The file of a PNG, JPEG or WebP with Content Credentials: what its mark in XMP says, signed.

        Raises RequestError for a picture without the mark, with credentials already, and of another format.
        """
        kind, source = described(file)
        if self._c2pa.Reader.try_create(TYPES[kind], io.BytesIO(file), context=self._context) is not None:
            raise RequestError("picture: got one with Content Credentials, expected one that is not signed yet")
        signed = io.BytesIO()
        try:
            self._c2pa.Builder(statement(TYPES[kind], source), self._context).sign(
                TYPES[kind], io.BytesIO(file), signed
            )
        except self._c2pa.C2paError as error:
            raise RequestError(f"picture: cannot be signed ({error}); the certificate must allow signing") from error
        return signed.getvalue()


def library() -> Any:
    """The package c2pa. Raises EngineError that names the extra."""
    try:
        import c2pa
    except ImportError as error:
        raise EngineError(f"signing needs {error.name}: run `pip install 'latentrt[c2pa]'`") from error
    return c2pa


def statement(format: str, source: str) -> dict[str, Any]:
    """What is signed of a picture. format: its media type. source: the address of its digital source type."""
    action = {"action": "c2pa.created", "digitalSourceType": source}
    return {
        "claim_generator_info": [{"name": "latentrt", "version": VERSION}],
        "format": format,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
    }


def described(file: bytes) -> tuple[str, str]:
    """Pillow's format of a picture's file, and the digital source type in its mark. Raises as `Signer.sign`."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(file), formats=list(TYPES)) as image:
            kind, packet = str(image.format), image.info.get("xmp") or image.info.get(xmp.KEY)
    except Exception as error:  # Pillow raises errors of many kinds for damaged files
        raise RequestError(f"picture: got no readable file ({error}), expected {' or '.join(TYPES)}") from error
    source = xmp.source_in(packet.decode("utf-8", "replace") if isinstance(packet, bytes) else packet or "")
    if source is None:
        raise RequestError(
            "picture: got one without the mark that it was generated, expected one that was saved without --no-mark"
        )
    return kind, source


def read_pem(name: str, path: Path) -> bytes:
    """The bytes of a PEM file. Raises RequestError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError(f"{name}: got {path}, which cannot be read ({error.strerror})") from error


def check_pair(chain: bytes, key: bytes) -> None:
    """Raises ValueError if the key is not that of the chain's first certificate."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509 import load_pem_x509_certificates

    own = load_pem_x509_certificates(chain)[0].public_key()
    if load_pem_private_key(key, None).public_key() != own:
        raise ValueError("the key is not that of the first certificate")


def algorithm_of(key: bytes) -> str:
    """C2PA's name of the algorithm for a private key. Raises ValueError for a kind that it does not have."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    loaded = load_pem_private_key(key, None)
    elliptic = isinstance(loaded, EllipticCurvePrivateKey)
    name = loaded.curve.name if elliptic else type(loaded).__name__
    found = (CURVES if elliptic else KEYS).get(name)
    if found is None:
        raise ValueError(f"a key of the kind {name}; expected {', '.join(CURVES)}, RSA or Ed25519")
    return found
