"""A report's figures: shares, order, what becomes of them as JSON and in bundle.json."""

import json
from dataclasses import asdict

from latentrt.bundle.quantization import Quantization
from latentrt.storage.json_codec import parse
from latentrt_calib.report.report import GateReport, figures
from tests.calib.reports import report


def test_shares_are_of_multiply_adds():
    assert report().macs_int8_share_of_layers == 0.8
    assert report().macs_int8_share_of_all == 0.4


def test_layers_in_float_have_a_reason():
    assert [layer.name for layer in report().float_layers] == ["conv_in", "down.still"]


def test_the_most_sensitive_comes_first_and_no_difference_last():
    assert [damage.psnr_db for damage in report().most_sensitive] == [28.0, 44.0, None]


def test_figures_are_json_without_pictures():
    written = json.loads(json.dumps(figures(report()), allow_nan=False))
    assert written["macs_int8_share_of_all"] == 0.4
    assert written["layers"][2]["alpha"] == 0.65 and written["layers"][1]["ranges"][1] == [-3.0, 1.0]
    assert written["comparison"]["loss"]["pictures"] == 7
    assert "samples" not in written["comparison"]


def test_the_vae_decoder_has_figures_of_its_own_and_no_pictures_either():
    own = report(component="vae_decoder", bytes_after=1_000_000)
    quantized, missed = report(decoder=GateReport(30.0, 33.3, own)), report(decoder=GateReport(40.0, 33.3, None))
    assert [one.component for one in quantized.components] == ["unet", "vae_decoder"]
    assert missed.components == (missed,)
    written = json.loads(json.dumps(figures(quantized), allow_nan=False))
    assert written["decoder"]["report"] == json.loads(json.dumps(figures(own)))
    assert figures(missed)["decoder"] == {"gate_db": 40.0, "psnr_db": 33.3, "report": None}
    assert "stays float" in missed.decoder.verdict and "33.30 dB, the gate is 40 dB" in missed.decoder.verdict
    assert "are equal" in GateReport(40.0, None, own).verdict


def test_what_bundle_json_carries_can_be_read_by_the_runtime_and_is_the_same_report():
    carried = report().quantization
    assert parse(Quantization, json.loads(json.dumps(asdict(carried)))) == carried
    assert carried.source == report().comparison.reference.sha256
    assert carried.loss == report().comparison.loss
    assert [layer.name for layer in carried.layers] == [layer.name for layer in report().layers]
    assert (carried.share_of_layers, carried.bytes_before, carried.target) == (0.8, 30_000_000, "cpu")
