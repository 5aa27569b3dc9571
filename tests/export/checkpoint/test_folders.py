"""Folders as they are published: weights of variants, and the pipelines of diffusers that hold a family's parts."""

import inspect
import json
import shutil
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig

from latentrt.errors import CheckpointError
from latentrt_export.checkpoint.config_defaults import TEXT_DEFAULTS
from latentrt_export.checkpoint.families import FAMILIES
from latentrt_export.checkpoint.load import load_checkpoint
from latentrt_export.checkpoint.pipelines import STABLE_PIPELINES, XL_PIPELINES
from latentrt_export.checkpoint.weight_files import chosen, found_in
from latentrt_export.export import ExportOptions, prepare_checkpoint, side_of
from tests.export import tiny

STEM = "diffusion_pytorch_model"
# Pipelines that have the parts of a family and are of another kind: by other modules, or by what they are trained for.
OTHERS = {
    *("AltDiffusionPipeline", "AltDiffusionImg2ImgPipeline"),  # another text encoder
    *("AnimateDiffPipeline", "AnimateDiffPAGPipeline", "AnimateDiffSDXLPipeline", "PIAPipeline"),  # motion modules
    *("AnimateDiffControlNetPipeline", "AnimateDiffSparseControlNetPipeline"),
    *("AnimateDiffVideoToVideoPipeline", "AnimateDiffVideoToVideoControlNetPipeline"),
    *("AudioLDMPipeline", "AudioLDM2Pipeline", "MusicLDMPipeline"),  # sounds
    *("BlipDiffusionPipeline", "BlipDiffusionControlNetPipeline"),  # another text encoder
    *("MarigoldDepthPipeline", "MarigoldIntrinsicsPipeline", "MarigoldNormalsPipeline"),  # pictures to depth
    *("StableDiffusionControlNetXSPipeline", "StableDiffusionXLControlNetXSPipeline"),  # changes the UNet's blocks
    *("StableDiffusionDepth2ImgPipeline", "StableDiffusionUpscalePipeline", "StableDiffusionLatentUpscalePipeline"),
    *("StableDiffusionGLIGENPipeline", "StableDiffusionGLIGENTextImagePipeline"),  # gated attention
    "StableDiffusionLDM3DPipeline",  # six channels of colour and depth
    *("StableUnCLIPPipeline", "StableUnCLIPImg2ImgPipeline"),  # class labels
}


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    path = tmp_path_factory.mktemp("origin") / "folder"
    tiny.save_diffusers_folder(path)
    return path


@pytest.fixture
def folder(origin, tmp_path):
    return Path(shutil.copytree(origin, tmp_path / "folder"))


def held(checkpoint):
    """The first weight of the UNet, by which variants here are told apart."""
    return float(checkpoint.components["unet"].load().conv_in.bias[0])


def write_variants(folder, *names):
    """Puts each variant in place of the UNet's weights; the bias of the first layer is its number."""
    tensors = load_file(folder / "unet" / f"{STEM}.safetensors")
    (folder / "unet" / f"{STEM}.safetensors").unlink()
    for number, name in enumerate(names, 1):
        marked = {**tensors, "conv_in.bias": torch.full_like(tensors["conv_in.bias"], number)}
        save_file(marked, folder / "unet" / ".".join([STEM, *([name] if name else []), "safetensors"]))


@pytest.mark.parametrize(
    ("names", "variant", "expected"),
    [
        (("fp16", ""), None, 2),
        (("fp16", "fp32"), None, 2),
        (("bf16",), None, 1),
        (("non_ema",), None, 1),
        (("bf16", "fp16"), None, 2),
        (("ema", "fp16"), None, 2),
        (("ema", "non_ema"), "non_ema", 2),
        (("", "non_ema"), "non_ema", 2),
        (("", "non_ema"), None, 1),
        (("fp16", ""), "fp16", 1),
    ],
)
def test_the_most_precise_variant_is_read_or_the_one_that_is_named(folder, names, variant, expected):
    write_variants(folder, *names)
    assert held(load_checkpoint(folder, variant=variant)) == expected


def test_several_others_have_to_be_told_apart(folder):
    write_variants(folder, "ema", "non_ema")
    with pytest.raises(CheckpointError, match="several variants, ema, non_ema: .*--variant NAME"):
        load_checkpoint(folder)
    with pytest.raises(CheckpointError, match="--variant int8: no component in .* has files of that variant"):
        load_checkpoint(folder, variant="int8")


def test_a_variant_in_shards_is_found_by_its_index(folder):
    for file in (folder / "unet").glob("*.safetensors"):
        file.unlink()
    tiny.build_unet().bfloat16().save_pretrained(folder / "unet", variant="bf16", max_shard_size="100KB")
    assert len(chosen(folder / "unet", found_in(folder / "unet", STEM), None).shards) > 1
    expected = UNet2DConditionModel.from_pretrained(folder / "unet", variant="bf16").state_dict()
    state = load_checkpoint(folder).load_unet().state_dict()
    assert all(torch.equal(state[key], expected[key].float()) for key in expected)


@pytest.mark.parametrize("pipeline", STABLE_PIPELINES)
def test_pipelines_over_the_same_parts_are_the_same_model(folder, pipeline):
    file = folder / "model_index.json"
    more = {"controlnet": ["diffusers", "ControlNetModel"], "adapter": ["diffusers", "T2IAdapter"]}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": pipeline} | more))
    assert load_checkpoint(folder).family.name == "sd1"


def test_every_pipeline_of_diffusers_with_these_parts_is_known_or_of_another_kind():
    """A pipeline that a later diffusers adds is neither, and fails here until it is looked at."""
    found = set()
    for name in dir(diffusers):
        if name.endswith("Pipeline") and hasattr(kind := getattr(diffusers, name), "__init__"):
            parts = inspect.signature(kind.__init__).parameters
            of_unet = "UNet2DConditionModel" in str(parts["unet"].annotation) if "unet" in parts else False
            if of_unet and {"vae", "text_encoder"} <= parts.keys():
                found.add(name)
    assert found - {*STABLE_PIPELINES, *XL_PIPELINES} == OTHERS
    assert not OTHERS & {*STABLE_PIPELINES, *XL_PIPELINES}


@pytest.mark.parametrize("name", ["AuraFlowPipeline", "FluxPipeline", "AnimateDiffPipeline"])
def test_another_kind_is_refused_in_a_line_a_family(folder, name):
    file = folder / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": name}))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    first, *others = str(caught.value).splitlines()
    assert len(others) == len(FAMILIES) and all(name in line for line in others)
    assert max(map(len, (first, *others))) < 200


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("model_index.json", {"vae": {"a": 1}}, "model_index.json names unet, text_encoder, expected"),
        ("model_index.json", {"_class_name": ["StableDiffusionPipeline"]}, "_class_name in its model_index.json is"),
        ("text_encoder/config.json", {"hidden_size": "wide"}, "cannot be compared"),
        ("unet/config.json", {"sample_size": None}, "sample_size None: expected the side of its latents"),
        ("unet/config.json", {"sample_size": [8, "x"]}, "sample_size"),
        ("scheduler/scheduler_config.json", {"beta_start": "low"}, "beta_start.*low"),
        ("scheduler/scheduler_config.json", {"_class_name": {}}, "_class_name"),
    ],
)
def test_configs_of_other_types_are_one_error(folder, tmp_path, file, changes, said):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CheckpointError, match=said):
        checkpoint = prepare_checkpoint(folder, ExportOptions(), lambda line: None).checkpoint
        side_of(checkpoint.components["unet"].config)


def test_a_text_encoder_s_config_may_leave_out_what_is_usual(folder):
    path = folder / "text_encoder" / "config.json"
    config = json.loads(path.read_text())
    assert {key: getattr(CLIPTextConfig(), key) for key in TEXT_DEFAULTS} == TEXT_DEFAULTS
    del config["num_hidden_layers"]
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="missing: encoder.layers.2"):
        load_checkpoint(folder)
