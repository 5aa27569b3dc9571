"""FLUX.2's components equal the undivided modules, at sizes other than those that they were traced at."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from latentrt.bundle.sources import Rotary
from latentrt.conditioning.rotary import image_rotations, text_rotations
from latentrt_export.checkpoint.builders import autoencoder, text_encoder, transformer
from latentrt_export.checkpoint.config_defaults import completed
from latentrt_export.checkpoint.family import Encoder
from latentrt_export.components.flux2 import places, transformer_parts
from latentrt_export.components.qwen3 import qwen3_part
from latentrt_export.components.vae import vae_parts
from latentrt_export.graph.trace import trace
from latentrt_export.networks.autoencoder import decode, encode
from tests.export import klein

pytestmark = pytest.mark.usefixtures("one_thread")

# Batch, height and width in latents, tokens; those of tracing are 2, 2, 3 and 5.
SIZES = [(1, 8, 5, 9), (3, 1, 1, 1), (2, 6, 20, 64)]
# The largest error over the largest value of the original.
MOST = 1e-5
ROTARY = Rotary(2000.0, (4, 4, 4, 4), 10)
ENCODER = Encoder(tokens=512, states=klein.STATES)


def session(part, folder):
    """The session of a component's graph."""
    ir.save(trace(part.build(), part.inputs, part.outputs, part.multiple), folder / f"{part.name}.onnx")
    return onnxruntime.InferenceSession(folder / f"{part.name}.onnx")


def outputs(graph, **feeds):
    """The outputs of a graph for those of the feeds that it takes."""
    return [torch.from_numpy(one) for one in graph.run(None, {one.name: feeds[one.name] for one in graph.get_inputs()})]


def error(got, expected):
    """The largest error over the largest value."""
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """A transformer, and the sessions of its components."""
    folder = tmp_path_factory.mktemp("graphs")
    return klein.build_transformer(), {
        part.name: session(part, folder) for part in transformer_parts(klein.build_transformer())
    }


@pytest.mark.parametrize("size", SIZES)
def test_the_parts_together_are_the_transformer(graphs, size):
    whole, parts = graphs
    (batch, height, width, tokens), random = size, torch.Generator().manual_seed(0)
    sample = torch.randn(batch, 16, height, width, generator=random)
    context = torch.randn(batch, tokens, 48, generator=random)
    timestep = torch.rand(batch, generator=random) * 1000
    ids = {"img_ids": places(height, width, 1), "txt_ids": places(1, 1, tokens)}
    with torch.no_grad():
        rows = whole(sample.flatten(2).transpose(1, 2), context, timestep / 1000, **ids).sample
    feeds = {"sample": sample.numpy(), "context": context.numpy(), "timestep": timestep.numpy()}
    feeds |= {"rotary_text": text_rotations(ROTARY, tokens), "rotary_image": image_rotations(ROTARY, (height, width))}
    feeds |= {name: outputs(parts[name], **feeds)[0].numpy() for name in ("time_bias", "context_rows")}
    found = error(outputs(parts["transformer"], **feeds)[0], rows.transpose(1, 2).reshape(sample.shape))
    print(f"{found:.1e}")
    assert found < MOST


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (64, 48)])
@pytest.mark.parametrize("axes", [(4, 4, 4, 4), (32, 32, 32, 32)])
def test_rotations_are_those_of_diffusers_to_the_last_bit(height, width, axes):
    rotary = Rotary(2000.0, axes, 10)
    channels = sum(axes)
    whole = klein.build_transformer(axes_dims_rope=axes, attention_head_dim=channels, num_layers=0, num_single_layers=0)
    ids = klein.Flux2KleinPipeline._prepare_image_ids([torch.zeros(1, 1, 2, 7), torch.zeros(1, 1, 5, 1)])[0]
    references = torch.cat([places(height, width, 1), ids])
    cases = {
        places(1, 1, 512): text_rotations(rotary, 512),
        places(height, width, 1): image_rotations(rotary, (height, width)),
        references: image_rotations(rotary, (height, width), ((2, 7), (5, 1))),
    }
    for ids, found in cases.items():
        for ours, theirs in zip(found, whole.pos_embed(ids), strict=True):
            assert np.array_equal(ours.reshape(len(ids), -1).repeat(2, 1), theirs.numpy())
        assert found.flags.owndata and not found.flags.writeable


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Qwen3, and the session of the layers that are read."""
    model = klein.build_text_encoder().model
    return model, session(qwen3_part(model, ENCODER, "text_encoder"), tmp_path_factory.mktemp("encoder"))


@pytest.mark.parametrize(("rows", "length"), [((1,), 1), ((9, 40, 3), 40), ((2, 500), 512)])
def test_qwen_encodes_rows_with_padding(encoder, rows, length):
    model, graph = encoder
    ids = torch.randint(0, 300, (len(rows), length), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(length)[None] < torch.tensor(rows)[:, None]).long()
    with torch.no_grad():
        states = model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    (got,) = outputs(graph, input_ids=ids.numpy(), mask=mask.float().numpy())
    found = error(got, torch.cat([states[state] for state in klein.STATES], -1))
    print(f"{found:.1e}")
    assert found < MOST


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """The sessions of the autoencoder's halves."""
    folder = tmp_path_factory.mktemp("halves")
    return {part.name: session(part, folder) for part in vae_parts(klein.build_vae())}


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 3, 2), (3, 1, 4)])
def test_patches_go_into_the_autoencoder_and_come_out_of_it(halves, batch, height, width):
    vae, random = klein.build_vae(), torch.Generator().manual_seed(0)
    image = torch.rand(batch, 3, 16 * height, 16 * width, generator=random) * 2 - 1
    latents = torch.randn(batch, 16, height, width, generator=random)
    got = outputs(halves["vae_encoder"], image=image.numpy()) + outputs(halves["vae_decoder"], latents=latents.numpy())
    found = [error(*one) for one in zip(got, (*encode(vae, image), decode(vae, latents)), strict=True)]
    print(*(f"{one:.1e}" for one in found))
    assert max(found) < 5 * MOST
    pipeline = klein.Flux2KleinPipeline
    with torch.no_grad():
        patches = pipeline._encode_vae_image(klein.reference(), image, None)
    assert error(encode(vae, image)[0], patches) < MOST


def test_a_sample_of_the_posterior_is_one_of_the_autoencoders_own():
    vae, image = klein.build_vae(), torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, log_variance = encode(vae, image)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        own = vae.encode(image).latent_dist
        sample = own.mean + own.std * torch.nn.functional.pixel_shuffle(noise, 2)
        expected = torch.nn.functional.pixel_unshuffle(sample, 2) - vae.bn.running_mean.view(1, -1, 1, 1)
        expected = expected / torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps)
    assert error(mean + (log_variance / 2).exp() * noise, expected) < MOST


def test_modules_of_configs_have_what_files_lack():
    config = completed("text_encoder", {**klein.TEXT_ENCODER, "model_type": "qwen3"})
    built, model = text_encoder({**config, "num_hidden_layers": 3}), klein.build_text_encoder().model
    built.load_state_dict({key: model.state_dict()[key] for key in built.state_dict()}, assign=True)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        states = [one.eval()(ids, output_hidden_states=True).hidden_states[3] for one in (built, model)]
    assert torch.equal(*states)
    known = completed("transformer", {**klein.TRANSFORMER, "_class_name": "Flux2Transformer2DModel"})
    assert transformer(known).state_dict().keys() == klein.build_transformer().state_dict().keys()
    stored = klein.build_vae().state_dict().keys() - {"bn.num_batches_tracked"}
    assert autoencoder({**klein.VAE, "_class_name": "AutoencoderKLFlux2"}).state_dict().keys() == stored
