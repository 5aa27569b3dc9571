"""Progress, previews and cancelling in one loop; saves a row of previews: python examples/02_steps.py [FOLDER]."""

import sys
from pathlib import Path

from PIL import Image

import latentrt

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")

with latentrt.load("emoji") as pipe:
    run = pipe.steps(latentrt.Request("a fox on a green background", steps=10, seed=1))
    previews = []
    for step in run:
        print(f"step {step.index + 1} of {step.total}, sigma {step.sigma:.3g}")
        previews.append(step.preview())  # a break here would cancel the run
    pictures = [
        *(preview.resize((128, 128), Image.Resampling.NEAREST) for preview in previews[::2]),
        *run.result.images,
    ]

strip = Image.new("RGB", (132 * len(pictures) - 4, 128), "white")
for place, picture in enumerate(pictures):
    strip.paste(picture, (132 * place, 0))
strip.save(folder / "steps.png")
