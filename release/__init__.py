"""What is done for a release, a command each: distributions, environments with their SBOMs, wheels for a Jetson.

None of it is in the wheel. `docs/releasing.md` has the order.
"""
