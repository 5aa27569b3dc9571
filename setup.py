"""Maps the folders of this checkout to the package: `runtime/` *is* `latentrt`, the others are parts of it."""

from setuptools import find_packages, setup

HOMES = {"latentrt": "runtime", "latentrt.export": "export", "latentrt.calib": "calib"}

setup(
    packages=[*HOMES, *(f"{name}.{part}" for name, home in HOMES.items() for part in find_packages(home))],
    package_dir=HOMES,
)
