"""Declarations of a single file about its schedule: prediction type and zero terminal SNR.

A declaration is a tensor whose name alone counts, or a note in the header (Stability AI's `modelspec` metadata).
Options of the export override both. Sources: the tensors that A1111, ComfyUI and InvokeAI look for, and ComfyUI writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from latentrt.errors import CheckpointError

Prediction = Literal["epsilon", "v_prediction", "sample"]

# Tensors of models with the EDM parametrisation of Karras et al. (2022), which no schedule of betas expresses.
UNSUPPORTED_MARKS = {
    "edm_vpred.": "CosXL, whose noise levels are EDM's",
    "edm_mean": "Playground v2.5, whose noise levels are EDM's",
    "edm_std": "Playground v2.5, whose noise levels are EDM's",
}
V, ZERO_SNR = MARKERS = ("v_pred", "ztsnr")
PREDICTION, SNR, ZERO_SNR_OPTION = "prediction", "zero terminal SNR", "--zero-snr"
PREDICTION_NOTES = ("modelspec.prediction_type", "modelspec.predict_key")
ARCHITECTURE = "modelspec.architecture"
PREDICTIONS: Mapping[str, Prediction] = {
    **dict.fromkeys(("epsilon", "eps", "noise"), "epsilon"),
    **dict.fromkeys(("v", "v_prediction", "v-prediction", "v_pred", "vpred", "velocity"), "v_prediction"),
    **dict.fromkeys(("sample", "x0", "x0_prediction"), "sample"),
}
UNDECLARED = ("", "none", "null", "unknown")
# Prediction types of Stable Diffusion 2 by the architecture note; nothing else in a file distinguishes them.
ARCHITECTURES: Mapping[str, Prediction] = {
    "stable-diffusion-v2-512": "epsilon",
    "stable-diffusion-v2-768-v": "v_prediction",
    "stable-diffusion-v2-768": "v_prediction",
}
# Schedulers of diffusers 0.42.1 that support zero terminal SNR; DDIM replaces any other.
ZERO_SNR_SCHEDULERS = tuple(
    f"{name}Scheduler"
    for name in (
        *("DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "DPMSolverMultistep", "EulerAncestralDiscrete"),
        *("EulerDiscrete", "LCM", "TCD", "UniPCMultistep"),
    )
)


@dataclass(frozen=True)
class Declared:
    """Declarations about a checkpoint's schedule; None where nothing is declared.

    reasons: the source of each declaration, by subject.
    """

    prediction: Prediction | None = None
    zero_snr: bool | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)

    def completed_by(self, other: Declared) -> Declared:
        """Returns these declarations, completed by those of `other`."""
        return Declared(
            self.prediction or other.prediction,
            other.zero_snr if self.zero_snr is None else self.zero_snr,
            {**other.reasons, **self.reasons},
        )


def declared_by_options(prediction: Prediction | None, zero_snr: bool | None) -> Declared:
    """Returns the declarations of the export's options."""
    reasons = {PREDICTION: "--prediction"} if prediction else {}
    if zero_snr is not None:
        reasons[SNR] = ZERO_SNR_OPTION if zero_snr else "--no-zero-snr"
    return Declared(prediction, zero_snr, reasons)


def declared_by(place: str, keys: Iterable[str], notes: Mapping[str, str], overrides: Declared) -> Declared:
    """Returns the declarations of a file's tensors and notes, overridden by `overrides`.

    Raises CheckpointError for a model that is marked as unsupported, and for an unknown note.
    """
    names = set(keys)
    for marker, model in UNSUPPORTED_MARKS.items():
        if key := next((key for key in sorted(names) if key.startswith(marker)), None):
            raise CheckpointError(f"{place} is marked by {key} as {model}: latentrt has no such schedule. Not exported")
    zero = Declared(None, True, {SNR: f"{ZERO_SNR} in the file"}) if ZERO_SNR in names else Declared()
    found = overrides.completed_by(zero)
    if V in names:
        return found.completed_by(Declared("v_prediction", None, {PREDICTION: f"{V} in the file"}))
    return found.completed_by(declared_by_notes(place, notes) if overrides.prediction is None else Declared())


def declared_by_notes(place: str, notes: Mapping[str, str]) -> Declared:
    """Returns the prediction type that the notes of a file declare."""
    for key in PREDICTION_NOTES:
        value = notes.get(key, "").strip().lower()
        if value not in UNDECLARED:
            if value not in PREDICTIONS:
                raise CheckpointError(
                    f"{place} notes {key} {notes[key]!r}: expected epsilon, v or sample; say what it predicts with "
                    "--prediction"
                )
            return Declared(PREDICTIONS[value], None, {PREDICTION: f"{key} in the file"})
    prediction = ARCHITECTURES.get(notes.get(ARCHITECTURE, "").strip().lower())
    return Declared(prediction, None, {PREDICTION: f"{ARCHITECTURE} in the file"} if prediction else {})


def with_declarations(scheduler: Mapping[str, Any], declared: Declared) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns a scheduler_config.json with the declarations applied, and a line of text for each, by subject.

    With zero terminal SNR, steps begin at the last timestep, as Lin et al. (2023), section 3.3, require. Raises
    CheckpointError for --zero-snr with a model that predicts epsilon: from pure noise, epsilon gives no picture.
    """
    config, lines = dict(scheduler), {}
    if declared.prediction is not None:
        config["prediction_type"] = declared.prediction
        lines[PREDICTION] = f"{declared.prediction} ({declared.reasons[PREDICTION]})"
    if declared.zero_snr is None:
        return config, lines
    reason = declared.reasons[SNR]
    if declared.zero_snr and config.get("prediction_type", "epsilon") == "epsilon":
        if reason != ZERO_SNR_OPTION:  # ComfyUI reads the tensor for v prediction only, too
            return config, {**lines, SNR: f"left out ({reason}): the model predicts epsilon"}
        raise CheckpointError(
            "--zero-snr: got a model that predicts epsilon, expected another prediction type, since epsilon gives no "
            "picture from pure noise; add --prediction v_prediction"
        )
    config["rescale_betas_zero_snr"] = declared.zero_snr
    if not declared.zero_snr:
        return config, {**lines, SNR: f"none ({reason})"}
    config["timestep_spacing"] = "trailing"
    if config.get("_class_name", "DDIMScheduler") not in ZERO_SNR_SCHEDULERS:
        config = {**config, "_class_name": "DDIMScheduler", "clip_sample": False}
    return config, {**lines, SNR: f"yes, with trailing spacing ({reason})"}
