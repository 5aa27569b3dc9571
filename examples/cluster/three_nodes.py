"""Three nodes of a Ray cluster on one machine, which serve the built-in model; stops with Ctrl-C.

    pip install 'latentrt[cpu,serve,cluster]'
    python examples/cluster/three_nodes.py

The first node takes requests, the two others draw: each offers {"latentrt": 1}, as a device would by
`ray start --address HEAD:6379 --resources '{"latentrt": 1}'`.
"""

import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Ray reads both when it is imported. On several machines, every node gets the same token.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

import ray  # noqa: E402
from ray import serve  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from latentrt_serve.cluster.pool import Pool, start  # noqa: E402
from latentrt_serve.shelf import ModelOptions  # noqa: E402

POOL = Pool(
    name="pictures",
    bundles={"emoji": "emoji"},
    resources={"latentrt": 1},
    least=2,
    most=2,
    models=ModelOptions(engine="onnxruntime", batch=4),
)


@contextmanager
def three_nodes(*resources: dict[str, float]) -> Iterator[tuple[Cluster, list[Any]]]:
    """A cluster of a head and one more node for each of `resources`, and these nodes; all ends with the block."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        workers = [cluster.add_node(num_cpus=2, resources=one) for one in resources]
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster, workers
        serve.shutdown()
    finally:
        ray.shutdown()
        cluster.shutdown()


def main() -> None:
    """Serves until it is stopped."""
    with three_nodes({"latentrt": 1}, {"latentrt": 1}):
        start(POOL)
        print("serving at http://127.0.0.1:8188; stop with Ctrl-C", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("stopping")


if __name__ == "__main__":
    main()
