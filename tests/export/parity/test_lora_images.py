"""Pictures with LoRA files, fused at export and added at run time: diffusers' load_lora_weights draws the same."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file as save_tensors

import latentrt
from latentrt.bundle.folder import sha256_of
from latentrt.cli.generate import generate
from latentrt.engines import ENGINES
from latentrt.engines.onnx.engine import OVERRIDDEN
from latentrt.errors import BundleError, CheckpointError, EngineError
from latentrt.lora.files import Lora
from latentrt.pipeline.metadata import read_png
from latentrt.pipeline.pipeline import Pipeline
from latentrt.request.request import Request
from latentrt_export.checkpoint.lora import loras_provenance
from latentrt_export.export import ExportOptions
from latentrt_export.graph import save
from tests.export import loras
from tests.export.pairs import PROMPT, SIZE, opened_pair
from tests.export.tiny_families import TINY
from tests.export.untraced import untraced
from tests.sweep import sweep

pytestmark = [sweep, pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*adapter")]

LEAST_DB, LEAST_TO_FUSED_DB = 45.0, 90.0
OPTIONS = {"guidance": 5.0, "negative": "blue"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Stable Diffusion 1, its weights beside the graphs, and LoRA files for all that can take one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(save, "LARGEST_SINGLE_FILE_BYTES", 0)
        made = opened_pair("sd1", tmp_path_factory.mktemp("sd1"), precision="fp32")
    loras.save_both(made.folder, TINY["sd1"])
    with made.ours:
        yield made


def pixels(pipeline, **options):
    """One picture before it is rounded."""
    run = pipeline.steps(Request(PROMPT, seed=5, steps=2, syntax="plain", **OPTIONS, **SIZE, **options))
    return pipeline.decode(run.latents())


def test_the_image_is_that_of_diffusers_fused_or_at_run_time(pair):
    chosen = tuple(Lora(file, scale) for file, scale in loras.scales_in(pair.folder).items())
    fused = untraced(pair.folder / "checkpoint", pair.folder / "fused", ExportOptions(loras=chosen))
    said = fused.bundle.manifest.provenance
    assert said | loras_provenance(chosen) == said
    loras.load_both(pair.theirs, pair.folder)
    added = pair.ours.with_loras(loras.scales_in(pair.folder))
    found = [replace(pair, ours=one).psnr(**OPTIONS) for one in (fused, added, pair.ours)]
    apart = np.sqrt(np.mean((pixels(fused) - pixels(added)) ** 2)) / 2
    pair.theirs.unload_lora_weights()
    to_fused = -20 * np.log10(max(apart, 1e-9))
    print(f"fused {found[0]:.1f} dB, at run time {found[1]:.1f} dB, without {found[2]:.1f}; apart {to_fused:.1f} dB")
    assert min(found[:2]) >= LEAST_DB and found[2] < 40 and to_fused >= LEAST_TO_FUSED_DB


def test_from_one_to_another_and_back_to_the_bit(pair):
    plain = pixels(pair.ours)
    first, second = (loras.scales_in(pair.folder, {name: scale}) for name, scale in loras.SCALES.items())
    drawn = [pixels(pair.ours.with_loras(scales)) for scales in (first, second, first, {})]
    chained = pair.ours.with_loras(second).with_loras(first)
    assert not np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], plain)
    for again, expected in (
        (drawn[2], drawn[0]),
        (drawn[3], plain),
        (pixels(chained), drawn[0]),
        (pixels(pair.ours), plain),
    ):
        np.testing.assert_array_equal(again, expected)


def test_only_what_changes_is_loaded_anew(pair):
    added = pair.ours.with_loras(loras.scales_in(pair.folder))
    shared = {name for name, engine in added.engines.items() if engine is pair.ours.engines[name]}
    assert shared == {"vae_decoder", "vae_encoder"}
    assert pair.ours.with_loras({}).engines == pair.ours.engines


def test_a_budget_reckons_with_the_weights_beside_those_of_the_graph(pair):
    with latentrt.load(pair.folder / "bundle", memory_budget=1 << 30) as small:
        added = small.with_loras(loras.scales_in(pair.folder))
    kinds = {name: model is OVERRIDDEN for name, model in added.budget.models.items()}
    assert kinds == {name: not name.startswith("vae") for name in added.engines}
    assert all(model is ENGINES["onnxruntime"].memory for model in small.budget.models.values())
    assert pixels(added).tobytes() == pixels(pair.ours.with_loras(loras.scales_in(pair.folder))).tobytes()


@pytest.mark.parametrize("named", [False, True], ids=["measured", "by the variable"])
def test_auto_takes_them_whichever_engine_is_the_fastest(pair, named, monkeypatch):
    if named:
        monkeypatch.setenv("LATENTRT_ENGINE", "openvino")
    else:
        monkeypatch.delenv("LATENTRT_ENGINE")
        monkeypatch.setattr("latentrt.engines.autoselect.fastest", lambda bundle: "openvino")
    scales, expected = loras.scales_in(pair.folder), pair.ours.with_loras(loras.scales_in(pair.folder))
    with latentrt.load(pair.folder / "bundle") as fast:
        added, again = fast.with_loras(scales), fast.with_loras(scales)
        assert (fast.engine, added.engine) == ("openvino", "onnxruntime") and fast.with_loras(
            {}
        ).engines == fast.engines
        assert added.engines["vae_decoder"] is again.engines["vae_decoder"] is not fast.engines["vae_decoder"]
        assert pixels(added).tobytes() == pixels(expected).tobytes()
    assert latentrt.load(pair.folder / "bundle", loras=scales).engine == "onnxruntime"
    with pytest.raises(EngineError, match="got the engine openvino, expected onnxruntime or cuda"):
        latentrt.load(pair.folder / "bundle", engine="openvino", loras=scales)


def test_the_command_adds_files_and_the_picture_says_so(pair, tmp_path):
    file, out = pair.folder / "kohya.safetensors", tmp_path / "a.png"
    options = [PROMPT, "--bundle", str(pair.folder / "bundle"), "--steps", "1", "--seed", "1", "--syntax", "plain"]
    done = CliRunner().invoke(generate, [*options, "--lora", f"{file}:0.8", "--out", str(out), "--json"])
    said = [{"file": file.name, "sha256": sha256_of(file), "scale": 0.8}]
    assert done.exit_code == 0 and json.loads(done.stdout)["loras"] == said
    assert read_png(out)["loras"] == said
    twice = CliRunner().invoke(generate, [*options, "--lora", str(file), "--lora", f"{file}:0.5"])
    assert "expected each file once" in str(twice.exception)


def test_what_cannot_take_a_lora_is_one_error(pair, tmp_path, monkeypatch):
    file = pair.folder / "kohya.safetensors"
    loras.save_both(tmp_path, TINY["sdxl"])
    cases = (
        ({tmp_path / "kohya.safetensors": 1.0}, r"layers that .* \(sd1\) does not have"),
        ({pair.folder / "none.safetensors": 1.0}, "no LoRA at"),
        ({file: float("inf")}, "scale inf, expected a finite number"),
        ({file: "much"}, "scale 'much', expected a finite number"),
    )
    for scales, message in cases:
        with pytest.raises(CheckpointError, match=message):
            pair.ours.with_loras(scales)
    with pytest.raises(EngineError, match="got the engine openvino, expected onnxruntime or cuda.*--lora"):
        of_engine(pair.ours, "openvino").with_loras({file: 1.0})
    with pytest.raises(EngineError, match="got a unet in int8, expected float arithmetic"):
        of_precision(pair.ours, "unet", "int8").with_loras({file: 1.0})


TWINS = {
    "a bias that others share": {"lora_te_text_model_encoder_layers_0_self_attn_k_proj.diff_b": (32,)},
    "a bias that is another's": {"lora_te_text_model_encoder_layers_1_self_attn_v_proj.diff_b": (32,)},
    "a norm that others share": {"lora_unet_down_blocks_0_attentions_0_norm.w_norm": (32,)},
    "a norm that is another's": {"lora_unet_mid_block_attentions_0_transformer_blocks_0_norm3.b_norm": (64,)},
    "the last norm": {"lora_te_text_model_final_layer_norm.w_norm": (32,)},
}


@pytest.mark.parametrize("case", TWINS)
def test_of_weights_that_are_the_same_the_graph_has_one(pair, tmp_path, case):
    """Norms are ones and biases zeros in a new model; with one of them changed there is no place for it."""
    tensors = {key: torch.ones(shape) for key, shape in TWINS[case].items()}
    save_tensors(tensors, tmp_path / "a.safetensors")
    with pytest.raises(BundleError, match="with equal weights, or in another order; fuse the file"):
        pair.ours.with_loras({tmp_path / "a.safetensors": 1.0})


def test_words_that_a_file_brings_along_are_refused_by_name(pair, tmp_path):
    save_tensors({"bundle_emb.ink.string_to_param.*": torch.ones(2, 32)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"contains textual inversions \(ink\).*latentrt export --lora"):
        pair.ours.with_loras({tmp_path / "a.safetensors": 1.0})


def of_engine(pipeline, engine):
    return Pipeline(pipeline.bundle, pipeline.tokenizer, pipeline.engines, engine)


def of_precision(pipeline, component, precision):
    known = pipeline.bundle.manifest.components
    components = {**known, component: replace(known[component], precision=precision)}
    bundle = replace(pipeline.bundle, manifest=replace(pipeline.bundle.manifest, components=components))
    return Pipeline(bundle, pipeline.tokenizer, pipeline.engines, "onnxruntime")


def test_weights_of_a_file_that_changed_are_not_read(pair, tmp_path):
    file = shutil.copy(pair.folder / "kohya.safetensors", tmp_path / "a.safetensors")
    added = pair.ours.with_loras({file: 1.0})
    os.utime(file, ns=(0, 0))
    with pytest.raises(CheckpointError, match="changed since it was opened"):
        added.engines["unet"].load()
