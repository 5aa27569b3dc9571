"""LoRA files for the small models: random adapters made by peft, in the layouts of kohya's trainers and diffusers."""

import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from tests.export import tiny
from tests.export.tiny_families import modules_of

UNET_LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "proj_in", "conv1", "conv2", "time_emb_proj"]
UNET_LAYERS += ["conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_embedding.linear_1", "conv_in"]
TEXT_LAYERS = ["q_proj", "k_proj", "out_proj", "fc1"]
LAYERS = {"unet": UNET_LAYERS, "text_encoder": TEXT_LAYERS, "text_encoder_2": TEXT_LAYERS}
KOHYA = {"unet": "lora_unet_", "text_encoder": "lora_te1_text_model_", "text_encoder_2": "lora_te2_text_model_"}
ALPHAS = {"conv_in": 7}
# The files beside a small checkpoint, and how much of each is added.
SCALES = {"kohya": 0.8, "diffusers": -0.5}


def adapters(seed, modules=None, rank=3, alpha=5, kind=LoraConfig, **options):
    """Returns peft's adapters of modules by the module's name in a pipeline, every tensor random.

    modules: those of the small Stable Diffusion 1 where none are given; they are changed.
    """
    modules = modules or {"unet": tiny.build_unet(), "text_encoder": tiny.build_text_encoder()}
    found = {}
    for name in LAYERS.keys() & modules.keys():
        strength = {"lora_alpha" if kind is LoraConfig else "alpha": alpha}
        modules[name].add_adapter(kind(r=rank, target_modules=LAYERS[name], **strength, **options))
        state = get_peft_model_state_dict(modules[name], adapter_name="default")
        random = torch.Generator().manual_seed(seed)
        found[name] = {key: 0.2 * torch.randn(t.shape, generator=random) for key, t in sorted(state.items())}
    return found


def save_kohya(path, found, alpha):
    """Writes the adapters as kohya's trainers do: paths with underscores, down and up, and an alpha a layer."""
    tensors = {}
    for name, adapter in found.items():
        # where there is one text encoder, it has no number
        prefix = KOHYA[name] if "text_encoder_2" in found else KOHYA[name].replace("te1", "te")
        for key, tensor in adapter.items():
            layer, half = key.removesuffix(".weight").rsplit(".lora_", 1)
            layer = prefix + layer.removeprefix("text_model.").replace(".", "_")
            tensors[f"{layer}.lora_{ {'A': 'down', 'B': 'up'}[half] }.weight"] = tensor
            tensors[f"{layer}.alpha"] = torch.tensor(float(alpha))
    save_file(tensors, path)


def save_diffusers(path, pipeline, found, rank=3, alpha=2):
    """Writes the adapters as diffusers does, alphas in the header; one layer has another than the rest."""
    settings = {"r": rank, "lora_alpha": alpha}
    options = {f"{name}_lora_layers": adapter for name, adapter in found.items()}
    for name in found:
        patterns = {"alpha_pattern": ALPHAS} if name == "unet" else {}
        options[f"{name}_lora_adapter_metadata"] = {**settings, **patterns, "target_modules": LAYERS[name]}
    pipeline.save_lora_weights(path.parent, weight_name=path.name, **options)


def save_both(folder, family):
    """Writes a file of each layout for a family's small checkpoint."""
    save_kohya(folder / "kohya.safetensors", adapters(0, modules_of(family)), alpha=5)
    save_diffusers(folder / "diffusers.safetensors", family.pipeline, adapters(1, modules_of(family)))


def scales_in(folder, scales=SCALES):
    """The scales of these files, as a pipeline takes them."""
    return {folder / f"{name}.safetensors": scale for name, scale in scales.items()}


def load_both(pipeline, folder):
    """Has diffusers' pipeline draw with both."""
    for name in SCALES:
        pipeline.load_lora_weights(folder, weight_name=f"{name}.safetensors", adapter_name=name)
    pipeline.set_adapters(list(SCALES), list(SCALES.values()))
