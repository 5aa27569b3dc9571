"""What the tests of calibration whole ask for: two small pictures of two steps."""

import hashlib

from latentrt_calib.calibrate import CalibrationOptions

PROMPTS, OTHERS = ("a red apple", "a cat on a blue background"), ("a rocket", "two birds")
# Two levels, the skips between them, and one attention of each kind: no layer that the others do not stand for.
FEWER = {"mid_block_type": None, "up_block_types": ("UpBlock2D",) * 2}
OPTIONS = CalibrationOptions(
    PROMPTS, OTHERS, images=2, steps=2, evaluations=2, probes=1, budget_db=5.0, vae_gate_db=5.0
)


def digests(folder):
    """The hash of every file by its path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
