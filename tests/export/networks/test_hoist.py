"""The hoisted parts, put together again, are the UNet they were taken from; so are text encoder and VAE."""

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from latentrt_export.checkpoint.families import XL_SECOND
from latentrt_export.components.text import text_parts
from latentrt_export.export import write_component
from latentrt_export.networks.autoencoder import VaeDecoder, VaeEncoder
from latentrt_export.networks.hoist import CrossKV, HoistedUNet
from latentrt_export.networks.text_encoder import TextEncoder
from latentrt_export.networks.time_bias import TimeBias
from tests.export import builtin, tiny
from tests.export.tiny_families import XL_TEXT_2
from tests.sweep import rest_swept

# Even, odd, not square, and smaller than the UNet's receptive field.
SIZES = [(8, 8), (16, 24), (15, 17), (9, 13), (7, 2), (1, 1), (1, 5)]


def randn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def random_ids(rows):
    return torch.randint(0, 2660, (rows, 32), generator=torch.Generator().manual_seed(0))


def assert_close(got, expected, relative=1e-5):
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= relative * expected.abs().max()


@pytest.fixture(scope="module", autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def whole():
    return tiny.build_unet()


@pytest.fixture(scope="module")
def split():
    unet = tiny.build_unet()
    return CrossKV(unet).eval(), TimeBias(unet).eval(), HoistedUNet(unet).eval()


@pytest.mark.parametrize("size", rest_swept(SIZES, [(15, 17), (1, 5)]), ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_hoisted_unet_is_the_whole_one(whole, split, batch, size):
    cross_kv, time_bias, unet = split
    sample, context = randn(batch, 4, *size), randn(batch, 32, 32)
    timestep = torch.tensor([999.0, 0.0, 417.5][:batch])
    expected = whole(sample, timestep, context).sample
    assert_close(unet(sample, time_bias(timestep), cross_kv(context)), expected)


@pytest.mark.parametrize("tokens", [1, 5, 77])
def test_any_number_of_tokens(whole, split, tokens):
    cross_kv, time_bias, unet = split
    sample, context, timestep = randn(2, 4, 8, 6), randn(2, tokens, 32), torch.tensor([1.0, 999.0])
    assert_close(unet(sample, time_bias(timestep), cross_kv(context)), whole(sample, timestep, context).sample)


def test_a_timestep_s_bias_does_not_depend_on_the_others(split):
    _, time_bias, _ = split
    together = time_bias(torch.tensor([999.0, 500.25, 0.0]))
    for row, timestep in zip(together, (999.0, 500.25, 0.0), strict=True):
        assert_close(row, time_bias(torch.tensor([timestep]))[0])
    assert not torch.equal(time_bias(torch.tensor([999.0])), time_bias(torch.tensor([998.0])))


def test_packed_widths(whole, split):
    cross_kv, time_bias, unet = split
    layers = [module for name, module in whole.named_modules() if name.endswith(".attn2")]
    assert cross_kv.project.out_features == sum(layer.to_k.out_features + layer.to_v.out_features for layer in layers)
    assert time_bias.project.out_features == sum(
        module.time_emb_proj.out_features for module in whole.modules() if hasattr(module, "time_emb_proj")
    )
    left = {name for name, _ in unet.named_parameters()}
    assert not any("time_emb" in name or "attn2.to_k" in name or "attn2.to_v" in name for name in left)


def test_every_weight_is_in_one_part_and_only_one(whole, split):
    count = sum(tensor.numel() for tensor in whole.state_dict().values())
    assert sum(tensor.numel() for part in split for tensor in part.state_dict().values()) == count


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(
    ("build", "clip_skip"),
    [(tiny.build_text_encoder, 1), (tiny.build_text_encoder, 2), *((builtin.build_text_encoder, k) for k in (1, 2, 3))],
)
def test_text_encoder_at_each_layer(build, clip_skip, rows):
    ids = random_ids(rows)
    model = build()
    encoded = model(ids, output_hidden_states=True)
    states = encoded.hidden_states[1:]  # the first is no layer's, but the embeddings
    got = TextEncoder(model).eval()(ids, torch.tensor([clip_skip]))
    assert_close(got, model.final_layer_norm(states[len(states) - clip_skip]))
    assert clip_skip > 1 or torch.equal(encoded.last_hidden_state, model.final_layer_norm(states[-1]))


def test_skipped_layers_might_as_well_not_be_there():
    model, ids = builtin.build_text_encoder(), random_ids(2)
    whole, cut = TextEncoder(model).eval(), TextEncoder(model).eval()
    cut.layers = cut.layers[:2]
    for clip_skip in (1, 2):
        assert torch.equal(whole(ids, torch.tensor([clip_skip + 1])), cut(ids, torch.tensor([clip_skip])))


def test_a_token_does_not_see_what_comes_after_it():
    encoder = TextEncoder(tiny.build_text_encoder()).eval()
    ids = torch.arange(32)[None]
    changed = torch.cat([ids[:, :10], ids[:, 10:] + 100], 1)
    one, other = (encoder(tokens, torch.tensor([1])) for tokens in (ids, changed))
    assert torch.equal(one[:, :10], other[:, :10])
    assert not torch.equal(one[:, 10], other[:, 10])


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_vae_decoder(size):
    latents = randn(2, 4, *size)
    expected = tiny.build_vae().decode(latents).sample
    assert_close(VaeDecoder(tiny.build_vae()).eval()(latents), expected)
    assert expected.shape == (2, 3, 8 * size[0], 8 * size[1])


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_vae_encoder(size):
    image = randn(2, 3, 8 * size[0], 8 * size[1])
    expected = tiny.build_vae().encode(image).latent_dist
    mean, log_variance = VaeEncoder(tiny.build_vae()).eval()(image)
    assert_close(mean, expected.mean)
    assert_close(log_variance, expected.logvar)


def test_log_variance_is_clamped():
    vae = tiny.build_vae()
    vae.quant_conv.bias = torch.nn.Parameter(torch.tensor([0.0, 0, 0, 0, 1000, -1000, 0, 0]), requires_grad=False)
    _, log_variance = VaeEncoder(vae).eval()(randn(1, 3, 16, 16))
    assert log_variance[0, :2].flatten().tolist() == [20] * 4 + [-30] * 4


def test_a_second_text_encoder_is_exported_as_published_with_2_for_its_end_of_text(tmp_path):
    config = CLIPTextConfig(**{**XL_TEXT_2, "eos_token_id": 2})
    model = tiny.seeded(lambda: CLIPTextModelWithProjection(config))
    (part,) = text_parts(model, XL_SECOND, "text_encoder_2")  # held against transformers' own pooled text
    component = write_component(part, tmp_path, "fp32", lambda line: None)
    assert component.fidelity.psnr_db is None or component.fidelity.psnr_db > 100
