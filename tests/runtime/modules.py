"""The names of all modules of the runtime, as they are installed."""

from pathlib import Path

RUNTIME = Path(__file__).parents[2] / "runtime"
MODULES = sorted(
    ".".join(path.relative_to(RUNTIME).with_suffix("").parts).removesuffix(".__init__")
    for path in RUNTIME.rglob("*.py")
    if path.name != "__main__.py"  # which runs the command line when imported
)
