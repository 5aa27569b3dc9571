"""The pipeline: a request becomes pictures, stage by stage. Start reading at `picture`."""

__all__ = ["load", "metadata", "pipeline", "prepare", "refine", "result", "run", "timings"]
