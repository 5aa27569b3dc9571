"""Benchmarks on fake engines that advance a fake clock, so that every figure is known."""

import csv
import json
import logging
from dataclasses import replace

import pytest

from latentrt.bench import measure as measuring
from latentrt.bench.compare import compare_reports, differences
from latentrt.bench.energy import Counter, Energy
from latentrt.bench.machine import machine
from latentrt.bench.measure import BenchPlan, Instruments, measure
from latentrt.bench.page import page_of
from latentrt.bench.report import FORMAT, Audit, Report, read_report, subject_of
from latentrt.bench.save import FORMATS, save
from latentrt.bench.statistics import summary
from latentrt.bench.system import Moment, Span, conditions, read_moment
from latentrt.bench.tables import as_csv, as_jsonl, markdown
from latentrt.bench.verdict import reasons_of
from latentrt.bundle.quantization import PictureLoss
from latentrt.errors import OutputError, RequestError
from latentrt.request.request import Request
from tests.runtime.fake import SMALL, moved_clock, pipeline_of, slowed
from tests.runtime.report.pages import check_stands_alone

COSTS = {"text_encoder": 0.1, "cross_kv": 0.2, "time_bias": 0.4, "unet": 0.5, "vae_decoder": 0.8}
QUIET = Moment(0.0, 0.0, 0.0, {}, None, None, 0, ())
REQUEST = Request("a", seed=5, steps=3, **SMALL)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """A machine without other load."""
    monkeypatch.setattr(measuring, "read_moment", lambda gpu: QUIET)


def opening_of(bundle, clock):
    """A function that opens a pipeline whose engines take COSTS seconds."""

    def open_one(around=lambda name, answer: answer):
        pipeline = pipeline_of(bundle, [])
        for name, engine in pipeline.engines.items():
            engine.answer = around(name, slowed(engine.answer, clock, COSTS.get(name, 0)))
        return pipeline

    return open_one


@pytest.fixture
def opening(bundle, clock):
    return opening_of(bundle, clock)


@pytest.fixture(scope="module")
def case(bundle):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "read_moment", lambda gpu: QUIET)
        opening = opening_of(bundle, moved_clock(patch))
        return measure(opening, bundle, REQUEST, BenchPlan(runs=10, warmups=2), Instruments())


@pytest.fixture(scope="module")
def report(bundle, case):
    return Report(FORMAT, "2026-11-22T00:00:00Z", subject_of(bundle), "onnxruntime", machine("onnxruntime"), (case,))


def codes(case):
    return [reason.code for reason in reasons_of(case)]


def test_every_phase_has_its_samples_and_the_first_step_is_apart(case):
    found = {name: (figures.n, round(figures.p50, 6)) for name, figures in case.statistics.items()}
    assert found == {
        "prompt": (10, 0),
        "text_encoder": (10, 0.1),
        "cross_kv": (10, 0.2),
        "time_bias": (10, 0.4),
        "sampler, first step": (10, 0),
        "sampler, later steps": (20, 0),
        "unet, first step": (10, 0.5),
        "unet, later steps": (20, 0.5),
        "vae_decoder": (10, 0.8),
        "image": (10, 0),
        "rest": (10, 0),
        "total": (10, 3.0),
    }
    assert [sample.seed for sample in case.samples] == list(range(5, 15)) and case.first.seed == 15
    assert all(sample.unet == pytest.approx((0.5,) * 3) for sample in case.samples)
    assert len({sample.pictures for sample in (*case.samples, case.first)}) == 11
    assert case.valid and case.settings.unet_rows == 2


def test_a_single_step_and_a_batch(bundle, opening):
    request = replace(REQUEST, steps=1, batch=3, guidance=1.0)
    found = measure(opening, bundle, request, BenchPlan(runs=2, warmups=1), Instruments())
    assert "unet, later steps" not in found.statistics and found.statistics["vae_decoder"].p50 == pytest.approx(2.4)
    assert [sample.seed for sample in found.samples] == [5, 8] and len(found.samples[0].pictures) == 3
    assert found.settings.unet_rows == 3 and found.pictures_per_s == pytest.approx(3 / 3.6)


def test_energy_is_shared_out_among_pictures(bundle, opening, monkeypatch):
    monkeypatch.setattr("latentrt.bench.energy.IDLE_S", 0.0)
    values = iter(range(0, 10**9, 1000))
    meter = Counter("rapl", ("package-0",), [lambda: next(values)], [None], 1e-3, 0.001)
    found = measure(opening, bundle, replace(REQUEST, batch=2), BenchPlan(runs=2, warmups=1), Instruments([meter]))
    (energy,) = found.energy
    assert energy.joules >= 1 and energy.per_picture_j == energy.joules / 4


def cached(clock):
    """Wraps engines so that they cache answers and repeat them at once for equal feeds."""

    def around(_name, answer):
        known = {}

        def cheat(**feeds):
            key = tuple((name, feed.shape, feed.tobytes()) for name, feed in feeds.items())
            if key not in known:
                known[key] = answer(**feeds)
            return known[key]

        return cheat

    return around


def stale(name, answer):
    """Wraps the decoder so that it repeats its first answer for all feeds."""
    known = []

    def cheat(**feeds):
        if not known:
            known.append(answer(**feeds))
        return known[0]

    return cheat if name == "vae_decoder" else answer


PLAN = BenchPlan(runs=4, warmups=1, audit=True)


def test_the_audit_passes_an_engine_that_works(bundle, opening):
    done = []
    found = measure(opening, bundle, REQUEST, PLAN, Instruments(), advance=lambda: done.append(1))
    assert found.audit.different == () and found.audit.pictures == 4
    assert found.audit.repeated == pytest.approx(
        dict.fromkeys(("total", "cross_kv", "time_bias", "unet", "vae_decoder"), 1)
    )
    assert "audit" not in codes(found) and len(done) == PLAN.requests


def test_the_audit_catches_an_engine_that_caches(bundle, opening, clock):
    found = measure(lambda: opening(cached(clock)), bundle, REQUEST, PLAN, Instruments())
    assert found.audit.different == ()  # the pictures are right
    assert {phase for phase, ratio in found.audit.repeated.items() if ratio < 0.1} >= {"total", "unet", "vae_decoder"}
    assert "audit" in codes(found) and not found.valid


def test_the_audit_catches_an_engine_that_does_not_compute(bundle, opening):
    found = measure(lambda: opening(stale), bundle, REQUEST, PLAN, Instruments())
    assert len(found.audit.different) >= 3
    assert any("pictures differ when generated again" in reason.said for reason in found.reasons)


def conditioned(case, **changes):
    return replace(case, conditions=replace(case.conditions, **changes))


def lasting(case, totals):
    """The case with requests of these seconds."""
    samples = tuple(replace(case.samples[0], total=total) for total in totals)
    return replace(case, samples=samples, statistics={**case.statistics, "total": summary(totals)})


def budgeted(case, most):
    """The case with a peak of 1000 bytes, and a budget of `most` bytes."""
    settings, memory = replace(case.settings, memory_budget=most), replace(case.memory, peak=1000)
    return replace(case, settings=settings, memory=memory)


STEADY = [1.0, 1.01] * 6


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda case: lasting(case, STEADY), []),
        (lambda case: lasting(case, STEADY[:9]), ["few"]),
        (lambda case: lasting(case, [1.0, 1.5] * 6), ["spread"]),
        (lambda case: lasting(case, [1.0] * 4 + [1.03] * 4 + [1.06] * 4), ["drift"]),
        (lambda case: conditioned(case, others=0.04), []),
        (lambda case: conditioned(case, others=0.3), ["loaded"]),
        (lambda case: conditioned(case, clocks_mhz={"GPU": Span(1000, 960, 1000, 1000)}), []),
        (lambda case: conditioned(case, clocks_mhz={"GPU": Span(1000, 800, 1000, 1000)}), ["clocks"]),
        (lambda case: conditioned(case, slowed=("GPU: heat",)), ["slowed"]),
        (lambda case: conditioned(case, warnings=("unet: runs without a CUDA graph",)), ["fallback"]),
        (lambda case: budgeted(case, 2_000), []),
        (lambda case: budgeted(case, 999), ["budget"]),
        (lambda case: replace(case, audit=Audit(10, (), {"total": 0.95})), []),
        (lambda case: replace(case, audit=Audit(10, (), {"total": 0.95, "vae_decoder": 0.85})), []),
        (lambda case: replace(case, audit=Audit(10, (), {"total": 0.95, "vae_decoder": 0.01})), ["audit"]),
        (lambda case: replace(case, audit=Audit(10, (7,), {"total": 0.5})), ["audit", "audit"]),
    ],
)
def test_verdicts(case, change, expected):
    assert codes(change(case)) == expected


def test_a_warning_of_an_engine_that_is_timed_is_a_reason(bundle, opening):
    def warning(name, answer):
        def said(**feeds):
            logging.getLogger("latentrt.engines.nvidia.execution").warning("%s: runs without a CUDA graph", name)
            return answer(**feeds)

        return said if name == "unet" else answer

    found = measure(lambda: opening(warning), bundle, REQUEST, BenchPlan(10, 1), Instruments())
    assert [reason.said for reason in found.reasons] == [
        "a warning during the timed requests: unet: runs without a CUDA graph"
    ]


def moments(**changes):
    return [QUIET, replace(QUIET, **changes)]


def test_others_are_what_neither_this_process_nor_nobody_took(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert conditions(moments(seconds=10.0, busy_s=28.0, own_s=8.0)).others == pytest.approx(0.5)
    assert conditions(moments(seconds=10.0, busy_s=7.9, own_s=8.0)).others == 0
    assert conditions(moments(seconds=10.0, busy_s=None)).others is None


def test_heat_that_slowed_cores_is_seen():
    assert conditions(moments(slowed=2)).slowed == ("processor: heat",)
    assert conditions(moments(gpu_slowed=("heat",))).slowed == ("GPU: heat",)


def test_clocks_heat_and_load_are_read_from_files(tmp_path):
    files = {
        "proc/stat": "cpu  100 0 50 1000 30 5 5 40 7 0\ncpu0 1 2 3",
        "proc/meminfo": "MemTotal: 8000 kB\nMemAvailable: 2000 kB",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "900000",
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3",
        "sys/class/devfreq/17000000.gpu/cur_freq": "624750000",
        "sys/class/thermal/thermal_zone0/temp": "41500",
        "sys/class/thermal/thermal_zone1/temp": "broken",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{content}\n")
    found = read_moment(tmp_path)
    assert found.busy_s == pytest.approx(2.0)  # 200 ticks of 10 ms: idle, iowait and guests left out
    assert found.clocks_mhz == {"processor": 1500, "GPU": 624.75} and found.hottest_c == 41.5
    assert (found.available_bytes, found.slowed) == (2000 * 1024, 3)


def test_a_machine_that_tells_nothing_is_not_guessed(tmp_path):
    found = read_moment(tmp_path)
    assert (found.busy_s, found.clocks_mhz, found.hottest_c, found.available_bytes) == (None, {}, None, None)


def test_a_report_is_read_as_it_was_written(report, tmp_path):
    save(report, tmp_path / "a.json")
    assert read_report(tmp_path / "a.json") == report
    assert json.loads((tmp_path / "a.json").read_text())["cases"][0]["verdict"] == "VALID"


@pytest.mark.parametrize(
    ("content", "said"), [("[]", "expected a report"), ("{", "expected a report"), ("{}", "cases")]
)
def test_another_file_is_no_report(tmp_path, content, said):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(RequestError, match=said):
        read_report(tmp_path / "a.json")


def test_a_suffix_that_is_no_format_is_refused(report, tmp_path):
    with pytest.raises(OutputError, match="expected one of .json, .jsonl"):
        save(report, tmp_path / "a.png")
    for suffix in FORMATS:
        save(report, tmp_path / f"a{suffix}")
    assert len(list(tmp_path.iterdir())) == len(FORMATS)


def test_text_formats_have_every_phase_and_case(report):
    two = replace(report, cases=report.cases * 2)
    lines = as_csv(two).splitlines()
    assert len(lines) == 1 + 2 * len(report.cases[0].statistics) and len(set(map(len, map(split, lines)))) == 1
    assert [json.loads(line)["verdict"] for line in as_jsonl(two).splitlines()] == ["VALID"] * 2
    text = markdown(two)
    assert text.count("| unet, later steps    | 20 |  500.00 |  500.00 |  500.00 | n/a |") == 2
    assert text.count("3000.00") == 2 * 3 and "n/a, no counter" in text  # the least, the mean, the median


def split(line):
    return next(csv.reader([line]))


RAPL = Energy("rapl", ("package-0",), 50.0, 25.0, 20.0, 0.1, 5.0, 5.0)


@pytest.mark.parametrize(
    "change",
    [
        lambda case: case,
        lambda case: conditioned(case, others=0.5, warnings=("<script>alert('&')</script>",)),
        lambda case: replace(case, energy=(RAPL, Energy("nvml", ("GPU",), missing="nvml: not supported"))),
        lambda case: replace(case, audit=Audit(10, (), {"total": 1.0})),
        lambda case: conditioned(case, clocks_mhz={"GPU": Span(1, 1, 2, 2)}, hottest_c=Span(1, 2, 3, 4)),
        lambda case: replace(case, samples=tuple(replace(one, unet=one.unet[:1]) for one in case.samples)),
    ],
)
@pytest.mark.parametrize("cases", [1, 2])
def test_the_page_stands_alone(report, change, cases):
    case = change(report.cases[0])
    case = replace(case, reasons=reasons_of(case))
    page = page_of(replace(report, cases=(case,) * cases))
    reader = check_stands_alone(page)
    for reason in case.reasons:
        assert reason.said in reader.text
    assert ("INVALID" in reader.text) == (not case.valid)
    if RAPL in case.energy:
        assert "5 J per picture" in reader.text and "nvml: not supported" in reader.text
    else:
        assert "n/a" in reader.text


def test_the_loss_is_the_bundles(report):
    assert "The UNet is not quantized" in markdown(report)
    loss = PictureLoss(16, 33.3, 24.4, 0.98, 0.9, (0.1,))
    unet = replace(report.subject.parts["unet"], loss=loss)
    int8 = replace(report, subject=replace(report.subject, parts={**report.subject.parts, "unet": unet}))
    assert "|          33.3 |" in markdown(int8) and "33.3 dB compared with" in check_stands_alone(page_of(int8)).text


def faster(report, factor):
    """The report with all times multiplied by `factor`."""
    (case,) = report.cases
    statistics = {
        name: summary([value * factor for value in [figures.p50 or 1e-9] * figures.n])
        for name, figures in case.statistics.items()
    }
    return replace(report, cases=(replace(case, statistics=statistics),))


@pytest.mark.parametrize(("factor", "said"), [(0.5, "faster"), (1.0, "as fast"), (1.5, "slower")])
def test_reports_are_compared_by_medians_and_their_intervals(report, factor, said):
    (pairing,) = compare_reports(report, faster(report, factor))
    by_phase = {ratio.phase: ratio for ratio in pairing.ratios}
    assert by_phase["total"].ratio == pytest.approx(factor) and said in by_phase["total"].verdict
    assert pairing.ratios[-1].phase == "total"


def changed_settings(report, **changes):
    (case,) = report.cases
    return replace(report, cases=(replace(case, settings=replace(case.settings, **changes)),))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda one: replace(one, machine=replace(one.machine, power_mode="15W")),
            "machine: power_mode is None and 15W",
        ),
        (lambda one: replace(one, subject=replace(one.subject, family="sdxl")), "family: sd1 and sdxl"),
        (lambda one: changed_settings(one, sampler="heun"), "sampler is ddim and heun"),
        (lambda one: changed_settings(one, unet_rows=1), "unet_rows is 2 and 1"),
        (
            lambda one: replace(one, cases=(replace(one.cases[0], reasons=reasons_of(lasting(one.cases[0], [1]))),)),
            "few",
        ),
    ],
)
def test_unlike_runs_are_refused_with_the_reason_unless_forced(report, change, said):
    other = change(report)
    assert differences(report, report) == []
    with pytest.raises(RequestError, match="these runs are not alike") as refused:
        compare_reports(report, other)
    assert said in str(refused.value) and "--force" in str(refused.value)
    assert len(compare_reports(report, other, force=True)) == 1


def test_runs_of_other_sizes_have_nothing_to_compare(report):
    with pytest.raises(RequestError, match="no case in common"):
        compare_reports(report, changed_settings(report, width=512), force=True)
