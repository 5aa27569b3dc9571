"""Pictures of other tools: what each tool writes, and what that is in latentrt's words."""

import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from latentrt.errors import RequestError
from latentrt.images.exif import decoded
from latentrt.recipes import Recipe, read_recipe, recipe_of

A1111 = (
    "1girl, <lora:x:0.8>\nin a garden\nNegative prompt: bad,\nworse\nSteps: 20, Sampler: DPM++ 2M, "
    "Schedule type: Karras, "
    'CFG scale: 7, Seed: 123, Size: 512x768, Model hash: abc, Model: y, RNG: CPU, Lora hashes: "x: 1234, z: 5", '
    "Version: v1.10.1"
)
SAID = {
    "prompt": "1girl, <lora:x:0.8>\nin a garden",
    "negative": "bad,\nworse",
    "steps": 20,
    "sampler": "dpmpp_2m",
    "sigmas": "karras",
    "guidance": 7.0,
    "seed": 123,
    "width": 512,
    "height": 768,
    "model_hash": "abc",
    "model": "y",
    "noise": "cpu",
}
GRAPH = {
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "y.safetensors"}},
    "10": {
        "class_type": "LoraLoader",
        "inputs": {"lora_name": "x.safetensors", "strength_model": 0.8, "strength_clip": 0.5, "model": ["4", 0]},
    },
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 768, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["12", 0], "clip": ["10", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "bad", "clip": ["10", 1]}},
    "12": {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "a cat"}},
    "3": {
        "class_type": "KSampler",
        "inputs": {
            **{
                "seed": 7,
                "steps": 25,
                "cfg": 5.5,
                "sampler_name": "dpmpp_2m_sde_gpu",
                "scheduler": "karras",
                "denoise": 1,
            },
            **{"model": ["10", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]},
        },
    },
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
}
CUSTOM = {
    "1": {
        "class_type": "SamplerCustomAdvanced",
        "inputs": {
            name: [str(place), 0]
            for place, name in enumerate(("noise", "guider", "sampler", "sigmas", "latent_image"), 2)
        },
    },
    "2": {"class_type": "RandomNoise", "inputs": {"noise_seed": 7}},
    "3": {
        "class_type": "CFGGuider",
        "inputs": {"cfg": 5.5, "positive": ["9", 0], "negative": ["9", 1], "model": ["8", 0]},
    },
    "4": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler_ancestral"}},
    "5": {
        "class_type": "BasicScheduler",
        "inputs": {"scheduler": "sgm_uniform", "steps": 25, "denoise": 0.5, "model": ["8", 0]},
    },
    "6": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 768}},
    "7": {"class_type": "CLIPTextEncodeSDXL", "inputs": {"text_g": "a cat", "text_l": "a dog"}},
    "8": {"class_type": "UNETLoader", "inputs": {"unet_name": "y.safetensors"}},
    "9": {"class_type": "ControlNetApplyAdvanced", "inputs": {"positive": ["7", 0], "negative": ["11", 0]}},
    "11": {"class_type": "CLIPTextEncode", "inputs": {"text": "bad"}},
}
INVOKE = {
    "app_version": "4.2.0",
    "generation_mode": "sdxl_txt2img",
    "positive_prompt": "a cat",
    "negative_prompt": "bad",
    "width": 512,
    "height": 768,
    "seed": 7,
    "cfg_scale": 5.5,
    "steps": 25,
    "scheduler": "dpmpp_2m_k",
    "model": {"key": "k", "name": "y", "base": "sdxl"},
    "loras": [{"model": {"name": "x"}, "weight": 0.8}],
}
NOVEL = {
    "steps": 25,
    "height": 768,
    "width": 512,
    "scale": 5.5,
    "seed": 7,
    "sampler": "k_euler_ancestral",
    "noise_schedule": "karras",
    "uc": "bad",
}
FOOOCUS = {
    "prompt": "a cat",
    "negative_prompt": "bad",
    "resolution": "(512, 768)",
    "guidance_scale": 5.5,
    "seed": "7",
    "base_model": "y",
    "sampler": "dpmpp_2m_sde_gpu",
    "scheduler": "karras",
    "loras": [["x.safetensors", 0.8, "hash"]],
    "version": "Fooocus v2.5.5",
    "steps": 25,
}
OLD_INVOKE = {
    "model_weights": "y",
    "app_id": "invoke-ai/InvokeAI",
    "image": {
        "prompt": [{"prompt": "a cat [bad]", "weight": 1}],
        "steps": 25,
        "cfg_scale": 5.5,
        "height": 768,
        "width": 512,
        "seed": 7,
        "sampler": "k_euler_a",
    },
}
SWARM = {
    "sui_image_params": {
        "prompt": "a cat",
        "negativeprompt": "bad",
        "model": "y",
        "seed": 7,
        "steps": 25,
        "cfgscale": 5.5,
        "width": 512,
        "height": 768,
        "sampler": "euler",
        "scheduler": "karras",
    }
}
DRAW_THINGS = {
    "c": "a cat",
    "uc": "bad",
    "steps": 25,
    "scale": 5.5,
    "seed": 7,
    "size": "512x768",
    "sampler": "DPM++ 2M Karras",
    "model": "y",
    "v2": {},
}
EASY = {
    "prompt": "a cat",
    "negative_prompt": "bad",
    "num_inference_steps": "25",
    "guidance_scale": "5.5",
    "seed": "7",
    "width": "512",
    "height": "768",
    "sampler_name": "euler_a",
    "use_stable_diffusion_model": "y",
}
ALIKE = {"prompt": "a cat", "negative": "bad", "steps": 25, "guidance": 5.5, "seed": 7, "width": 512, "height": 768}

TOOLS: list[tuple[str, dict[str, str], dict[str, Any]]] = [
    ("AUTOMATIC1111", {"parameters": A1111}, SAID),
    ("Forge", {"parameters": A1111.replace("v1.10.1", "f2.0.1v1.10.1-previous-659")}, SAID),
    ("SD.Next", {"parameters": A1111.replace("Version: v1.10.1", "App: SD.Next, Version: 1a2b3c")}, SAID),
    ("stable-diffusion.cpp", {"parameters": A1111.replace("v1.10.1", "stable-diffusion.cpp")}, SAID),
    ("latentrt", {"parameters": A1111.replace("v1.10.1", "latentrt 0.1.0")}, SAID),
    (
        "ComfyUI",
        {"prompt": json.dumps(GRAPH), "workflow": "{}"},
        {
            **ALIKE,
            "sampler": "dpmpp_2m_sde",
            "sigmas": "karras",
            "model": "y.safetensors",
            "loras": [{"file": "x.safetensors", "scale": 0.8, "text_scale": 0.5}],
        },
    ),
    (
        "ComfyUI",
        {"prompt": json.dumps(CUSTOM)},
        {**ALIKE, "sampler": "euler_a", "sigmas": "sgm_uniform", "strength": 0.5, "model": "y.safetensors"},
    ),
    ("ComfyUI", {"workflow": '{"nodes": []}'}, {}),
    (
        "InvokeAI",
        {"invokeai_metadata": json.dumps(INVOKE)},
        {**ALIKE, "sampler": "dpmpp_2m", "sigmas": "karras", "model": "y", "loras": [{"file": "x", "scale": 0.8}]},
    ),
    ("InvokeAI", {"sd-metadata": json.dumps(OLD_INVOKE)}, {**ALIKE, "sampler": "euler_a", "model": "y"}),
    ("InvokeAI", {"Dream": '"a cat [bad]" -s 25 -S 7 -W 512 -H 768 -C 5.5 -A k_lms'}, {**ALIKE, "sampler": "lms"}),
    (
        "NovelAI",
        {
            "Software": "NovelAI",
            "Description": "a cat",
            "Source": "Stable Diffusion 8BA2AF87",
            "Comment": json.dumps(NOVEL),
        },
        {**ALIKE, "sampler": "euler_a", "sigmas": "karras", "model": "Stable Diffusion 8BA2AF87"},
    ),
    (
        "NovelAI",
        {"UserComment": json.dumps({"Software": "NovelAI", "Description": "a cat", "Comment": json.dumps(NOVEL)})},
        {**ALIKE, "sampler": "euler_a", "sigmas": "karras"},
    ),
    (
        "Fooocus",
        {"fooocus_scheme": "fooocus", "parameters": json.dumps(FOOOCUS)},
        {
            **ALIKE,
            "sampler": "dpmpp_2m_sde",
            "sigmas": "karras",
            "model": "y",
            "loras": [{"file": "x.safetensors", "scale": 0.8}],
        },
    ),
    ("Fooocus", {"fooocus_scheme": "a1111", "parameters": A1111.replace("v1.10.1", "Fooocus v2.5.5")}, SAID),
    ("SwarmUI", {"parameters": json.dumps(SWARM)}, {**ALIKE, "sampler": "euler", "sigmas": "karras", "model": "y"}),
    (
        "Draw Things",
        {"UserComment": json.dumps(DRAW_THINGS)},
        {**ALIKE, "sampler": "dpmpp_2m", "sigmas": "karras", "model": "y"},
    ),
    ("Easy Diffusion", EASY, {**ALIKE, "sampler": "euler_a", "model": "y"}),
]


@pytest.mark.parametrize(
    ("tool", "texts", "settings"), TOOLS, ids=[f"{tool} {place}" for place, (tool, *_) in enumerate(TOOLS)]
)
def test_what_tools_write(tmp_path: Path, tool: str, texts: dict[str, str], settings: dict[str, Any]) -> None:
    info = PngInfo()
    for place, (key, value) in enumerate(texts.items()):
        (info.add_text if place % 2 else info.add_itxt)(key, value)
    file = tmp_path / "x.png"
    if "UserComment" not in texts:
        Image.new("RGB", (8, 8)).save(file, pnginfo=info)
    else:
        commented(file := tmp_path / "x.webp", b"UNICODE\0" + texts["UserComment"].encode("utf-16-be"))
    found = read_recipe(file)
    assert (found.tool, dict(found.settings)) == (tool, settings)
    assert json.loads(json.dumps(found.record()))["tool"] == tool


def test_compressed_text(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("parameters", A1111, zip=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=info)
    assert read_recipe(tmp_path / "x.png").settings == SAID


def commented(path: Path, comment: bytes, order: str = ">") -> None:
    """A picture with a user's comment in EXIF of that order of bytes, as tools write it."""
    start = b"MM\0*" if order == ">" else b"II*\0"
    first = struct.pack(f"{order}LHHHLLL", 8, 1, 0x8769, 4, 1, 26, 0)
    second = struct.pack(f"{order}HHHLLL", 1, 0x9286, 7, len(comment), 44, 0)
    Image.new("RGB", (8, 8)).save(path, exif=b"Exif\0\0" + start + first + second + comment)


@pytest.mark.parametrize("ending", ["jpg", "webp"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-16-le", "utf-16", "ascii", "unknown", "bare"])
def test_comments_in_exif(tmp_path: Path, ending: str, order: str, encoding: str) -> None:
    prefix = {"ascii": b"ASCII\0\0\0", "unknown": bytes(8), "bare": b""}.get(encoding, b"UNICODE\0")
    body = A1111.encode(encoding if encoding.startswith("utf") else "utf-8")
    commented(tmp_path / f"x.{ending}", prefix + body, order)
    assert read_recipe(tmp_path / f"x.{ending}").settings == SAID


@pytest.mark.parametrize("text", ["a 苹果 🍎, Steps: 3", "苹果" * 40 + ", Steps: 20", "plain"])
def test_both_orders_of_bytes_in_a_comment(text: str) -> None:
    for encoding in ("utf-16-be", "utf-16-le"):
        for little in (False, True):
            assert decoded(b"UNICODE\0" + text.encode(encoding), little=little) == text


def test_comfyui_s_webp(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0110], exif[0x010F] = f"prompt:{json.dumps(GRAPH)}", "workflow:{}"
    Image.new("RGB", (8, 8)).save(tmp_path / "x.webp", exif=exif)
    assert read_recipe(tmp_path / "x.webp").settings["prompt"] == "a cat"


def test_fooocus_has_its_comment_in_the_first_directory(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x9286], exif[0x0131], exif[0x927C] = json.dumps(FOOOCUS), "Fooocus v2.5.5", "fooocus"
    Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg", exif=exif)
    found = read_recipe(tmp_path / "x.jpg")
    assert (found.tool, found.settings["prompt"]) == ("Fooocus", "a cat")


def test_a_jpeg_s_comment(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg", comment=A1111)
    assert read_recipe(tmp_path / "x.jpg").settings == SAID


def test_what_is_not_known_is_kept_as_it_is() -> None:
    settings = "Steps: 3, Sampler: DPM adaptive, Schedule type: Automatic, CFG scale: x, ADetailer model: face"
    found = recipe_of({"parameters": f"a\n{settings}"})
    assert found is not None and found.settings == {"prompt": "a", "negative": "", "steps": 3}
    assert found.other == {
        "Sampler": "DPM adaptive",
        "Schedule type": "Automatic",
        "CFG scale": "x",
        "ADetailer model": "face",
    }
    assert found.tool == "AUTOMATIC1111, or a tool that writes as it does"


def test_hires_fix() -> None:
    found = recipe_of(
        {"parameters": "a\nSteps: 3, Seed: 1, Denoising strength: 0.4, Hires upscale: 2, Hires upscaler: Latent"}
    )
    assert found is not None
    assert (found.settings["hires"], found.settings["hires_strength"]) == (
        2.0,
        0.4,
    ) and "strength" not in found.settings


def test_a_prompt_without_settings() -> None:
    assert recipe_of({"parameters": "just a cat"}) == Recipe(
        "AUTOMATIC1111, or a tool that writes as it does", {"prompt": "just a cat", "negative": ""}, {}
    )


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "gif", "bmp"])
def test_a_picture_without_any_says_so(tmp_path: Path, ending: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / f"x.{ending}")
    with pytest.raises(RequestError, match="holds no generation data"):
        read_recipe(tmp_path / f"x.{ending}")


def test_other_texts_are_named(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("Software", "a camera")
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=info)
    with pytest.raises(RequestError, match="holds no generation data; its texts are Software;"):
        read_recipe(tmp_path / "x.png")


VALUES = [
    None,
    True,
    0,
    -1,
    1e400,
    "",
    "x",
    "7",
    [],
    {},
    [["a"]],
    [["3", 0]],
    ["3", 0],
    ["4", 0],
    {"inputs": {"text": ["3", 0]}},
    [None, 1],
]


@pytest.mark.parametrize("seed", range(40))
def test_nothing_in_a_picture_is_more_than_an_error(seed: int) -> None:
    """Layouts with values of any kind in any place: a recipe or None, and JSON."""
    chance = random.Random(seed)
    for _, texts, _ in TOOLS:
        changed = {}
        for key, value in texts.items():
            try:
                changed[key] = json.dumps(spoilt(json.loads(value), chance))
            except ValueError:
                cut = chance.randrange(len(value))
                changed[key] = (
                    value[:cut] + chance.choice(["", '"', "\n", ": ", "{"]) + value[cut + chance.randrange(4) :]
                )
        found = recipe_of(changed)
        assert found is None or json.dumps(found.record())


def spoilt(value: Any, chance: random.Random) -> Any:
    if chance.random() < 0.15:
        return chance.choice(VALUES)
    if isinstance(value, dict):
        return {key: spoilt(one, chance) for key, one in value.items()}
    return [spoilt(one, chance) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    "text", ["x" * 100_000, "a b " * 30_000, '"' * 50_000, "[" * 100_000, "Steps: " * 10_000, "a: " * 30_000]
)
def test_long_texts_are_read_in_no_time(text: str) -> None:
    for key in ("parameters", "prompt", "Comment", "UserComment", "Dream", "invokeai_metadata"):
        recipe_of({key: text})


def test_graphs_that_run_in_circles_end() -> None:
    nodes = {
        str(n): {
            "class_type": "KSampler",
            "inputs": {
                key: [str((n * 7 + place) % 40), 0]
                for place, key in enumerate(
                    ("text", "text_g", "positive", "value", "conditioning", "latent_image", "seed")
                )
            },
        }
        for n in range(40)
    }
    assert recipe_of({"prompt": json.dumps(nodes)}) is not None
