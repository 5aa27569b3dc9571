"""Files: written whole or not at all, read with every value checked; folders of the user's."""
