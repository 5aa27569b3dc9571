"""Effects of the prompt syntax, with one seed: python examples/05_prompts.py [FOLDER]."""

import sys
from pathlib import Path

from sheet import sheet

import latentrt

PROMPTS = (
    "a red heart",
    "a red heart on a (yellow:1.5) background",
    "a [red:blue:0.4] heart",
    "a [red|blue] heart",
    "a red heart AND a yellow background :0.6",
    "a red heart BREAK on a yellow background",
)

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
with latentrt.load("emoji") as pipe:
    pictures = [pipe.generate(prompt, steps=20, seed=4).images[0] for prompt in PROMPTS]
sheet(pictures, PROMPTS, columns=6).save(folder / "prompts.png")
