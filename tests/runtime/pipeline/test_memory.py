"""Memory: plans are reckoned from the manifest, fit what was measured, and runs keep to them."""

import itertools
import pkgutil
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import latentrt
from latentrt.bundle.manifest import FileRecord
from latentrt.cli import main
from latentrt.engines import ENGINES, failure
from latentrt.engines.onnx.engine import OPTIMISED, OVERRIDDEN
from latentrt.errors import EngineError, OutOfMemoryError
from latentrt.pipeline.memory import (
    GAPS,
    Budget,
    MemoryDemand,
    MemoryPlan,
    activation_bytes,
    candidates,
    loading_bytes,
    memory_models,
    plan,
    unmapped_bytes,
    weight_bytes,
)
from latentrt.tensors import TensorSpec
from tests.runtime.fake import SMALL, named, pipeline_of

GB = 1_000_000_000
MODELS = {
    "onnxruntime": ENGINES["onnxruntime"].memory,
    "optimised": OPTIMISED,
    "overridden": OVERRIDDEN,
    "openvino": ENGINES["openvino"].memory,
}
# Bytes of Stable Diffusion 1.5's files in fp32.
SD15 = {
    "text_encoder": 492_000_000,
    "cross_kv": 77_000_000,
    "time_bias": 111_000_000,
    "unet": 3_250_000_000,
    "vae_decoder": 198_000_000,
    "vae_encoder": 137_000_000,
}


def sd15(manifest, precision="fp32"):
    """The built-in manifest with Stable Diffusion 1.5's sizes; the UNet in `precision`."""
    sizes = {**SD15, "unet": 817_000_000} if precision == "int8" else SD15
    components = {
        name: replace(one, precision="fp32", activations=())
        for name, one in manifest.components.items()
        if name != manifest.shallow
    }
    components["unet"] = replace(components["unet"], precision=precision)
    unet = components["unet"]
    wide = (replace(spec, shape=("batch", 20160)) if spec.name == "time_bias" else spec for spec in unet.inputs)
    components["unet"] = replace(unet, inputs=tuple(wide))
    files = {**manifest.files, **{f"{name}.onnx": FileRecord(size, "") for name, size in sizes.items()}}
    return replace(manifest, components=components, files=files)


def feet(manifest, name):
    return dict.fromkeys(manifest.components, MODELS[name])


MEASURED = {
    ("optimised", "int8", 2): 1.76,
    ("optimised", "int8", 1): 1.34,  # the UNet; the decoder took 1.02
    ("optimised", "fp32", 2): 4.04,
    ("onnxruntime", "int8", 2): 3.84,
    ("onnxruntime", "fp32", 2): 5.32,
    ("openvino", "int8", 2): 3.58,
    ("openvino", "int8", 1): 2.51,
    ("openvino", "fp32", 2): 6.85,
}


@pytest.mark.parametrize(("engine", "precision", "prompts"), MEASURED)
def test_what_is_reckoned_is_a_little_over_what_was_measured(bundle, engine, precision, prompts):
    manifest = sd15(bundle.manifest, precision)
    (one,) = (
        one
        for one in candidates(manifest, MemoryDemand(1, prompts, 64, 64), feet(manifest, engine))
        if not one.keep and not one.split
    )
    assert 0.99 < one.peak_bytes / GB / MEASURED[engine, precision, prompts] < 1.4


# Linear layers in 4 bits: bytes of the file, and in memory once loaded. In ONNX Runtime, FLUX.2 klein's transformer; in
# OpenVINO, six pairs of layers of 1024 and 4096 channels.
LOADED = {"onnxruntime": (2_114_101_731, 2_374_000_000), "openvino": (28_383_557, 68_200_000)}
# The same in ONNX Runtime at most while loading: that transformer, whose weights lie in a second file, and 48 layers of
# 4096 channels whose weights lie in the graph's own.
LOADING = {True: (2_114_101_731, 2_873_000_000), False: (503_316_480, 1_029_000_000)}


@pytest.mark.parametrize("engine", LOADED)
def test_weights_in_four_bits_stay_packed_and_those_in_eight_do_not(bundle, engine):
    unet, model = bundle.manifest.components["unet"], MODELS[engine]
    size, loaded = LOADED[engine]
    manifest, four = with_file(bundle.manifest, size), replace(unet, precision="w4")
    assert 0.99 < weight_bytes(manifest, four, model) / loaded < 1.4
    eight = weight_bytes(manifest, replace(four, eight_bit_bytes=size), model)
    assert eight == weight_bytes(manifest, replace(unet, precision="w8"), model) > weight_bytes(manifest, four, model)


# Bytes of a file of 100 that are in memory if 60 of them are a table.
MAPPED = [("onnxruntime", True, 40), ("openvino", True, 100)]


@pytest.mark.parametrize("second_file", LOADING)
def test_weights_in_four_bits_need_more_memory_while_they_are_packed(bundle, second_file):
    size, loading = LOADING[second_file]
    unet = replace(bundle.manifest.components["unet"], precision="w4")
    manifest, four = with_file(bundle.manifest, size), unet
    if second_file:
        manifest = replace(manifest, files={**manifest.files, "unet.onnx.data": FileRecord(0, "")})
        four = replace(unet, data=("unet.onnx.data",))
    assert 0.99 < loading_bytes(manifest, four, MODELS["onnxruntime"]) / loading < 1.4


@pytest.mark.parametrize(("engine", "second_file", "counted"), [*itertools.product(MODELS, [False], [100]), *MAPPED])
def test_a_table_of_which_rows_are_read_stays_in_a_mapped_file(bundle, engine, second_file, counted):
    manifest = with_file(bundle.manifest, 100)
    manifest = replace(manifest, files={**manifest.files, "unet.onnx.data": FileRecord(0, "")})
    unet = replace(bundle.manifest.components["unet"], row_bytes=60, data=("unet.onnx.data",) if second_file else ())
    assert unmapped_bytes(manifest, unet, MODELS[engine]) == counted


def with_file(manifest, size):
    """The manifest with a UNet's file of this size."""
    return replace(manifest, files={**manifest.files, manifest.components["unet"].file: FileRecord(size, "")})


def test_a_fast_picture_needs_no_room_for_the_vae_s_decoder(bundle):
    manifest, feet_of = sd15(bundle.manifest, "int8"), feet(bundle.manifest, "onnxruntime")
    usual, fast = (MemoryDemand(1, 1, 64, 64, decoder=name) for name in ("vae_decoder", "tiny_decoder"))
    peaks = [next(candidates(manifest, demand, feet_of)).peak_bytes for demand in (usual, fast)]
    assert peaks[0] - peaks[1] >= SD15["vae_decoder"]


CASES = list(itertools.product(MODELS, ("fp32", "int8"), (1, 5), (1, 2), ((64, 64), (96, 64), (16, 24)), (False, True)))
BUDGETS = [0.2, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 20, 60, 400]


@pytest.mark.parametrize(("engine", "precision", "images", "prompts", "sides", "encodes"), CASES)
def test_every_plan_fits_and_more_memory_never_costs_time(bundle, engine, precision, images, prompts, sides, encodes):
    manifest, demand = sd15(bundle.manifest, precision), MemoryDemand(images, prompts, *sides, encodes)
    footprints, order = feet(manifest, engine), [(True, False), (True, True), (False, False), (False, True)]
    places = []
    for budget in (round(gb * GB) for gb in BUDGETS):
        try:
            found = plan(manifest, demand, footprints, budget)
        except OutOfMemoryError as error:
            places.append(len(order))
            check_advice(str(error), manifest, demand, footprints, budget)
        else:
            assert found.peak_bytes <= budget
            places.append(order.index((found.keep, found.split)))
    assert places == sorted(places, reverse=True) and places[0] == len(order) and places[-1] == 0


def check_advice(message, manifest, demand, footprints, budget):
    """What an error says that fits does fit, and what it says that is needed is."""
    needed = float(re.search(r"expected at least ([\d.]+) GB", message)[1])
    assert plan(manifest, demand, footprints, round((needed + 0.01) * GB)).peak_bytes <= (needed + 0.01) * GB
    if "no size fits" in message:
        return
    images = int(re.search(r"--batch (\d+)", message)[1])
    size = re.search(r"--size (\d+)x(\d+)", message)
    width, height = (int(side) // 8 for side in size.groups()) if size else (demand.width, demand.height)
    smaller = replace(demand, images=images, width=width, height=height)
    assert smaller != demand and plan(manifest, smaller, footprints, budget).peak_bytes <= budget


@pytest.fixture
def unloads(monkeypatch):
    noted = []
    monkeypatch.setattr("tests.runtime.fake.FakeEngine.unload", lambda engine: noted.append(engine.name))
    return noted


@pytest.mark.parametrize(("keep", "split"), [(True, False), (True, True), (False, False), (False, True)])
def test_runs_keep_to_their_plan_and_draw_the_same(bundle, calls, unloads, keep, split, monkeypatch):
    monkeypatch.setattr("latentrt.pipeline.memory.plan", lambda *_: MemoryPlan(keep, split, 0))
    asked = {"steps": 2, "batch": 2, "seed": 0, "guidance": 3.0, **SMALL}
    expected = pipeline_of(bundle, []).generate("a tree", **asked)
    pipeline = pipeline_of(bundle, calls)
    pipeline.budget = Budget(0, {})
    got = pipeline.generate("a tree", **asked)
    assert got.images == expected.images
    assert [len(feeds["sample"]) for feeds in named(calls, "unet")] == ([2] * 4 if split else [4] * 2)
    assert unloads.count("unet") == (0 if keep else 4)


def test_windows_need_less_of_the_unet(bundle):
    manifest = sd15(bundle.manifest)
    whole, windowed = (
        next(
            candidates(manifest, MemoryDemand(1, 2, 128, 256, window=window), feet(manifest, "onnxruntime"))
        ).peak_bytes
        for window in (0, 64)
    )
    assert windowed < whole / 2


def test_control_networks_count_where_they_are_used(bundle):
    manifest, size = sd15(bundle.manifest), 1_450_000_000
    roles = {"control": "controlnet", "hint": "controlnet_hint"}
    extra = {
        f"{part}_canny": replace(manifest.components["unet"], file=f"{part}.onnx", role=role)
        for part, role in roles.items()
    }
    files = {"control.onnx": FileRecord(size, ""), "hint.onnx": FileRecord(4_000_000, "")}
    manifest = replace(manifest, components={**manifest.components, **extra}, files={**manifest.files, **files})
    plain, steered = (
        [
            one.peak_bytes
            for one in candidates(manifest, MemoryDemand(1, 2, 64, 64, steering=names), feet(manifest, "openvino"))
        ]
        for names in (frozenset(), frozenset(extra))
    )
    # Beside the UNet at every step, whether or not the other components stay.
    assert all(1.9 * size < more - less < 2.1 * size for less, more in zip(plain, steered, strict=True))


def test_more_than_the_budget_is_refused_before_anything_runs(bundle, calls):
    pipeline = pipeline_of(bundle, calls)
    pipeline.budget = Budget(1000, feet(bundle.manifest, "onnxruntime"))
    with pytest.raises(
        OutOfMemoryError, match=r"memory budget: got 0\.00 GB, expected at least 0\.\d\d GB for an image"
    ):
        pipeline.steps(latentrt.Request("a tree"))
    assert not calls


def limited(pipeline, component, rows):
    """The pipeline with one engine that has memory for so many rows only."""
    engine = pipeline.engines[component]

    def call(feeds):
        if len(next(iter(feeds.values()))) > rows:
            raise OutOfMemoryError(f"{component}: no memory")
        return engine(feeds)

    methods = {"__call__": lambda self, feeds: call(feeds), "unload": lambda self: None, "memory": engine.memory}
    stand_in = type("Limited", (), methods)()
    return pipeline.with_engines({component: stand_in})


def test_without_memory_for_all_prompts_there_is_one_a_call(bundle, calls, caplog):
    asked = {"steps": 3, "seed": 0, "guidance": 3.0, **SMALL}
    expected = pipeline_of(bundle, []).generate("a tree", **asked)
    got = limited(pipeline_of(bundle, calls), "unet", 1).generate("a tree", **asked)
    assert got.images == expected.images and len(named(calls, "unet")) == 6
    assert caplog.text.count("too little memory for 2 prompts") == 1


def test_without_memory_for_one_the_error_says_what_would_fit(bundle, calls):
    with pytest.raises(OutOfMemoryError, match="unet: no memory; ask for fewer or smaller images"):
        limited(pipeline_of(bundle, calls), "unet", 0).generate("a tree", steps=1, **SMALL)
    pipeline = limited(pipeline_of(bundle, calls), "unet", 0)
    pipeline.engine = "onnxruntime"
    with pytest.raises(
        OutOfMemoryError, match=r"unet: no memory; in half of the memory, --batch 1 --size \d+x\d+ fits"
    ):
        pipeline.generate("a tree", steps=1, width=1024, height=1024)


def test_decoding_is_tried_again_with_all_else_unloaded(bundle, calls, unloads):
    pipeline, failed = pipeline_of(bundle, calls), []
    engine = pipeline.engines["vae_decoder"]
    answer = engine.answer

    def paint(latents):
        if not failed:
            failed.append(1)
            raise OutOfMemoryError("no memory")
        return answer(latents)

    engine.answer = paint
    assert pipeline.generate("a tree", steps=1, seed=0, **SMALL).images and "unet" in unloads


# Where NumPy or Pillow may find no memory in a run, outside any engine.
SHORT_OF_MEMORY = {
    "noise": "latentrt.sampling.noise.source.NoiseSource.initial",
    "feeds": "latentrt.conditioning.inputs.DenoiserInputs.constant",
    "an image": "latentrt.request.init_image.InitImage.pixels",
    "encoding": "latentrt.pipeline.stages.sample_posterior",
    "guidance": "latentrt.pipeline.denoiser.guided",
    "pixels": "latentrt.pipeline.stages.to_images",
    "a preview's size": "latentrt.pipeline.stages.decoded",
}


@pytest.mark.parametrize("place", SHORT_OF_MEMORY)
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
def test_where_numpy_finds_no_memory_there_is_one_more_try(bundle, unloads, monkeypatch, place, lasting):
    asked = {"steps": 3, "seed": 0, "guidance": 3.0, "init": Image.new("RGB", (24, 16)), "strength": 0.9}
    expected = pipeline_of(bundle, []).generate("a tree", **asked)
    module, _, name = SHORT_OF_MEMORY[place].rpartition(".")
    failing = 2 if place in ("feeds", "guidance") else 1  # also after a step was given
    real, tries = pkgutil.resolve_name(SHORT_OF_MEMORY[place]), []

    def short(*arguments, **options):
        tries.append(1)
        if lasting or len(tries) == failing:
            raise MemoryError("Unable to allocate 12.0 GiB")
        return real(*arguments, **options)

    monkeypatch.setattr(pkgutil.resolve_name(module), name, short)
    pipeline, steps = pipeline_of(bundle, []), []
    run = pipeline.steps(latentrt.Request("a tree", **asked))
    if not lasting:
        steps = [step.index for step in run]
        assert steps == list(range(run.total)) and run.result.images == expected.images
        return
    with pytest.raises(OutOfMemoryError, match="Unable to allocate 12.0 GiB; ask for fewer or smaller images$"):
        steps.extend(step.index for step in run)
    assert unloads and steps == sorted(set(steps))


def test_a_second_pass_without_memory_is_tried_once_more_and_advised_once(bundle, monkeypatch):
    def short(*_):
        raise MemoryError

    monkeypatch.setattr("latentrt.pipeline.denoiser.guided", short)
    with pytest.raises(OutOfMemoryError, match="^out of memory; ask for fewer or smaller images$"):
        pipeline_of(bundle, []).generate("a tree", steps=2, guidance=3.0, hires=2.0, **SMALL)


def test_an_image_that_does_not_fit_into_memory(fake, monkeypatch):
    def short(*_):
        raise MemoryError

    monkeypatch.setattr("latentrt.pipeline.pipeline.resolve", short)
    with pytest.raises(OutOfMemoryError, match="^out of memory; ask for"):
        fake.steps(latentrt.Request("a tree"))


def test_the_command_line_says_so_of_what_is_no_run(monkeypatch, capsys):
    def short(*_, **__):
        raise MemoryError("Unable to allocate 12.0 GiB")

    monkeypatch.setattr("latentrt.pipeline.metadata.picture_text", short)
    monkeypatch.setattr("sys.argv", ["latentrt", "generate", "x", "--steps", "1", "--size", "8x8"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 4 and "error: out of memory (Unable to allocate 12.0 GiB)" in capsys.readouterr().err


def budgeted(pipeline, keep):
    """The pipeline with a budget whose plans are all the same."""
    pipeline.budget = type("Same", (), {"plan": lambda *_: MemoryPlan(keep, False, 0)})()
    return pipeline


@pytest.mark.parametrize(("keep", "freed"), [(True, 0), (False, 2)])
def test_runs_under_a_budget_free_what_the_one_before_left(bundle, unloads, keep, freed):
    """Two runs of one pipeline, a step each in turn: parts that do not stay are not there for both."""
    pipeline = budgeted(pipeline_of(bundle, []), keep)
    asked = latentrt.Request("a tree", steps=2, seed=0, **SMALL)
    alone = [step.latents for step in pipeline.steps(asked)]
    one, two = pipeline.steps(asked), pipeline.steps(asked)
    next(one), next(two)
    unloads.clear()
    steps = [next(one), next(two)]
    assert unloads.count("unet") == freed
    assert all(np.array_equal(step.latents, alone[1]) for step in steps)


def test_a_run_of_another_pipeline_frees_that_of_the_one_before(bundle, unloads):
    one, two = (budgeted(pipeline_of(bundle, []), True) for _ in range(2))
    for pipeline in (one, two, one):
        unloads.clear()
        pipeline.generate("a tree", steps=1, **SMALL)
    assert unloads.count("unet") == 1


def test_runs_under_a_budget_do_not_run_at_once(bundle):
    pipeline, inside, most = budgeted(pipeline_of(bundle, []), True), [], []
    engine = pipeline.engines["unet"]
    answer = engine.answer

    def slow(**feeds):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.005)
        inside.pop()
        return answer(**feeds)

    engine.answer = slow
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: pipeline.generate("a tree", steps=3, seed=seed, **SMALL), range(4)))
    assert max(most) == 1 and len(most) == 12


def test_engines_of_gpus_have_no_budget():
    with pytest.raises(EngineError, match="memory budget: got the engine cuda, expected onnxruntime or openvino"):
        memory_models("cuda", {})


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), OutOfMemoryError),
        (RuntimeError("std::bad_alloc"), OutOfMemoryError),
        (RuntimeError("Failed to allocate memory for requested buffer of size 9"), OutOfMemoryError),
        (
            RuntimeError("Check 'ptr' failed at cpu_memory.cpp:257: Failed to allocate 189038592 bytes of memory"),
            OutOfMemoryError,
        ),
        (RuntimeError("Convolution node with name 'conv1' can't alloc"), OutOfMemoryError),
        (RuntimeError("no such node"), EngineError),
    ],
)
def test_engines_say_when_memory_is_what_they_lack(error, kind):
    assert type(failure("unet: it failed", error)) is kind


def run(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


PEAK = """
import re, latentrt
pipe = latentrt.load("emoji", engine="onnxruntime", verify=False, memory_budget={budget})
pipe.generate("a red apple", steps=1, seed=0, width=512, height=512)
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


def test_a_process_stays_within_its_budget():
    free, held = (int(run(PEAK.format(budget=budget))) * 1024 for budget in (None, 900_000_000))
    assert held <= 900_000_000 and held < free


NUMPY_LIMITED = """
import re, resource, sys, numpy as np, latentrt
pipe = latentrt.load("emoji", engine=sys.argv[1], verify=False)
pipe.generate("x", steps=1, seed=0, width=8, height=8)
size = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + 100_000_000,) * 2)
try:
    pipe.generate("x", steps=1, seed=0, width=16384, height=16384)
except latentrt.OutOfMemoryError as error:
    print(error)
"""


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_real_lack_of_memory_in_a_run(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert re.search(r"; in half of the memory, --batch 1 --size \d+x\d+ fits$", run(NUMPY_LIMITED, engine))


LIMITED = """
import re, resource, numpy as np, latentrt
engine = latentrt.load("emoji", engine="onnxruntime", verify=False).engines["vae_decoder"]
engine({"latents": np.zeros((1, 4, 8, 8), np.float32)})
size = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + 100_000_000,) * 2)
try:
    engine({"latents": np.zeros((1, 4, 128, 128), np.float32)})
except latentrt.OutOfMemoryError as error:
    print(error)
"""


def test_a_real_lack_of_memory_is_an_error_of_its_own():
    assert run(LIMITED).startswith("vae_decoder: ONNX Runtime failed with {'batch': 1, 'height': 128, 'width': 128}")


# Bytes of the files of CelebA-HQ's latent diffusion model in fp32.
CELEBA = {
    "time_bias": 51_000_000,
    "unet": 1_046_000_000,
    "quantizer": 230_000,
    "vae_decoder": 132_000_000,
    "vae_encoder": 89_000_000,
}


def celeba(manifest):
    """The built-in manifest with the sizes of that model: a VQ model of 4 pixels per latent, and no text."""
    own = (name for name in CELEBA if name != "quantizer")
    components = {name: replace(manifest.components[name], precision="fp32", activations=()) for name in own}
    vectors = TensorSpec("vectors", "float32", ("vectors", 3))
    codebook = replace(components["vae_decoder"], role="quantizer", file="quantizer.onnx", inputs=(vectors,))
    unet = components["unet"]
    inputs = [replace(unet.input("time_bias"), shape=("batch", 12992)), unet.input("sample")]
    data = "unet.onnx.data"  # as the exporter writes weights of more than 1 GB
    components["unet"] = replace(unet, inputs=tuple(inputs), data=(data,), attention_factor=2)
    files = {f"{name}.onnx": FileRecord(size, "") for name, size in CELEBA.items()}
    files |= {"unet.onnx": FileRecord(0, ""), data: FileRecord(CELEBA["unet"], "")}
    latents = replace(manifest.latents, factor=4, multiple=8)
    return replace(manifest, components={**components, "quantizer": codebook}, files=files, latents=latents)


# By side in latents and whether all is kept loaded; in GB.
CELEBA_MEASURED = {(64, True): 1.63, (64, False): 1.27, (96, True): 2.01}


@pytest.mark.parametrize(("side", "keep"), CELEBA_MEASURED)
def test_models_without_cross_attention_are_reckoned_too(bundle, side, keep):
    manifest = celeba(bundle.manifest)
    plans = candidates(manifest, MemoryDemand(1, 1, side, side), feet(manifest, "onnxruntime"))
    (one,) = (one for one in plans if one.keep == keep and not one.split)
    assert 0.99 < one.peak_bytes / GB / CELEBA_MEASURED[side, keep] < 1.4


def test_the_quantizer_s_memory_is_that_of_a_stripe_of_distances(bundle):
    manifest, model = celeba(bundle.manifest), ENGINES["onnxruntime"].memory
    found = [activation_bytes(manifest, "quantizer", MemoryDemand(1, 1, side, side), model) for side in (16, 32, 64)]
    assert found[0] < found[1] == found[2]


def test_the_size_that_is_advised_has_sides_that_the_model_takes(bundle):
    manifest = celeba(bundle.manifest)
    with pytest.raises(OutOfMemoryError) as refused:
        plan(manifest, MemoryDemand(1, 1, 96, 72), feet(manifest, "onnxruntime"), round(1.7 * GB))
    sides = re.search(r"--size (\d+)x(\d+) fits", str(refused.value))
    assert sides and all(int(side) % 32 == 0 for side in sides.groups())


def test_figures_of_the_manifest_are_used_where_scores_are_held(bundle):
    manifest = bundle.manifest
    unet = replace(manifest.components["unet"], activations=((1000.0, 0.0), (10.0, 2.0)))
    manifest = replace(manifest, components={**manifest.components, "unet": unet})
    held, optimised = ENGINES["onnxruntime"].memory, OPTIMISED
    found = [activation_bytes(manifest, "unet", MemoryDemand(3, 2, side, side), held) for side in (4, 64)]
    assert found == pytest.approx([GAPS * 6 * 16 * 1000, GAPS * 6 * (4096 * 10 + 4096**2 * 2)])
    plain = activation_bytes(bundle.manifest, "unet", MemoryDemand(3, 2, 64, 64), optimised)
    assert activation_bytes(manifest, "unet", MemoryDemand(3, 2, 64, 64), optimised) == plain


def test_a_refusal_of_a_bundle_without_figures_names_the_upgrade(bundle):
    manifest, demand, models = bundle.manifest, MemoryDemand(1, 1, 64, 64), feet(bundle.manifest, "onnxruntime")
    bare = {name: replace(one, activations=()) for name, one in manifest.components.items()}
    with pytest.raises(OutOfMemoryError, match="lacks the memory of its activations.*`latentrt upgrade`"):
        plan(replace(manifest, components=bare), demand, models, 1000)
    known = {name: replace(one, activations=((1.0, 0.0),)) for name, one in bare.items()}
    with pytest.raises(OutOfMemoryError) as refused:
        plan(replace(manifest, components=known), demand, models, 1000)
    assert "upgrade" not in str(refused.value)
