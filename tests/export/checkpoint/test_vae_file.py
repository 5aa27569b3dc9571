"""A VAE in a file of its own, in any layout that tools write: the tensors of the module that it was written from."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file

from latentrt.errors import CheckpointError
from latentrt_export.checkpoint.load import load_checkpoint
from tests.export import compvis, tiny

VAE = tiny.build_vae()
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def original():
    """The tensors in the original layout, without a prefix."""
    return {key.removeprefix("first_stage_model."): t.contiguous() for key, t in compvis.vae_tensors(VAE).items()}


def renamed(tensors, names):
    pattern = re.compile(r"(?<=attn_1\.|ions\.0\.)(" + "|".join(map(re.escape, names)) + r")(?=\.)")
    return {pattern.sub(lambda found: names[found[0]], key): tensor for key, tensor in tensors.items()}


def flat(tensors):
    """Attention as matrices, where the original has 1x1 convolutions."""
    return {key: t[:, :, 0, 0].contiguous() if "attn_1" in key and t.ndim == 4 else t for key, t in tensors.items()}


LAYOUTS = {
    "original": original,
    "diffusers": VAE.state_dict,
    "diffusers of 0.11": lambda: renamed(VAE.state_dict(), OLD),
    "original, named as in diffusers": lambda: renamed(
        flat(original()), {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
    ),
    "original, named as in diffusers of 0.11": lambda: renamed(
        flat(original()), {"q": "query", "k": "key", "v": "value", "proj_out": "proj_attn"}
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("vae") / "folder"
    tiny.save_diffusers_folder(path)
    return path


def assert_holds(checkpoint, dtype=torch.float32):
    state = checkpoint.load_vae().state_dict()
    assert all(torch.equal(state[key], 2 * tensor.to(dtype).float()) for key, tensor in VAE.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_in_any_layout(folder, tmp_path, layout, prefix):
    tensors = {prefix + key: 2 * tensor for key, tensor in LAYOUTS[layout]().items()}
    others = {"model_ema.decay": torch.ones(1)} if prefix else {}
    save_file({**tensors, **others}, tmp_path / "vae.safetensors")
    assert_holds(load_checkpoint(folder, vae=tmp_path / "vae.safetensors"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e5m2])
def test_a_file_of_other_floats(folder, tmp_path, dtype):
    save_file({key: 2 * t.to(dtype).float() for key, t in VAE.state_dict().items()}, tmp_path / "vae.safetensors")
    assert_holds(load_checkpoint(folder, vae=tmp_path / "vae.safetensors"), dtype)


def test_the_config_beside_a_file_is_its_own(folder, tmp_path):
    save_file(VAE.state_dict(), tmp_path / "diffusion_pytorch_model.safetensors")
    config = json.loads((folder / "vae" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"scaling_factor": 0.5}))
    found = load_checkpoint(folder, vae=tmp_path / "diffusion_pytorch_model.safetensors")
    assert found.components["vae"].config["scaling_factor"] == 0.5


def test_what_is_no_vae_is_named(folder, tmp_path):
    save_file({"a.weight": torch.ones(1)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"a.safetensors holds no VAE: expected encoder\.conv_in\.weight"):
        load_checkpoint(folder, vae=tmp_path / "a.safetensors")
