"""Pages as tests read them."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

VOID = {"meta", "img"}


class Reader(HTMLParser):
    """Reads a page and refuses one whose tags do not match."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += f"{data} "


def check_stands_alone(page):
    """A page that is well-formed and needs no other file; its reader."""
    reader = Reader(page)
    assert not {"script", "link", "iframe", "object"} & set(reader.tags)
    links = [value for key, value in reader.attributes if key in ("src", "href", "srcset")]
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert "url(" not in page and "@import" not in page
    assert not re.search(r"\b(nan|inf)\b", re.sub(r"base64,[^\"]*", "", page))
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg)
    return reader
