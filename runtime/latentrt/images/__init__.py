"""Images: opened, fitted, written."""
