"""Commands that need the calibration."""
