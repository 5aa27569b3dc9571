"""A picture three times as wide as the model's, with and without windows: python examples/07_windows.py [FOLDER]."""

import sys
from pathlib import Path

from sheet import sheet

import latentrt

VARIANTS = {
    "as a whole": {},
    "through windows of 128, 64 apart": {"window": 128, "stride": 64},
    "through the same windows, seamless": {"window": 128, "stride": 64, "seamless": "x"},
}

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
with latentrt.load("emoji") as pipe:
    pictures = [
        pipe.generate("a sunflower on a blue background", steps=10, seed=7, width=384, height=128, **options).images[0]
        for options in VARIANTS.values()
    ]
sheet(pictures, list(VARIANTS), columns=1).save(folder / "windows.png")
