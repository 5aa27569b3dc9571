"""LoRA files at run time beside weights in few bits: as graphs whose decoded weights have the files added."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import latentrt
from latentrt.bundle.folder import Bundle
from latentrt.engines.onnx.engine import BESIDE, OVERRIDDEN
from latentrt.errors import BundleError, CheckpointError
from latentrt.lora.files import Lora
from latentrt.lora.places import Decoded, read_places
from latentrt.lora.weights import changed_weights
from latentrt_export.export import ExportOptions, export
from latentrt_export.lora_table.table import with_table
from tests.export import decoded, klein, tiny
from tests.export.decoded import furthest, layers_of, outputs, random_feeds, save_lora

pytestmark = pytest.mark.usefixtures("one_thread")

EXACT = 3e-5
KINDS = (torch.nn.Linear, torch.nn.Conv2d)
MODULES = {"unet": tiny.build_unet, "text_encoder": tiny.build_text_encoder}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The small Stable Diffusion 1 in w4, with a shallow UNet."""
    path = tmp_path_factory.mktemp("sd1")
    tiny.save_diffusers_folder(path / "checkpoint")
    export(path / "checkpoint", path / "w4", ExportOptions(precision="w4", step_cache=1))
    with latentrt.load(path / "w4", engine="onnxruntime") as pipe:
        yield pipe


def shapes_of(component):
    found = layers_of(MODULES[component](), KINDS)
    # Keys and values of texts, and biases of times, are in graphs of their own.
    hoisted = ("attn2.to_k", "attn2.to_v", "time_emb_proj", "time_embedding")
    return {name: shape for name, shape in found.items() if not any(one in name for one in hoisted)}


def checked(pipe, styled, component, added):
    """The largest difference between the changed graph and the decoded one; the plain one differs from both."""
    known, differences = pipe.bundle.manifest.components[component], []
    for batch in (1, 3):
        feeds = random_feeds(known, batch)
        expected = outputs(pipe.bundle, component, added, feeds)
        differences.append(furthest(styled.engines[component](feeds), expected))
        assert furthest(pipe.engines[component](feeds), expected) > 1e-2
    return max(differences)


@pytest.mark.parametrize("kind", ["lora", "diff"])
@pytest.mark.parametrize("component", ["unet", "unet_shallow", "text_encoder"])
def test_every_layer_is_as_with_decoded_weights(made, tmp_path, component, kind):
    checkpoint = component.removesuffix("_shallow")
    added = save_lora(tmp_path / "a.safetensors", checkpoint, shapes_of(checkpoint), kind=kind)
    styled = made.with_loras({tmp_path / "a.safetensors": -0.5})
    found = checked(made, styled, component, {key: -0.5 * one for key, one in added.items()})
    print(f"{found:.1e}")
    assert found < EXACT


def test_the_table_names_the_checkpoint_s_weights(made):
    """Few bits leave a weight close to what it was, so that no layer can be taken for another."""
    places, weights = read_places(made.bundle), tiny.build_unet().state_dict()
    constants = {one.name: one for one in decoded.decoded(made.bundle.path("unet.onnx")).graph.initializer}
    few = {key: found[0] for key, found in places.weights["unet"].items() if isinstance(found[0].initializer, Decoded)}
    assert len(few) > 50 and sum(bool(place.initializer.product) for place in few.values()) > 20
    for key, place in few.items():
        got = place.of(decoded.numpy_helper.to_array(constants[place.name])).flatten()
        assert np.corrcoef(got, weights[key].flatten())[0, 1] > 0.98, key


def test_two_files_and_back_to_none(made, tmp_path):
    request = {"seed": 0, "steps": 2, "width": 80, "height": 56, "batch": 3}
    shapes = {name: shape for name, shape in shapes_of("unet").items() if "attn1" in name}
    files = [tmp_path / f"{seed}.safetensors" for seed in (1, 2)]
    first, second = (save_lora(file, "unet", shapes, seed=seed) for seed, file in enumerate(files))
    plain = made.generate("x", **request)
    both = made.with_loras(dict(zip(files, (0.8, 0.3), strict=True)))
    added = {key: 0.8 * first[key] + 0.3 * second[key] for key in first}
    assert checked(made, both, "unet", added) < EXACT
    changed = both.generate("x", **request)
    assert any((np.asarray(a) != np.asarray(b)).any() for a, b in zip(plain.images, changed.images, strict=True))
    for off in (both.with_loras({}), made.with_loras(dict.fromkeys(files, 0.0))):
        same = off.generate("x", **request)
        assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(plain.images, same.images, strict=True))


def test_what_depends_on_the_weight_is_refused(made, tmp_path):
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{layer}.lora_A.weight": torch.ones(2, 64), f"{layer}.lora_B.weight": torch.ones(64, 2)}
    save_file({**tensors, f"{layer}.lora_magnitude_vector": torch.ones(64)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"to_q is DoRA, .* in few bits; .* such as LoRA.*latentrt export --lora"):
        made.with_loras({tmp_path / "a.safetensors": 1.0})


def test_names_of_version_0_2_make_no_table(made, tmp_path):
    """They were those of the products, from which nothing tells the checkpoint's weights."""
    folder = shutil.copytree(made.bundle.folder, tmp_path / "bundle")
    graph = (folder / "unet.onnx").read_bytes()
    assert with_table(folder, made.bundle.manifest).lora_weights
    (folder / "unet.onnx").write_bytes(graph.replace(b".decoded", b".earlier"))
    manifest = with_table(folder, made.bundle.manifest)
    assert manifest.lora_weights == ""
    with pytest.raises(BundleError, match="latentrt upgrade .*, or export the bundle again if that adds none"):
        changed_weights(Bundle(folder, manifest, ""), [Lora(tmp_path / "a.safetensors")])


@pytest.mark.parametrize(("kind", "model"), [("lora", BESIDE), ("diff", OVERRIDDEN)])
def test_the_memory_of_a_branch(made, tmp_path, kind, model):
    shapes = {name: shape for name, shape in shapes_of("unet").items() if "attn1" in name}
    save_lora(tmp_path / "a.safetensors", "unet", shapes, kind=kind)
    assert made.with_loras({tmp_path / "a.safetensors": 1.0}).engines["unet"].memory is model


def test_a_transformer_in_few_bits(tmp_path):
    with (pair := klein.opened_pair(tmp_path, precision="w4")).ours as pipe:
        found = {}
        for name, module in (
            ("transformer", klein.build_transformer()),
            ("text_encoder", pair.pair.theirs.text_encoder),
        ):
            layers = layers_of(module.model if name == "text_encoder" else module)
            hoisted = ("modulation", "norm_out", "embedder.", "context_embedder", "layers.3.")
            shapes = {layer: shape for layer, shape in layers.items() if not any(one in layer for one in hoisted)}
            added = save_lora(tmp_path / f"{name}.safetensors", name, shapes)
            styled = pipe.with_loras({tmp_path / f"{name}.safetensors": 0.7})
            found[name] = checked(pipe, styled, name, {key: 0.7 * one for key, one in added.items()})
            assert pipe.engines["vae_decoder"] is styled.engines["vae_decoder"]
    print(found)
    assert max(found.values()) < EXACT
