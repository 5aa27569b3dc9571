"""The text encoder alone, and the stage that trains it to say which picture a caption means, as CLIP's was.

    python -m emoji.text [--steps N] [--batch N]

Stable Diffusion's text encoder knew pictures before its UNet saw one (CLIP, Radford et al., arXiv:2103.00020). With 561
pictures there is no need for a contrast within the batch: one linear layer names the picture, another gives its
latents, background included, both from the state at any position from the end of the text on. Those are the positions
in which every caption has room for all that it says.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel

from emoji import training
from emoji.captions import with_article
from emoji.examples import Examples
from emoji.tokenizer import LENGTH

STAGE, STEPS, BATCH = 5, 1300, 512
RATE, TAIL = 2e-3, 0.4
NAMING, DRAWING = 0.25, 1.0  # weights of the two losses, which begin at 6.3 and 1

WIDTH, LAYERS, HEADS = 256, 3, 4
END = 1  # the token that ends a text, and pads it
PROBE_STEPS = 50


class Reader(nn.Module):
    """The text encoder, and two linear layers that training alone needs."""

    def __init__(self, shown: Examples) -> None:
        super().__init__()
        self.text_encoder = build(shown.vocabulary)
        self.picture = nn.Linear(WIDTH, len(shown.rows))
        self.latents = nn.Linear(WIDTH, shown.stored.single[0, 0].size)


class Loss(NamedTuple):
    """Cross-entropy of the picture in nats, mean squared error of its latents."""

    naming: Tensor
    drawing: Tensor


def build(vocabulary: int) -> CLIPTextModel:
    """Return the text encoder with random weights."""
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=LENGTH,
        bos_token_id=0,
        eos_token_id=END,
        pad_token_id=END,
    )
    return CLIPTextModel(config)


def state_at(reader: Reader, ids: Tensor, position: Tensor) -> Tensor:
    """Return the states at one position a text: (texts, width). `position` is (texts,)."""
    return reader.text_encoder(ids).last_hidden_state[torch.arange(len(ids), device=ids.device), position]


def first_end(ids: Tensor) -> Tensor:
    """Return the place of the token that ends each text: (texts,)."""
    return (ids == END).int().argmax(dim=1)


def drawn(shown: Examples, batch: int, number: int) -> training.Batch:
    """Return one step's ids, the place of the state that is to say what they mean, their latents and pictures."""
    rng, draws = training.generators(STAGE, number)
    ids, latents, pictures = shown.draw(training.share(batch), rng)
    end = first_end(ids)
    place = (end + torch.rand(len(ids), generator=draws) * (LENGTH - end)).long()
    return ids, place, latents, pictures


def loss(reader: Reader, batch: training.Batch) -> Loss:
    """Return the losses of one step. Pairs and empty texts name no picture."""
    ids, place, latents, pictures = batch
    state = state_at(reader, ids, place)
    naming = functional.cross_entropy(reader.picture(state), pictures, ignore_index=Examples.NO_PICTURE)
    drawing = (reader.latents(state) - latents.flatten(1)).square().mean()
    return Loss(naming, drawing)


@torch.no_grad()
def named_right(reader: Reader, shown: Examples) -> float:
    """Return the share of labels, each as a plain prompt, whose picture is named."""
    ids = shown.ids([with_article(row.label) for row in shown.rows]).to(training.device())
    found = reader.picture(state_at(reader, ids, first_end(ids))).argmax(dim=1)
    return float((found.cpu() == torch.arange(len(ids))).float().mean())


def main() -> None:
    """Train, or go on."""
    given = training.arguments(__doc__, STEPS, BATCH)
    shown = Examples()
    reader = Reader(shown).to(training.device())
    after = training.optimizers(reader)
    stage = training.Training("text", given.steps, RATE, TAIL, {"reader": reader}, after, given.workers)

    def step(number: int, batch: training.Batch) -> dict[str, float]:
        naming, drawing = loss(reader, batch)
        (NAMING * naming + DRAWING * drawing).backward()
        said = {"naming": naming.item(), "drawing": drawing.item()}
        return said | ({"right": named_right(reader, shown)} if number % PROBE_STEPS == 0 else {})

    stage.run(partial(drawn, shown, given.batch), step)


if __name__ == "__main__":
    main()
