"""Estimates: a lower bound on all that was published, equal to torch's count, and what follows from one number each."""

import json
import math
from dataclasses import replace

import pytest

from benchmarks import estimates
from benchmarks.costs import load_costs, load_entries
from benchmarks.count_costs import modules
from benchmarks.counted import entries_of
from benchmarks.pictures import pictures
from benchmarks.published import PUBLISHED
from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import open_bundle
from latentrt.cli import main
from latentrt.device.jetson import FOOTPRINTS_GB
from latentrt.request.request import Request
from latentrt.request.settings import resolve
from latentrt_export.estimate.devices import DEVICES
from latentrt_export.estimate.estimate import CONTEXT_BYTES, SYSTEM_BYTES, Call, calls_of, estimate
from latentrt_export.estimate.roofline import PRECISIONS, roofline, weight_bytes
from latentrt_export.graph.costs import LARGEST_SHAPE, Cost, LayerWork


def graphs(model, place, *components):
    """The names of graphs at one size and batch."""
    return tuple(f"{model}/{component}/{place}" for component in components)


# Parameters that diffusers and transformers count, with what an export adds or leaves out.
ORIGINALS = {
    graphs("sd15", "64x64/batch4", "cross_kv", "time_bias", "unet"): 859_520_964,
    graphs("sd-turbo", "64x64/batch1", "cross_kv", "time_bias", "unet"): 865_910_724,
    graphs("sdxl", "128x128/batch2", "cross_kv", "time_bias", "unet"): 2_567_463_684,
    graphs("sd15", "64x64/batch2", "text_encoder"): 123_060_480 + 77 * 77,  # and the causal mask
    # Biases of 257 distances in place of those of 32 buckets.
    graphs("pixart-sigma", "128x128/batch2", "text_encoder"): 4_762_310_656 + (257 - 32) * 64,
    # Without the rows that predict a variance.
    graphs("pixart-sigma", "128x128/batch2", "time_bias", "cross_kv", "transformer"): 610_856_096 - 16 * (1152 + 1),
    # A bias for the modulations, which have none.
    graphs("flux2-klein-4b", "64x64/batch1", "time_bias", "context_rows", "transformer"): 3_875_544_576 + 17 * 3072,
    # Without the norms of 64 channels.
    graphs("sd35-medium", "128x128/batch2", "time_bias", "context_rows", "transformer"): 2_243_171_520 - 122 * 64,
}
# 1 TFLOP/s at each precision doubled, 100 GB/s, no cache.
PLAIN = replace(DEVICES["h100"], tf32=0.5, fp16=1.0, int8=2.0, bandwidth_gb=100.0, cache_mb=0.0, memory_gb=10.0)


def cost(*work, parameters=0, live=0):
    return Cost(dict.fromkeys(work, 1), parameters, live)


@pytest.fixture(scope="module")
def emoji():
    return open_bundle(folder_of("emoji"), verify=False)


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row.what}, {row.device}, {row.seconds:.3f}")
def test_the_estimate_is_below_what_was_published(row):
    assert 0.1 * row.seconds < estimates.bound(row) < row.seconds


def test_the_pages_have_the_tables_that_the_command_writes():
    for page, text in estimates.pages().items():
        assert page.read_text(encoding="utf-8") == text, "run python -m benchmarks.estimates"
        assert "-->\n<!-- end" not in text


def test_a_bound_that_is_none_is_said(monkeypatch, capsys):
    wrong = replace(PUBLISHED[0], seconds=0.5)
    monkeypatch.setattr(estimates, "PUBLISHED", (wrong,))
    monkeypatch.setattr(estimates, "pages", dict)
    assert estimates.main() == 1
    assert "estimate 4" in capsys.readouterr().out


@pytest.mark.parametrize("name", load_entries())
def test_torch_counts_the_same(name):
    entry = load_entries()[name]
    assert entry["macs"] == entry["torch_macs"] == load_costs()[name].macs


@pytest.mark.parametrize(("names", "parameters"), ORIGINALS.items(), ids=lambda item: str(item)[:24])
def test_parameters_add_up_to_the_original(names, parameters):
    assert 0 <= parameters - sum(load_costs()[name].parameters for name in names) <= LARGEST_SHAPE


def test_counting_again_gives_what_is_kept():
    counted = modules()
    for _ in range(2):  # cross_kv and time_bias of SD 1.5; the others take minutes
        for name, entry in entries_of(next(counted)):
            assert json.loads(json.dumps(entry)) == load_entries()[name]


@pytest.mark.parametrize(
    ("precision", "seconds", "binds"),
    [("fp32", 4e-6, "memory"), ("fp16", 2e-6, "memory"), ("int8", 1e-6, "memory"), ("w4", 0.70625e-6, "memory")],
)
def test_a_layer_that_moves_more_than_it_multiplies(precision, seconds, binds):
    found = roofline(cost(LayerWork("linear", 1000, 90_000, (6_000,), 4_000)), PRECISIONS[precision], PLAIN)
    assert (found.seconds, found.binds) == (pytest.approx(seconds), binds)
    assert found.moving == pytest.approx(seconds) and found.multiplying < seconds


@pytest.mark.parametrize(
    ("kind", "precision", "seconds"),
    [("conv", "fp32", 4e-6), ("conv", "fp16", 2e-6), ("conv", "int8", 1e-6), ("attention", "int8", 2e-6)],
)
def test_a_layer_that_multiplies_more_than_it_moves(kind, precision, seconds):
    found = roofline(cost(LayerWork(kind, 1_000_000, 10, (10,), 10)), PRECISIONS[precision], PLAIN)
    assert (found.seconds, found.binds) == (pytest.approx(seconds), "compute")


def test_layers_follow_one_another():
    one, other = LayerWork("linear", 1000, 90_000, (6_000,), 4_000), LayerWork("conv", 1_000_000, 10, (10,), 10)
    found = roofline(Cost({one: 3, other: 2}, 0, 0), PRECISIONS["fp16"], PLAIN)
    assert found.seconds == pytest.approx(3 * 2e-6 + 2 * 2e-6)
    assert (found.memory, found.compute) == (pytest.approx(6e-6), pytest.approx(4e-6))


def test_what_fits_the_cache_is_not_moved():
    work = LayerWork("linear", 1, 100_000, (50_000,), 1_000)
    half = replace(PLAIN, cache_mb=0.1)  # half of the weights, all of the tensors
    assert roofline(cost(work), PRECISIONS["fp16"], half).seconds == pytest.approx(100_000 / 100e9)
    assert roofline(cost(work), PRECISIONS["fp16"], replace(PLAIN, cache_mb=1.0)).seconds < 1e-10


@pytest.mark.parametrize("name", DEVICES)
def test_devices_are_dense_and_sourced(name):
    device = DEVICES[name]
    assert device.int8 == pytest.approx(2 * device.fp16, rel=0.01)
    assert device.tf32 <= 0.505 * device.fp16
    assert len(device.source) > 20
    unet = load_costs()["sd15/unet/64x64/batch2"]
    times = [roofline(unet, PRECISIONS[precision], device).seconds for precision in ("int8", "fp16", "fp32")]
    assert times == sorted(times) and times[0] > 0


def test_memory_is_weights_activations_and_the_context():
    unet = Call(cost(LayerWork("conv", 1, 800, (), 1), parameters=1000, live=50), 20)
    vae = Call(cost(parameters=100, live=4000), 1, "fp32")
    assert weight_bytes(unet.cost, PRECISIONS["int8"]) == 800 + 2 * 200
    linear = cost(LayerWork("linear", 1, 3200, (), 1), LayerWork("conv", 1, 100, (), 1), parameters=3500)
    assert weight_bytes(linear, PRECISIONS["w4"]) == 3200 // 2 + 2 * 100 + 100 + 2 * 200  # a scale for 32, and 8 bits
    shared = cost(LayerWork("linear", 1, 600, (), 1), parameters=300)
    assert weight_bytes(shared, PRECISIONS["fp16"]) == 600
    found = estimate({"unet": unet, "vae_decoder": vae}, "int8", PLAIN)
    assert found.weight_bytes == 1200 + 400
    assert found.activation_bytes == 16_000
    assert found.resident_bytes == CONTEXT_BYTES + 1600 + 16_000
    assert found.least_bytes == CONTEXT_BYTES + 400 + 16_000
    assert found.room_bytes == 10e9
    assert estimate({"unet": unet}, "fp16", replace(PLAIN, shared=True)).room_bytes == 10e9 - SYSTEM_BYTES


@pytest.mark.parametrize(
    ("memory_gb", "fits"), [(0.51, "no"), (0.55, "one at a time"), (0.8, "all at once")], ids=lambda value: str(value)
)
def test_what_fits(memory_gb, fits):
    calls = {name: Call(cost(parameters=10_000_000, live=100), 1) for name in ("unet", "text_encoder", "vae_decoder")}
    assert estimate(calls, "fp16", replace(PLAIN, memory_gb=memory_gb)).fits == fits


def test_a_request_decides_what_is_called(emoji):
    def calls(**options):
        return calls_of(emoji, resolve(Request("", **options), emoji.manifest))

    guided, alone = calls(steps=7, batch=2), calls(steps=7, batch=2, guidance=1.0)
    assert {name: call.times for name, call in guided.items()} == {
        "text_encoder": 1,
        "cross_kv": 1,
        "time_bias": 1,
        "unet": 7,
        "vae_decoder": 2,
    }
    assert guided["unet"].cost.macs == 2 * alone["unet"].cost.macs
    assert guided["text_encoder"].cost.macs == 2 * alone["text_encoder"].cost.macs
    assert guided["vae_decoder"] == alone["vae_decoder"]
    defaults = emoji.manifest.defaults
    wide = calls(steps=7, batch=2, width=2 * defaults.width)
    assert wide["unet"].cost.macs > 2 * guided["unet"].cost.macs  # convolutions twice, attention four times
    assert wide["vae_decoder"].cost.macs >= 2 * guided["vae_decoder"].cost.macs


def test_what_doctor_calls_a_footprint_is_the_estimate():
    found = {
        (model, precision): math.ceil(estimate(picture.calls, precision, DEVICES["orin-nano"]).least_bytes / 1e8) / 10
        for model, picture in pictures().items()
        for precision in picture.precisions
    }
    assert found == FOOTPRINTS_GB


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["latentrt", "estimate", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


def test_the_command_prints_every_layer_and_device(run):
    status, out, _ = run("emoji", "--steps", "4", "--device", "orin-nano", "--device", "h100")
    assert status == 0
    lines = out.splitlines()
    assert sum(line.startswith(("orin-nano", "h100")) for line in lines) == 2 * len(PRECISIONS)
    assert [line.split()[0] for line in lines if " conv " in line] == ["unet", "vae_decoder"]
    assert "no device was measured" in lines[-1]
    status, out, _ = run("emoji", "--steps", "4", "--device", "h100", "--json")
    report = json.loads(out)
    unet = report["graphs"]["unet"]
    assert unet["calls"] == 4 and unet["macs"] == sum(one["count"] * one["macs"] for one in unet["work"])
    assert [row["precision"] for row in report["estimates"]] == list(PRECISIONS)
    assert report["devices"]["h100"]["source"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("emoji", "--device", "pi"), 2, "got pi, expected of orin-nano"),
        (("emoji", "--size", "130x128"), 2, "130"),
        (("nowhere",), 3, "got neither a folder nor the name"),
    ],
)
def test_mistakes_are_named(run, arguments, status, said):
    found, out, err = run(*arguments)
    assert (found, out) == (status, "") and said in err
