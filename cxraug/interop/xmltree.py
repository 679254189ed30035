"""XML of strangers as a tree: no document type, so no entity that blows up or reads a file."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from cxraug.errors import InputError

MAX_BYTES = 1 << 24
MAX_DEPTH = 100


def read_xml(path: str | Path) -> Element:
    """The root of an XML file.

    Raises
    ------
    InputError
        Larger than 16 MiB, deeper than 100 elements, not well formed, or with a document type: entities are declared
        there, and they can grow without end ("billion laughs") or quote other files.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("not a regular file", file=path, expected="an XML file")
    if path.stat().st_size > MAX_BYTES:
        raise InputError("too large for an annotation", file=path, expected=f"at most {MAX_BYTES} bytes")
    builder, depth = TreeBuilder(), 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise InputError("XML is nested too deeply", file=path, expected=f"at most {MAX_DEPTH} levels")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    def refuse(*_: object) -> None:
        raise InputError("XML with a document type or entities", file=path, expected="plain elements")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    for handler in ("StartDoctypeDeclHandler", "EntityDeclHandler", "ExternalEntityRefHandler"):
        setattr(parser, handler, refuse)
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        raise InputError(f"not well-formed XML ({error})", file=path) from None
    except (ValueError, LookupError) as error:  # an encoding that nobody knows
        raise InputError(f"not readable XML ({error})", file=path) from None
    return builder.close()
