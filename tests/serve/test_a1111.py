"""AUTOMATIC1111's interface on a real server of the real model, with the requests of its clients."""

import base64
import io
import json
import threading
import time

import httpx
import numpy as np
import pytest
from PIL import Image, ImageOps

import latentrt
from latentrt.images.pillow import filled
from latentrt.sampling.samplers import SAMPLERS
from latentrt.sampling.samplers.names import found_as
from latentrt_serve.limits import Limits
from latentrt_serve.routes.a1111_fields import curve
from tests.serve.contract import base64_png, emoji_server, image_of, listening, png

SMALL = {"prompt": "a cat", "steps": 2, "seed": 7, "width": 64, "height": 64}
# As a chat program sends it, most fields at values that ask for nothing.
CHAT = {
    "prompt": "a cat, (red:1.2)",
    "negative_prompt": "dog",
    "sampler_name": "Euler a",
    "scheduler": "Karras",
    "steps": 2,
    "cfg_scale": 7,
    "width": 64,
    "height": 72,
    "restore_faces": False,
    "enable_hr": False,
    "hr_upscaler": "Latent",
    "hr_scale": 2,
    "hr_additional_modules": [],
    "denoising_strength": 0.7,
    "hr_second_pass_steps": 0,
    "seed": 11,
    "override_settings": {"CLIP_stop_at_last_layers": 2},
    "override_settings_restore_afterwards": True,
    "clip_skip": 2,
    "save_images": True,
    "send_images": True,
    "do_not_save_grid": False,
    "do_not_save_samples": False,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loras")
    (folder / "styles").mkdir()
    (folder / "styles" / "ink.safetensors").write_bytes(b"")
    (folder / "notes.txt").write_text("no LoRA")
    return emoji_server(limits=Limits(steps=1000), lora_dir=folder)


@pytest.fixture(scope="module")
def address(server):
    with listening(server) as found:
        yield found


@pytest.fixture(scope="module")
def client(address):
    json_text = {"Content-Type": "application/json"}
    with httpx.Client(base_url=f"{address}/sdapi/v1", timeout=60, headers=json_text) as found:
        yield found


@pytest.fixture(scope="module")
def pipeline():
    with latentrt.load("emoji") as found:
        yield found


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (72, 64, 3), np.uint8))


@pytest.fixture
def hole():
    found = Image.new("L", (64, 72))
    found.paste(255, (16, 24, 48, 56))
    return found


def asked(client, path, **body):
    answer = client.post(f"/{path}", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    return [image_of(one) for one in found["images"]], json.loads(found["info"]), found["parameters"]


def same(one, other):
    return one.mode == other.mode and np.array_equal(np.asarray(one), np.asarray(other))


def test_a_picture_is_that_of_the_library(client, pipeline):
    [image], info, parameters = asked(client, "txt2img", **SMALL)
    given = {name: SMALL[name] for name in ("steps", "seed", "width", "height")}
    assert same(image, pipeline.generate("a cat", **given).images[0])
    assert info["seed"] == 7 and info["all_seeds"] == [7] and info["sd_model_name"] == "emoji"
    assert parameters["seed"] == 7 and parameters["sampler_name"] == "DDIM"
    assert image.text["parameters"] == info["infotexts"][0]


def test_a_chat_programs_request(client, pipeline):
    [image], info, _ = asked(client, "txt2img", **CHAT)
    expected = pipeline.generate(
        CHAT["prompt"],
        negative="dog",
        sampler="euler_a",
        sigmas="karras",
        steps=2,
        guidance=7,
        width=64,
        height=72,
        seed=11,
        clip_skip=2,
        syntax="lenient",
    )
    assert same(image, expected.images[0])
    assert info["clip_skip"] == 2 and info["sampler_name"] == "Euler a"


def test_prompts_have_no_errors(client, pipeline):
    [image], _, _ = asked(client, "txt2img", **{**SMALL, "prompt": "((a cat"})
    given = {name: SMALL[name] for name in ("steps", "seed", "width", "height")}
    assert same(image, pipeline.generate("((a cat", syntax="lenient", **given).images[0])


def test_numbers_may_be_text_fields_null_and_a_subseed_without_strength(client):
    body = {**SMALL, "steps": "2", "cfg_scale": "2.0", "seed": 7.0, "scheduler": None, "eta": None, "subseed": 5}
    assert same(asked(client, "txt2img", **body)[0][0], asked(client, "txt2img", **SMALL)[0][0])


def test_all_pictures_of_all_batches(client):
    images, info, _ = asked(client, "txt2img", **SMALL, batch_size=2, n_iter=2)
    assert len(images) == 4 and info["all_seeds"] == [7, 8, 9, 10] and info["batch_size"] == 2
    alone = asked(client, "txt2img", **{**SMALL, "seed": 9})[0][0]
    assert same(images[2], alone)


def test_a_seed_is_drawn_and_told(client):
    [image], info, parameters = asked(client, "txt2img", **{**SMALL, "seed": -1})
    assert parameters["seed"] == -1 and info["seed"] >= 0
    assert same(image, asked(client, "txt2img", **{**SMALL, "seed": info["seed"]})[0][0])


def test_a_variation_is_drawn_and_told(client, pipeline):
    given = {**SMALL, "subseed_strength": 0.3, "batch_size": 2}
    images, info, _ = asked(client, "txt2img", **given)
    assert info["all_seeds"] == [7, 7]
    first = info["subseed"]
    assert info["all_subseeds"] == [first, first + 1]
    own = {name: SMALL[name] for name in ("steps", "seed", "width", "height")}
    expected = pipeline.generate("a cat", batch=2, variation_seed=first, variation_strength=0.3, **own)
    assert all(map(same, images, expected.images))


def test_a_second_pass(client, pipeline):
    given = {"enable_hr": True, "hr_second_pass_steps": 4, "hr_upscaler": "Latent", "denoising_strength": 0.5}
    [image], _, _ = asked(client, "txt2img", **SMALL, **given, hr_resize_x=0, hr_sampler_name="Use same sampler")
    own = {name: SMALL[name] for name in ("steps", "seed", "width", "height")}
    expected = pipeline.generate("a cat", hires=2.0, hires_steps=4, hires_strength=0.5, **own)
    assert image.size == (128, 128) and same(image, expected.images[0])


def test_image_to_image(client, pipeline, picture):
    body = {"init_images": [f"data:image/png;base64,{base64_png(picture)}"], "denoising_strength": 0.6}
    [image], info, parameters = asked(client, "img2img", prompt="a cat", steps=4, seed=3, **body)
    expected = pipeline.generate("a cat", steps=4, seed=3, init=picture, strength=0.6)
    assert same(image, expected.images[0])
    assert parameters["init_images"] is None and info["denoising_strength"] == 0.6


def inpainted(client, picture, mask, **more):
    body = {"init_images": [base64_png(picture)], "mask": base64_png(mask), "denoising_strength": 0.8, **more}
    return asked(client, "img2img", prompt="a cat", steps=4, seed=3, **body)[0][0]


def test_a_mask(client, pipeline, picture, hole):
    image = inpainted(client, picture, hole, inpaint_full_res=False, mask_blur=0, inpainting_fill=1)
    options = {"steps": 4, "seed": 3, "init": picture, "mask": hole, "strength": 0.8, "overlay": True}
    assert same(image, pipeline.generate("a cat", **options).images[0])
    kept = np.asarray(hole) == 0
    assert (np.asarray(image)[kept] == np.asarray(picture)[kept]).all()
    assert (np.asarray(image)[~kept] != np.asarray(picture)[~kept]).any(axis=1).mean() > 0.9


def test_a_mask_is_inverted_and_may_be_transparent(client, picture, hole):
    plain = inpainted(client, picture, hole, inpaint_full_res=False, mask_blur=2)
    inverted = ImageOps.invert(hole)
    assert same(plain, inpainted(client, picture, inverted, inpaint_full_res=0, mask_blur=2, inpainting_mask_invert=1))
    drawn = Image.new("RGBA", hole.size, (0, 0, 0, 0))
    drawn.putalpha(hole)
    assert same(plain, inpainted(client, picture, drawn, inpaint_full_res=False, mask_blur=2))


def test_only_the_part_around_the_mask(client, pipeline, picture, hole):
    image = inpainted(client, picture, hole, inpaint_full_res=True, inpaint_full_res_padding=8, width=64, height=64)
    options = {"init": picture, "mask": hole, "strength": 0.8, "mask_blur": 4, "mask_padding": 8, "overlay": True}
    assert same(image, pipeline.generate("a cat", steps=4, seed=3, width=64, height=64, **options).images[0])
    assert image.size == picture.size


@pytest.mark.parametrize(("mode", "fit"), [(0, "stretch"), (1, "crop"), (2, "filled")])
def test_resize_modes(client, pipeline, picture, mode, fit):
    body = {"init_images": [base64_png(picture)], "resize_mode": mode, "width": 96, "height": 64}
    [image], _, _ = asked(client, "img2img", prompt="a cat", steps=4, seed=3, **body)
    init, fit = (filled(picture, 96, 64), "stretch") if fit == "filled" else (picture, fit)
    options = {"init": init, "fit": fit, "strength": 0.75, "width": 96, "height": 64}
    assert same(image, pipeline.generate("a cat", steps=4, seed=3, **options).images[0])


@pytest.mark.parametrize(
    ("path", "body", "status", "word"),
    [
        ("txt2img", {"sampler_name": "Euler z"}, 404, "sampler_name"),
        ("txt2img", {"sampler_index": "Euler z"}, 404, "sampler_index"),
        ("txt2img", {"scheduler": "Steep"}, 422, "scheduler"),
        ("txt2img", {"steps": 0}, 422, "steps"),
        ("txt2img", {"cfg_scale": "high"}, 422, "cfg_scale"),
        ("txt2img", {"width": 65}, 422, "width"),
        ("txt2img", {"batch_size": 3, "n_iter": 3}, 422, "batch_size"),
        ("txt2img", {"restore_faces": True}, 422, "restore_faces"),
        ("txt2img", {"s_churn": 3}, 422, "s_churn"),
        ("txt2img", {"refiner_checkpoint": "x"}, 422, "refiner_checkpoint"),
        ("txt2img", {"script_name": "x/y/z plot"}, 422, "script_name"),
        ("txt2img", {"alwayson_scripts": {"ControlNet": {"args": [{"enabled": True}]}}}, 422, "ControlNet"),
        ("txt2img", {"override_settings": {"sd_model_checkpoint": "none"}}, 404, "model"),
        ("txt2img", {"override_settings": {"CLIP_stop_at_last_layers": 99}}, 422, "CLIP_stop_at_last_layers"),
        ("txt2img", {"override_settings": []}, 422, "override_settings"),
        ("txt2img", {"enable_hr": True, "hr_upscaler": "ESRGAN_4x"}, 422, "hr_upscaler"),
        ("txt2img", {"enable_hr": True, "hr_prompt": "a dog"}, 422, "hr_prompt"),
        ("txt2img", {"enable_hr": True, "hr_scale": 99}, 422, "hr_scale"),
        ("txt2img", {"prompt": "<lora:gone:1>"}, 400, "gone"),
        ("txt2img", {"prompt": "\ud800"}, 422, "prompt"),
        ("img2img", {}, 404, "init_images"),
        ("img2img", {"init_images": ["http://127.0.0.1:1/a.png"]}, 422, "init_images"),
        ("img2img", {"init_images": ["/etc/passwd"]}, 422, "init_images"),
        ("img2img", {"init_images": ["x", "y"]}, 422, "init_images"),
        ("img2img", {"init_images": [base64_png(Image.new("L", (64, 64)))], "resize_mode": 3}, 422, "resize_mode"),
        ("img2img", {"init_images": [base64_png(Image.new("L", (64, 64)))], "inpainting_fill": 2}, 422, "fill"),
        ("png-info", {"image": "file:///etc/passwd"}, 422, "image"),
        ("png-info", {}, 422, "image"),
        ("options", {"sd_model_checkpoint": "none"}, 404, "model"),
        ("options", {"CLIP_stop_at_last_layers": "last"}, 422, "CLIP_stop_at_last_layers"),
    ],
)
def test_refusals(client, path, body, status, word):
    answer = client.post(f"/{path}", content=json.dumps({**SMALL, **body} if path == "txt2img" else body))
    found = answer.json()
    assert answer.status_code == status, found
    assert set(found) == {"error", "detail", "body", "errors"} and word in found["detail"]


def test_a_body_that_is_no_object(client, address):
    assert client.post("/txt2img", content="[").status_code == 422
    assert client.post("/txt2img", json=[1]).json()["error"] == "invalid_request"
    assert client.get("/nothing").json()["error"] == "not_found"
    assert "message" in httpx.get(f"{address}/v1/nothing").json()["error"]


def test_values_that_json_cannot_hold_are_not_sent_back(client):
    text = json.dumps(SMALL)[:-1] + ', "styles": ["\\ud800"], "override_settings": {"x": NaN}}'
    answer = client.post("/txt2img", content=text)
    assert answer.status_code == 200 and "styles" not in answer.json()["parameters"]


def test_scripts_that_ask_for_nothing(client):
    scripts = {"Sampler": {"args": []}, "ControlNet": {"args": [{"enabled": False, "model": "x"}]}, "Seed": {}}
    assert len(asked(client, "txt2img", **SMALL, alwayson_scripts=scripts)[0]) == 1
    assert asked(client, "txt2img", **SMALL, alwayson_scripts={}, send_images=False)[0] == []


def test_a_pasted_text_makes_its_picture_again(client):
    [image], info, _ = asked(client, "txt2img", **CHAT)
    [again], _, _ = asked(client, "txt2img", infotext=info["infotexts"][0])
    assert same(image, again)
    [other], info, _ = asked(client, "txt2img", infotext=info["infotexts"][0], seed=12, prompt="a dog")
    assert info["seed"] == 12 and info["prompt"] == "a dog" and info["cfg_scale"] == 7 and not same(image, other)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_data_in_a_picture(client, pipeline, kind, tmp_path):
    file = tmp_path / f"a.{kind.lower()}"
    pipeline.generate("a cat", negative="dog", steps=1, seed=5, width=64, height=64).save(file)
    image = Image.open(io.BytesIO(file.read_bytes()))
    assert image.format == kind
    found = client.post("/png-info", json={"image": base64.b64encode(file.read_bytes()).decode()}).json()
    assert found["info"].startswith("a cat\nNegative prompt: dog\nSteps: 1,")
    parameters = found["parameters"]
    assert parameters["Prompt"] == "a cat" and parameters["Negative prompt"] == "dog" and parameters["Seed"] == "5"


def test_a_picture_without_data(client, picture):
    found = client.post("/png-info", json={"image": base64_png(picture)}).json()
    assert found == {"info": "", "items": {}, "parameters": {}}


def test_every_sampler_and_scheduler_that_is_listed_is_taken(client):
    listed = client.get("/samplers").json()
    assert {one["name"] for one in listed} >= {"Euler", "Euler a", "DPM++ 2M", "DDIM"}
    assert len(listed) == sum(not one.flow for one in SAMPLERS.values())
    body = {**SMALL, "steps": 1, "send_images": False}
    for one in listed:
        assert all(found_as(name) == found_as(one["name"]) for name in one["aliases"])
        assert asked(client, "txt2img", **body, sampler_name=one["name"])[1]["sampler_name"] == one["name"]
    for one in client.get("/schedulers").json():
        assert asked(client, "txt2img", **body, scheduler=one["name"])[1] is not None
        assert curve("scheduler", one["name"]) == curve("scheduler", one["label"])


def test_eta_is_for_samplers_that_have_one(client, pipeline):
    plain = asked(client, "txt2img", **SMALL, sampler_name="Euler")[0][0]
    assert same(plain, asked(client, "txt2img", **SMALL, sampler_name="Euler", eta=1)[0][0])
    noisy = asked(client, "txt2img", **SMALL, sampler_name="DDIM", eta=1)[0][0]
    own = {name: SMALL[name] for name in ("steps", "seed", "width", "height")}
    assert same(noisy, pipeline.generate("a cat", sampler="ddim", eta=1.0, **own).images[0])


def test_lists(client):
    [model] = client.get("/sd-models").json()
    assert model["model_name"] == "emoji" and model["title"] == client.get("/options").json()["sd_model_checkpoint"]
    [lora] = client.get("/loras").json()
    assert (lora["name"], lora["path"]) == ("ink", "styles/ink.safetensors")
    assert {one["name"] for one in client.get("/upscalers").json()} == {"None", "Lanczos"}
    ram = client.get("/memory").json()["ram"]
    assert ram["free"] + ram["used"] == ram["total"]
    assert client.get("/cmd-flags").json() == {"api": True}


@pytest.mark.parametrize(("name", "status"), [("gone", 400), ("ink", 422)])
def test_a_lora_that_is_not_there_or_is_damaged_is_told_without_the_operators_folder(client, server, name, status):
    answer = client.post("/txt2img", json={**SMALL, "prompt": f"a cat <lora:{name}:1>"})
    detail = answer.json()["detail"]
    assert answer.status_code == status, detail
    assert name in detail and "--lora-dir" in detail and str(server.room.shelf.options.lora_dir) not in detail


def test_options_are_remembered_for_each_client(address):
    with (
        httpx.Client(base_url=f"{address}/sdapi/v1", auth=("me", "one"), timeout=60) as one,
        httpx.Client(base_url=f"{address}/sdapi/v1", auth=("me", "two"), timeout=60) as two,
    ):
        title = one.get("/sd-models").json()[0]["title"]
        body = {"CLIP_stop_at_last_layers": 2, "sd_model_checkpoint": title, "unknown": "x" * 1000}
        assert one.post("/options", json=body).status_code == 200
        assert one.get("/options").json()["CLIP_stop_at_last_layers"] == 2
        assert "unknown" not in one.get("/options").json()
        assert two.get("/options").json()["CLIP_stop_at_last_layers"] == 1
        assert asked(one, "txt2img", **SMALL)[1]["clip_skip"] == 2
        assert asked(two, "txt2img", **SMALL)[1]["clip_skip"] == 1
        overridden = {"override_settings": {"CLIP_stop_at_last_layers": 1, "sd_model_checkpoint": "emoji"}}
        assert asked(one, "txt2img", **SMALL, **overridden)[1]["clip_skip"] == 1


def test_progress_and_interruption(client, server, address):
    idle = client.get("/progress").json()
    assert idle["progress"] == 0 and idle["state"]["job_count"] == 0 and idle["current_image"] is None
    found = {}
    thread = threading.Thread(target=lambda: found.update(client.post("/txt2img", json={**SMALL, "steps": 900}).json()))
    thread.start()
    while not (busy := client.get("/progress").json())["current_image"]:
        time.sleep(0.02)
    assert 0 < busy["progress"] < 1 and busy["eta_relative"] > 0
    assert busy["state"]["sampling_steps"] == 900 and 0 < busy["state"]["sampling_step"] < 900
    assert image_of(busy["current_image"]).size == (8, 8)
    assert client.get("/progress", params={"skip_current_image": True}).json()["current_image"] is None
    other = {"auth": ("me", "other")}
    assert httpx.get(f"{address}/sdapi/v1/progress", **other).json()["progress"] == 0
    assert httpx.post(f"{address}/sdapi/v1/interrupt", **other).json() == {}
    assert thread.is_alive() and server.room.running
    assert client.post("/interrupt").json() == {}
    thread.join(20)
    assert [image_of(one).size for one in found["images"]] == [(64, 64)]
    assert json.loads(found["info"])["seed"] == 7


def test_a_key_as_the_password(picture):
    with listening(emoji_server(keys=("secret",))) as address:
        refused = httpx.get(f"{address}/sdapi/v1/options", auth=("me", "wrong"))
        assert refused.status_code == 401 and set(refused.json()) == {"error", "detail", "body", "errors"}
        assert httpx.get(f"{address}/sdapi/v1/options", auth=("me", "secret")).status_code == 200


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded():
    limits = Limits(image_pixels=1000)
    with listening(emoji_server(limits=limits)) as address:
        body = {"init_images": [base64_png(Image.new("L", (100, 100)))]}
        answer = httpx.post(f"{address}/sdapi/v1/img2img", json=body)
        assert answer.status_code == 422 and "1,000" in answer.json()["detail"]
        assert len(png(Image.new("L", (100, 100)))) < 1000
