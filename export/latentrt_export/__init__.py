"""Export of checkpoints to bundles of ONNX graphs, engine files for a device, and estimates without one.

`export.export` writes a bundle, `checkpoint.load.load_checkpoint` opens a checkpoint as torch modules, `build.tensorrt`
and `build.cpu` build engine files. Modules are imported when they are used: `latentrt export --help` imports neither
torch nor NumPy.
"""

from latentrt.engines.telemetry import silence

__all__ = [
    "build",
    "checkpoint",
    "cli",
    "components",
    "estimate",
    "export",
    "graph",
    "lora_table",
    "lower",
    "networks",
    "options",
    "step_cache",
    "upgrade",
]

silence()  # before any module here imports ONNX Runtime
