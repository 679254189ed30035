"""Boxes from a folder of PASCAL VOC's XML, one file per image."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element

from cxraug.errors import InputError
from cxraug.interop.coco import SIDES, BoxedImage, checked_box
from cxraug.interop.xmltree import read_xml


def read_voc(folder: str | Path, *, one_based: bool = False) -> list[BoxedImage]:
    """The boxes of every ``.xml`` file in ``folder``, by name.

    The image is what ``filename`` says; ``folder`` and ``path``, which tell of somebody's machine, are passed over. A
    box is ``xmax - xmin`` wide, as the tools that write this format today mean it; with ``one_based`` pixels count
    from 1 and both ends lie inside, as in PASCAL's own files.

    Raises
    ------
    InputError : no such file, XML that is refused, an object without a name, a box that is none.
    """
    folder = Path(folder)
    files = sorted(folder.rglob("*.xml")) if folder.is_dir() else []
    if not files:
        raise InputError("no XML file here", file=folder, expected="a folder of PASCAL VOC's annotations")
    return [_image(path, one_based) for path in files]


def _image(path: Path, one_based: bool) -> BoxedImage:
    root = read_xml(path)
    if root.tag != "annotation":
        raise InputError("not an annotation of PASCAL VOC", file=path, found=root.tag, expected="annotation")
    name = (root.findtext("filename") or "").strip() or path.stem
    size = root.find("size")
    sides = None if size is None else (_side(size, "height", path), _side(size, "width", path))
    boxes = []
    for number, item in enumerate(root.iterfind("object")):
        where = f"object {number + 1}"
        label = (item.findtext("name") or "").strip()
        if not label:
            raise InputError(f"{where}: no name", file=path)
        box = item.find("bndbox")
        if box is None:
            raise InputError(f"{where}: no bndbox", file=path)
        left, top, right, bottom = (_number(box, side, where, path) for side in ("xmin", "ymin", "xmax", "ymax"))
        shift = 1.0 if one_based else 0.0
        corners = [left - shift, top - shift, right - left + shift, bottom - top + shift]
        boxes.append({"label": label, **dict(zip(SIDES, checked_box(corners, where, path), strict=True))})
    return BoxedImage(name, sides if sides and all(sides) else None, boxes, path.name)


def _side(size: Element, name: str, path: Path) -> int:
    """A side of the image; 0, which several tools write, is one that was not said."""
    value = _number(size, name, "size", path)
    if value < 0 or not value.is_integer():
        raise InputError("size: not a side of an image", file=path, column=name, found=value)
    return int(value)


def _number(element: Element, name: str, where: str, path: Path) -> float:
    text = (element.findtext(name) or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e6:
        raise InputError(f"{where}: {name} is not a number of pixels", file=path, found=text)
    return value
