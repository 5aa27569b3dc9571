"""Text-to-image models of the latent diffusion paper as checkpoints: folders, and files in the original layout."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig
from safetensors.torch import save_file

from latentrt.errors import CheckpointError
from latentrt_export.checkpoint.builders import BUILDERS
from latentrt_export.checkpoint.config_defaults import BERT_DEFAULTS, completed
from latentrt_export.checkpoint.embeddings import Embedding
from latentrt_export.checkpoint.families import CONFIGS, FAMILIES
from latentrt_export.checkpoint.load import load_checkpoint
from latentrt_export.checkpoint.markers import Declared
from latentrt_export.checkpoint.recognition import FIRST_LAYER, shape_differences
from latentrt_export.checkpoint.single_file import configs_folder, open_file
from latentrt_export.export import ExportOptions, export
from latentrt_export.lora_table.places import places_of, unread_of
from tests.export import compvis, ldm_text, tiny
from tests.export.ldm import same
from tests.export.pairs import exported
from tests.export.single import copied
from tests.export.untraced import untraced
from tests.sweep import sweep

pytestmark = [pytest.mark.usefixtures("one_thread"), sweep]

BERT = "cond_stage_model.transformer."
# Millions of parameters of the UNet, the autoencoder, and LDM-BERT without its head.
SIZES = {"ldm-text-large": (872.3, 83.7, 542.9), "ldm-text-256": (403.6, 55.3, 166.6)}


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """The same model as a folder, "folder", and as a file, "single.safetensors"."""
    path = tmp_path_factory.mktemp("ldm")
    pipeline = ldm_text.reference("ldm-text-large", path / "vocabulary")
    pipeline.save_pretrained(path / "folder")
    ldm_text.save_single(pipeline, path)
    return path


@pytest.fixture(scope="module")
def bundle(origin):
    with exported(origin / "folder", origin / "bundle", ExportOptions()) as ours:
        yield ours.bundle


def single_options(origin, **options):
    return ExportOptions(**{"configs": origin / "configs", "tokenizer": origin / "vocabulary", **options})


def test_a_file_gives_the_folders_bundle(origin, bundle, tmp_path):
    lines = []
    made = export(origin / "single.safetensors", tmp_path / "bundle", single_options(origin), lines.append)
    assert made.family == bundle.manifest.family == "ldm-text"
    assert {name: one.sha256 for name, one in made.files.items()} == {
        name: one.sha256 for name, one in bundle.manifest.files.items()
    }
    assert (made.schedule, made.defaults, made.text) == (
        bundle.manifest.schedule,
        bundle.manifest.defaults,
        bundle.manifest.text,
    )
    [left_out] = [line for line in lines if line.startswith("left out")]
    assert f"{BERT}to_logits.*" in left_out


@pytest.mark.parametrize("averaged", [False, True], ids=["raw", "averaged"])
@pytest.mark.parametrize("name", ldm_text.MODELS)
def test_files_of_both_first_stages_have_the_folders_weights(name, averaged, tmp_path):
    """Where a file has moving averages, they are the folder's, and its raw weights are others."""
    pipeline = ldm_text.reference(name, tmp_path / "vocabulary")
    pipeline.save_pretrained(tmp_path / "folder")
    file = ldm_text.save_single(pipeline, tmp_path)
    if averaged:
        file = copied(file, tmp_path / "averaged.safetensors", compvis.averages(compvis.unet_tensors(pipeline.unet)))
    got, expected = load_checkpoint(file, configs=tmp_path / "configs"), load_checkpoint(tmp_path / "folder")
    same(got, expected)
    assert got.family.name == "ldm-text" and [*got.components] == ["unet", "vae", "text_encoder"]
    assert type(got.load_vae()) is type(pipeline.vqvae)


def test_a_file_of_the_small_model_gives_the_folders_bundle(tmp_path):
    """txt2img256, whose first stage is VQ-f4."""
    pipeline = ldm_text.reference("ldm-text-256", tmp_path / "vocabulary")
    pipeline.save_pretrained(tmp_path / "folder")
    averages = compvis.averages(compvis.unet_tensors(pipeline.unet))
    file = copied(ldm_text.save_single(pipeline, tmp_path), tmp_path / "averaged.safetensors", averages)
    expected = export(tmp_path / "folder", tmp_path / "expected", ExportOptions())
    made = export(file, tmp_path / "bundle", single_options(tmp_path))
    assert "quantizer" in made.components
    assert (made.files, made.latents) == (expected.files, expected.latents)
    assert "moving averages" in made.provenance["weights"]


@pytest.mark.parametrize(("channels", "name"), [(3, "ldm-text-256"), (4, "ldm-text-large")])
def test_configs_follow_from_the_channels(channels, name):
    [family] = [one for one in FAMILIES if one.name == "ldm-text"]
    shapes = {FIRST_LAYER: (320, channels, 3, 3)}
    assert configs_folder(family, None, shapes, Declared()) == CONFIGS / name


def test_a_file_has_no_vocabulary(origin, tmp_path):
    with pytest.raises(CheckpointError, match="has no vocabulary.* bert-base-uncased.* --tokenizer DIR"):
        export(origin / "single.safetensors", tmp_path / "bundle", single_options(origin, tokenizer=None))
    tiny.save_tokenizer(tmp_path / "clip")
    with pytest.raises(CheckpointError, match="tokenizer_class is 'CLIPTokenizer', expected 'BertTokenizer'"):
        export(origin / "single.safetensors", tmp_path / "bundle", single_options(origin, tokenizer=tmp_path / "clip"))
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (f"{BERT}attn_layers.layers.4.0.weight", "unexpected: .*layers.4.0.weight"),
        (f"{BERT}attn_layers.layers.1.1.to_q.weight", "unexpected: .*layers.1.1.to_q"),
        (f"{BERT}pos_emb.more.weight", "unexpected: .*pos_emb.more"),
        (f"{BERT}norm.bias", r"of another shape: .*norm.bias \(got \(2,\), expected \(32,\)\)"),
    ],
)
def test_another_text_encoder_is_refused(origin, tmp_path, key, message):
    file = copied(origin / "single.safetensors", tmp_path / "other.safetensors", {key: torch.ones(2)})
    with pytest.raises(CheckpointError, match=f"the text_encoder in .*{message}"):
        load_checkpoint(file, configs=origin / "configs")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bert"}, "ldm-text: the config of text_encoder has model_type 'bert', expected 'ldmbert'"),
        ({"d_model": 48}, "ldm-text: unet cross_attention_dim is 32, expected 48"),
        ({"encoder_layers": 3}, "the text_encoder in .*bert does not fit its config: missing: model.layers.2"),
        ({"encoder_layers": 1}, "the text_encoder in .*bert does not fit its config: unexpected: model.layers.1"),
    ],
)
def test_a_folder_with_another_text_encoder_is_refused(origin, tmp_path, change, message):
    shutil.copytree(origin / "folder", tmp_path / "folder")
    file = tmp_path / "folder" / "bert" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "folder")


def test_a_config_may_leave_out_what_is_as_published():
    found = completed("text_encoder", {"model_type": "ldmbert"})
    theirs = LDMBertConfig()
    assert {key: getattr(theirs, key) for key in BERT_DEFAULTS} == BERT_DEFAULTS
    assert (found["hidden_size"], found["num_hidden_layers"]) == (theirs.hidden_size, theirs.num_hidden_layers)


def full_size(name):
    """The modules of a published model, without memory for weights."""
    parts = ("unet", "vae", "text_encoder")
    return {part: BUILDERS[part](json.loads((CONFIGS / name / f"{part}.json").read_text())) for part in parts}


@pytest.mark.parametrize("name", SIZES)
def test_shipped_configs_are_those_of_the_published_models(name):
    counts = [round(sum(one.numel() for one in part.parameters()) / 1e6, 1) for part in full_size(name).values()]
    assert tuple(counts) == SIZES[name]


def sparse(tensors, path):
    """Writes a header alone: the file is sparse and takes no room."""
    header, end = {}, 0
    for key, tensor in tensors.items():
        start, end = end, end + 2 * tensor.numel()
        header[key] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


@pytest.mark.parametrize("name", SIZES)
def test_full_size_files_are_known(tmp_path, name):
    """txt2img-large has the mark of SDXL's refiner, of the same width."""
    modules = full_size(name)
    tensors = ldm_text.single_tensors(modules)
    file = sparse(tensors, tmp_path / "model.safetensors")
    opened = open_file(file, None, Declared())
    assert opened.family.name == "ldm-text"
    assert opened.sources["text_encoder"].config["hidden_size"] == modules["text_encoder"].config.d_model
    if name == "ldm-text-large":
        counts = {part: len(one.weights) for part, one in load_checkpoint(file).components.items()}
        assert counts == {"unet": 686, "vae": 248, "text_encoder": 32 * 13 + 4}
        [refiner] = [family for family in FAMILIES if family.name == "sdxl-refiner"]
        shapes, configs = {key: one.shape for key, one in tensors.items()}, {"unet": {"cross_attention_dim": 1280}}
        assert not shape_differences(replace(refiner, absent=()), shapes, configs)
        assert f"{BERT}token_emb.weight is there" in shape_differences(refiner, shapes, configs)[0]


def test_every_weight_is_found_in_the_graphs(origin, bundle):
    checkpoint, places = load_checkpoint(origin / "folder"), places_of(bundle)
    assert not any(unread_of(bundle, places).values())
    state = checkpoint.components["text_encoder"].load().state_dict()
    found = places["text_encoder"]
    assert found.keys() >= {key for key, one in state.items() if one.ndim > 1}
    for key, place in found.items():
        np.testing.assert_array_equal(place.of(place.initializer.read()), state[key].numpy())


def test_a_word_of_textual_inversion(origin, tmp_path):
    """Gal et al. (2022) published theirs for this model: its vectors are rows of LDM-BERT's table."""
    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    save_file({"emb_params": vectors}, tmp_path / "cat.safetensors")
    options = ExportOptions(embeddings=(Embedding(tmp_path / "cat.safetensors", "<cat>"),))
    with untraced(origin / "folder", tmp_path / "bundle", options) as ours:
        [ids] = ours.tokenizer(["a red <Cat>, an apple"])
        got = ours.call("text_encoder", input_ids=ids[None], clip_skip=np.array([1]))["context"]
        words = ours.tokenizer.backend.get_vocab_size()
    assert list(ids[3:5]) == [words - 2, words - 1]
    model = ldm_text.build_bert()
    table = torch.cat([model.model.embed_tokens.weight[: words - 2], vectors])
    with torch.no_grad():
        expected = model(inputs_embeds=table[torch.tensor(ids)[None]], return_dict=True)
    np.testing.assert_allclose(got, expected.last_hidden_state, rtol=0, atol=2e-6)
