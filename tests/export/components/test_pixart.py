"""PixArt's components equal the undivided modules, at sizes other than those that they were traced at."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from diffusers import PixArtTransformer2DModel

from latentrt.bundle.sources import Positions
from latentrt.conditioning.positions import position_table as made
from latentrt.tensors import TensorSpec
from latentrt_export.checkpoint.builders import transformer as built
from latentrt_export.checkpoint.config_defaults import completed
from latentrt_export.checkpoint.family import Encoder
from latentrt_export.checkpoint.unigram import T5
from latentrt_export.components.pixart import transformer_parts
from latentrt_export.components.t5 import t5_part
from latentrt_export.graph.trace import trace
from latentrt_export.networks.patches import kept_rows
from latentrt_export.networks.pixart import position_table
from tests.export import pixart

pytestmark = pytest.mark.usefixtures("one_thread")

# Batch, height and width in latents, tokens; those of tracing are 2, 4, 6 and 5.
SIZES = [(1, 8, 8, 9), (3, 12, 6, 1), (2, 6, 20, 300)]
# The largest error over the largest value of the original.
MOST = 1e-5


@pytest.fixture(scope="module", params=[{}, pixart.SIZED], ids=["sigma", "with sizes"])
def graphs(request, tmp_path_factory):
    """A transformer, and the sessions of its components."""
    parts = transformer_parts(pixart.build_transformer(**request.param))
    folder = tmp_path_factory.mktemp("graphs")
    return pixart.build_transformer(**request.param), {part.name: session(part, folder) for part in parts}


def session(part, folder):
    """The session of a component's graph."""
    ir.save(trace(part.build(), part.inputs, part.outputs, part.multiple), folder / f"{part.name}.onnx")
    return onnxruntime.InferenceSession(folder / f"{part.name}.onnx")


def output(graph, **feeds):
    """The output of a graph for those of the feeds that it takes."""
    taken = {one.name: feeds[one.name].numpy() for one in graph.get_inputs()}
    (found,) = graph.run(None, taken)
    return torch.from_numpy(found)


def error(got, expected):
    """The largest error over the largest value."""
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("size", SIZES)
def test_the_parts_together_are_the_transformer(graphs, size):
    transformer, parts = graphs
    (batch, height, width, tokens), random = size, torch.Generator().manual_seed(0)
    feeds = {
        "sample": torch.randn(batch, 4, height, width, generator=random),
        "context": torch.randn(batch, tokens, 24, generator=random),
        "timestep": torch.rand(batch, generator=random) * 999,
        "size_ids": torch.tensor([[height * 8.0, width * 8.0]]).expand(batch, -1),
    }
    added = {"resolution": feeds["size_ids"], "aspect_ratio": torch.full((batch, 1), height / width)}
    with torch.no_grad():
        expected = transformer(feeds["sample"], feeds["context"], feeds["timestep"], added_cond_kwargs=added).sample
    numbering = Positions(4, 2.0)
    spec = TensorSpec("positions", "float32", (transformer.inner_dim, "height/2", "width/2"))
    feeds["positions"] = torch.from_numpy(made(spec, numbering, height, width).copy())
    feeds |= {name: output(parts[name], **feeds) for name in ("time_bias", "cross_kv")}
    found = error(output(parts["transformer"], **feeds), expected[:, :4])
    print(f"{found:.1e}")
    assert found < MOST


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """T5's encoder, and the session of its graph."""
    part = t5_part(pixart.build_text_encoder().encoder, Encoder(vocabulary=T5, tokens=300), "text_encoder")
    return pixart.build_text_encoder(), session(part, tmp_path_factory.mktemp("encoder"))


@pytest.mark.parametrize("shape", [(1, 1), (3, 9), (2, 300)])
def test_t5_encodes_rows_of_any_length(encoder, shape):
    model, graph = encoder
    ids = torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = error(output(graph, input_ids=ids), model(ids).last_hidden_state)
    print(f"{found:.1e}")
    assert found < MOST


@pytest.mark.parametrize(("height", "width"), [(8, 8), (12, 6), (64, 128), (2, 50)])
@pytest.mark.parametrize(("size", "scale"), [(8, 2), (128, 2), (64, 1)])
def test_positions_are_those_of_diffusers(height, width, size, scale):
    """The reference computes them as its own patches do, at any size: by the module itself, without its patches."""
    config = {**pixart.TRANSFORMER, "sample_size": size, "interpolation_scale": scale}
    embed = PixArtTransformer2DModel(**config).pos_embed
    embed.proj.weight.data.zero_()
    embed.proj.bias.data.zero_()
    expected = embed(torch.zeros(1, 4, height, width))[0].T.reshape(32, height // 2, width // 2).detach()
    spec = TensorSpec("positions", "float32", (32, "height/2", "width/2"))
    found = made(spec, Positions(size // 2, scale), height, width)
    assert np.abs(found - expected.numpy()).max() <= 2e-7
    assert not found.flags.writeable


def test_a_module_of_a_config_has_the_positions_that_files_lack():
    module = built(completed("transformer", pixart.TRANSFORMER))
    expected = pixart.build_transformer().pos_embed.pos_embed
    assert torch.equal(module.pos_embed.pos_embed, expected)
    assert torch.equal(position_table(module, 8, 8).flatten(1).T[None], expected)


def test_a_model_without_a_variance_keeps_all_rows():
    transformer = pixart.build_transformer(out_channels=4)
    kept, x = kept_rows(transformer), torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    expected = transformer.proj_out(x).reshape(2, 2, 2, 4).permute(0, 3, 1, 2).flatten(1)
    assert torch.allclose(kept(x), expected, atol=1e-6)
