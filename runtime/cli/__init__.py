"""Commands, one file each; each parses its options and calls one public function."""
