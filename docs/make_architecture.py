"""Writes docs/pictures/architecture.svg: from a checkpoint to a picture. python docs/make_architecture.py"""

from pathlib import Path

WIDTH, HEIGHT = 980, 400
BOX = '<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="8" fill="{fill}" stroke="#4a5568"/>'
TEXT = '<text x="{x}" y="{y}" font-size="{size}" text-anchor="middle" fill="#1a202c">{text}</text>'
LINE = '<line x1="{0}" y1="{1}" x2="{2}" y2="{3}" stroke="#4a5568" stroke-width="1.6"/>'
HEADING = '<text x="{x}" y="{y}" font-size="16" font-weight="bold" fill="#1a202c">{text}</text>'
ARROW = '<line x1="{0}" y1="{1}" x2="{2}" y2="{3}" stroke="#4a5568" stroke-width="1.6" marker-end="url(#head)"/>'
EXPORT, CALIB, FILE, RUNTIME = "#dbeafe", "#ede9fe", "#fef3c7", "#dcfce7"

# x, y, width, height, colour, title, lines
BOXES = [
    (20, 60, 150, 84, FILE, "checkpoint", ["diffusers folder", ".safetensors, .ckpt"]),
    (210, 60, 170, 84, EXPORT, "export", ["match, trace, hoist,", "compare with torch"]),
    (420, 60, 150, 84, FILE, "bundle", ["graphs, tokenizer,", "bundle.json"]),
    (420, 176, 150, 66, CALIB, "calibrate", ["INT8 within a budget"]),
    (610, 60, 170, 84, EXPORT, "build", ["TensorRT plans,", "CPU-optimised graphs"]),
    (820, 60, 140, 84, FILE, "engine", ["ONNX Runtime,", "OpenVINO, TensorRT"]),
    (20, 290, 130, 84, FILE, "request", ["prompt, size, steps,", "images ..."]),
    (180, 290, 130, 84, RUNTIME, "prepare", ["resolve, read,", "plan memory"]),
    (340, 290, 140, 84, RUNTIME, "encode_prompts", ["texts, guidance,", "controls"]),
    (510, 290, 140, 84, RUNTIME, "initial_latents", ["noise, image,", "mask"]),
    (680, 290, 130, 84, RUNTIME, "denoise", ["sampler calls the", "denoiser per step"]),
    (840, 290, 120, 84, RUNTIME, "decode", ["VAE, picture,", "metadata"]),
]
ARROWS = [
    *((170, 102, 206, 102), (380, 102, 416, 102), (570, 102, 606, 102), (780, 102, 816, 102)),
    *((480, 144, 480, 172), (510, 172, 510, 148)),
    *((150, 332, 176, 332), (310, 332, 336, 332), (480, 332, 506, 332), (650, 332, 676, 332), (810, 332, 836, 332)),
    *((x, 266, x, 286) for x in (410, 580, 745, 900)),
]
# The engine runs the graphs of four stages.
BUS = [(890, 144, 890, 266), (410, 266, 900, 266)]
HEADINGS = [(20, 36, "On a workstation, once"), (20, 256, "On the device, per picture")]


def box(x: int, y: int, w: int, h: int, fill: str, title: str, lines: list[str]) -> str:
    """One box with its title and lines."""
    rows = [TEXT.format(x=x + w / 2, y=y + 26, size=15, text=title)]
    rows += [TEXT.format(x=x + w / 2, y=y + 48 + 18 * i, size=12, text=line) for i, line in enumerate(lines)]
    return BOX.format(x=x, y=y, w=w, h=h, fill=fill) + "".join(rows)


def drawing() -> str:
    """The whole picture."""
    head = (
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L10 5L0 10z" fill="#4a5568"/></marker></defs>'
    )
    titles = "".join(
        f'<text x="{x}" y="{y}" font-size="16" font-weight="bold" fill="#1a202c">{text}</text>'
        for x, y, text in HEADINGS
    )
    body = "".join(box(*one) for one in BOXES) + "".join(LINE.format(*one) for one in BUS)
    body += "".join(ARROW.format(*one) for one in ARROWS)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>{head}{titles}{body}</svg>\n'
    )


if __name__ == "__main__":
    (Path(__file__).parent / "pictures" / "architecture.svg").write_text(drawing(), encoding="utf-8")
