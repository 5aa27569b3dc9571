"""AUTOMATIC1111's answers: pictures with their `info`, progress, and errors."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from latentrt.bundle.folder import Bundle
from latentrt.sampling.samplers.names import label
from latentrt.version import VERSION
from latentrt_serve.encode import base64_of, encoded, files_of
from latentrt_serve.job import Job, Pictures
from latentrt_serve.refusal import Refusal

# Fields with images, which the echo leaves out unless it is asked for them.
IMAGES = ("init_images", "mask", "image", "latent_mask", "firstpass_image")
DEEPEST = 8  # lists and objects inside one another in a field that is sent back
# Statuses of refusals that AUTOMATIC1111 answers otherwise: a request that is no valid JSON is one of wrong values.
STATUSES = {"invalid_request": 422}


def answer(body: Mapping[str, Any], job: Job, pictures: Pictures, bundle: Bundle) -> dict[str, Any]:
    """The answer to txt2img and img2img."""
    send = body.get("send_images") is not False
    texts = [one.get("parameters", "") for one in pictures.texts]
    return {
        "images": [base64_of(file) for file in files_of(pictures)] if send else [],
        "parameters": echo_of(body, job),
        "info": json.dumps(info_of(job, bundle, texts, int(body.get("batch_size") or 1)), ensure_ascii=False),
    }


def echo_of(body: Mapping[str, Any], job: Job) -> dict[str, Any]:
    """The request's fields, with those that were settled here."""
    settings = job.order.settings
    left_out = () if body.get("include_init_images") else IMAGES
    return {
        **{name: None if name in left_out else value for name, value in body.items() if is_json(value)},
        "steps": settings.schedule.steps,
        "width": settings.width,
        "height": settings.height,
        "sampler_name": label(settings.schedule.sampler),
    }


def is_json(value: Any, depth: int = DEEPEST) -> bool:
    """Whether a value can be sent: Python reads NaN, text that is no Unicode and deep lists, which it cannot write."""
    if isinstance(value, (dict, list)):
        inside = [*value, *value.values()] if isinstance(value, dict) else value
        return depth > 0 and all(is_json(one, depth - 1) for one in inside)
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, str) or not any("\ud800" <= mark <= "\udfff" for mark in value)


def info_of(job: Job, bundle: Bundle, texts: Sequence[str], batch_size: int) -> dict[str, Any]:
    """What AUTOMATIC1111 says of the pictures of a job. texts: one per picture."""
    settings = job.order.settings
    record = settings.record()
    seeds, subseeds = list(settings.seeds), list(settings.noise.variation_seeds) or [0] * len(settings.seeds)
    count = len(seeds)
    return {
        "prompt": settings.text.prompt,
        "all_prompts": [settings.text.prompt] * count,
        "negative_prompt": settings.text.negative,
        "all_negative_prompts": [settings.text.negative] * count,
        "seed": seeds[0],
        "all_seeds": seeds,
        "subseed": subseeds[0],
        "all_subseeds": subseeds,
        "subseed_strength": record["variation_strength"],
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "width": settings.width,
        "height": settings.height,
        "sampler_name": label(settings.schedule.sampler),
        "cfg_scale": record["guidance"],
        "steps": settings.schedule.steps,
        "batch_size": batch_size,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": job.order.model,
        "sd_model_hash": bundle.sha256[:10],
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "denoising_strength": record.get("strength", record.get("hires_strength", 0)),
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": list(texts),
        "styles": [],
        "job_timestamp": timestamp(job.created),
        "clip_skip": settings.text.clip_skip,
        "is_using_inpainting_conditioning": False,
        "version": f"latentrt {VERSION}",
    }


def timestamp(seconds: float) -> str:
    """A time as AUTOMATIC1111 writes it."""
    return time.strftime("%Y%m%d%H%M%S", time.localtime(seconds))


def progress_of(job: Job | None, *, image: bool) -> dict[str, Any]:
    """The progress of a job; of none, that nothing runs. image: whether with a preview."""
    share = job.step / job.total if job else 0.0
    elapsed = time.time() - job.started if job and job.started else 0.0
    return {
        "progress": share,
        "eta_relative": elapsed / share - elapsed if share else 0.0,
        "state": {
            "skipped": False,
            "interrupted": bool(job and job.cancelling.is_set()),
            "stopping_generation": False,
            "job": job.id if job else "",
            "job_count": 1 if job else 0,
            "job_timestamp": timestamp(job.created if job else 0),
            "job_no": 0,
            "sampling_step": job.step if job else 0,
            "sampling_steps": job.total if job else 0,
        },
        "current_image": preview_of(job) if job and image else None,
        "textinfo": None,
    }


def preview_of(job: Job) -> str | None:
    """A preview of a job's first picture in base64; None before its first step."""
    step = job.latest
    return None if step is None else base64_of(encoded(step.preview()))


def status_of(refusal: Refusal) -> int:
    """The status with which AUTOMATIC1111 refuses."""
    return STATUSES.get(refusal.code, refusal.status)


def error_of(refusal: Refusal) -> dict[str, Any]:
    """A refusal in AUTOMATIC1111's shape."""
    return {"error": refusal.code, "detail": refusal.message, "body": "", "errors": refusal.message}
