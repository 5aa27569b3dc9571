"""The table and the picture of the comparison with other packages; the packages themselves are not installed here."""

from xml.etree import ElementTree

from benchmarks.peer_rows import MODELS, ROWS
from benchmarks.peers import DRIVERS, Sample, chart, table

BY_KEY = {row.key: row for row in ROWS}
SAMPLES = {
    BY_KEY["genai-fp32"]: [Sample(30.0, (step, step - 1, step + 2), 44.0, 9_400_000_000) for step in (8.0, 9.0, 7.5)],
    BY_KEY["optimum-fp32"]: [Sample(50.0, (12.0,), 70.0, 12_000_000_000)] * 3,
    BY_KEY["openvino-int8"]: [Sample(31.0, (step,), 36.0, 6_700_000_000) for step in (6.0, 6.2, 9.0)],
}


def test_ratios_are_of_medians_to_the_fastest_peer():
    lines = table(SAMPLES, dict.fromkeys((row.home for row in SAMPLES), None), 4).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[3:5]] for line in lines[2:]]
    assert cells == [
        ["8.00 (6.50 to 11.00)", "1.00"],
        ["12.00 (12.00 to 12.00)", "1.50"],
        ["6.20 (6.00 to 9.00)", "0.78"],
    ]


def test_the_picture_is_svg_that_stands_alone_with_the_fastest_row_first():
    root = ElementTree.fromstring(chart(SAMPLES, "SD"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and "prefers-color-scheme: dark" in root[0].text
    assert not [one for one in root.iter() if {name.rpartition("}")[2] for name in one.attrib} & {"href", "src"}]
    titles = [one.text for one in root.iter("{http://www.w3.org/2000/svg}title")]
    assert [title.partition(",")[0] for title in titles] == ["latentrt", "OpenVINO GenAI", "optimum-onnx"]


def test_every_row_has_its_driver_and_its_own_name():
    assert len(BY_KEY) == len(ROWS)
    assert all((DRIVERS / f"{row.driver}_driver.py").is_file() and set(row.models) <= set(MODELS) for row in ROWS)
