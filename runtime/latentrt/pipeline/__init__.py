"""The pipeline: a request becomes pictures, stage by stage. Start reading at `picture`."""

__all__ = [
    *("codec", "enlarger", "inpaint", "load", "metadata", "pipeline", "prepare", "refine", "result", "run", "timings"),
    "upscale",
]
