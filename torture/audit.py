"""No pickle, no eval and no exec while a picture is drawn, as Python's audit events tell it.

Imports execute modules, and dataclasses are made by `exec`; so everything is imported by a first picture, and the
events of a second one count. Unpickling and new processes count in both.
"""

from __future__ import annotations

import json
import subprocess
import sys

from torture.tally import Given, Tally

CHILD = """
import json, sys
seen = []
sys.addaudithook(lambda event, arguments: seen.append(event))
import latentrt

USUAL = {"prompt": "a red apple", "steps": 2, "width": 96, "height": 64, "seed": 0}
ASKED = [{}, {"sampler": "euler_a", "batch": 2}, {"sampler": "heun", "cache": 2}, {"prompt": "[a (red:1.2):0.5] apple"},
         {"hires": 2.0}, {"window": 64, "width": 160}, {"guidance": 1.0}, {"seamless": "xy"}]


def draw(pipeline):
    for fields in ASKED:
        result = pipeline.generate(**USUAL | fields)
        result.save(sys.argv[1])
    latentrt.Codec(pipeline).round_trip(result.images[0])


with latentrt.load("emoji", engine="onnxruntime") as pipeline:
    draw(pipeline)
    before = len(seen)
    draw(pipeline)
print(json.dumps({"first": seen[:before], "second": seen[before:]}))
"""
NEVER = ("pickle.find_class", "os.system", "subprocess.Popen", "os.exec", "os.fork", "socket.connect", "socket.bind")
NOT_AGAIN = ("exec", "compile", "import", *NEVER)


def run(asked: Given) -> Tally:
    """Once; the count is not used."""
    tally, picture = Tally(), asked.scratch / "picture.png"
    done = subprocess.run([sys.executable, "-c", CHILD, str(picture)], capture_output=True, text=True, check=True)
    events = json.loads(done.stdout)
    for part, forbidden in (("first", NEVER), ("second", NOT_AGAIN)):
        for event in forbidden:
            count = events[part].count(event)
            tally.add(
                "never" if count == 0 else "happened", fault=f"{part} pictures: {event} {count} times" if count else ""
            )
    tally.note = f"{len(events['first']) + len(events['second'])} events heard"
    return tally
