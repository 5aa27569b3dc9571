"""Every family, from a checkpoint to a picture: diffusers' own pipeline of it draws the same to 45 dB, in float32.

Each family is read from a diffusers folder; a single file in the original layout has to hold the same tensors. Those
with layers of their own are exported, the others' modules run in torch.
"""

import json
from contextlib import ExitStack
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file as save_tensors

from latentrt.engines import open_engines
from latentrt.errors import BundleError, RequestError
from latentrt.lora.files import Lora
from latentrt.lora.weights import changed_weights
from latentrt_export.build.cpu import build_cpu
from latentrt_export.build.tensorrt import BuildOptions, build
from latentrt_export.checkpoint.builders import BUILDERS
from latentrt_export.checkpoint.config_defaults import completed
from latentrt_export.checkpoint.families import CONFIGS, FAMILIES
from latentrt_export.checkpoint.load import load_checkpoint
from latentrt_export.checkpoint.recognition import config_differences
from latentrt_export.components.denoiser import unet_parts
from latentrt_export.components.steering import Steering
from latentrt_export.components.vae import vae_parts
from latentrt_export.export import write_component
from latentrt_export.lora_table.places import places_of, unread_of
from tests.export import loras
from tests.export.controls import build_controlnet
from tests.export.pairs import (
    PROMPT,
    SIZE,
    STEERED,
    adapted,
    exported,
    handed_over,
    opened_pair,
    prompted,
    steered,
    steered_pair,
)
from tests.export.parts import written
from tests.export.tiny_families import FILES, TINY, VARIANTS, XL_VAE, module_of, reference, save_file
from tests.export.untraced import untraced
from tests.sweep import sweep

pytestmark = [pytest.mark.usefixtures("one_thread"), sweep]

LEAST_DB = 45.0
TEXT_COMPONENTS = ("text_encoder", "text_encoder_2", "cross_kv", "time_bias")
STEERING = ("hint_canny", "control_canny", "adapter_sketch")
XL_COMPONENTS = (*TEXT_COMPONENTS, *STEERING, "unet", "image_encoder", "vae_decoder", "vae_encoder")
# What the others have besides is LCM's guidance as an input, whose graph is built below.
EXPORTED = {"sd2", "sdxl", "pruned"}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Makes a family's pair, once."""
    with ExitStack() as opened:

        @cache
        def pair(name):
            make = steered_pair if name in STEERED else opened_pair  # the others' UNets take no residuals
            made = make(name, tmp_path_factory.mktemp(name), exported if name in EXPORTED else untraced)
            opened.enter_context(made.ours)
            return made

        yield pair


@pytest.fixture
def pair(request, pairs):
    """Of the family that a test names."""
    return pairs(request.param)


def of(*names):
    """Runs a test on the pairs of these families."""
    return pytest.mark.parametrize("pair", names, indirect=True)


@pytest.mark.parametrize(("pair", "scheduler", "requests"), VARIANTS.values(), ids=VARIANTS.keys(), indirect=["pair"])
def test_folder_draws_what_diffusers_draws(pair, scheduler, requests):
    drawn = pair.with_scheduler(scheduler())
    found = [drawn.psnr(**options) for options in requests]
    print(f"{min(found):.1f} dB")
    assert min(found) >= LEAST_DB


# SDXL's, and what it does not have: guidance as an input. Scores in float32 are built in test_upcast.py.
def test_components_build_with_tensorrt_rtx(pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "bundle").mkdir()
    guided, *_ = unet_parts(load_checkpoint(pairs("lcm").folder / "checkpoint").load_unet())
    guided = write_component(replace(guided, name="guided"), tmp_path / "bundle", "w16", lambda line: None)
    source = pairs("sdxl").ours.bundle
    known = {name: source.manifest.components[name] for name in XL_COMPONENTS} | {"guided": guided}
    bundle = written(tmp_path / "bundle", source, known)
    options = BuildOptions("tensorrt-rtx", ("sm86",), sizes=((SIZE["width"], SIZE["height"]),), batches=(2,))
    plans = list(build(bundle.folder, options))
    assert [plan.component for plan in plans] == list(known)
    for plan in plans:
        assert plan.floats == ("fp32" if plan.component.startswith("vae") else "fp16")
        assert plan.bytes > bundle.path(known[plan.component].file).stat().st_size / 2


@of("sdxl")
def test_images_prompt_the_unet_and_do_so_in_graphs_for_the_cpu(pair, tmp_path):
    known = pair.ours.bundle.manifest.components
    bundle = written(tmp_path, pair.ours.bundle, {name: known[name] for name in ("unet", "image_encoder")})
    built = {one.component for one in build_cpu(tmp_path)}
    optimised = open_engines("onnxruntime", bundle)
    assert built == optimised.keys() and all(engine.optimised for engine in optimised.values())
    for ours in (pair.ours, pair.ours.with_engines(optimised)):
        got, plain = prompted(replace(pair, ours=ours))
        print(f"{got:.1f} dB, without {plain:.1f}")
        assert got >= LEAST_DB and got > plain + 50


@of("lcm", "sd2", "sdxl")
def test_without_guidance_the_unet_sees_one_row_an_image(pair, monkeypatch):
    """And a model that is told the guidance is not guided besides."""
    rows = []
    unet = pair.ours.engines["unet"]
    monkeypatch.setitem(pair.ours.engines, "unet", lambda feeds: rows.append(len(feeds["sample"])) or unet(feeds))
    pair.ours.generate(PROMPT, steps=2, guidance=0.0, seed=0, syntax="plain", **SIZE)
    pair.ours.generate(PROMPT, steps=1, guidance=2.0, seed=0, syntax="plain", **SIZE)
    assert rows == [1, 1, 1 if pair.name == "lcm" else 2]


@of("sdxl")
def test_sizes_that_the_model_is_told(pair):
    sizes = {"original_size": (120, 90), "crop": (8, 3), "target_size": (64, 72)}
    theirs = {"original_size": (90, 120), "crops_coords_top_left": (3, 8), "target_size": (72, 64)}
    told, untold = (pair.psnr(guidance=5.0, theirs=theirs, **options) for options in (sizes, {}))
    assert told >= LEAST_DB and told > untold + 50


@of(*STEERED)
def test_a_controlnet_steers_the_unet(pair):
    got, plain = steered(pair)
    print(f"{got:.1f} dB, without {plain:.1f}")
    assert got >= LEAST_DB and got > plain + 50


@of("sdxl")
def test_an_adapter_steers_the_unet_in_part_of_the_steps(pair):
    got, plain = adapted(pair)
    print(f"{got:.1f} dB, without {plain:.1f}")
    assert got >= LEAST_DB and got > plain + 50


@of("sdxl-refiner")
def test_refiner_from_an_image_and_how_well_liked_it_is_to_look(pair):
    image = Image.effect_noise((SIZE["width"], SIZE["height"]), 80).convert("RGB")
    ours = {"init": image, "strength": 0.7, "posterior": "sample", "aesthetic_score": 9.0}
    theirs = {"image": image, "strength": 0.7, "aesthetic_score": 9.0, "negative_aesthetic_score": 4.0}
    assert pair.psnr(guidance=5.0, negative_aesthetic_score=4.0, theirs=theirs, **ours) >= LEAST_DB


def test_refiner_takes_over_where_the_base_ends(pairs):
    found = handed_over(pairs("sdxl"), pairs("sdxl-refiner"))
    print(f"{found:.1f} dB")
    assert found >= LEAST_DB


@of("sdxl")
def test_two_encoders_read_the_same_weights_and_chunks(pair):
    """As AUTOMATIC1111 does: each encoder's vectors are weighed by themselves, pooled is of the first chunk."""
    words = ("a (red:1.4) apple", "on a green tree")
    contexts = []
    for number, tokenizer, encoder in ((1, "tokenizer", "text_encoder"), (2, "tokenizer_2", "text_encoder_2")):
        plain = [text.replace("(", "").replace(":1.4)", "") for text in words]
        ids = getattr(pair.theirs, tokenizer)(plain, padding="max_length", return_tensors="pt").input_ids
        with torch.no_grad():
            said = getattr(pair.theirs, encoder)(ids, output_hidden_states=True)
        before = said.hidden_states[-2]
        after = before.clone()
        after[0, 2] *= 1.4  # BOS, a, red
        contexts.append((after * before.mean((1, 2), True) / after.mean((1, 2), True)).reshape(1, -1, before.shape[-1]))
        pooled = said.text_embeds[:1] if number == 2 else None
    context = torch.cat(contexts, -1)
    embedded = {"prompt_embeds": context, "pooled_prompt_embeds": pooled}
    zeros = {f"negative_{name}": torch.zeros_like(tensor) for name, tensor in embedded.items()}
    theirs = {"prompt": None, "negative_prompt": None, **embedded, **zeros}
    assert pair.psnr(" BREAK ".join(words), guidance=5.0, syntax="strict", theirs=theirs) >= LEAST_DB


@of("sdxl")
@pytest.mark.filterwarnings("ignore:.*adapter")
def test_loras_at_run_time_draw_what_diffusers_draws_with_them(pair):
    loras.save_both(pair.folder, TINY["sdxl"])
    loras.load_both(pair.theirs, pair.folder)
    added = replace(pair, ours=pair.ours.with_loras(loras.scales_in(pair.folder)))
    found, without = (one.psnr(guidance=5.0) for one in (added, pair))
    both, alone = steered(added)
    pair.theirs.unload_lora_weights()
    print(f"{found:.1f} dB, without {without:.1f}; steered as well {both:.1f} dB, without {alone:.1f}")
    assert found >= LEAST_DB and without < 40
    assert both >= LEAST_DB and both > alone + 20, "the ControlNet's own weights stay as they are"


def test_a_lora_of_a_layer_that_a_controlnet_has_as_well_is_refused(pairs, tmp_path):
    """Of two that are the same, the graph has one."""
    whole, unet = pairs("sd2").ours.bundle, module_of("unet", TINY["sd2"].configs["unet"])
    network = build_controlnet(unet)
    network.time_embedding.load_state_dict(unet.time_embedding.state_dict())
    part, *_ = unet_parts(unet, steering=Steering({"canny": network}))
    (tmp_path / "bundle").mkdir()
    shared = write_component(part, tmp_path / "bundle", "w16", lambda line: None)
    bundle = written(tmp_path / "bundle", whole, {**whole.manifest.components, "time_bias": shared})
    halves = {"lora_A": torch.ones(2, 32), "lora_B": torch.ones(128, 2)}
    tensors = {f"time_embedding.linear_1.{half}.weight": tensor for half, tensor in halves.items()}
    save_tensors(tensors, tmp_path / "a.safetensors")
    assert changed_weights(whole, [Lora(tmp_path / "a.safetensors")])["time_bias"].overrides
    with pytest.raises(BundleError, match="stores once for several layers with equal weights"):
        changed_weights(bundle, [Lora(tmp_path / "a.safetensors")])


@of("sdxl")
def test_a_blend_of_two_prompts_blends_their_pooled_text_as_well(pair):
    texts, share = (PROMPT, "a green tree"), 0.3
    options = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    said = [pair.theirs.encode_prompt(text, **options) for text in texts]
    context, _, pooled, _ = (
        None if one is None else (1 - share) * one + share * other for one, other in zip(*said, strict=True)
    )
    found = []
    for summary in (pooled, said[0][2]):
        embedded = {"prompt_embeds": context, "pooled_prompt_embeds": summary}
        zeros = {f"negative_{name}": torch.zeros_like(tensor) for name, tensor in embedded.items()}
        theirs = {"prompt": None, **embedded, **zeros}
        found.append(pair.psnr(guidance=5.0, blend=texts[1], blend_strength=share, theirs=theirs))
    print(f"{found[0]:.1f} dB, with the first prompt's alone {found[1]:.1f}")
    assert found[0] >= LEAST_DB and found[0] > found[1] + 50


@of("sdxl", "pruned")
def test_every_weight_of_the_checkpoint_is_found_in_the_graphs(pair):
    checkpoint, places = load_checkpoint(pair.folder / "checkpoint"), places_of(pair.ours.bundle)
    unread = unread_of(pair.ours.bundle, places)
    for name, known in places.items():
        state = checkpoint.components[name].load().state_dict()
        module = {key.removeprefix("text_model."): tensor for key, tensor in state.items()}
        matrices = {key: tuple(tensor.shape) for key, tensor in module.items() if tensor.ndim > 1}
        found = {key: place.shape for key, place in known.items()} | unread[name]
        assert {key: shape for key, shape in found.items() if len(shape) > 1} == matrices
        for key, place in known.items():
            np.testing.assert_array_equal(place.of(place.initializer.read()), module[key].numpy())
            assert place.initializer.uses == 1 or module[key].ndim == 1
        # Of biases and norms that are the same, such as those that nobody trained, the graph has one.
        held = {module[key].numpy().tobytes() for key in found}
        assert all(tensor.numpy().tobytes() in held for tensor in module.values())


@pytest.mark.parametrize("leaves", [True, False])
def test_only_a_vae_that_leaves_fp16s_range_stays_float32(leaves):
    parts = vae_parts(module_of("vae", {**XL_VAE, "force_upcast": leaves}), float32=True)
    assert [part.float32 for part in parts] == [leaves] * 2


@pytest.mark.parametrize("family", FILES.values(), ids=FILES)
def test_single_file_holds_the_same_tensors(family, tmp_path):
    reference(family, tmp_path / "tokenizers").save_pretrained(tmp_path / "checkpoint")
    save_file(family, tmp_path / "single.safetensors")
    single = load_checkpoint(tmp_path / "single.safetensors", configs=tmp_path / "configs")
    whole = load_checkpoint(tmp_path / "checkpoint")
    assert single.family == whole.family
    assert single.components.keys() == whole.components.keys()
    for name, component in whole.components.items():
        got, expected = single.components[name].load().state_dict(), component.load().state_dict()
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[key], expected[key]) for key in expected), name


@pytest.mark.parametrize("folder", sorted(CONFIGS.iterdir()), ids=lambda folder: folder.name)
def test_shipped_configs_are_of_one_family(folder):
    configs = {file.stem: completed(file.stem, json.loads(file.read_text())) for file in folder.iterdir()}
    components = configs.keys() - {"scheduler"}
    alike = [family for family in FAMILIES if family.slots.keys() == components]
    [family] = [family for family in alike if not config_differences(family, configs)]
    others = (family.configs_by_channels, family.configs_by_prediction, family.configs_by_width)
    assert folder in {family.configs, *(one for known in others for one in known.values())}
    for name in components:
        BUILDERS[name](configs[name])


@of("lcm")
def test_a_guidance_for_each_step_is_refused_by_a_model_that_is_told_one(pair):
    with pytest.raises(RequestError, match="guidance: got .* expected a finite number"):
        pair.ours.generate(PROMPT, steps=2, guidance=(1.0, 2.0), syntax="plain")
