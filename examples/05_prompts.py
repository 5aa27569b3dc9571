"""What the prompt language does, with one seed: python examples/05_prompts.py [FOLDER]."""

import sys
from pathlib import Path

from PIL import Image, ImageDraw

import latentrt

PROMPTS = (
    "a red heart",
    "a red heart on a (yellow:1.5) background",
    "a [red:blue:0.4] heart",
    "a [red|blue] heart",
    "a red heart AND a yellow background :0.6",
    "a red heart BREAK on a yellow background",
)
COLUMNS, WIDTH, SIDE, LABEL = 3, 270, 128, 18

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
sheet = Image.new("RGB", (COLUMNS * WIDTH, -(-len(PROMPTS) // COLUMNS) * (SIDE + LABEL + 6)), "white")
draw = ImageDraw.Draw(sheet)
with latentrt.load("emoji") as pipe:
    for place, prompt in enumerate(PROMPTS):
        left, top = place % COLUMNS * WIDTH, place // COLUMNS * (SIDE + LABEL + 6)
        sheet.paste(pipe.generate(prompt, steps=20, seed=4).images[0], (left + (WIDTH - SIDE) // 2, top))
        draw.text((left + WIDTH // 2, top + SIDE + 2), prompt, fill="black", anchor="ma")
sheet.save(folder / "prompts.png")
