"""The page at `/`: its files, their headers, and what it asks the server for."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import latentrt
import latentrt_serve
from latentrt.pipeline.metadata import bytes_with_text, picture_text
from latentrt_serve.app import create_app
from latentrt_serve.room import Room
from latentrt_serve.routes.page import lora_names
from latentrt_serve.server import Server
from latentrt_serve.shelf import ModelOptions, shelf_of

PAGE = Path(latentrt_serve.__file__).parent / "page"
NAMES = sorted(path.name for path in PAGE.iterdir())
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def client_of(**parts: object) -> TestClient:
    options = parts.pop("options", ModelOptions())
    room = Room(shelf_of({"emoji": "emoji"}, options))  # type: ignore[arg-type]
    return TestClient(create_app(Server(room, **parts)), raise_server_exceptions=False)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with client_of() as found:
        yield found


def test_the_page_is_served_with_a_strict_policy(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text == (PAGE / "index.html").read_text(encoding="utf-8")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("name", NAMES)
def test_every_file_has_its_type_and_is_asked_for_again(client: TestClient, name: str) -> None:
    answer = client.get(f"/page/{name}")
    assert answer.status_code == 200
    assert answer.content == (PAGE / name).read_bytes()
    assert answer.headers["content-type"].split(";")[0] == TYPES[Path(name).suffix]
    assert answer.headers["cache-control"] == "no-cache"
    again = client.get(f"/page/{name}", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == answer.headers["etag"]
    assert client.get(f"/page/{name}", headers={"If-None-Match": '"another"'}).status_code == 200
    assert client.head(f"/page/{name}").headers["etag"] == answer.headers["etag"]


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fapp.py", "%2Fetc%2Fpasswd", "py.typed"])
def test_other_files_are_not_served(client: TestClient, name: str) -> None:
    assert client.get(f"/page/{name}").status_code == 404


@pytest.mark.parametrize("name", NAMES)
def test_no_file_names_another_server(name: str) -> None:
    text = (PAGE / name).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"(?:https?|wss?)://|[\"'(]//", text)
    assert "@import" not in text


def test_everything_that_the_page_names_is_there(client: TestClient) -> None:
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    named = re.findall(r'(?:src|href)="(page/[^"]+)"', html)
    assert len(named) >= 5
    for script in PAGE.glob("*.js"):
        named += [f"page/{name}" for name in re.findall(r'from "\./([^"]+)"', script.read_text(encoding="utf-8"))]
    assert {name: client.get(f"/{name}").status_code for name in named} == dict.fromkeys(named, 200)


def test_the_html_has_nothing_that_the_policy_forbids() -> None:
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"\sstyle=|\son\w+=|<style|<script(?![^>]*\ssrc=)", html)


def test_every_element_that_the_scripts_look_for_is_there() -> None:
    made = "\n".join(path.read_text(encoding="utf-8") for path in PAGE.iterdir())
    there = set(re.findall(r'\bid(?:="|: ")([\w-]+)"', made))
    asked = set(re.findall(r'\$\("([\w-]+)"\)', made))
    assert asked and asked <= there


def test_the_page_answers_without_a_key_and_its_questions_do_not() -> None:
    with client_of(keys=("secret",)) as client:
        assert client.get("/").status_code == client.get("/page/main.js").status_code == 200
        assert client.get("/v1/choices").status_code == client.post("/v1/prompts/check", json={}).status_code == 401
        assert client.post("/v1/recipes", content=b"").status_code == 401
        assert client.get("/v1/choices", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_choices_are_those_of_the_runtime(client: TestClient) -> None:
    found = client.get("/v1/choices").json()
    labels = {one["id"]: one["label"] for one in found["samplers"]}
    assert labels["dpmpp_2m"] == "DPM++ 2M"
    assert {"karras", "normal"} <= {one["id"] for one in found["curves"]}
    assert found["loras"] == [] and found["flow"] == {"emoji": False} and found["classes"] == {}


def test_lora_names_can_be_written_into_a_prompt(tmp_path: Path) -> None:
    for name in ("ink.safetensors", "a/wash.safetensors", "b/wash.safetensors", "a:b.safetensors", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert lora_names(tmp_path) == ["a/wash", "b/wash", "ink"]
    assert lora_names(None) == []


@pytest.mark.parametrize(
    ("field", "text", "character"),
    [
        ("prompt", "a (red:1.2.3) apple", 8),
        ("prompt", "\U0001f34e\U0001f34e (red", 4),  # characters, not the two units that browsers count for one
        ("prompt", "an apple)", 9),
        ("prompt", "an apple <lora:ink:x>", 20),
        ("negative", "a [b", 3),
        ("negative", "a <lora:ink>", 3),
    ],
)
def test_a_syntax_error_has_its_character(client: TestClient, field: str, text: str, character: int) -> None:
    [error] = client.post("/v1/prompts/check", json={field: text}).json()["errors"]
    assert (error["field"], error["character"]) == (field, character)
    assert error["message"].startswith("got ") and "\n" not in error["message"]


def test_valid_prompts_have_no_errors(client: TestClient) -> None:
    body = {"prompt": "a (red:1.2) [apple:pear:5] AND a sky <lora:ink:0.5>", "negative": "blue AND (grey)"}
    assert client.post("/v1/prompts/check", json=body).json() == {"errors": []}


def test_a_prompt_that_is_no_text_is_refused(client: TestClient) -> None:
    answer = client.post("/v1/prompts/check", json={"prompt": 5})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "prompt"


def test_a_picture_of_our_own_gives_its_settings_back(client: TestClient) -> None:
    seed = 2**64 - 1
    with latentrt.load("emoji", engine="onnxruntime") as pipe:
        result = pipe.generate("a red apple", negative="blue", steps=1, seed=seed, sampler="euler_a", eta=0.5)
    data = bytes_with_text(result.images[0], "PNG", picture_text(result.settings, 0, result.provenance()))
    assert client.post("/v1/recipes", content=data).json() == {
        "tool": "latentrt",
        "settings": {
            "prompt": "a red apple",
            "negative": "blue",
            "steps": 1,
            "guidance": 2.0,
            "width": 128,
            "height": 128,
            "sampler": "euler_a",
            "sigmas": "normal",
            "eta": 0.5,
            "seed": str(seed),
            "model": "emoji",
        },
        "needs": [],
        "other": {},
    }


def png(**texts: str) -> bytes:
    info, out = PngInfo(), io.BytesIO()
    for name, text in texts.items():
        info.add_text(name, text)
    Image.new("RGB", (8, 8)).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def test_a_picture_of_another_tool_gives_its_settings(client: TestClient) -> None:
    text = "a cat\nNegative prompt: a dog\nSteps: 30, Sampler: DPM++ 2M Karras, CFG scale: 6.5, Seed: 5, Size: 512x768"
    found = client.post("/v1/recipes", content=png(parameters=text)).json()
    assert found["settings"] == {
        "prompt": "a cat",
        "negative": "a dog",
        "steps": 30,
        "sampler": "dpmpp_2m",
        "sigmas": "karras",
        "guidance": 6.5,
        "seed": "5",
        "width": 512,
        "height": 768,
    }


def test_a_picture_made_from_another_says_so(client: TestClient) -> None:
    record = {"prompt": "a", "init": {"sha256": "0", "size": [8, 8]}, "strength": 0.5, "mask_blur": 4.0}
    found = client.post("/v1/recipes", content=png(latentrt=json.dumps(record))).json()
    assert found["needs"] == ["init"]
    assert found["settings"] == {"prompt": "a", "strength": 0.5}


DAMAGED = {"nothing": b"", "text": b"no picture", "plain": png(), "cut": png(latentrt="{}")[:50]}


@pytest.mark.parametrize("data", [*DAMAGED.values(), png(latentrt="{")], ids=[*DAMAGED, "no JSON"])
def test_what_holds_no_settings_is_refused(client: TestClient, data: bytes) -> None:
    answer = client.post("/v1/recipes", content=data)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "picture"
    assert str(Path.cwd()) not in answer.text


def test_a_damaged_record_is_no_failure(client: TestClient) -> None:
    data = png(latentrt=json.dumps({"sampler": [1], "bundle": 3, "seed": {}, "prompt": None}))
    assert client.post("/v1/recipes", content=data).status_code == 200
