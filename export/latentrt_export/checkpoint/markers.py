"""What a checkpoint in a single file declares outside its weights: what its UNet predicts, and over which noise.

A declaration is a tensor whose name alone counts, or a note in the header, of Stability AI's model metadata
(`modelspec`). Whoever exports can overrule both. Sources: the tensors that A1111, ComfyUI and InvokeAI look for, and
ComfyUI writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from latentrt.errors import CheckpointError

Prediction = Literal["epsilon", "v_prediction", "sample"]

# Tensors of models that scale latents and time as Karras et al. (2022) do, which no schedule of betas stands for.
STRANGERS = {
    "edm_vpred.": "CosXL, whose noise levels are EDM's",
    "edm_mean": "Playground v2.5, whose noise levels are EDM's",
    "edm_std": "Playground v2.5, whose noise levels are EDM's",
}
V, ZERO_SNR = MARKERS = ("v_pred", "ztsnr")
PREDICTION, SNR, ASKED = "prediction", "zero terminal SNR", "--zero-snr"
PREDICTION_NOTES = ("modelspec.prediction_type", "modelspec.predict_key")
ARCHITECTURE = "modelspec.architecture"
PREDICTIONS: Mapping[str, Prediction] = {
    **dict.fromkeys(("epsilon", "eps", "noise"), "epsilon"),
    **dict.fromkeys(("v", "v_prediction", "v-prediction", "v_pred", "vpred", "velocity"), "v_prediction"),
    **dict.fromkeys(("sample", "x0", "x0_prediction"), "sample"),
}
UNSAID = ("", "none", "null", "unknown")
# What the note of the architecture says of Stable Diffusion 2, of which nothing else tells one kind from the other.
ARCHITECTURES: Mapping[str, Prediction] = {
    "stable-diffusion-v2-512": "epsilon",
    "stable-diffusion-v2-768-v": "v_prediction",
    "stable-diffusion-v2-768": "v_prediction",
}
# The schedulers of diffusers 0.42.1 that know zero terminal SNR; DDIM stands in for any other.
ZERO_SNR_SCHEDULERS = tuple(
    f"{name}Scheduler"
    for name in (
        *("DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "DPMSolverMultistep", "EulerAncestralDiscrete"),
        *("EulerDiscrete", "LCM", "TCD", "UniPCMultistep"),
    )
)


@dataclass(frozen=True)
class Declared:
    """What is known of a checkpoint besides its weights and configs; None where nothing is said.

    reasons: by the name of each, what says so.
    """

    prediction: Prediction | None = None
    zero_snr: bool | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)

    def over(self, other: Declared) -> Declared:
        """Returns what this one says, and what the other does where this one says nothing."""
        return Declared(
            self.prediction or other.prediction,
            other.zero_snr if self.zero_snr is None else self.zero_snr,
            {**other.reasons, **self.reasons},
        )


def asked(prediction: Prediction | None, zero_snr: bool | None) -> Declared:
    """Returns what whoever exports says."""
    reasons = {PREDICTION: "--prediction"} if prediction else {}
    if zero_snr is not None:
        reasons[SNR] = ASKED if zero_snr else "--no-zero-snr"
    return Declared(prediction, zero_snr, reasons)


def declared_by(place: str, keys: Iterable[str], notes: Mapping[str, str], asked: Declared) -> Declared:
    """Returns what a file says by the names of its tensors and by its notes, under what is asked for.

    Raises CheckpointError for a model that is marked as one of another kind, and for a note that is not understood.
    """
    names = set(keys)
    for marker, stranger in STRANGERS.items():
        if found := next((key for key in sorted(names) if key.startswith(marker)), None):
            raise CheckpointError(
                f"{place} is marked by {found} as {stranger}: latentrt has no such schedule. Not exported"
            )
    zero = Declared(None, True, {SNR: f"{ZERO_SNR} in the file"}) if ZERO_SNR in names else Declared()
    if V in names:
        return asked.over(zero).over(Declared("v_prediction", None, {PREDICTION: f"{V} in the file"}))
    return asked.over(zero).over(noted(place, notes) if asked.prediction is None else Declared())


def noted(place: str, notes: Mapping[str, str]) -> Declared:
    """Returns what the notes of a file say of its prediction."""
    for key in PREDICTION_NOTES:
        value = notes.get(key, "").strip().lower()
        if value not in UNSAID:
            if value not in PREDICTIONS:
                raise CheckpointError(
                    f"{place} notes {key} {notes[key]!r}: expected epsilon, v or sample; say what it predicts with "
                    "--prediction"
                )
            return Declared(PREDICTIONS[value], None, {PREDICTION: f"{key} in the file"})
    prediction = ARCHITECTURES.get(notes.get(ARCHITECTURE, "").strip().lower())
    return Declared(prediction, None, {PREDICTION: f"{ARCHITECTURE} in the file"} if prediction else {})


def overruled(scheduler: Mapping[str, Any], declared: Declared) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns a scheduler_config.json with what is declared in place of what it says, and that in words, by its name.

    With zero terminal SNR the steps begin at the last timestep, as Lin et al. (2023), section 3.3, ask for. Raises
    CheckpointError where it is asked for of a model that predicts noise: where all is noise, no picture follows of it.
    """
    config, said = dict(scheduler), {}
    if declared.prediction is not None:
        config["prediction_type"] = declared.prediction
        said[PREDICTION] = f"{declared.prediction} ({declared.reasons[PREDICTION]})"
    if declared.zero_snr is None:
        return config, said
    reason = declared.reasons[SNR]
    if declared.zero_snr and config.get("prediction_type", "epsilon") == "epsilon":
        if reason != ASKED:  # as ComfyUI, which looks for it in models that predict v alone
            return config, {**said, SNR: f"left out ({reason}): the model predicts epsilon"}
        raise CheckpointError(
            "--zero-snr: got a model that predicts epsilon, expected another, since of noise alone no picture follows; "
            "add --prediction v_prediction"
        )
    config["rescale_betas_zero_snr"] = declared.zero_snr
    if not declared.zero_snr:
        return config, {**said, SNR: f"none ({reason})"}
    config["timestep_spacing"] = "trailing"
    if config.get("_class_name", "DDIMScheduler") not in ZERO_SNR_SCHEDULERS:
        config = {**config, "_class_name": "DDIMScheduler", "clip_sample": False}
    return config, {**said, SNR: f"yes, with trailing spacing ({reason})"}
