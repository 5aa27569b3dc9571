"""Facts and advice of `latentrt doctor` on a Jetson, from copies of the files of several modules."""

import json
import os

import pytest

from latentrt.bench.diagnosis import diagnose
from latentrt.cli import main
from latentrt.device import jetson
from latentrt.device.jetson import FOOTPRINTS_GB, FreeBlocks, PowerMode, Swap, advice, fits, read_jetson

GB = 1_000_000_000
PAGE = os.sysconf("SC_PAGE_SIZE")
ORIN_NANO_MODES = ("15W", "25W", "MAXN_SUPER", "7W")


def package(name, version, status="install ok installed"):
    return f"Package: {name}\nStatus: {status}\nArchitecture: arm64\nVersion: {version}\nDescription: x\n more\n"


def tree(root, *, model, compatible, release=None, packages=(), modes=(), mode=None, total_kb=0, swaps=(), target=None):
    """Writes the files of a device under `root`; returns it."""
    files = {
        "proc/device-tree/model": f"{model}\0",
        "proc/device-tree/compatible": "".join(f"nvidia,{name}\0" for name in compatible),
        "proc/meminfo": f"MemTotal: {total_kb} kB\nMemFree: 1 kB\nMemAvailable: {total_kb * 3 // 4} kB\n",
        "proc/buddyinfo": "Node 0, zone DMA 9 8 7 6 5 4 3 2 1 0 0\nNode 0, zone Normal 1 0 0 0 0 0 0 4 2 0 0\n",
        "proc/swaps": "Filename\t\tType\t\tSize\tUsed\tPriority\n" + "".join(f"{line}\n" for line in swaps),
        "var/lib/dpkg/status": "\n".join(packages),
        "etc/nvpmodel.conf": "".join(
            [f"< POWER_MODEL ID={n} NAME={name} >\nCPU_ONLINE CORE_0 1\n" for n, name in enumerate(modes)]
            + ["< PM_CONFIG DEFAULT=0 >\n"] * bool(modes)
        ),
    }
    if release:
        files["etc/nv_tegra_release"] = (
            f"# {release}, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: x\n# K: oot\n"
        )
    if mode is not None:
        files["var/lib/nvpmodel/status"] = f"pmode:{mode:04d} fmode:quiet\n"
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    if target:
        (root / "etc/systemd/system").mkdir(parents=True)
        (root / "etc/systemd/system/default.target").symlink_to(f"/lib/systemd/system/{target}")
    return root


def orin_nano(root):
    """Freshly flashed with JetPack 6.2: a desktop, only zram for swap, 15 W."""
    return tree(
        root,
        model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        compatible=("p3768-0000+p3767-0005-super", "p3767-0005", "tegra234"),
        release="R36 (release), REVISION: 4.3",
        packages=(
            package("nvidia-jetpack", "6.2+b77"),
            package("libnvinfer10", "10.3.0.30-1+cuda12.5"),
            package("cuda-cudart-12-6", "12.6.68-1"),
        ),
        modes=ORIN_NANO_MODES,
        mode=0,
        total_kb=7_802_880,
        swaps=[f"/dev/zram{n} partition 650240 0 5" for n in range(6)],
        target="graphical.target",
    )


def orin_nx(root):
    """JetPack 6.2.2 without its packages; the mode never set."""
    return tree(
        root,
        model="NVIDIA Jetson Orin NX Engineering Reference Developer Kit",
        compatible=("p3768-0000+p3767-0000", "p3767-0000", "tegra234"),
        release="R36 (release), REVISION: 5.0",
        packages=(package("libnvinfer10", "10.3.0.30-1", status="deinstall ok config-files"),),
        modes=("MAXN_SUPER", "10W", "15W", "25W", "40W"),
        total_kb=16_000_000,
        target="multi-user.target",
    )


def agx_orin(root):
    """JetPack 7.2, CUDA from the toolkit's own file, swap on NVMe."""
    tree(
        root,
        model="NVIDIA Jetson AGX Orin Developer Kit",
        compatible=("p3737-0000+p3701-0005", "p3701-0005", "tegra234"),
        release="R39 (release), REVISION: 2.1",
        packages=(package("libnvinfer11", "1:11.4.1.7-1+cuda13.2"), package("cuda-cudart-13-1", "13.1.1-1")),
        modes=("MAXN", "15W", "30W", "50W"),
        mode=3,
        total_kb=64_000_000,
        swaps=["/mnt/nvme/swap file 16777212 1024 -2"],
    )
    (root / "usr/local/cuda").mkdir(parents=True)
    (root / "usr/local/cuda/version.json").write_text('{"cuda": {"name": "CUDA SDK", "version": "13.2.0"}}')
    return root


def thor(root):
    return tree(
        root,
        model="NVIDIA Jetson AGX Thor Developer Kit",
        compatible=("p4071-0000+p3834-0008", "p3834-0008", "tegra264"),
        release="R38 (release), REVISION: 2.2",
        packages=(package("libnvinfer10", "10.13.3.9-1+cuda13.0"),),
        modes=("MAXN", "120W"),
        mode=0,
        total_kb=128_825_804,
    )


def first_nano(root):
    return tree(
        root,
        model="NVIDIA Jetson Nano Developer Kit",
        compatible=("p3449-0000-b00+p3448-0000-b00", "jetson-nano", "tegra210"),
        release="R32 (release), REVISION: 7.1",
        modes=("MAXN", "5W"),
        mode=0,
        total_kb=4_000_000,
    )


@pytest.mark.parametrize(
    ("build", "module", "l4t", "jetpack", "cuda", "tensorrt", "mode", "desktop"),
    [
        (orin_nano, "Orin Nano 8GB", "36.4.3", "6.2", "12.6.68", "10.3.0.30", (0, "15W", 2, "MAXN_SUPER"), True),
        (orin_nx, "Orin NX 16GB", "36.5.0", "6.2.2", None, None, (0, "MAXN_SUPER", 0, "MAXN_SUPER"), False),
        (agx_orin, "AGX Orin 64GB", "39.2.1", "7.2", "13.2.0", "11.4.1.7", (3, "50W", 0, "MAXN"), None),
        (thor, "T5000 (Thor)", "38.2.2", "7.0", None, "10.13.3.9", (0, "MAXN", 0, "MAXN"), None),
        (first_nano, "Nano", "32.7.1", "4", None, None, (0, "MAXN", 0, "MAXN"), None),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_each_module_is_known(tmp_path, build, module, l4t, jetpack, cuda, tensorrt, mode, desktop):
    found = read_jetson(build(tmp_path))
    assert found.model.startswith("NVIDIA Jetson")
    assert (found.module, found.l4t, found.jetpack) == (module, l4t, jetpack)
    assert (found.cuda, found.tensorrt, found.desktop) == (cuda, tensorrt, desktop)
    assert found.power_mode == PowerMode(*mode)
    assert found.free_blocks == FreeBlocks(PAGE << 8, 3)  # one block of 2^8 pages in DMA, two in Normal


def test_swap_on_disk_and_in_memory(tmp_path):
    zram = read_jetson(orin_nano(tmp_path / "nano")).swap
    assert len(zram) == 6 and zram[0] == Swap("/dev/zram0", 650240 * 1024, 0, True)
    assert read_jetson(agx_orin(tmp_path / "agx")).swap == (Swap("/mnt/nvme/swap", 16777212 * 1024, 1 << 20, False),)


def test_another_computer_is_no_jetson(tmp_path):
    assert read_jetson(tmp_path) is None
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/compatible").write_text("raspberrypi,5-model-b\0brcm,bcm2712\0")
    assert read_jetson(tmp_path) is None
    assert diagnose(tmp_path)["jetson"] is None and diagnose(tmp_path)["memory"] is None


def test_an_unknown_module_with_nothing_installed_is_still_read(tmp_path):
    root = tree(tmp_path, model="Acme Box", compatible=("acme-box", "p9999-0001", "tegra234"))
    for name in ("proc/buddyinfo", "proc/swaps", "var/lib/dpkg/status", "etc/nvpmodel.conf"):
        (root / name).unlink()
    found = read_jetson(root)
    assert (found.model, found.module, found.jetpack, found.power_mode, found.free_blocks) == ("Acme Box",) + (
        None,
    ) * 4
    assert found.swap == ()


@pytest.mark.parametrize("name", ["etc/nv_tegra_release", "proc/buddyinfo", "etc/nvpmodel.conf", "var/lib/dpkg/status"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0garbage", b"R R36 zone 1 x\n\n\n:::"])
def test_odd_files_are_read_past(tmp_path, name, content):
    root = orin_nano(tmp_path)
    (root / name).write_bytes(content)
    assert read_jetson(root).part == "p3767-0005"


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (
            orin_nano,
            [
                "TensorRT 10.3.0.30 is not visible",
                "`sudo nvpmodel -m 2` for MAXN_SUPER",
                "set-default multi-user.target",
                "no swap on disk",
            ],
        ),
        (orin_nx, ["no TensorRT: run `sudo apt-get install nvidia-jetpack`"]),
        (agx_orin, ["TensorRT 11.4.1.7 is not visible", "`sudo nvpmodel -m 0` for MAXN"]),
        (first_nano, ["JetPack 4: its Python and TensorRT are too old"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_advice_is_what_that_device_needs_and_no_more(tmp_path, monkeypatch, build, said):
    monkeypatch.setattr(jetson.importlib.util, "find_spec", lambda name: None)
    found = diagnose(build(tmp_path))
    lines = list(advice(read_jetson(tmp_path), found["memory"]))
    assert len(lines) == len(said) and all(part in line for part, line in zip(said, lines, strict=True))
    assert found["advice"][-len(lines) :] == lines


def test_tensorrt_that_python_sees_is_not_mentioned(tmp_path, monkeypatch):
    monkeypatch.setattr(jetson.importlib.util, "find_spec", lambda name: name)
    assert not [line for line in advice(read_jetson(thor(tmp_path)), None) if "TensorRT" in line]


def test_memory_in_pieces_is_said(tmp_path):
    root = thor(tmp_path)
    (root / "proc/buddyinfo").write_text("Node 0, zone Normal 7 3 0 0 0 0 0 0 0 0 0\n")
    found = read_jetson(root)
    assert found.free_blocks == FreeBlocks(2 * PAGE, 3)
    assert "reboot before loading a model" in list(advice(found, None))[-1]


def test_what_fits_is_what_is_available():
    least = min(FOOTPRINTS_GB.values())
    assert [row["fits"] for row in fits(0)] == [False] * len(FOOTPRINTS_GB)
    assert [row["needs_gb"] for row in fits(int(least * GB)) if row["fits"]] == [least]
    assert all(row["fits"] for row in fits(int(max(FOOTPRINTS_GB.values()) * GB)))


def test_doctor_says_it_and_keeps_its_fields(tmp_path, monkeypatch, capsys):
    root = orin_nano(tmp_path)
    monkeypatch.setattr("latentrt.bench.diagnosis.diagnose", lambda read=diagnose: read(root))
    outputs = []
    for arguments in ([], ["--json"]):
        monkeypatch.setattr("sys.argv", ["latentrt", "doctor", *arguments])
        with pytest.raises(SystemExit):
            main()
        outputs.append(capsys.readouterr().out)
    table, found = outputs[0], json.loads(outputs[1])
    fields = "latentrt python platform cores memory engines auto fastest packages models advice jetson gpu".split()
    assert sorted(found) == sorted(fields)
    assert found["jetson"]["module"] == "Orin Nano 8GB" and found["memory"]["total_bytes"] == 7_802_880 * 1024
    for line in (
        "jetson      NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super (Orin Nano 8GB)",
        "jetpack     6.2, L4T 36.4.3",
        "cuda        12.6.68",
        "tensorrt    10.3.0.30",
        "power       mode 0, 15W",
        f"free block  3 of {PAGE * 256 / 2**20:g} MB, the largest",
        "swap        /dev/zram0: 0.7 GB of compressed memory",
        "model       SD 1.5 at 512x512: fp16 needs 2.3 GB and fits, int8 needs 1.5 GB and fits",
        "model       FLUX.2 klein 4B at 512x512: fp16 needs 8 GB and does not fit, w4 needs 2.9 GB and fits",
    ):
        assert line in table
    assert table.count("\nmodel       ") == len({model for model, _ in FOOTPRINTS_GB})
    unfit = {(row["model"], row["precision"]) for row in found["jetson"]["fits"] if not row["fits"]}
    assert unfit == {key for key in FOOTPRINTS_GB if key[1] == "fp16" and key[0].startswith(("PixArt", "FLUX"))}
