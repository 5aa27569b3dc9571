"""A sheet of pictures with their prompts: python examples/03_gallery.py [FOLDER]."""

import sys
from pathlib import Path

from sheet import sheet

import latentrt

PROMPTS = (
    "a red apple",
    "a grinning face",
    "a rocket on a navy background",
    "a penguin",
    "a green apple on a blue background",
    "a cat beside a red apple",
    "an angry face on a pink background",
    "a hamburger on a yellow background",
)

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
with latentrt.load("emoji") as pipe:
    pictures = [pipe.generate(prompt, steps=20, seed=3).images[0] for prompt in PROMPTS]
sheet(pictures, PROMPTS, columns=4).save(folder / "gallery.png")
