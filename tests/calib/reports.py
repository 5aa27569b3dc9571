"""A report made of numbers alone."""

from latentrt_calib.evaluate.damage import Damage
from latentrt_calib.report.report import Ablation, LayerReport, Report
from tests.calib.comparisons import comparison

RANGES = ((-1.0, 2.0), (-3.0, 1.0), (-0.5, 0.5))


def report(**changes):
    """A report with something in every section."""
    layers = (
        LayerReport("conv_in", "Conv", 100, reason="the first convolution"),
        LayerReport("down.conv", "Conv", 600, snr_db=31.5, clip=(-2.5, 2.0), ranges=RANGES),
        LayerReport("down.to_q", "MatMul", 200, snr_db=42.0, clip=(-3.0, 3.0), ranges=RANGES, alpha=0.65),
        LayerReport("down.still", "MatMul", 100, reason="it cost <most>", snr_db=-2.0, ranges=((0.0, 0.0),) * 3),
    )
    parts = {
        "component": "unet",
        "precision": "int8",
        "target": "cpu",
        "settings": {"images": 32, "range": "mse", "budget_db": 30.0},
        "macs": 2000,
        "bytes_before": 30_000_000,
        "bytes_after": 8_000_000,
        "layers": layers,
        "comparison": comparison(),
        "buckets": ((999.0, 700.0), (699.0, 300.0), (299.0, 0.0)),
        "sensitivity": (Damage(("down.conv",), 44.0), Damage(("down.still",), None), Damage(("down.to_q",), 28.0)),
        "ablations": (Ablation("min and max", 1.0, 18.2, 12.1, 0.71), Ablation("weights alone", 0.0, None, None, 1.0)),
    }
    return Report(**{**parts, **changes})
