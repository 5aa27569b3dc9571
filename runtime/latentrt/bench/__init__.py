"""How long a bundle takes on this machine, phase by phase, and whether that can be trusted; see docs/bench.md."""
