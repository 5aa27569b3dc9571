"""Rows of the reported faults: each runs its case and returns the result and whether it is right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks import field_inputs as made
from benchmarks.field_place import Done, Place

Outcome = tuple[str, bool]
ROWS: dict[str, Callable[[Place], Outcome]] = {}
EXTRA = {"sd1": "cond_stage_model.transformer", "sdxl": "conditioner.embedders.0.transformer"}


def row(function: Callable[[Place], Outcome]) -> Callable[[Place], Outcome]:
    """Adds a function to the table; its docstring is the report's title."""
    ROWS[(function.__doc__ or "").removesuffix(".")] = function
    return function


def refused(done: Done, *words: str) -> Outcome:
    """Right if the process ended with one clear error that has these words."""
    return done.line, done.refused and all(word in done.err for word in words)


def drawn(done: Done) -> Outcome:
    """Right if the process made a picture."""
    return done.line, done.status == 0


def loaded(place: Place, *files: object) -> Outcome:
    """Right if each of these LoRA files changes the picture."""
    bundle = ("--bundle", place.shared / "sd1-bundle")
    done = place.draw(*bundle, out="plain.png")
    for number, file in enumerate(files):
        done = place.draw(*bundle, "--lora", file, out=f"{number}.png")
        if done.status or np.array_equal(place.pixels("plain.png"), place.pixels(f"{number}.png")):
            return done.line, False
    return f"{len(files)} files change the picture", True


def exported(place: Place, name: str, base: str, words: str, *options: object) -> Outcome:
    """Right if the export succeeds and `inspect` shows these words."""
    done = place.export(name, base, *options)
    if done.status:
        return done.line, False
    said = place.run("inspect", "bundle").out
    return next((line.strip() for line in said.splitlines() if words in line), said[-200:]), words in said


@row
def quiet(place: Place) -> Outcome:
    """OpenVINO reports to its makers and writes into the home folder."""
    done = place.draw("--engine", "openvino")
    home = place.folder / "home"
    left = sorted({str(path.relative_to(home).parent) for path in home.rglob("*") if path.is_file()})
    return f"{done.line}; files in {', '.join(left)}", done.status == 0 and all("latentrt" in one for one in left)


@row
def threads(place: Place) -> Outcome:
    """Threads that share a pipeline get errors and each other's pictures (OpenVINO)."""
    code = """
import latentrt, numpy, concurrent.futures as futures
pipe = latentrt.load("emoji", engine="openvino")
draw = lambda seed: numpy.asarray(pipe.generate("a red apple", seed=seed, steps=2, width=32, height=32).images[0])
alone = [draw(seed) for seed in range(4)]
with futures.ThreadPoolExecutor(4) as pool:
    print(sum((one == alone[i % 4]).all() for i, one in enumerate(pool.map(draw, [0, 1, 2, 3] * 10))), "of 40 right")
"""
    done = place.python(code)
    return done.line, "40 of 40 right" in done.out


@row
def v_prediction(place: Place) -> Outcome:
    """V prediction and zero terminal SNR, marked in a single file."""
    made.variant(place.shared, "sdxl", "v.safetensors", {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])})
    return exported(place, str(place.shared / "v.safetensors"), "sdxl", "v_prediction")


@row
def edm_file(place: Place) -> Outcome:
    """EDM models, marked in a single file (CosXL, Playground)."""
    marks = {"edm_vpred.sigma_max": torch.tensor(120.0), "edm_vpred.sigma_min": torch.tensor(0.002)}
    made.variant(place.shared, "sdxl", "cosxl.safetensors", marks)
    marks = {"edm_mean": torch.zeros(1, 4, 1, 1), "edm_std": torch.ones(1, 4, 1, 1)}
    made.variant(place.shared, "sdxl", "playground.safetensors", marks)
    cosxl = refused(place.export(str(place.shared / "cosxl.safetensors"), "sdxl"), "EDM")
    playground = refused(place.export(str(place.shared / "playground.safetensors"), "sdxl"), "edm_mean")
    return cosxl[0], cosxl[1] and playground[1]


@row
def edm_folder(place: Place) -> Outcome:
    """A scheduler without betas, exported as DDIM."""
    folder = made.folder_variant(place.shared, "sdxl", "edm")
    config = {"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction", "sigma_max": 120.0}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    return refused(place.run("export", folder, "bundle"), "EDMEulerScheduler")


@row
def extra_tensor(place: Place) -> Outcome:
    """An additional tensor beside the text encoder."""
    for base, prefix in EXTRA.items():
        extra = {f"{prefix}.text_projection.weight": torch.eye(32)}
        file = made.variant(place.shared, base, f"{base}-extra.safetensors", extra)
        done = place.export(str(file), base)
        if done.status:
            return done.line, False
        shutil.rmtree(place.folder / "bundle")
    return next(line for line in done.err.splitlines() if "text_projection" in line)[:200], True


@row
def tag(place: Place) -> Outcome:
    """`<lora:NAME:WEIGHT>` is encoded as words."""
    made.lora(place.folder / "loras" / "style.safetensors", made.pair())
    bundle = ("--bundle", place.shared / "sd1-bundle")
    folder, prompt = ("--lora-dir", place.folder / "loras"), "a red apple<lora:style:0.8>"
    tagged = place.draw(*bundle, *folder, prompt=prompt, out="tagged.png")
    named = place.draw(*bundle, "--lora", "loras/style.safetensors:0.8", out="named.png")
    unknown = place.draw(*bundle, prompt=prompt)
    if tagged.status or named.status:
        return tagged.line + named.line, False
    same = np.array_equal(place.pixels("tagged.png"), place.pixels("named.png"))
    return (
        f"{'same' if same else 'another'} picture as with --lora; without a folder: {unknown.line}",
        same and unknown.refused,
    )


@row
def peft_alpha(place: Place) -> Outcome:
    """Alpha in a folder saved by peft."""
    folder = made.peft_folder(place.folder / "adapter")
    scaled = made.lora(place.folder / "l" / "kohya.safetensors", {**made.pair(), "alpha": torch.tensor(16.0)})
    bundle = ("--bundle", place.shared / "sd1-bundle")
    runs = [place.draw(*bundle, "--lora", folder, out="a.png"), place.draw(*bundle, "--lora", scaled, out="b.png")]
    if any(done.status for done in runs):
        return runs[0].line, False
    same = np.array_equal(place.pixels("a.png"), place.pixels("b.png"))
    return f"same picture as with alpha 16 at rank 4: {same}", same


@row
def comfy_names(place: Place) -> Outcome:
    """A LoRA in ComfyUI's names is 'made for another family'."""
    names = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
    path = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q"
    save_file({f"{path}.{names[name]}": t for name, t in made.pair().items()}, place.folder / "comfy.safetensors")
    return loaded(place, "comfy.safetensors")


@row
def no_stderr(place: Place) -> Outcome:
    """No picture is made with stderr closed."""
    done = place.draw(after="2>&-")
    return f"{done.line}, picture: {(place.folder / 'o.png').exists()}", done.status == 0


@row
def full_disk(place: Place) -> Outcome:
    """A full disk ends an export with a traceback."""
    done = place.run("export", place.shared / "sd1-folder", "bundle", before="ulimit -f 300")
    left = sorted(path.name for path in place.folder.iterdir() if path.name != "home")
    return f"{done.line}; left behind: {left or 'nothing'}", done.status == 7 and done.refused and not left


@row
def narrow_stdout(place: Place) -> Outcome:
    """Stdout that is not UTF-8."""
    place.draw(prompt="\U0001f34e")
    runs = [place.run("inspect", "o.png", PYTHONIOENCODING=name) for name in ("cp1252", "ascii", "gbk")]
    runs.append(place.draw("--json", prompt="\U0001f34e", PYTHONIOENCODING="cp1252"))
    known = json.loads(runs[-1].out) if runs[-1].status == 0 else None
    return f"exits {[done.status for done in runs]}, JSON is read", known is not None and not any(
        d.status for d in runs
    )


@row
def numpy_numbers(place: Place) -> Outcome:
    """NumPy numbers are refused."""
    code = """
import latentrt, numpy as np
pipe = latentrt.load("emoji")
one = pipe.generate("a red apple", seed=np.int64(5), steps=np.int32(2), width=np.int16(32), height=32,
    guidance=np.array([3.0, 2.0], np.float32), sigmas=np.array([14.0, 1.0]))
two = pipe.generate("a red apple", seed=5, steps=2, width=32, height=32, guidance=[3.0, 2.0], sigmas=[14.0, 1.0])
print(one.images[0].tobytes() == two.images[0].tobytes())
"""
    done = place.python(code)
    return f"same picture as with Python's numbers: {done.out.strip() or done.line}", done.out.strip() == "True"


@row
def odd_tensors(place: Place) -> Outcome:
    """LoRA tensors that cannot be computed with: rank 0, a vector or a text as alpha, NaN."""
    files = place.folder / "l"
    made.lora(files / "rank0.safetensors", {n: t[:0] if "down" in n else t[:, :0] for n, t in made.pair().items()})
    made.lora(files / "vector.safetensors", {**made.pair(), "alpha": torch.ones(4)})
    notes = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": "four"})}
    made.lora(files / "text.safetensors", made.pair(), notes)
    made.lora(files / "nan.safetensors", {n: t * torch.nan for n, t in made.pair().items()})
    bundle = ("--bundle", place.shared / "sd1-bundle")
    runs = {
        name: place.draw(*bundle, "--lora", files / f"{name}.safetensors")
        for name in ("rank0", "vector", "text", "nan")
    }
    right = runs["rank0"].status == 0 and all(runs[name].refused for name in ("vector", "text", "nan"))
    return f"rank 0: a picture; {runs['vector'].line}", right


@row
def small_image(place: Place) -> Outcome:
    """An image under 8 pixels wide, with --size."""
    made.Image.new("RGB", (7, 300), "red").save(place.folder / "small.png")
    return drawn(
        place.run(
            "generate", "x", "--steps", 2, "--init", "small.png", "--size", "64x64", "--strength", 0.5, "--out", "o.png"
        )
    )


@row
def warnings_of_pillow(place: Place) -> Outcome:
    """Pillow's warnings (palette with transparency), under python -W error."""
    made.palette_picture(place.folder / "p.png")
    done = place.draw("--init", "p.png", "--strength", 1, PYTHONWARNINGS="error")
    return done.line, done.status == 0 and "arning" not in done.err


@row
def no_memory(place: Place) -> Outcome:
    """A failed memory allocation in NumPy."""
    done = place.run("generate", "x", "--steps", 1, "--size", "16384x16384", before="ulimit -v 6000000")
    return done.line, done.status == 4 and done.refused


@row
def damaged_cache(place: Place) -> Outcome:
    """OpenVINO's cached graph with bytes overwritten."""
    first = place.draw("--engine", "openvino", out="a.png")
    blobs = [path for path in (place.folder / "home").rglob("*.blob")]
    for blob in blobs:
        blob.chmod(0o600)
        content = bytearray(blob.read_bytes())
        content[-5000:-4984] = b"\xff" * 16
        blob.write_bytes(content)
    second = place.draw("--engine", "openvino", out="b.png")
    same = first.status == second.status == 0 and np.array_equal(place.pixels("a.png"), place.pixels("b.png"))
    return f"{len(blobs)} files damaged, the same picture: {same}", same and len(blobs) > 0


@row
def odd_png(place: Place) -> Outcome:
    """`inspect` of a PNG without generation data."""
    made.empty_picture(place.folder / "odd.png")
    return refused(place.run("inspect", "odd.png"))


@row
def line_separators(place: Place) -> Outcome:
    """A file of prompts with U+2028."""
    (place.folder / "prompts.txt").write_text("a red\u2028apple\na green\u0085apple\n", encoding="utf-8")
    done = place.run("generate", "--prompts", "prompts.txt", "--steps", 1, "--size", "32x32", "--seed", 1)
    pictures = len(list(place.folder.glob("*.png")))
    return f"{pictures} pictures of 2 lines", done.status == 0 and pictures == 2


@row
def other_floats(place: Place) -> Outcome:
    """Fp8 and fp64 checkpoints."""

    def eight(key: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(torch.float8_e4m3fn) if key.startswith("model.diffusion") else tensor

    made.variant(place.shared, "sd1", "fp8.safetensors", change=eight)
    made.variant(place.shared, "sd1", "fp64.safetensors", change=lambda _, tensor: tensor.double())
    runs = []
    for name in ("fp8", "fp64"):
        runs.append(place.export(str(place.shared / f"{name}.safetensors"), "sd1"))
        shutil.rmtree(place.folder / "bundle", ignore_errors=True)
    return f"exits {[done.status for done in runs]}", not any(done.status for done in runs)


@row
def kinds(place: Place) -> Outcome:
    """DoRA, full differences, differences of biases, GLoRA, OFT, IA3, LoRA in fp8."""
    random = torch.Generator().manual_seed(0)
    width, files = made.WIDTH, place.folder / "l"
    square = torch.randn(width, width, generator=random) * 0.1
    blocks = torch.randn(16, 4, 4, generator=random) * 0.1
    parts = {
        "dora": {**made.pair(), "alpha": torch.tensor(4.0), "dora_scale": torch.rand(width, 1, generator=random) + 0.5},
        "diff": {"diff": square},
        "glora": {
            "a1.weight": square[:4],
            "a2.weight": square[:, :4],
            "b1.weight": square[4:8],
            "b2.weight": square[:, 4:8],
            "alpha": torch.tensor(4.0),
        },
        "oft": {"oft_diag": blocks - blocks.mT, "alpha": torch.tensor(1.0)},
        "ia3": {"weight": torch.rand(width, generator=random), "on_input": torch.tensor(False)},
        "fp8": {name: tensor.to(torch.float8_e4m3fn) for name, tensor in made.pair().items()},
    }
    bundle, said = ("--bundle", place.shared / "sd1-bundle"), {}
    for name, tensors in parts.items():
        done = place.draw(*bundle, "--lora", made.lora(files / f"{name}.safetensors", tensors))
        said[name] = "drawn" if done.status == 0 else done.line
    right = all(one == "drawn" or one.startswith(("exit 2: error", "exit 5: error")) for one in said.values())
    return "; ".join(f"{name}: {what}" for name, what in said.items()), right


@row
def layouts(place: Place) -> Outcome:
    """LoRA files with peft's adapter names, LyCORIS's prefix, any case of the file suffix."""
    path, halves = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q", made.pair()
    named = {f"{path}.lora_{h}.style.weight": t for h, t in zip("AB", halves.values(), strict=True)}
    save_file(named, place.folder / "named.safetensors")
    layer = made.LAYER.replace("lora_unet", "lycoris")
    save_file({f"{layer}.{n}": t for n, t in halves.items()}, place.folder / "lycoris.safetensors")
    made.lora(place.folder / "l" / "upper.SAFETENSORS", halves)
    return loaded(place, "named.safetensors", "lycoris.safetensors", "l/upper.SAFETENSORS")


@row
def folders(place: Place) -> Outcome:
    """Folders of other variants, and of other pipelines with the same components."""
    variant = made.folder_variant(place.shared, "sd1", "bf16")
    for file in variant.rglob("*.safetensors"):
        file.rename(file.with_name(file.name.replace(".safetensors", ".bf16.safetensors")))
    control = made.folder_variant(place.shared, "sd1", "control")
    made.edit_json(control / "model_index.json", _class_name="StableDiffusionControlNetPipeline")
    runs = [place.run("export", folder, folder.name) for folder in (variant, control)]
    return f"exits {[done.status for done in runs]}", not any(done.status for done in runs)


@row
def vae_file(place: Place) -> Outcome:
    """A VAE file in diffusers' layout."""
    vae = place.shared / "sd1-folder" / "vae" / "diffusion_pytorch_model.safetensors"
    shutil.copy(vae, place.folder / "vae.safetensors")
    done = place.run("export", place.shared / "sd1-folder", "bundle", "--vae", "vae.safetensors")
    return done.line, done.status == 0


@row
def pickle(place: Place) -> Outcome:
    """A .ckpt, without and with --allow-pickle."""
    from safetensors.torch import load_file

    torch.save({"state_dict": load_file(place.shared / "sd1" / "m.safetensors")}, place.folder / "m.ckpt")
    without, allowed = place.export("m.ckpt", "sd1"), place.export("m.ckpt", "sd1", "--allow-pickle")
    return f"{without.line}; with: exit {allowed.status}", without.refused and allowed.status == 0


@row
def other_tools(place: Place) -> Outcome:
    """`inspect` of other tools' pictures."""
    a1111 = "an apple\nNegative prompt: blue\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 16x16"
    made.picture_of(place.folder / "a.png", parameters=a1111)
    made.picture_of(place.folder / "c.png", prompt='{"3": {"class_type": "KSampler", "inputs": {"seed": 5}}}')
    made.picture_of(place.folder / "i.png", invokeai_metadata='{"positive_prompt": "an apple", "seed": 5}')
    runs = [place.run("inspect", f"{name}.png") for name in "aci"]
    return f"exits {[done.status for done in runs]}: {runs[0].out.splitlines()[0][:100]}", not any(
        d.status for d in runs
    )


@row
def habits(place: Place) -> Outcome:
    """Seed -1, AUTOMATIC1111's sampler names, JPEG and WebP, 16-bit depth maps."""
    few = ("--steps", 2, "--size", "32x32")
    runs = [place.run("generate", "x", *few, "--seed", -1, "--sampler", "DPM++ 2M Karras", "--out", "o.jpg")]
    runs.append(place.run("generate", "x", *few, "--sampler", "Euler a", "--out", "o.webp"))
    runs += [place.run("inspect", "o.jpg"), place.run("inspect", "o.webp")]
    made.deep_picture(place.folder / "depth.png")
    runs.append(place.draw("--init", "depth.png", "--strength", 1))
    return f"exits {[done.status for done in runs]}", not any(done.status for done in runs)
