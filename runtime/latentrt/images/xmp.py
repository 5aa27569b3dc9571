"""The mark that a picture was generated: IPTC's digital source type in XMP, which other programs look for.

EU Regulation 2024/1689, article 50(2), asks for marks that machines can read. The words are those of IPTC's list
"Digital Source Type" (cv.iptc.org/newscodes/digitalsourcetype), the property is that of IPTC Photo Metadata 2023.2.
"""

from __future__ import annotations

import re
import struct
from typing import Literal

SourceType = Literal["trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "algorithmicallyEnhanced"]

KEY = "XML:com.adobe.xmp"  # keyword of the PNG chunk, and here of the packet among a picture's texts
LIST = "http://cv.iptc.org/newscodes/digitalsourcetype/"
JPEG_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" Iptc4xmpExt:DigitalSourceType="{source}" xmp:CreatorTool="{tool}"/>
</rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""
SOURCE = re.compile(rf"""DigitalSourceType(?:="|>)({re.escape(LIST)}[A-Za-z]+)["<]""")


def packet(kind: SourceType, tool: str) -> str:
    """The XMP of a picture. tool: the program that made it, without characters that XML reserves."""
    return PACKET.format(source=LIST + kind, tool=tool)


def source_in(packet: str) -> str | None:
    """The address of the digital source type in a picture's XMP; None if it names none."""
    found = SOURCE.search(packet)
    return found[1] if found else None


def jpeg_segment(xmp: str) -> bytes:
    """The segment of a JPEG that holds XMP: marker APP1, its length, the header, the packet."""
    body = JPEG_HEADER + xmp.encode()
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
