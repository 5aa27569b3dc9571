"""Commands that need the export."""
