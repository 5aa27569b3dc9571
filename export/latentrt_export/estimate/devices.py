"""Peak rates of devices as their makers publish them: the table of `latentrt estimate`.

All rates are dense. NVIDIA's headline figures are twice as high, because they count structured sparsity, which no
checkpoint has. Jetson figures are those of the GPU; the DLAs cannot run these graphs. Where a rate depends on the type
of sums, the higher one is listed (GeForce: fp16 sums), so that estimates stay lower bounds.
"""

from __future__ import annotations

from dataclasses import dataclass

ORIN = "8 GPU SMs x 4096 dense INT8 operations per cycle; half as many in FP16, a quarter in TF32"
ORIN_CACHE_MB = 8.0  # 4 MB of L2 and 4 MB of system cache: Jetson AGX Orin Series Technical Brief v1.2


@dataclass(frozen=True)
class Device:
    """A device at its highest clocks.

    tf32, fp16, int8: tera-operations per second of dense matrix products, two per multiply-add; 8-bit floats are at
    most as fast as INT8. bandwidth_gb: 1e9 bytes per second. memory_gb: 1e9 bytes. cache_mb: 1e6 bytes that may stay on
    the chip between layers. shared: the CPU uses the same memory. source: of the figures.
    """

    title: str
    tf32: float
    fp16: float
    int8: float
    bandwidth_gb: float
    memory_gb: float
    cache_mb: float
    shared: bool
    source: str


DEVICES = {
    "orin-nano": Device(
        "Jetson Orin Nano 8GB, MAXN_SUPER",
        tf32=8.4,
        fp16=16.7,
        int8=33.4,
        bandwidth_gb=102.4,
        memory_gb=8.6,
        cache_mb=ORIN_CACHE_MB,
        shared=True,
        source=f"Jetson Orin Nano Super datasheet: 67 sparse INT8 TOPS, 102 GB/s, 1020 MHz; {ORIN}",
    ),
    "orin-nano-15w": Device(
        "Jetson Orin Nano 8GB, 15 W",
        tf32=5.1,
        fp16=10.2,
        int8=20.5,
        bandwidth_gb=68.3,
        memory_gb=8.6,
        cache_mb=ORIN_CACHE_MB,
        shared=True,
        source=f"Jetson Orin Nano Series datasheet: 40 sparse, 20 dense INT8 TOPS, 68 GB/s, 625 MHz; {ORIN}",
    ),
    "orin-nx": Device(
        "Jetson Orin NX 16GB, MAXN_SUPER",
        tf32=9.6,
        fp16=19.2,
        int8=38.4,
        bandwidth_gb=102.4,
        memory_gb=17.2,
        cache_mb=ORIN_CACHE_MB,
        shared=True,
        source=f"Jetson Orin NX datasheet v1.7: 157 sparse INT8 TOPS, 80 of them DLA, 102 GB/s, 1173 MHz; {ORIN}",
    ),
    "agx-orin": Device(
        "Jetson AGX Orin 64GB, MAXN",
        tf32=21.4,
        fp16=42.8,
        int8=85.5,
        bandwidth_gb=204.8,
        memory_gb=68.7,
        cache_mb=ORIN_CACHE_MB,
        shared=True,
        source="NVIDIA/Deep-Learning-Accelerator-SW README: GPU 171 of 275 sparse INT8 TOPS; brief: 204.8 GB/s",
    ),
    "thor": Device(
        "Jetson T5000 (AGX Thor), MAXN",
        tf32=129.3,
        fp16=258.5,
        int8=517.0,
        bandwidth_gb=273.0,
        memory_gb=137.4,
        cache_mb=33.6,
        shared=True,
        source="Jetson Thor: 2070 sparse FP4 TFLOPS, a quarter of it dense FP8, 273 GB/s; huggingface.co/hardware/"
        "jetson-t5000: FP16; forums.developer.nvidia.com/t/356355: L2. INT8 taken to be as fast as FP8",
    ),
    "rtx4090": Device(
        "GeForce RTX 4090",
        tf32=82.6,
        fp16=330.3,
        int8=660.6,
        bandwidth_gb=1008.0,
        memory_gb=25.8,
        cache_mb=75.5,
        shared=False,
        source="waredb.com/processor/nvidia-geforce-rtx-4090, after NVIDIA's Ada whitepaper: FP16 with FP16 sums",
    ),
    "rtx5090": Device(
        "GeForce RTX 5090",
        tf32=104.8,
        fp16=419.2,
        int8=838.4,
        bandwidth_gb=1792.0,
        memory_gb=34.4,
        cache_mb=100.7,
        shared=False,
        source="spheron.network/blog/nvidia-rtx-5090-specs: 838 sparse FP16 TFLOPS (FP16 sums), 1792 GB/s, 96 MB of L2",
    ),
    "rtx6000-ada": Device(
        "RTX 6000 Ada",
        tf32=182.1,
        fp16=364.2,
        int8=728.5,
        bandwidth_gb=960.0,
        memory_gb=51.5,
        cache_mb=100.7,
        shared=False,
        source="datasheet: 1457 sparse FP8 TFLOPS, 960 GB/s; 142 SMs at 2505 MHz, 96 MB of L2 (cputronic.com)",
    ),
    "l40s": Device(
        "L40S",
        tf32=183.2,
        fp16=366.5,
        int8=733.0,
        bandwidth_gb=864.0,
        memory_gb=51.5,
        cache_mb=100.7,
        shared=False,
        source="L40S datasheet: 366 / 733 / 1466 sparse TFLOPS in TF32 / FP16 / FP8, 864 GB/s",
    ),
    "a100": Device(
        "A100 80GB SXM",
        tf32=156.0,
        fp16=312.0,
        int8=624.0,
        bandwidth_gb=2039.0,
        memory_gb=85.9,
        cache_mb=41.9,
        shared=False,
        source="A100 datasheet, as in glennklockwood.com/garden/processors/A100",
    ),
    "h100": Device(
        "H100 80GB SXM",
        tf32=494.7,
        fp16=989.4,
        int8=1978.9,
        bandwidth_gb=3350.0,
        memory_gb=85.9,
        cache_mb=52.4,
        shared=False,
        source="H100 datasheet: 989 / 1979 / 3958 sparse TFLOPS in TF32 / FP16 / FP8 and INT8, 3.35 TB/s",
    ),
    "h200": Device(
        "H200 141GB SXM",
        tf32=494.7,
        fp16=989.4,
        int8=1978.9,
        bandwidth_gb=4800.0,
        memory_gb=151.4,
        cache_mb=52.4,
        shared=False,
        source="H200 datasheet: the H100's rates, 4.8 TB/s",
    ),
}
