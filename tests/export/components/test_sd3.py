"""Stable Diffusion 3's components equal the undivided modules, at sizes other than those that they were traced at."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from latentrt.bundle.sources import Positions
from latentrt.conditioning.positions import position_table
from latentrt.errors import CheckpointError
from latentrt.tensors import TensorSpec
from latentrt_export.checkpoint.builders import transformer
from latentrt_export.checkpoint.config_defaults import completed
from latentrt_export.checkpoint.family import Encoder
from latentrt_export.checkpoint.unigram import PADDED_T5
from latentrt_export.components import sd3 as components
from latentrt_export.components.t5 import t5_part
from latentrt_export.graph.trace import trace
from latentrt_export.networks import sd3 as networks
from tests.export import pixart, sd3
from tests.sweep import rest_swept

pytestmark = pytest.mark.usefixtures("one_thread")

# Batch, height and width in latents, tokens; those of tracing are 2, 4, 6 and 5.
SIZES = [(1, 8, 14, 9), (3, 2, 2, 1), (2, 6, 40, 64)]
# The largest error over the largest value of the original.
MOST = 1e-5
MEDIUM = next(iter(sd3.KINDS))


def session(part, folder):
    """The session of a component's graph."""
    ir.save(trace(part.build(), part.inputs, part.outputs, part.multiple), folder / f"{part.name}.onnx")
    return onnxruntime.InferenceSession(folder / f"{part.name}.onnx")


def outputs(graph, **feeds):
    """The outputs of a graph for those of the feeds that it takes."""
    return graph.run(None, {one.name: feeds[one.name] for one in graph.get_inputs()})


def error(got, expected):
    """The largest error over the largest value."""
    return float(np.abs(got - expected.numpy()).max() / expected.abs().max())


@pytest.fixture(scope="module", params=rest_swept(sd3.KINDS, [MEDIUM]))
def graphs(request, tmp_path_factory):
    """A transformer, and the sessions of its components."""
    folder, changes = tmp_path_factory.mktemp("graphs"), sd3.KINDS[request.param]
    parts = components.transformer_parts(sd3.build_transformer(**changes))
    return sd3.build_transformer(**changes), {part.name: session(part, folder) for part in parts}


@pytest.mark.parametrize("size", SIZES)
def test_the_parts_together_are_the_transformer(graphs, size):
    whole, parts = graphs
    (batch, height, width, tokens), random = size, torch.Generator().manual_seed(0)
    sample = torch.randn(batch, 16, height, width, generator=random)
    context, pooled = (torch.randn(batch, *one, generator=random) for one in ((tokens, 48), (40,)))
    timestep = torch.rand(batch, generator=random) * 1000
    with torch.no_grad():
        expected = whole(sample, context, pooled, timestep).sample
    feeds = {"sample": sample, "context": context, "pooled": pooled, "timestep": timestep}
    feeds = {name: one.numpy() for name, one in feeds.items()} | {"positions": table(whole, height, width)}
    feeds |= {name: outputs(parts[name], **feeds)[0] for name in ("time_bias", "context_rows")}
    found = error(outputs(parts["transformer"], **feeds)[0], expected)
    print(f"{found:.1e}")
    assert found < MOST


def table(whole, height, width):
    """The positions that the runtime makes for a transformer."""
    spec = TensorSpec("positions", "float32", (whole.pos_embed.proj.out_channels, "height/2", "width/2"))
    return position_table(spec, components.numbering(whole), height, width)


@pytest.mark.parametrize("changes", [{}, {"sample_size": 128, "pos_embed_max_size": 192}, {"sample_size": 20}])
@pytest.mark.parametrize(("height", "width"), [(2, 2), (6, 10), (32, 48), (48, 18)])
def test_positions_are_the_centre_of_the_stored_table(changes, height, width):
    whole = sd3.build_transformer(num_layers=1, dual_attention_layers=(), **changes)
    found = np.abs(table(whole, height, width) - networks.position_table(whole, height, width).numpy()).max()
    print(f"{found:.1e}")
    assert found < 1e-5


def test_positions_depend_on_the_size_of_the_whole():
    spec = TensorSpec("positions", "float32", (8, "height/2", "width/2"))
    cropped, own = (position_table(spec, Positions(8, 1.0, side), 6, 6) for side in (24, 0))
    assert np.abs(cropped - own).max() > 0.1


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_table_that_was_rounded_is_the_same_and_another_is_refused(kind):
    whole = sd3.build_transformer()
    whole.pos_embed.pos_embed = whole.pos_embed.pos_embed.to(kind).float()
    components.check_positions(whole)
    whole.pos_embed.pos_embed = whole.pos_embed.pos_embed * 1.1
    with pytest.raises(CheckpointError, match=r"pos_embed: got positions that differ by 0\.\d+ from the sinusoids"):
        next(components.transformer_parts(whole))


def test_modulations_are_not_in_the_loop():
    parts = components.transformer_parts(sd3.build_transformer())
    counted = {part.name: sum(one.numel() for one in part.build().parameters()) for part in parts}
    every = {name: one.numel() for name, one in sd3.build_transformer().named_parameters()}
    norms = sum(count for name, count in every.items() if "norm" in name and ".linear." in name)
    assert counted["time_bias"] > norms and sum(counted.values()) == sum(every.values())


def test_t5_encodes_rows_with_padding_that_is_not_masked(tmp_path):
    encoder = Encoder(vocabulary=PADDED_T5, tokens=256, filled=True)
    model = pixart.build_text_encoder(**sd3.T5)
    graph = session(t5_part(model.encoder, encoder, "text_encoder_3"), tmp_path)
    ids = torch.randint(0, 100, (3, 256), generator=torch.Generator().manual_seed(0))
    ids[:, 9:] = 0
    with torch.no_grad():
        expected = model(ids)[0]
    found = error(outputs(graph, input_ids=ids.numpy())[0], expected)
    print(f"{found:.1e}")
    assert found < MOST
    assert [one.shape for one in graph.get_inputs()] == [["batch", 256]]


@pytest.mark.parametrize("changes", [{}, {"qk_norm": None, "dual_attention_layers": []}])
def test_a_config_builds_the_module(changes):
    made = sd3.build_transformer(**changes)
    config = {**made.config, "_class_name": "SD3Transformer2DModel"}
    ours = transformer(completed("transformer", config))
    assert ours.state_dict().keys() == made.state_dict().keys()
