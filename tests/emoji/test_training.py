"""The example that trains the built-in model: its optimizer, its resumable loop, its models' sizes."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from emoji import autoencoder, cutouts, diffusion, latents, text, training
from emoji.muon import Muon, orthogonal

LARGEST_BYTES = 45_000_000  # in float16, what the built-in model may take


@pytest.mark.parametrize("shape", [(8, 8), (16, 144), (144, 16), (64, 100)])
def test_orthogonal_flattens_singular_values_and_keeps_vectors(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float()
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    kept = values > 0.05 * values.max()  # five rounds lift what is not next to nothing
    inner = left.T @ orthogonal(matrix) @ right.T
    assert ((inner.diag()[kept] > 0.6) & (inner.diag()[kept] < 1.25)).all()
    assert (inner - inner.diag().diag()).abs().max() < 1e-3


def test_muon_steps_have_the_size_of_adamws() -> None:
    weight = nn.Parameter(torch.zeros(64, 3, 3, 64))
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    Muon([weight], lr=1e-2, weight_decay=0.0).step()
    assert weight.square().mean().sqrt().item() == pytest.approx(0.2 * 1e-2, rel=0.3)


def test_muon_decays_weights() -> None:
    weight = nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros(4, 4)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    assert torch.allclose(weight, torch.full((4, 4), 0.95))


def drawn(number: int) -> training.Batch:
    rng, noise = training.generators(9, number)
    return (torch.randn(16, 6, generator=noise) + float(rng.normal()),)


def regression(workers: int = 0) -> tuple[nn.Module, training.Training, training.Step]:
    """Return a small problem, to be trained on what `drawn` gives."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    stage = training.Training("small", 30, 1e-2, 0.5, {"model": model}, training.optimizers(model), workers)

    def step(number: int, batch: training.Batch) -> dict[str, float]:
        loss = (model(batch[0])[:, 0] - batch[0].sum(1)).square().mean()
        loss.backward()
        return {"loss": loss.item()}

    return model, stage, step


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "FOLDER", tmp_path)
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    return tmp_path


def test_a_run_that_was_cut_ends_where_a_whole_one_does(folder, capsys) -> None:
    whole, stage, step = regression()
    stage.run(drawn, step)
    stage.path.unlink()
    _, stage, step = regression()

    def cut(number: int, batch: training.Batch) -> dict[str, float]:
        if number == 13:
            raise KeyboardInterrupt
        return step(number, batch)

    with pytest.raises(KeyboardInterrupt):
        stage.run(drawn, cut)
    resumed, stage, step = regression()
    assert stage.resume() == 13
    stage.run(drawn, step)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    assert training.load_parts("small", {"model": resumed}) == 30


def test_drawing_ahead_changes_nothing(folder, capsys) -> None:
    trained = []
    for workers in (0, 1):
        model, stage, step = regression(workers)
        stage.run(drawn, step)
        stage.path.unlink()
        trained.append(model)
    for one, other in zip(*(model.parameters() for model in trained), strict=True):
        assert torch.equal(one, other)


def test_the_state_before_the_tail_is_kept(folder, capsys) -> None:
    _, stage, step = regression()
    stage.run(drawn, step)
    assert torch.load(stage.path.with_suffix(".tail.pt"), weights_only=True)["step"] == 15


def test_the_log_has_every_step_of_a_line(folder, capsys) -> None:
    _, stage, step = regression()
    stage.run(drawn, step)
    lines = [json.loads(line) for line in stage.path.with_suffix(".jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 30 and lines[-1]["loss"] > 0


def test_rates_rise_stay_and_fall(folder) -> None:
    model, stage, _ = regression()
    stage = training.Training("small", 1000, 2.0, 0.4, {"model": model}, training.optimizers(model))
    rates = []
    for number in range(1000):
        stage.set_rate(number)
        rates.append(stage.optimizers[0].param_groups[0]["lr"])
    assert rates[0] == 2.0 / training.WARM_STEPS
    assert rates[training.WARM_STEPS : 600] == [2.0] * (600 - training.WARM_STEPS)
    assert rates[800] == pytest.approx(1.0) and 0 < rates[-1] < 0.01


def test_a_stage_that_has_not_run_names_its_command(folder) -> None:
    with pytest.raises(FileNotFoundError, match="python -m emoji.autoencoder"):
        training.load_parts("autoencoder", {})


def test_every_parameter_has_one_optimizer() -> None:
    model = diffusion.build_unet()
    held = [
        id(parameter)
        for optimizer in training.optimizers(model)
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())


def test_the_models_fit_their_budget() -> None:
    parameters = [*autoencoder.build().parameters(), *diffusion.Model(2660).parameters()]
    assert 2 * sum(parameter.numel() for parameter in parameters) <= LARGEST_BYTES


def test_psnr_of_a_known_error() -> None:
    picture = torch.zeros(2, 3, 8, 8)
    assert torch.allclose(autoencoder.psnr(picture + 0.2, picture), torch.full((2,), 20.0), atol=1e-4)
    assert torch.isinf(autoencoder.psnr(picture + 2, torch.ones_like(picture))).all()  # clipped to 1


def test_drawn_pictures_stand_on_their_colour(monkeypatch) -> None:
    empty = np.zeros((3, 128, 128, 4), np.uint8)
    monkeypatch.setattr(cutouts, "all_cutouts", lambda: empty)
    drawn = cutouts.draw(64, np.random.default_rng(0))
    assert drawn.shape == (64, 3, 128, 128)
    colours = {tuple(np.round((each[:, 0, 0].numpy() + 1) * 127.5).astype(int)) for each in drawn}
    assert colours <= {tuple(colour) for colour in cutouts.PALETTE} and len(colours) > 8
    assert all(each.std(dim=(1, 2)).max() < 1e-6 for each in drawn)


def test_batches_of_latents_keep_order_and_rest() -> None:
    assert list(latents.batched(iter(range(5)), 2)) == [[0, 1], [2, 3], [4]]


def test_the_end_of_a_text_is_its_first_padding() -> None:
    ids = torch.tensor([[0, 5, 6, 1, 1, 1], [0, 1, 1, 1, 1, 1], [0, 5, 6, 7, 8, 1]])
    assert text.first_end(ids).tolist() == [3, 1, 5]


def test_timesteps_cover_all_parts_of_what_is_drawn() -> None:
    drawn = diffusion.drawn_timesteps(200, torch.Generator().manual_seed(0), 1000)
    places = (drawn.double().sort().values / 1000) ** (1 / diffusion.NOISIER) * 200
    assert drawn.min() >= 0 and drawn.max() <= 999
    assert (places - torch.arange(200)).abs().max() < 1.5, "one from each part"
    assert not torch.equal(drawn, drawn.sort().values)


@pytest.mark.sweep
def test_the_text_encoder_is_left_as_it_is() -> None:
    model = diffusion.Model(300)
    noisy, ids = torch.randn(2, 4, 16, 16), torch.randint(2, 300, (2, 32))
    model(noisy, torch.tensor([10, 900]), ids).square().mean().backward()
    assert all(parameter.grad is None for parameter in model.text_encoder.parameters())
    assert all(parameter.grad is not None for parameter in model.unet.parameters())


@pytest.mark.sweep
def test_the_prediction_depends_on_the_text() -> None:
    model = diffusion.Model(300)
    noisy = torch.randn(1, 4, 16, 16)
    ids = torch.randint(2, 300, (2, 1, 32))
    one, other = (model(noisy, torch.tensor([500]), some) for some in ids)
    assert not torch.allclose(one, other)
