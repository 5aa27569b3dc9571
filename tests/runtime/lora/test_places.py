"""The table of weights that LoRA files may change: read as the exporter wrote it, refused when missing or damaged."""

import json
from dataclasses import replace

import pytest

from latentrt.bundle.catalog import MODELS
from latentrt.bundle.folder import Bundle, open_bundle
from latentrt.errors import BundleError
from latentrt.lora.files import Lora
from latentrt.lora.places import Decoded, Places, read_places
from latentrt.lora.weights import changed_weights
from latentrt_export.lora_table.places import places_of, twins_of, unread_of
from latentrt_export.lora_table.table import takes_loras, with_table

EMOJI = open_bundle(MODELS / "emoji", verify=False)
KEY = "conv_in.weight"


def test_the_table_says_what_the_graphs_do():
    read, places = read_places(EMOJI), places_of(EMOJI)
    unread = unread_of(EMOJI, places)
    assert read.unread == unread and read.twins == twins_of(places, unread)
    for component, found in places.items():
        assert found.keys() == read.weights[component].keys()
        for key, place in found.items():
            same, *_ = read.of(component, key)
            one, other = place.initializer, same.initializer
            assert replace(place, initializer=other) == same
            assert (one.shape, one.dtype, one.file, one.start) == (other.shape, other.dtype, other.file, other.start)
    assert isinstance(read, Places)


def test_a_bundle_without_it_says_what_to_do(tmp_path):
    bundle = replace(EMOJI, manifest=replace(EMOJI.manifest, lora_weights=""))
    with pytest.raises(BundleError, match="has no table of the weights .* `latentrt upgrade .*emoji`"):
        changed_weights(bundle, [Lora(tmp_path / "a.safetensors")])


def test_a_bundle_in_int8_gets_none(tmp_path):
    components = EMOJI.manifest.components
    quantized, few_bits = (
        replace(EMOJI.manifest, components={**components, "unet": replace(components["unet"], precision=precision)})
        for precision in ("int8", "w4")
    )
    assert takes_loras(EMOJI.manifest) and takes_loras(few_bits) and not takes_loras(quantized)
    assert with_table(tmp_path, quantized).lora_weights == "" and not list(tmp_path.iterdir())


def edited(row: int, value: object) -> str:
    """The table with another value in a row of the UNet's."""
    table = json.loads((EMOJI.folder / "lora_weights.json").read_bytes())
    table["weights"]["unet"][KEY][row] = value
    return json.dumps(table)


def copied(key: str, shape: tuple[int, ...]) -> str:
    """The table with a copy of the first convolution's weight, under that key and of that shape."""
    table = json.loads((EMOJI.folder / "lora_weights.json").read_bytes())
    row = table["weights"]["unet"][KEY]
    return json.dumps({**table, "copies": {"unet": {key: [*row[:9], shape, *row[10:]]}}})


def decoded(key: str = KEY, *rows: dict[int, object]) -> str:
    """The table with the first convolution's weight in few bits under this key; rows: changes of each of its rows."""
    table = json.loads((EMOJI.folder / "lora_weights.json").read_bytes())
    del table["weights"]["unet"][KEY]
    row = ["unet", f"{KEY}.decoded", [64, 4, 3, 3], "float16", "", False, [0, 64], [64, 4, 3, 3], False]
    changed = [[edit.get(place, value) for place, value in enumerate(row)] for edit in rows or ({},)]
    return json.dumps({**table, "decoded": {"unet": {key: changed}}})


def test_a_weight_in_few_bits(tmp_path):
    (tmp_path / "lora_weights.json").write_text(decoded(KEY, {}, {4: "y"}))
    one, other, *_ = read_places(Bundle(tmp_path, EMOJI.manifest, "")).of("unet", KEY)
    assert one.initializer == Decoded((64, 4, 3, 3), "<f2", "") and other.initializer.product == "y"
    assert one.shape == (64, 4, 3, 3) and one.name == f"{KEY}.decoded"


DAMAGED = {
    "a weight in few bits that is a float too": decoded("conv_out.weight"),
    "two shapes of one in few bits": decoded(KEY, {}, {2: [64, 36], 7: [64, 36]}),
    "few bits of an unknown component": decoded(KEY, {0: "another"}),
    "few bits of another type": decoded(KEY, {3: "int8"}),
    "rows that few bits do not have": decoded(KEY, {6: [0, 65]}),
    "no shape of few bits": decoded(KEY, {2: []}),
    "a copy of no weight": copied("conv_in.other", (64, 4, 3, 3)),
    "a copy of another shape": copied(KEY, (64, 36)),
    "no row for a copy": json.dumps({"weights": {}, "unread": {}, "twins": {}, "copies": {"unet": {KEY: []}}}),
    "no JSON": "{",
    "another key": '{"weights": {}, "unread": {}, "twins": {}, "more": {}}',
    "components that differ": '{"weights": {}, "unread": {"unet": {}}, "twins": {}}',
    "an unknown component": edited(0, "another"),
    "a file of another component": edited(4, "cross_kv.onnx"),
    "a file outside": edited(4, "../unet.onnx"),
    "another type": edited(3, "int64"),
    "an offset before the file": edited(5, -1),
    "an offset behind the file": edited(5, 1 << 40),
    "another length": edited(6, 4),
    "an empty shape": edited(2, []),
    "too many rows": edited(8, [0, 65]),
    "rows backwards": edited(8, [64, 0]),
    "another shape": edited(9, [64, 4, 3]),
    "no shape": edited(9, []),
    "a number for a name": edited(1, 3),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_one_is_one_error(tmp_path, damage):
    (tmp_path / "lora_weights.json").write_text(DAMAGED[damage])
    with pytest.raises(BundleError, match=r"lora_weights.json: .*copy the bundle again"):
        read_places(Bundle(tmp_path, EMOJI.manifest, ""))
