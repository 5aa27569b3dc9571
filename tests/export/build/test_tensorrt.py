"""Plans built for real: NVIDIA's TensorRT-RTX builds for any GPU without one. Nothing here stands in for it."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner

from latentrt.cli import cli
from latentrt.engines.nvidia.bindings import VARIANTS
from latentrt.engines.nvidia.cuda import Device
from latentrt.engines.nvidia.plans import STRIPPED, Shapes, plan_store
from latentrt.errors import EngineError, RequestError
from latentrt_export.build import builders
from latentrt_export.build import tensorrt as module
from latentrt_export.build.builders import open_builder
from latentrt_export.build.plan import BuilderSettings, BuildTask, configure, reason, write_plan
from latentrt_export.build.tensorrt import BuildOptions, build, build_plan, lower_only
from tests.export.parts import constant, graph_of, node, of_graph, some_of_the_built_in, spec_of, value

RTX = BuildOptions("tensorrt-rtx")
GPUS = ("sm86", "sm89", "sm120")


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def bundle(tmp_path):
    return some_of_the_built_in(tmp_path / "bundle", "cross_kv", "time_bias")


def options(*gpus, **changes):
    return replace(RTX, gpus=gpus or GPUS, **changes)


DEFAULTS = BuilderSettings()


def task(tmp_path, model, shapes, *gpus, settings=DEFAULTS, name="part"):
    """A graph made in a test, ready to build. shapes: of its inputs."""
    ir.save(model, tmp_path / "part.onnx")
    profile = tuple(Shapes(one, shape, shape, shape) for one, shape in shapes.items())
    return BuildTask(name, tmp_path / "part.onnx", (profile,), gpus or ("sm86",), settings, tmp_path / "timing.cache")


def product(op_type="Relu", domain=""):
    """op_type(x @ w)."""
    source, hidden, result = value("x", ("n", 8)), value("hidden", ("n", 8)), value("y", ("n", 8))
    weight = constant("w", np.eye(8, dtype=np.float32))
    last = node(op_type, [hidden], result)
    last.domain = domain
    return graph_of([node("MatMul", [source, weight], hidden), last], [source], [result], [weight])


@pytest.mark.sweep
def test_one_build_serves_every_gpu_that_was_asked_for(bundle):
    lines = []
    plans = list(build(bundle.folder, options(), lines.append))
    assert [(one.component, one.gpu) for one in plans] == [(c, g) for c in bundle.manifest.components for g in GPUS]
    assert all(one.seconds is not None and one.floats == "fp16" for one in plans)
    assert lines[-2:] == [f"{name}: building for sm86, sm89, sm120" for name in bundle.manifest.components]
    store = plan_store(bundle.folder)
    assert len(store.keys()) == len(plans) and {key.sm for key in store.keys()} == set(GPUS)
    assert all(key.gpu == "" and key.version == open_builder("tensorrt-rtx").version for key in store.keys())
    for one in plans:
        assert one.path.parent == bundle.folder / "targets" and one.path.stat().st_mode & 0o777 == 0o600
        assert one.bytes > bundle.path(bundle.manifest.components[one.component].file).stat().st_size
    assert len({one.path.stat().st_ino for one in plans}) == len(bundle.manifest.components), "one file, three names"


def test_what_is_there_is_not_built_again(bundle):
    first = list(build(bundle.folder, options("sm86")))
    again = list(build(bundle.folder, options("sm86")))
    assert [one.path for one in again] == [one.path for one in first] and all(one.seconds is None for one in again)
    more = list(build(bundle.folder, options("sm86", "sm89")))
    assert [one.seconds is None for one in more] == [True, False] * 2


def test_a_plan_that_was_changed_is_built_again(bundle):
    path = next(iter(build(bundle.folder, options("sm86")))).path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    again = {one.path: one.seconds for one in build(bundle.folder, options("sm86"))}
    assert again[path] is not None and path.read_bytes() != content


@pytest.mark.sweep
def test_plans_built_with_other_settings_take_the_place_of_the_old(bundle):
    first = {one.path for one in build(bundle.folder, options("sm86"))}
    second = {one.path for one in build(bundle.folder, options("sm86", settings=BuilderSettings(level=1)))}
    assert not first & second and not any(path.exists() for path in first)
    assert {key.flags[1:] for key in plan_store(bundle.folder).keys()} == {("level=1",)}


def pictures(tmp_path):
    """A bundle whose one component works on latents."""
    source, result = value("latents", ("batch", 4, "height", "width")), value("y", ("batch", 4, "height", "width"))
    model = graph_of([node("Relu", [source], result)], [source], [result], [])
    return of_graph(tmp_path / "bundle", model, [spec_of(source)], [spec_of(result)])


def test_plans_of_other_sizes_stay_beside_each_other(tmp_path):
    bundle = pictures(tmp_path)
    paths = {one.path for size in ((64, 64), (64, 96)) for one in build(bundle.folder, options("sm86", sizes=(size,)))}
    assert len(paths) == 2 and all(path.exists() for path in paths)
    pixels = bundle.manifest.latents.factor
    asked = {"latents": (1, 4, 96 // pixels, 64 // pixels)}
    assert sorted(str(key.profile_of(asked)) for key in plan_store(bundle.folder).keys()) == ["0", "None"]


def test_several_sizes_are_profiles_of_one_plan(tmp_path):
    bundle = pictures(tmp_path)
    list(build(bundle.folder, options("sm86", sizes=((64, 64), (64, 96)))))
    (key,) = plan_store(bundle.folder).keys()
    assert len(key.profiles) == 2


def test_every_option_reaches_the_builder(tmp_path):
    """Read back from the real configuration, not from what was meant."""
    builder = open_builder("tensorrt-rtx")
    settings = BuilderSettings(level=1, workspace_bytes=1 << 20, build_bytes=1 << 28, refit=True, stripped=True)
    trt = builder.trt
    maker = trt.Builder(trt.Logger(trt.Logger.ERROR))
    config = configure(builder, task(tmp_path, product(), {"x": (2, 8)}, "sm86", "sm120", settings=settings), maker)
    assert config.builder_optimization_level == 1
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 1 << 20
    assert config.get_memory_pool_limit(trt.MemoryPoolType.TACTIC_DRAM) == 1 << 28
    assert config.get_flag(trt.BuilderFlag.REFIT) and config.get_flag(trt.BuilderFlag.STRIP_PLAN)
    assert not config.get_flag(trt.BuilderFlag.REFIT_IDENTICAL), "it excludes REFIT"
    assert [config.get_compute_capability(i).name for i in range(config.num_compute_capabilities)] == ["SM86", "SM120"]
    assert config.num_optimization_profiles == 1
    alone = configure(builder, task(tmp_path, product(), {"x": (2, 8)}, settings=BuilderSettings(stripped=True)), maker)
    assert alone.get_flag(trt.BuilderFlag.REFIT_IDENTICAL) and not alone.get_flag(trt.BuilderFlag.REFIT)


@pytest.mark.parametrize("settings", [BuilderSettings(refit=True), BuilderSettings(stripped=True)])
def test_plans_to_be_refitted_are_refused_where_the_builder_would_fail(bundle, settings):
    with pytest.raises(EngineError, match="--refit, --stripped: tensorrt-rtx .* only where there is a GPU"):
        list(build(bundle.folder, options("sm86", settings=settings)))


def test_a_stripped_plan_says_so_in_its_key(bundle):
    """Building one does not replace the whole one."""
    assert STRIPPED in BuilderSettings(stripped=True).flags and STRIPPED not in BuilderSettings(refit=True).flags
    list(build(bundle.folder, options("sm86")))
    store = plan_store(bundle.folder)
    whole = store.keys()[0]
    module.drop_superseded(store, replace(whole, flags=(*whole.flags, STRIPPED)))
    assert whole in store.keys()
    module.drop_superseded(store, replace(whole, flags=(*whole.flags, "level=1")))
    assert whole not in store.keys()


@pytest.mark.sweep
def test_attention_as_an_operator_builds(tmp_path):
    bundle = some_of_the_built_in(tmp_path / "bundle", "text_encoder")
    (plan,) = build(bundle.folder, options("sm86", attention="operator"))
    assert plan.seconds is not None


def test_an_engine_may_ask_for_the_shapes_of_a_call(bundle, monkeypatch):
    device = Device("A card", "sm86", False)
    monkeypatch.setattr(module, "current_device", lambda: device)
    width = bundle.manifest.components["cross_kv"].inputs[0].shape[-1]
    wanted = {"context": (11, bundle.manifest.tokenizer.length, width)}
    build_plan("tensorrt-rtx", bundle, "cross_kv", wanted)
    (key,) = plan_store(bundle.folder).keys()
    assert key.sm == "sm86" and key.profile_of(wanted) == 0


def test_the_parser_names_the_node_that_it_refuses(tmp_path):
    with pytest.raises(EngineError, match=r"part: tensorrt-rtx 1\S+ cannot read the graph: .*Wobble.*later version"):
        write_plan(
            open_builder("tensorrt-rtx"), task(tmp_path, product("Wobble", "other"), {"x": (2, 8)}), tmp_path / "p"
        )
    assert not (tmp_path / "p").exists()


def test_a_file_that_is_no_graph_is_refused(tmp_path):
    one = task(tmp_path, product(), {"x": (2, 8)})
    one.graph.write_bytes(b"no graph at all")
    with pytest.raises(EngineError, match="part: .* cannot read the graph"):
        write_plan(open_builder("tensorrt-rtx"), one, tmp_path / "p")


def test_the_builder_says_why_it_cannot_build(tmp_path):
    """A shape that the graph does not allow: 9 columns cannot meet a weight of 8 rows."""
    with pytest.raises(EngineError, match="part: .*(cannot build a plan|refuses the shapes)"):
        write_plan(open_builder("tensorrt-rtx"), task(tmp_path, product(), {"x": (2, 9)}), tmp_path / "p")


@pytest.mark.parametrize("words", ["[defaultAllocator.cpp] Cuda failure: out of memory", "OutOfMemory: requested 3 GB"])
def test_a_builder_that_ran_out_of_memory_gets_advice(words):
    assert reason(words).startswith("memory ran out") and "--size" in reason(words)
    assert "memory" not in reason("no tactic for node x")


def test_ctrl_c_stops_the_build_at_its_next_step(tmp_path):
    seen = []

    def press(name, step, steps):
        seen.append(name)
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        write_plan(open_builder("tensorrt-rtx"), task(tmp_path, product(), {"x": (2, 8)}), tmp_path / "p", press)
    assert seen and not (tmp_path / "p").exists() and signal.getsignal(signal.SIGINT) == before


def test_the_builder_reports_its_progress(tmp_path):
    seen = []
    write_plan(
        open_builder("tensorrt-rtx"),
        task(tmp_path, product(), {"x": (2, 8)}),
        tmp_path / "p",
        lambda *step: seen.append(step),
    )
    assert (tmp_path / "p").stat().st_size > 0
    assert seen[0][:2] == ("Building engine", 0) and {step == steps for _, step, steps in seen} == {True, False}
    assert all(0 <= step <= steps for _, step, steps in seen)


def test_a_cancelled_command_leaves_only_lowered_graphs(bundle, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_plan", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(build(bundle.folder, options("sm86")))
    assert {path.name for path in (bundle.folder / "targets").iterdir()} == {"lowered", ".lock"}


BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("onnx", "onnx_ir", "onnxscript", "torch", "onnxruntime"):
            raise ImportError(f"{name} is not installed", name=name)

sys.meta_path.insert(0, Blocked())
from latentrt.cli import main
sys.argv = ["latentrt", *sys.argv[1:]]
main()
"""


def run_without_onnx(*arguments):
    command = [sys.executable, "-c", BLOCKED, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


@pytest.mark.sweep
def test_a_device_without_onnx_builds_from_what_a_workstation_lowered(bundle):
    command = ("build", bundle.folder, "--target", "tensorrt-rtx", "--gpu", "sm86", "--json")
    refused = run_without_onnx(*command)
    assert refused.returncode == 4 and refused.stderr.count("\n") == 1
    assert "not lowered yet" in refused.stderr and "latentrt build --lower-only" in refused.stderr
    result = CliRunner().invoke(cli, ["build", str(bundle.folder), "--target", "tensorrt", "--lower-only"])
    assert result.exit_code == 0 and len(result.stdout.split()) == 2
    built = run_without_onnx(*command)
    assert built.returncode == 0, built.stderr
    assert [one["component"] for one in json.loads(built.stdout)] == list(bundle.manifest.components)


def test_with_no_gpu_tensorrt_says_where_to_build(bundle, monkeypatch):
    trt = open_builder("tensorrt-rtx").trt  # the same classes; TensorRT itself needs a GPU to be installed
    monkeypatch.setattr(builders, "import_bindings", lambda variant: trt)
    with pytest.raises(EngineError, match="built on the GPU that runs them.*copy the bundle to the device"):
        list(build(bundle.folder, BuildOptions("tensorrt")))
    assert len(list((bundle.folder / "targets" / "lowered").iterdir())) == 2, "what can be done here was done"


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_with_no_tensorrt_the_error_says_what_to_install(bundle, monkeypatch, target):
    monkeypatch.setitem(VARIANTS, target, replace(VARIANTS[target], modules=("no_such_module",)))
    with pytest.raises(EngineError, match=f"{target}: got none of no_such_module installed.*pip install"):
        list(build(bundle.folder, BuildOptions(target)))


def test_a_runtime_alone_cannot_build(bundle, monkeypatch):
    lean = pytest.importorskip("tensorrt_lean_bindings", reason="pip install --no-deps tensorrt-lean-cu13-bindings")
    monkeypatch.setitem(VARIANTS, "tensorrt", replace(VARIANTS["tensorrt"], modules=(lean.__name__,)))
    with pytest.raises(EngineError, match="got tensorrt_lean_bindings, which runs plans and builds none"):
        list(build(bundle.folder, BuildOptions("tensorrt")))


def test_a_wrong_version_is_refused(bundle, monkeypatch):
    monkeypatch.setitem(VARIANTS, "tensorrt-rtx", replace(VARIANTS["tensorrt-rtx"], oldest=(99, 0), below=(100, 0)))
    with pytest.raises(EngineError, match=r"got version 1\.\S+ of tensorrt_rtx\S*, expected 99.0 or later"):
        list(build(bundle.folder, RTX))


@pytest.mark.parametrize("gpu", ["sm87", "sm90"])
def test_a_gpu_that_the_builder_does_not_know_is_refused(bundle, gpu):
    with pytest.raises(RequestError, match=f"--gpu: got {gpu}, expected some of sm75, sm80, .*--target tensorrt"):
        list(build(bundle.folder, options(gpu)))


def test_too_little_memory_is_said_before_the_build(bundle):
    with pytest.raises(EngineError, match=r"cross_kv: got 1e-06 GB of memory, expected at least [0-9.]+ GB"):
        list(build(bundle.folder, options("sm86", memory_bytes=1000)))


def test_a_size_between_latents_is_refused(bundle):
    with pytest.raises(RequestError, match="width: got 12, expected a multiple of"):
        list(build(bundle.folder, options(sizes=((12, 64),))))


def test_shared_memory_is_taken_in_part(monkeypatch):
    """A builder that is left alone takes three quarters of a Jetson."""
    device = Device("Orin", "sm87", True)
    builder = replace(open_builder("tensorrt-rtx"), device=device)
    monkeypatch.setattr(module, "free_memory", lambda: (5 << 30, 8 << 30))
    settings = module.settings_of(builder, BuildOptions("tensorrt"))
    assert (settings.build_bytes, settings.workspace_bytes) == (4 << 30, 1 << 30)
    given = module.settings_of(builder, BuildOptions("tensorrt", memory_bytes=2 << 30))
    assert (given.build_bytes, given.workspace_bytes) == (2 << 30, 1 << 30)
    card = replace(builder, device=replace(device, integrated=False))
    assert module.settings_of(card, BuildOptions("tensorrt")) == BuilderSettings()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "64"], "expected WIDTHxHEIGHT"),
        (["--size", "64x64,0x8"], "expected WIDTHxHEIGHT"),
        (["--batch", "0"], "expected a number of at least 1"),
        (["--gpu", "rtx4090"], "expected a GPU's architecture"),
        (["--optimization-level", "6"], "0<=x<=5"),
        (["--memory", "0"], "x>0"),
    ],
)
def test_the_command_refuses_what_it_cannot_read(bundle, arguments, message):
    result = CliRunner().invoke(cli, ["build", str(bundle.folder), "--target", "tensorrt-rtx", *arguments])
    assert result.exit_code == 2 and message in result.stderr and not (bundle.folder / "targets").exists()


def test_the_command_prints_a_line_for_each_plan(bundle):
    command = ["build", str(bundle.folder), "--target", "tensorrt-rtx", "--gpu", "sm86,sm120", "--batch", "2"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    assert [line.split()[:3] for line in result.stdout.splitlines()] == [
        [name, "fp16", gpu] for name in bundle.manifest.components for gpu in ("sm86", "sm120")
    ]


def test_lowering_alone_needs_no_builder(bundle, monkeypatch):
    monkeypatch.setattr(module, "open_builder", None)
    assert [folder.name.split("-")[0] for folder in lower_only(bundle.folder, "decomposed")] == [
        "cross_kv",
        "time_bias",
    ]
