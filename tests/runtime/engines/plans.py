"""A plan of arbitrary bytes, its key, and its builder."""

from latentrt.engines.nvidia.plans import PlanKey, Shapes

KEY = PlanKey(
    "a" * 64,
    ((Shapes("sample", (1, 4, 8, 8), (2, 4, 8, 8), (2, 4, 8, 8)), Shapes("bias", (1, 9), (2, 9), (2, 9))),),
    ("level=3", "workspace=1"),
    "tensorrt",
    "10.3.0",
    "Orin",
    "sm87",
)
PLAN = bytes(range(256)) * 100


def make(path):
    path.write_bytes(PLAN)
