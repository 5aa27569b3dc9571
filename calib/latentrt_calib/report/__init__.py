"""Reports of a calibration or of a comparison: figures, JSON and one HTML page."""

__all__ = ["layer_reports", "page", "report"]
