"""ONNX Runtime's own static quantizer, on the recording that latentrt's calibration uses."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from latentrt.tensors import Array
from latentrt_calib.recording.record import Recording

DEFAULT: Mapping[str, Any] = {}
# "Quantize ONNX Models", ONNX Runtime's documentation: u8 and s8 on x86, weights of 7 bits without VNNI, a scale per
# output channel; and the operators with the multiply-adds. These include attention's products: the option
# MatMulConstBOnly has no effect on a Q/DQ graph.
ADVISED: Mapping[str, Any] = {
    "activation_type": QuantType.QUInt8,
    "weight_type": QuantType.QInt8,
    "per_channel": True,
    "reduce_range": True,
    "op_types_to_quantize": ["Conv", "MatMul", "Gemm"],
}


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Reads a recording's calls one after another."""

    def __init__(self, recording: Recording) -> None:
        self.calls: Iterator[Mapping[str, Array]] = (call.feeds for call in recording)

    def get_next(self) -> Mapping[str, Array] | None:
        """The feeds of the next call; None after the last."""
        return next(self.calls, None)


def quantize_stock(graph: Path, recording: Recording, scratch: Path, options: Mapping[str, Any]) -> ir.Model:
    """The graph, prepared and quantized as the documentation describes: MinMax ranges, everything else from `options`.

    scratch: temporary folder; created and removed.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        prepared, out = scratch / "prepared.onnx", scratch / "quantized.onnx"
        quant_pre_process(graph, prepared, skip_symbolic_shape=True)  # needs sympy; the exporter wrote shapes
        quantize_static(prepared, out, Reader(recording), quant_format=QuantFormat.QDQ, **options)
        model = ir.load(out)
        ir.external_data.load_to_model(model)
        return model
    finally:
        shutil.rmtree(scratch)
