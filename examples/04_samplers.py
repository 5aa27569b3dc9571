"""The same seed under every sampler, at 8 steps: python examples/04_samplers.py [FOLDER]."""

import sys
from pathlib import Path

from PIL import Image, ImageDraw

import latentrt
from latentrt.samplers import SAMPLERS

PROMPT, SIDE, LABEL, COLUMNS = "a red heart on a yellow background", 96, 16, 6

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
names = [name for name, sampler in SAMPLERS.items() if not sampler.flow]  # the built-in model predicts no flow
rows = -(-len(names) // COLUMNS)
sheet = Image.new("RGB", (COLUMNS * (SIDE + 8), rows * (SIDE + LABEL + 8)), "white")
draw = ImageDraw.Draw(sheet)
with latentrt.load("emoji") as pipe:
    for place, name in enumerate(names):
        left, top = place % COLUMNS * (SIDE + 8) + 4, place // COLUMNS * (SIDE + LABEL + 8)
        picture = pipe.generate(PROMPT, steps=8, seed=4, sampler=name).images[0]
        sheet.paste(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (left, top))
        draw.text((left + SIDE // 2, top + SIDE + 2), name, fill="black", anchor="ma")
sheet.save(folder / "samplers.png")
