"""Modules of the other packages that add to the runtime, by name; imported only when they are used."""

from __future__ import annotations

# Module whose `build_plan(engine, bundle, component, shapes)` builds a plan on this machine, by engine.
PLAN_BUILDERS = {
    "tensorrt": "latentrt_export.build.tensorrt",
    "tensorrt-rtx": "latentrt_export.build.tensorrt",
}

# Package of the module with a command, by command; the module and its function are named after the command, with
# underscores.
COMMANDS = {
    "export": "latentrt_export.cli",
    "build": "latentrt_export.cli",
    "estimate": "latentrt_export.cli",
    "upgrade": "latentrt_export.cli",
    "step-cache": "latentrt_export.cli",
    "calibrate": "latentrt_calib.cli",
    "compare": "latentrt_calib.cli",
    "presets": "latentrt_calib.cli",
    "serve": "latentrt_serve.cli",
    "triton": "latentrt_serve.cli",
}
