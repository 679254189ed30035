"""Boxes of an archive as the manifest's JSON: one text per image."""

from __future__ import annotations

import json

import pandas as pd

from cxraug.studies.table import Table

SIDES = ("x", "y", "w", "h")


def boxes_json(boxes: pd.DataFrame) -> pd.Series:
    """JSON lists ``[{label,x,y,w,h}]`` by image, from ``image, label, x, y, w, h`` (pixels; text and float64).

    Numbers are rounded to a hundredth of a pixel. The index of the result is the image.
    """
    label = boxes["label"].map({name: json.dumps(name) for name in boxes["label"].unique()})
    text = '{"label":' + label.astype("str")
    for side in SIDES:
        number = boxes[side].round(2)
        shown = number.astype("str").str.replace(r"\.0$", "", regex=True).str.replace(r"^-0$", "0", regex=True)
        text = text + f',"{side}":' + shown
    joined = (text + "}").groupby(boxes["image"]).agg(",".join)
    return "[" + joined.astype("str") + "]"


def refuse_flat(table: Table, boxes: pd.DataFrame, called: str) -> None:
    """Refuse a box of no or negative width or height, in the order of the table's rows."""
    flat = (boxes["w"] <= 0) | (boxes["h"] <= 0)
    shown = boxes[list(SIDES)].astype("str").agg(" ".join, axis=1) if flat.any() else boxes["label"]
    table.refuse(flat, called, "a box of no size", expected="width and height above 0", found=shown)


def without_repeated(boxes: pd.DataFrame, counts: dict[str, int]) -> pd.DataFrame:
    """The boxes without those that are there word for word already, which are counted."""
    again = boxes.duplicated(["image", "label", *SIDES])
    if again.any():
        counts["boxes repeated word for word, left out"] = int(again.sum())
    return boxes[~again]
