"""Makes metrics.json, the similarities that scikit-image computes of pictures which formulas give.

pip install scikit-image==0.26.0
python -m tests.calib.evaluate.make_metric_goldens
"""

import json
from pathlib import Path

import numpy as np
import skimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from tests.calib.pictures import CHANGES, SIZES, picture

GOLDENS = Path(__file__).with_name("metrics.json")


def golden(size: tuple[int, int], change: str) -> dict[str, object]:
    """Returns PSNR and SSIM of a picture and what the change makes of it."""
    reference = picture(size)
    changed = CHANGES[change](reference)
    similarity = structural_similarity(
        reference,
        changed,
        channel_axis=2,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return {
        "size": size,
        "change": change,
        "psnr_db": float(peak_signal_noise_ratio(reference, changed, data_range=255)),
        "ssim": float(similarity),
    }


if __name__ == "__main__":
    made_with = {"scikit-image": skimage.__version__, "numpy": np.__version__}
    # A line an entry: differences stay readable.
    entries = ",\n".join(json.dumps(golden(size, change)) for size in SIZES for change in CHANGES)
    GOLDENS.write_text(f'{{\n"made_with": {json.dumps(made_with)},\n"cases": [\n{entries}\n]\n}}\n')
