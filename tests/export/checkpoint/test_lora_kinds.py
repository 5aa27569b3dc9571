"""Every kind of LoRA file, fused and at run time: the weights are those of its paper's closed form, in float64."""

import numpy as np
import pytest
import torch

import latentrt
from latentrt.lora.files import Lora
from latentrt_export.checkpoint.lora import with_loras
from latentrt_export.export import ExportOptions
from tests.export import lora_kinds
from tests.export.lora_kinds import LAYERS, NORMS, check, fused, saved
from tests.export.untraced import untraced
from tests.sweep import sweep

pytestmark = sweep


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return lora_kinds.build(tmp_path_factory.mktemp("kinds"))


def drawn(*shape, seed=0):
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def each_layer(model, tensors_of, weight_of, layers=LAYERS):
    """A file of one kind for every layer, and the weights that it makes.

    tensors_of: the tensors of a layer for a weight. weight_of: the new weight of the old and of these, all float64.
    """
    tensors, expected = {}, {}
    for name, (component, path) in layers.items():
        weight = model.weights[component][f"{path}.weight"]
        parts = tensors_of(weight)
        tensors |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
        doubled = {part: tensor.double() for part, tensor in parts.items()}
        expected.setdefault(component, {})[f"{path}.weight"] = weight_of(weight, doubled).reshape(weight.shape)
    return tensors, expected


def pair(weight, rank=3):
    """A LoRA's two halves; of a kernel as kohya's trainers have them."""
    out, width, *kernel = weight.shape
    up = drawn(out, rank, *[1] * len(kernel), seed=1)
    return {"lora_down.weight": drawn(rank, width, *kernel), "lora_up.weight": up}


def product(weight, parts):
    """What the halves add at alpha / rank = 1."""
    up, down = (parts[f"lora_{half}.weight"].flatten(1) for half in ("up", "down"))
    return (up @ down).reshape(weight.shape)


def lengths(weight, axis):
    others = [place for place in range(weight.ndim) if place != axis]
    return weight.square().sum(others, keepdim=True).sqrt()


@pytest.mark.parametrize("scale", [1.0, 0.6])
@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
def test_dora_of_lycoris(model, tmp_path, axis, scale):
    """W + s (m V / |V| - W), V = W + alpha / rank up down: equation 5 of the paper, added in part."""

    def tensors_of(weight):
        shape = [weight.shape[axis] if place == axis else 1 for place in range(weight.ndim)]
        return {**pair(weight), "dora_scale": 1 + drawn(*shape), "alpha": torch.tensor(1.5)}

    def weight_of(weight, parts):
        whole = weight + 0.5 * product(weight, parts)
        return weight + scale * (parts["dora_scale"] * whole / lengths(whole, axis) - weight)

    tensors, expected = each_layer(model, tensors_of, weight_of)
    file = saved(tmp_path / "a.safetensors", tensors)
    check(model, file, expected, scale)
    loaded = lora_kinds.states(with_loras(model.checkpoint, [Lora(file, scale)]))
    for name, state in expected.items():
        for key, weight in state.items():
            torch.testing.assert_close(loaded[name][key], weight, rtol=2e-6, atol=2e-6)


def test_a_magnitude_goes_with_every_kind_of_low_rank(model, tmp_path):
    def tensors_of(weight):
        out, width = len(weight), weight[0].numel()
        factors = {
            f"hada_w{i}_{half}": drawn(*s, seed=i) for i in (1, 2) for half, s in (("a", (out, 2)), ("b", (2, width)))
        }
        return {**factors, "dora_scale": 1 + drawn(out, *[1] * (weight.ndim - 1)), "alpha": torch.tensor(4.0)}

    def weight_of(weight, p):
        added = (p["hada_w1_a"] @ p["hada_w1_b"]) * (p["hada_w2_a"] @ p["hada_w2_b"]) * 2
        whole = weight + added.reshape(weight.shape)
        return p["dora_scale"] * whole / lengths(whole, 0)

    tensors, expected = each_layer(model, tensors_of, weight_of)
    check(model, saved(tmp_path / "a.safetensors", tensors), expected)


def test_differences_of_weights_and_biases(model, tmp_path):
    tensors, expected = each_layer(model, lambda w: {"diff": drawn(*w.shape)}, lambda w, p: w + 0.7 * p["diff"])
    for name, (component, path) in LAYERS.items():
        bias = model.weights[component].get(f"{path}.bias")
        if bias is not None:
            tensors[f"{name}.diff_b"] = drawn(*bias.shape)
            expected[component][f"{path}.bias"] = bias + 0.7 * tensors[f"{name}.diff_b"].double()
    assert sum(key.endswith("diff_b") for key in tensors) == 3
    check(model, saved(tmp_path / "a.safetensors", tensors), expected, 0.7)


def test_a_bias_beside_a_pair_is_not_scaled_by_alpha(model, tmp_path):
    name = "lora_unet_down_blocks_0_resnets_0_conv2"
    tensors, expected = each_layer(
        model,
        lambda w: {**pair(w), "alpha": torch.tensor(6.0)},
        lambda w, p: w + 2 * product(w, p),
        {name: LAYERS[name]},
    )
    tensors[f"{name}.diff_b"] = drawn(32)
    key = "down_blocks.0.resnets.0.conv2.bias"
    expected["unet"][key] = model.weights["unet"][key] + tensors[f"{name}.diff_b"].double()
    check(model, saved(tmp_path / "a.safetensors", tensors), expected)


def test_norms(model, tmp_path):
    tensors, expected = each_layer(
        model,
        lambda w: {"w_norm": drawn(*w.shape), "b_norm": drawn(*w.shape, seed=1)},
        lambda w, p: w + 0.5 * p["w_norm"],
        NORMS,
    )
    for name, (component, path) in NORMS.items():
        expected[component][f"{path}.bias"] = (
            model.weights[component][f"{path}.bias"] + 0.5 * tensors[f"{name}.b_norm"].double()
        )
    check(model, saved(tmp_path / "a.safetensors", tensors), expected, 0.5)


@pytest.mark.parametrize("layout", ["today's", "older", "mixed"])
def test_glora(model, tmp_path, layout):
    """W + s alpha / rank (W a + b): of a kernel, a mixes the channels that come in."""
    left_a, right_a = ("a1", "a2") if layout == "today's" else ("a2", "a1")
    left_b, right_b = ("b2", "b1") if layout == "older" else ("b1", "b2")

    def tensors_of(weight):
        out, width, *kernel = weight.shape
        shapes = {left_a: (width, 3), right_a: (3, width), left_b: (out, 3), right_b: (3, width, *kernel)}
        found = {f"{name}.weight": drawn(*shape, seed=ord(name[1])) for name, shape in shapes.items()}
        return found | {"alpha": torch.tensor(1.5)}

    def weight_of(weight, p):
        a = p[f"{left_a}.weight"] @ p[f"{right_a}.weight"]
        b = p[f"{left_b}.weight"] @ p[f"{right_b}.weight"].flatten(1)
        return weight + 0.8 * 0.5 * (torch.einsum("oi...,ij->oj...", weight, a) + b.reshape(weight.shape))

    tensors, expected = each_layer(model, tensors_of, weight_of)
    check(model, saved(tmp_path / "a.safetensors", tensors), expected, 0.8)


def rotation(block):
    """Cayley's transform of one block, float64."""
    q, eye = block - block.T, torch.eye(len(block), dtype=torch.float64)
    return (eye + q) @ torch.linalg.inv(eye - q)


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_oft_of_kohya_and_lycoris(model, tmp_path, scale):
    def tensors_of(weight):
        size = len(weight) // 4
        return {"oft_blocks": drawn(4, size, size), "rescale": 1 + drawn(len(weight), *[1] * (weight.ndim - 1))}

    def weight_of(weight, p):
        turned = torch.block_diag(*map(rotation, p["oft_blocks"])).T @ weight.flatten(1)
        return weight + scale * (p["rescale"] * turned.reshape(weight.shape) - weight)

    tensors, expected = each_layer(model, tensors_of, weight_of)
    check(model, saved(tmp_path / "a.safetensors", tensors), expected, scale, 5e-6)


@pytest.mark.parametrize("alpha", [0.01, 0.0])
def test_the_constraint_of_oft(model, tmp_path, alpha):
    """COFT: the blocks' Frobenius norm is at most alpha times the rows; 0 is no constraint."""

    def weight_of(weight, p):
        q = p["oft_blocks"] - p["oft_blocks"].mT
        factor = min(1.0, float(p["alpha"]) * len(weight) / q.norm()) if alpha else 1.0
        turns = torch.block_diag(*(rotation(factor * block) for block in p["oft_blocks"]))
        return turns.T @ weight.flatten(1)

    def tensors_of(weight):
        return {"oft_blocks": drawn(8, len(weight) // 8, len(weight) // 8), "alpha": torch.tensor(alpha)}

    tensors, expected = each_layer(model, tensors_of, weight_of)
    check(model, saved(tmp_path / "a.safetensors", tensors), expected, 1.0, 5e-6)


def test_oft_of_older_lycoris_has_the_rotations_themselves(model, tmp_path):
    def weight_of(weight, p):
        return torch.block_diag(*p["oft_diag"]).T @ weight.flatten(1)

    tensors, expected = each_layer(model, lambda w: {"oft_diag": drawn(4, len(w) // 4, len(w) // 4)}, weight_of)
    check(model, saved(tmp_path / "a.safetensors", tensors), expected)


def test_boft(model, tmp_path):
    """The product of block-diagonal rotations, each between a permutation of the rows and its inverse."""
    stages, size = 3, 4

    def weight_of(weight, p):
        rows = len(weight)
        whole = torch.eye(rows, dtype=torch.float64)
        for stage in range(stages):
            apart = 2**stage * size // 2
            order = [c + k + g * apart for c in range(0, rows, 2 * apart) for k in range(apart) for g in range(2)]
            permute = torch.eye(rows, dtype=torch.float64)[order]
            turns = torch.block_diag(*map(rotation, p["oft_blocks"][stage]))
            whole = permute.T @ turns @ permute @ whole
        return weight + 0.5 * ((whole @ weight.flatten(1)).reshape(weight.shape) - weight)

    tensors, expected = each_layer(
        model, lambda w: {"oft_blocks": drawn(stages, len(w) // size, size, size)}, weight_of
    )
    check(model, saved(tmp_path / "a.safetensors", tensors), expected, 0.5, 5e-6)


@pytest.mark.parametrize("on_input", [True, False])
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32], ids=str)
def test_ia3(model, tmp_path, on_input, dtype):
    """W (1 + s l), l along the channels that come in or the rows."""
    axis = int(on_input)

    def tensors_of(weight):
        return {
            "weight": drawn(1, weight.shape[axis], *[1] * (weight.ndim - 2)),
            "on_input": torch.tensor(on_input, dtype=dtype),
        }

    def weight_of(weight, p):
        factors = p["weight"].reshape([-1 if place == axis else 1 for place in range(weight.ndim)])
        return weight * (1 + 0.5 * factors)

    tensors, expected = each_layer(model, tensors_of, weight_of)
    check(model, saved(tmp_path / "a.safetensors", tensors), expected, 0.5)


def test_files_are_applied_in_order_each_to_what_the_last_one_left(model, tmp_path):
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    component, path = LAYERS[name]
    weight = model.weights[component][f"{path}.weight"]
    plain, dora = pair(weight), {**pair(weight), "dora_scale": 1 + drawn(64, 1)}
    files = []
    for place, parts in enumerate((plain, dora)):
        tensors = {f"{name}.{part}": tensor for part, tensor in parts.items()}
        files.append(saved(tmp_path / f"{place}.safetensors", tensors))

    def decomposed(base):
        whole = base + product(base, {part: t.double() for part, t in dora.items()})
        return base + 0.5 * (dora["dora_scale"].double() * whole / lengths(whole, 0) - base)

    added = 0.8 * product(weight, {part: t.double() for part, t in plain.items()})
    orders = {(0, 1): decomposed(weight + added), (1, 0): decomposed(weight) + added}
    for order, expected in orders.items():
        chosen = [Lora(files[place], (0.8, 0.5)[place]) for place in order]
        for found in (fused(model, *chosen), lora_kinds.at_run_time(model, *chosen)):
            torch.testing.assert_close(found[component][f"{path}.weight"], expected, rtol=2e-6, atol=2e-6)
    assert (orders[0, 1] - orders[1, 0]).abs().max() > 1e-2


def test_the_text_encoders_have_a_scale_of_their_own(model, tmp_path):
    tensors, _ = each_layer(model, lambda w: {"diff": drawn(*w.shape)}, lambda w, p: w)
    file = saved(tmp_path / "a.safetensors", tensors)
    for found in (fused(model, Lora(file, 0.5, 0.25)), lora_kinds.at_run_time(model, Lora(file, 0.5, 0.25))):
        for name, (component, path) in LAYERS.items():
            scale = 0.5 if component == "unet" else 0.25
            wanted = model.weights[component][f"{path}.weight"] + scale * tensors[f"{name}.diff"].double()
            torch.testing.assert_close(found[component][f"{path}.weight"], wanted, rtol=2e-6, atol=2e-6)


def pixels(pipeline):
    run = pipeline.steps(latentrt.Request("a red apple", seed=5, steps=2, width=80, height=56, syntax="plain"))
    return pipeline.decode(run.latents())


def test_a_picture_with_a_file_of_all_kinds_fused_and_at_run_time(model, tmp_path):
    """Weights beside the graphs and, of the last layer's bias, in one are changed together."""
    tensors = {"lora_unet_conv_out.diff_b": drawn(4)}
    kinds = (
        lambda w: {**pair(w), "dora_scale": 1 + drawn(len(w), 1)},
        lambda w: {"oft_blocks": drawn(4, len(w) // 4, len(w) // 4)},
        lambda w: {"diff": drawn(*w.shape), "diff_b": drawn(len(w))},
        lambda w: {"weight": drawn(len(w)), "on_input": torch.tensor(False)},
        lambda w: {"oft_blocks": drawn(2, len(w) // 4, 4, 4)},
        *[lambda w: {"w_norm": drawn(len(w)), "b_norm": drawn(len(w))}] * len(NORMS),
    )
    for (name, (component, path)), parts_of in zip((LAYERS | NORMS).items(), kinds, strict=True):
        parts = parts_of(model.weights[component][f"{path}.weight"])
        tensors |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
    file = saved(tmp_path / "a.safetensors", tensors)
    options = ExportOptions(loras=(Lora(file, 0.9),))
    expected = pixels(untraced(model.folder / "checkpoint", tmp_path / "fused", options))
    with latentrt.load(model.bundle.folder, engine="onnxruntime") as pipeline:
        plain, added = pixels(pipeline), pixels(pipeline.with_loras({file: 0.9}))
    away, apart = (-10 * np.log10(np.mean((one - expected) ** 2) / 4) for one in (plain, added))
    print(f"{apart:.1f} dB, without {away:.1f}")
    assert apart >= 90 > 40 > away


@pytest.mark.parametrize("name", ["lora_unet_conv_out", "lora_unet_mid_block_resnets_0_conv1"])
def test_a_bias_alone(model, tmp_path, name):
    component, path = "unet", name.removeprefix("lora_unet_").replace("mid_block_resnets_0_", "mid_block.resnets.0.")
    bias = model.weights[component][f"{path}.bias"]
    tensors = {f"{name}.diff_b": drawn(*bias.shape)}
    expected = {component: {f"{path}.bias": bias + tensors[f"{name}.diff_b"].double()}}
    check(model, saved(tmp_path / "a.safetensors", tensors), expected)
