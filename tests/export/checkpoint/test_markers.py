"""What a single file declares of its schedule: read, overridden, refused, and the same pictures as diffusers."""

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from latentrt.errors import CheckpointError
from latentrt_export.checkpoint.load import load_checkpoint
from latentrt_export.checkpoint.markers import ZERO_SNR_SCHEDULERS, declared_by_options, with_declarations
from latentrt_export.checkpoint.scheduler import SCHEDULERS, schedule_of
from latentrt_export.export import ExportOptions
from tests.export.pairs import Pair
from tests.export.samplers import MARKS
from tests.export.scheduler_entries import accepted
from tests.export.single import copied, saved_single
from tests.export.tiny_families import FILES, SINGLE, TINY, reference
from tests.export.untraced import untraced

pytestmark = MARKS

LEAST_DB = 45.0
ZERO = dict(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
V_SNR = {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Single files of two families that declare nothing, each with its configs."""
    path = tmp_path_factory.mktemp("markers")
    return {"sd1": saved_single(SINGLE, path / "sd1"), "sdxl": saved_single(FILES["sdxl"], path / "sdxl")}


def opened(files, name, tmp_path, *, extra=None, notes=None, **options):
    file = copied(files[name], tmp_path / "marked.safetensors", extra, notes)
    overrides = declared_by_options(**{**NOTHING, **options})
    return load_checkpoint(file, configs=files[name].parent / "configs", overrides=overrides)


NOTHING = {"prediction": None, "zero_snr": None}
EPSILON, V = ("epsilon", False, "leading"), ("v_prediction", False, "leading")
V_ZERO = ("v_prediction", True, "trailing")
TYPE, KEY, KIND = "modelspec.prediction_type", "modelspec.predict_key", "modelspec.architecture"


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({}, EPSILON),
        ({"extra": {"v_pred": torch.tensor([])}}, V),
        ({"extra": V_SNR}, V_ZERO),
        ({"extra": {"ztsnr": torch.tensor([])}}, EPSILON),
        ({"notes": {TYPE: "v"}}, V),
        ({"notes": {KEY: "v"}}, V),
        ({"notes": {KEY: "epsilon"}}, EPSILON),
        ({"notes": {KIND: "stable-diffusion-v2-768-v"}}, V),
        ({"notes": {KIND: "stable-diffusion-xl-v1-base", TYPE: "V_Prediction"}}, V),
        ({"notes": {TYPE: "epsilon"}, "extra": V_SNR}, V_ZERO),
        ({"extra": V_SNR, "prediction": "epsilon", "zero_snr": False}, EPSILON),
        ({"extra": V_SNR, "prediction": "epsilon"}, EPSILON),
        ({"extra": V_SNR, "zero_snr": False}, V),
        ({"prediction": "v_prediction", "zero_snr": True}, V_ZERO),
        ({"prediction": "sample"}, ("sample", False, "leading")),
        ({"notes": {TYPE: "nonsense"}, "prediction": "v_prediction"}, V),
    ],
)
def test_what_is_declared_becomes_the_schedule(files, tmp_path, declared, expected):
    schedule = schedule_of(opened(files, "sdxl", tmp_path, **declared).scheduler)
    assert (schedule.prediction, schedule.zero_terminal_snr, schedule.spacing) == expected


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"extra": {"edm_vpred.sigma_max": torch.tensor(120.0)}}, "edm_vpred.sigma_max as CosXL"),
        ({"extra": {"edm_vpred.sigma_min": torch.tensor(0.1), "v_pred": torch.tensor([])}}, "as CosXL"),
        ({"extra": {"edm_mean": torch.zeros(4)}, "prediction": "epsilon"}, "edm_mean as Playground v2.5"),
        ({"notes": {TYPE: "flow"}}, "modelspec.prediction_type 'flow': expected epsilon, v or sample; .*--prediction"),
        ({"zero_snr": True}, "--zero-snr: got a model that predicts epsilon.*--prediction v_prediction"),
    ],
)
def test_what_is_of_another_kind_is_refused_by_its_name(files, tmp_path, declared, said):
    with pytest.raises(CheckpointError, match=said):
        opened(files, "sdxl", tmp_path, **declared)


def test_which_schedulers_know_zero_terminal_snr():
    """DDIM stands in for the others, which diffusers gives no such schedule."""
    known = {name for name in SCHEDULERS if "rescale_betas_zero_snr" in accepted(name)}
    assert known == {*ZERO_SNR_SCHEDULERS} & {*SCHEDULERS}
    config, said = with_declarations({"_class_name": "PNDMScheduler"}, declared_by_options("v_prediction", True))
    assert config["_class_name"] == "DDIMScheduler"
    assert said["zero terminal SNR"] == "yes, with trailing spacing (--zero-snr)"


def drawn(checkpoint, tmp_path, theirs, scheduler, **options):
    """The PSNR of pictures in dB, diffusers drawing with `scheduler`."""
    ours = untraced(checkpoint, tmp_path / f"bundle-{len(list(tmp_path.iterdir()))}", ExportOptions(**options))
    return Pair("small", tmp_path, ours, theirs, scheduler).psnr("a red apple", guidance=5.0), ours.bundle.manifest


def test_a_marked_file_draws_what_diffusers_draws_with_its_schedule(files, tmp_path):
    theirs, folder = reference(SINGLE, tmp_path / "tokenizers"), files["sd1"].parent
    options = {"configs": folder / "configs", "tokenizer": folder / "tokenizer"}
    scheduler = DDIMScheduler.from_config(theirs.scheduler.config, **ZERO)
    marked = copied(files["sd1"], tmp_path / "marked.safetensors", V_SNR)
    got, manifest = drawn(marked, tmp_path, theirs, scheduler, **options)
    plain, unmarked = drawn(files["sd1"], tmp_path, theirs, scheduler, **options)
    print(f"{got:.1f} dB, unmarked {plain:.1f}")
    assert got >= LEAST_DB and plain < 30
    assert manifest.provenance["prediction"] == "v_prediction (v_pred in the file)"
    assert manifest.provenance["zero terminal SNR"] == "yes, with trailing spacing (ztsnr in the file)"
    assert "prediction" not in unmarked.provenance


def test_options_overrule_a_folder_and_draw_what_diffusers_draws(tmp_path):
    theirs = reference(TINY["sdxl"], tmp_path / "tokenizers")
    theirs.save_pretrained(tmp_path / "checkpoint")
    scheduler = EulerDiscreteScheduler.from_config(theirs.scheduler.config, **ZERO)
    options = {"prediction": "v_prediction", "zero_snr": True}
    got, manifest = drawn(tmp_path / "checkpoint", tmp_path, theirs, scheduler, **options)
    plain, _ = drawn(tmp_path / "checkpoint", tmp_path, theirs, scheduler)
    print(f"{got:.1f} dB, without the options {plain:.1f}")
    assert got >= LEAST_DB and plain < 30
    assert manifest.defaults.sampler == "euler"
    assert manifest.provenance["prediction"] == "v_prediction (--prediction)"
