"""The page in a real browser, on a real server with the built-in model.

python -m pytest tests/serve/browser

Needs Chromium with its driver, and `pip install selenium`; without them these tests are skipped, with the reason.
"""

import base64
import io
import json
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentrt_serve.shelf import ModelOptions

pytest.importorskip("selenium", reason="selenium is not installed: pip install selenium")
from selenium import webdriver  # noqa: E402
from selenium.webdriver import ActionChains, ChromeOptions, ChromeService  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

from tests.serve.browser.driving import Page, asked, drawn, generated, pixels_of, serving, start_with  # noqa: E402

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="no chromium and chromedriver on the path")

KEY = "a key for the page"
DESKTOP, PHONE = (1360, 860), (360, 740)
# Keeps the bodies of jobs, and answers /v1/capabilities with a changed first model.
CHANGED = """
const real = window.fetch;
window.sent = [];
window.fetch = async (path, options) => {
  if (options?.method === "POST" && path === "v1/jobs") window.sent.push(JSON.parse(options.body));
  const answer = await real(path, options);
  if (path !== "v1/capabilities") return answer;
  const told = await answer.json();
  Object.assign(told.models[0], %s);
  return new Response(JSON.stringify(told));
};
"""


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    (folder / "ink wash.safetensors").touch()
    return folder


@pytest.fixture(scope="module")
def address(loras: Path) -> Iterator[str]:
    yield from serving(options=ModelOptions(engine="onnxruntime", lora_dir=loras))


@pytest.fixture(scope="module")
def apple(address: str) -> bytes:
    """The file of a picture, with its settings inside."""
    body = {
        "prompt": "a red apple",
        "negative": "blue",
        "seed": 2**63 + 1,
        "steps": 6,
        "sampler": "euler_a",
        "eta": 0.5,
    }
    job = json.loads(asked(f"{address}v1/jobs", body))
    asked(f"{address}v1/jobs/{job['id']}/events")
    return asked(f"{address}v1/jobs/{job['id']}/pictures/0")


@pytest.fixture(scope="module")
def apple_path(apple: bytes, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "apple.png"
    path.write_bytes(apple)
    return str(path)


@pytest.fixture(scope="module")
def browser() -> Iterator[Callable[[str], Page]]:
    options = ChromeOptions()
    options.binary_location = BROWSER
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=ChromeService(DRIVER))
    yield lambda url: Page(driver, url)
    driver.quit()


@pytest.fixture
def page(browser: Callable[[str], Page], address: str) -> Iterator[Page]:
    found = browser(address)
    found.emulate(DESKTOP)
    yield found.open()
    assert found.errors() == []


def test_a_picture_is_generated_with_previews_on_the_way(page: Page, address: str) -> None:
    page.fill("prompt", "a red apple")
    page.fill("seed", "7")
    page.fill("steps", "20")
    page.find("#prompt").send_keys(Keys.CONTROL, Keys.ENTER)
    page.wait("document.querySelector('.print img.preview')")
    assert page.find(".print img.preview").get_attribute("alt").startswith("Preview after step ")
    assert page.find("#strip").get_attribute("aria-valuemax") == "20"
    assert 0 < int(page.find("#strip").get_attribute("aria-valuenow")) <= 20
    assert not page.find("#generate").is_displayed() and page.find("#cancel").is_displayed()
    page.done()
    assert page.find(".print .enlarge img").get_attribute("alt") == "Picture of: a red apple"
    assert page.text("#state").startswith("Seed 7 · 128 × 128 · ")
    page.wait("document.querySelector('#live').textContent === 'Done. Seed 7'")
    expected = drawn(address, {"prompt": "a red apple", "seed": 7, "steps": 20})
    assert np.array_equal(page.pixels(".print .enlarge img"), pixels_of(expected))


def test_a_random_seed_is_shown_and_can_be_kept(page: Page) -> None:
    generated(page, seed="")
    seed = page.text("#state").split(" · ")[0].removeprefix("Seed ")
    assert seed.isdecimal()
    page.press("#seed-last")
    assert page.ask("document.querySelector('#seed').value") == seed


def test_escape_cancels(page: Page) -> None:
    page.fill("steps", "150")
    page.fill("prompt", "a red apple")
    page.press("#generate")
    page.wait("document.querySelector('.print img.preview')")
    assert page.ask("document.activeElement.id") == "cancel"
    ActionChains(page.driver).send_keys(Keys.ESCAPE).perform()
    page.wait("document.querySelector('#state').textContent === 'Cancelled.'")
    assert page.find("#generate").is_displayed() and not page.ask("document.querySelectorAll('#gallery li').length")


def test_the_place_in_the_queue_is_shown(page: Page, address: str) -> None:
    first = json.loads(asked(f"{address}v1/jobs", {"prompt": "a", "steps": 150, "width": 256, "height": 256}))
    second = json.loads(asked(f"{address}v1/jobs", {"prompt": "a", "steps": 1, "width": 64, "height": 64}))
    page.fill("prompt", "a red apple")
    page.press("#generate")
    page.wait("document.querySelector('#state').textContent.startsWith('In the queue')")
    for job in (second, first):
        call = urllib.request.Request(f"{address}v1/jobs/{job['id']}", method="DELETE")
        urllib.request.urlopen(call, timeout=20).close()
    page.done()


def test_a_syntax_error_is_marked_at_its_character(page: Page) -> None:
    page.fill("prompt", "an (apple:1.2.3)")
    page.wait("document.querySelector('#prompt-slip')")
    assert page.ask("document.querySelector('#prompt-field mark').textContent") == "1"
    assert "the weight '1.2.3'" in page.text("#prompt-slip")
    assert page.find("#prompt").get_attribute("aria-describedby") == "prompt-slip"
    page.press("#prompt-slip .goto")
    assert page.ask("document.activeElement.selectionStart") == len("an (apple:")
    page.fill("prompt", "an (apple:1.2)")
    page.wait("!document.querySelector('#prompt-slip')")


def test_an_error_stands_beside_the_field_that_it_names(page: Page) -> None:
    page.fill("width", "100")
    page.press("#generate")
    page.wait("document.querySelector('#wrong-width')")
    assert "expected a multiple of 8" in page.text("#size-panel .wrong")
    assert page.ask("document.activeElement.id") == "width"
    page.fill("width", "128")
    generated(page)
    assert not page.ask("document.querySelectorAll('.wrong').length")


def test_a_lora_is_inserted_and_its_failure_is_shown_at_the_prompt(page: Page) -> None:
    page.fill("prompt", "an apple")
    page.fill("lora-scale", "0.6")
    page.press("#lora-add")
    assert page.ask("document.querySelector('#prompt').value") == "an apple <lora:ink wash:0.6>"
    page.press("#generate")  # the file is empty
    page.wait("document.querySelector('#prompt-slip') || !document.querySelector('#notice').hidden")
    assert "ink wash" in page.text("#prompt-slip") + page.text("#notice")


def test_the_brush_decides_what_is_painted_anew(page: Page, apple: bytes, apple_path: str) -> None:
    start_with(page, apple_path, "paint")
    page.fill("prompt", "a rocket on a yellow background")
    page.press("#generate")
    page.wait("document.querySelector('#wrong-mask')")
    area = page.find(".mask")
    far = area.size["width"] // 4
    ActionChains(page.driver).move_to_element_with_offset(area, -far, -far).click_and_hold().move_by_offset(
        2 * far, 0
    ).release().perform()
    page.press("#generate")
    page.done()
    before, after = pixels_of(apple), page.pixels(".print .enlarge img")
    changed = (before != after).any(axis=2)
    assert changed[:64].any() and not changed[72:].any()


def test_the_brush_works_with_keys(page: Page, apple_path: str) -> None:
    start_with(page, apple_path, "paint")
    painted = """(() => { const area = document.querySelector(".mask");
      const pixels = area.getContext("2d").getImageData(0, 0, 128, 128).data;
      return pixels.filter((level, at) => at % 4 === 3 && level).length;
    })()"""
    area = page.find(".mask")
    area.send_keys(Keys.SPACE)
    one = page.ask(painted)
    assert one > 50
    area.send_keys(Keys.ARROW_RIGHT * 12 + Keys.SPACE)
    assert page.ask(painted) > one
    area.send_keys(Keys.CONTROL, "z")
    assert page.ask(painted) == one
    area.send_keys("e" + Keys.ARROW_LEFT * 12 + "]]" + Keys.SPACE)
    assert page.ask(painted) == 0


def test_edges_are_pulled_and_the_picture_between_them_stays(page: Page, apple: bytes, apple_path: str) -> None:
    start_with(page, apple_path, "extend")
    handle = page.find(".handle.right")
    ActionChains(page.driver).click_and_hold(handle).move_by_offset(60, 0).release().perform()
    right = int(handle.get_attribute("aria-valuenow"))
    assert right > 0 and right % 8 == 0
    page.find(".handle.top").send_keys(Keys.ARROW_UP * 2)
    assert page.find(".handle.top").get_attribute("aria-valuenow") == "16"
    page.fill("prompt", "a red apple")
    page.press("#generate")
    page.done()
    after, before = page.pixels(".print .enlarge img"), pixels_of(apple)
    assert after.shape == (144, 128 + right, 3)
    assert np.array_equal(after[16:, :128], before)


def test_a_start_picture_is_sent_with_its_strength(page: Page, address: str, apple: bytes, apple_path: str) -> None:
    start_with(page, apple_path, "change")
    page.find("#strength").send_keys(Keys.HOME + Keys.ARROW_RIGHT * 7)
    assert page.text("#strength-out") == "0.40"
    generated(page, "a rocket", seed="7", steps="10")
    init = base64.b64encode(apple).decode()
    expected = drawn(address, {"prompt": "a rocket", "seed": 7, "steps": 10, "init": init, "strength": 0.4})
    assert np.array_equal(page.pixels(".print .enlarge img"), pixels_of(expected))


def test_a_dropped_picture_gives_its_settings_to_the_bit(page: Page, apple: bytes) -> None:
    page.drop(apple, "apple.png", "#stage")
    page.wait("!document.querySelector('#notice').hidden")
    assert "apple.png" in page.text("#notice")
    names = ("prompt", "negative", "seed", "steps", "sampler")
    found = {name: page.ask(f"document.querySelector('#{name}').value") for name in names}
    assert found == {
        "prompt": "a red apple",
        "negative": "blue",
        "seed": str(2**63 + 1),
        "steps": "6",
        "sampler": "euler_a",
    }
    assert "eta 0.5" in page.text("#extras")
    page.press("#generate")
    page.done()
    assert np.array_equal(page.pixels(".print .enlarge img"), pixels_of(apple))


def test_a_picture_dropped_onto_its_panel_is_started_from(page: Page, apple: bytes) -> None:
    page.drop(apple, "apple.png", "#start-drop")
    page.wait("!document.querySelector('#bench').hidden")
    assert page.text("#start-about") == "apple.png, 128 × 128"
    assert page.ask("document.querySelector('#prompt').value") == ""
    page.press("#start-remove")
    assert page.ask("document.querySelector('#bench').hidden")


def test_a_dropped_picture_without_settings_can_start_one(page: Page) -> None:
    out = io.BytesIO()
    Image.new("RGBA", (300, 200), (200, 30, 30, 128)).save(out, "PNG")
    page.drop(out.getvalue(), "plain.png", "#stage")
    page.wait("!document.querySelector('#notice').hidden")
    assert "holds no settings" in page.text("#notice")
    page.press("#notice-actions button")
    page.wait("!document.querySelector('#bench').hidden")
    assert page.ask("['width', 'height'].map((name) => Number(document.getElementById(name).value))") == [160, 104]


def test_the_contact_sheet_opens_in_large_and_gives_settings_back(page: Page) -> None:
    generated(page, "a red apple", "7")
    generated(page, "a rocket", "8")
    page.press("#gallery li:last-child button")
    assert page.text("#view .prompt") == "a red apple" and "2 of 2" in page.text("#view")
    page.find("#view").send_keys(Keys.ARROW_LEFT)
    assert page.text("#view .prompt") == "a rocket"
    page.find("#view").send_keys(Keys.ARROW_RIGHT)
    link = page.find("#view a[download]")
    assert link.get_attribute("download") == "a-red-apple-7.png"
    page.driver.execute_script(
        "[...document.querySelectorAll('#view button')].find((one) => one.textContent === 'Use settings').click()"
    )
    assert page.ask("[document.querySelector('#prompt').value, document.querySelector('#seed').value]") == [
        "a red apple",
        "7",
    ]
    assert not page.ask("document.querySelector('#view').open")


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_nothing_is_wider_than_the_screen(page: Page, apple_path: str, size: tuple[int, int]) -> None:
    page.emulate(size)
    page.open()
    page.driver.execute_script("document.querySelector('#settings').open = true")
    generated(page)
    for mode in ("paint", "extend"):
        if not page.ask("document.querySelector('#start-given').hidden"):
            page.choose("mode", mode)
        else:
            start_with(page, apple_path, mode)
        assert page.ask("document.documentElement.scrollWidth") == size[0]
    page.press("#gallery button")
    assert page.ask("document.querySelector('#view').getBoundingClientRect().width") <= size[0]


def test_dark_follows_the_system_and_the_button(page: Page) -> None:
    light = "getComputedStyle(document.documentElement).backgroundColor"
    page.emulate(DESKTOP, prefers_color_scheme="dark")
    dark = page.ask(light)
    page.emulate(DESKTOP, prefers_color_scheme="light")
    assert page.ask(light) != dark
    found = []
    for _ in range(3):
        page.press("#theme")
        found.append((page.text("#theme"), page.ask(light) == dark))
    assert found == [("Light", False), ("Dark", True), ("Auto", False)]


def test_less_motion_is_none(page: Page) -> None:
    page.emulate(DESKTOP, prefers_reduced_motion="reduce")
    generated(page)
    assert page.ask("document.getAnimations().length") == 0


def test_every_control_has_a_name(page: Page, apple_path: str) -> None:
    start_with(page, apple_path, "paint")
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = {"button", "textbox", "combobox", "slider", "spinbutton", "radio", "image", "application", "link"}
    controls = [one for one in nodes if not one["ignored"] and one["role"]["value"] in roles]
    assert len(controls) > 20
    assert [one["role"]["value"] for one in controls if not one.get("name", {}).get("value")] == []


def test_the_key_is_asked_for_once(browser: Callable[[str], Page]) -> None:
    for url in serving(options=ModelOptions(engine="onnxruntime"), keys=(KEY,)):
        page = browser(url)
        page.emulate(DESKTOP)
        page.driver.get(url)
        page.wait("document.querySelector('#key-dialog').open")
        page.find("#key").send_keys("wrong" + Keys.ENTER)
        page.wait("document.querySelector('#key-remark').textContent.includes('refused')")
        page.wait("document.querySelector('#key-dialog').open")
        page.find("#key").send_keys(KEY + Keys.ENTER)
        page.wait("document.body.dataset.ready")
        generated(page)
        page.open()
        assert page.ask("sessionStorage.getItem('latentrt-key')") == KEY and page.errors() == []


MODELS = {
    "classes": (
        {"prompt": False, "classes": 10, "tasks": ["class-to-image"]},
        {"#class-field": True, "#prompt-field": False},
    ),
    "nothing": ({"prompt": False, "tasks": ["unconditional"]}, {"#prompt-field": False, "#start-panel": False}),
    "enlarging": ({"tasks": ["super-resolution"]}, {"#start-panel": True, "#mode": False, "#size-panel": False}),
    "text alone": ({"tasks": ["text-to-image"]}, {"#prompt-field": True, "#start-panel": False}),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_model_decides_what_is_shown(page: Page, name: str) -> None:
    model, shown = MODELS[name]
    source = CHANGED % json.dumps(model)
    script = page.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
    try:
        page.open()
        assert {css: not page.ask(f"document.querySelector('{css}').hidden") for css in shown} == shown
        if name == "classes":
            page.fill("class", "7")
            page.press("#generate")
            [body] = page.wait("window.sent.length && window.sent")
            assert body["class_label"] == 7 and "prompt" not in body
        if name == "enlarging":
            page.press("#generate")
            page.wait("document.querySelector('#wrong-init')")
    finally:
        page.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
