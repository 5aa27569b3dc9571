"""The pipeline: a request becomes pictures, stage by stage. Begin reading with `picture`."""

__all__ = ["load", "metadata", "pipeline", "prepare", "refine", "result", "run", "timings"]
