"""The same seed under every sampler, at 8 steps: python examples/04_samplers.py [FOLDER]."""

import sys
from pathlib import Path

from sheet import sheet

import latentrt
from latentrt.sampling.samplers import SAMPLERS

PROMPT = "a red heart on a yellow background"

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
names = [name for name, sampler in SAMPLERS.items() if not sampler.flow]  # the built-in model predicts no flow
with latentrt.load("emoji") as pipe:
    pictures = [pipe.generate(PROMPT, steps=8, seed=4, sampler=name).images[0] for name in names]
sheet(pictures, names, columns=6).save(folder / "samplers.png")
