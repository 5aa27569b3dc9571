"""Image to image at four strengths, and inpainting of a hat: python examples/06_from_an_image.py [FOLDER]."""

import sys
from pathlib import Path

from PIL import Image, ImageDraw
from sheet import sheet

import latentrt

STRENGTHS = (0.02, 0.04, 0.06, 0.2)  # this model settles the picture in the first steps
FACE, HAT = "a grinning face", "a cowboy hat face"

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
with latentrt.load("emoji") as pipe:
    apple, face = (pipe.generate(prompt, seed=7).images[0] for prompt in ("a red apple", FACE))
    over = [pipe.generate(FACE, steps=50, seed=7, init=apple, strength=share).images[0] for share in STRENGTHS]
    mask = Image.new("L", face.size)
    ImageDraw.Draw(mask).rectangle((0, 0, 127, 63), fill="white")  # white is generated anew
    hat = pipe.generate(HAT, seed=7, init=face, strength=1.0, mask=mask, mask_blur=3, overlay=True).images[0]
frame = mask.convert("RGB")
ImageDraw.Draw(frame).rectangle((0, 0, 127, 127), outline="black")
names = ["the image", *(f"{FACE}, strength {share}" for share in STRENGTHS), "the image", "the mask", HAT]
sheet([apple, *over, face, frame, hat], names, columns=5).save(folder / "from_an_image.png")
