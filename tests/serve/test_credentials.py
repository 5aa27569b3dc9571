"""Content Credentials, as the reader of C2PA's own library finds them."""

import io
import json

import c2pa
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks.certificates import KEYS, write_chain
from latentrt.cli.sign import sign
from latentrt.errors import RequestError
from latentrt.images import xmp
from latentrt.images.credentials import TYPES, Signer
from latentrt.images.pillow import picture_bytes

MARKED = {xmp.KEY: xmp.packet("compositeWithTrainedAlgorithmicMedia", "latentrt")}
LARGEST, SIDE = 5000, 96


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files of a chain and its key."""
    return write_chain(tmp_path_factory.mktemp("certificates"))


def picture(kind="PNG", text=MARKED):
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return picture_bytes(Image.fromarray(pixels), kind, text)


def found(file, kind):
    """What the library's reader says: the state, the codes of what it complains about, and the only action."""
    with c2pa.Reader(TYPES[kind], io.BytesIO(file)) as reader:
        told, state = json.loads(reader.json()), reader.get_validation_state()
    manifest = told["manifests"][told["active_manifest"]]
    [action] = manifest["assertions"][0]["data"]["actions"]
    return state, [one["code"] for one in told["validation_status"]], action, manifest


@pytest.mark.parametrize("kind", TYPES)
def test_a_signed_picture_is_valid_and_says_what_its_mark_says(files, kind):
    file = picture(kind)
    signed = Signer(*files).sign(file)
    state, codes, action, manifest = found(signed, kind)
    assert (state, codes) == ("Valid", ["signingCredential.untrusted"])
    assert action == {"action": "c2pa.created", "digitalSourceType": f"{xmp.LIST}compositeWithTrainedAlgorithmicMedia"}
    assert manifest["signature_info"]["common_name"] == "Test signer"
    assert "thumbnail" not in manifest
    assert 0 < len(signed) - len(file) <= LARGEST
    assert np.array_equal(pixels_of(signed), pixels_of(file))


def pixels_of(file):
    return np.asarray(Image.open(io.BytesIO(file)))


@pytest.mark.parametrize(("kind", "start"), {"PNG": b"IDAT", "JPEG": b"\xff\xda", "WEBP": b"VP8L"}.items())
def test_one_flipped_byte_of_the_pixels_shows(files, kind, start):
    signed = bytearray(Signer(*files).sign(picture(kind)))
    signed[signed.rindex(start) + 100] ^= 1
    state, codes, _action, _manifest = found(bytes(signed), kind)
    assert state == "Invalid"
    assert "assertion.dataHash.mismatch" in codes


@pytest.mark.parametrize("algorithm", KEYS)
def test_keys_of_every_kind_sign(tmp_path, algorithm):
    signed = Signer(*write_chain(tmp_path, algorithm)).sign(picture())
    assert found(signed, "PNG")[0] == "Valid"


def test_a_key_of_another_certificate_is_refused(files, tmp_path):
    other = write_chain(tmp_path)
    with pytest.raises(RequestError, match="the key is not that of the first certificate"):
        Signer(files[0], other[1])


def test_files_that_are_no_certificates_are_refused(files, tmp_path):
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(RequestError, match="expected a certificate chain and its key in PEM"):
        Signer(tmp_path / "empty.pem", files[1])
    with pytest.raises(RequestError, match="cannot be read"):
        Signer(files[0], tmp_path / "nowhere.key")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (picture(text={}), "without the mark"),
        (picture(text={"parameters": MARKED[xmp.KEY]}), "without the mark"),
        (b"nothing", "no readable file"),
    ],
    ids=["no mark", "the mark's words in a prompt", "no picture"],
)
def test_what_is_not_a_marked_picture_is_not_signed(files, file, message):
    with pytest.raises(RequestError, match=message):
        Signer(*files).sign(file)


def test_a_signed_picture_is_not_signed_again(files):
    signer = Signer(*files)
    with pytest.raises(RequestError, match="not signed yet"):
        signer.sign(signer.sign(picture()))


def test_the_command_signs_a_file(files, tmp_path):
    (tmp_path / "a.webp").write_bytes(picture("WEBP"))
    options = ["--certificate", str(files[0]), "--key", str(files[1])]
    done = CliRunner().invoke(sign, [str(tmp_path / "a.webp"), *options, "--out", str(tmp_path / "b.webp")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "a.webp").read_bytes() == picture("WEBP")
    assert found((tmp_path / "b.webp").read_bytes(), "WEBP")[0] == "Valid"
    assert CliRunner().invoke(sign, [str(tmp_path / "a.webp"), *options]).exit_code == 0
    assert found((tmp_path / "a.webp").read_bytes(), "WEBP")[0] == "Valid"
