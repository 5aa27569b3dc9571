"""Reports as HTML pages: one file each, that needs no other file and no script."""
