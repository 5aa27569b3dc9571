"""Interpolation from one picture to another in frames: python examples/08_interpolate.py [FOLDER]."""

import sys
from pathlib import Path

from sheet import sheet

import latentrt
from latentrt import Request

FRAMES = 7

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
start = Request("a red apple", seed=7, steps=10)
end = Request("a sunflower on a blue background", seed=8, steps=10)
with latentrt.load("emoji") as pipe:
    pictures = [pipe.generate(**vars(request)).images[0] for request in latentrt.between(start, end, FRAMES)]
names = [start.prompt, *(f"{frame} of {FRAMES - 1}" for frame in range(1, FRAMES - 1)), end.prompt]
sheet(pictures, names, columns=FRAMES).save(folder / "interpolation.png")
