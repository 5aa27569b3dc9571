"""Text to image in four lines with the built-in model: python examples/01_generate.py [FOLDER]."""

import sys
from pathlib import Path

import latentrt

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")

with latentrt.load("emoji") as pipe:
    result = pipe.generate("a red apple", steps=20, seed=7)
    result.save(folder / "apple.png")  # the PNG carries prompt, seed and settings
    print(result.seeds, {phase: round(seconds, 2) for phase, seconds in result.timings.items()})
