"""A sheet of pictures, prompts below them: python examples/03_gallery.py [FOLDER]."""

import sys
from pathlib import Path

from PIL import Image, ImageDraw

import latentrt

PROMPTS = (
    "a red apple",
    "a grinning face",
    "a blue heart",
    "an orange",
    "a green apple on a blue background",
    "a full moon",
    "an angry face on a pink background",
    "a red heart on a yellow background",
)
COLUMNS, SIDE, LABEL = 4, 128, 18

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
rows = -(-len(PROMPTS) // COLUMNS)
sheet = Image.new("RGB", (COLUMNS * (SIDE + 56), rows * (SIDE + LABEL + 6)), "white")
draw = ImageDraw.Draw(sheet)
with latentrt.load("emoji") as pipe:
    for place, prompt in enumerate(PROMPTS):
        left, top = place % COLUMNS * (SIDE + 56) + 28, place // COLUMNS * (SIDE + LABEL + 6)
        sheet.paste(pipe.generate(prompt, steps=20, seed=3).images[0], (left, top))
        words = prompt.split(" on a ")
        draw.text((left + SIDE // 2, top + SIDE + 2), " / ".join(words), fill="black", anchor="ma")
sheet.save(folder / "gallery.png")
