"""One set of findings and boxes from several readers of the same image, by a stated rule."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


def agreed_labels(votes: pd.DataFrame, readers: pd.Series, least: int) -> pd.DataFrame:
    """What each image's readers say of each finding they name.

    A finding is present (1) where at least ``least`` readers name it (all, where there are fewer), else uncertain (-1).

    Parameters
    ----------
    votes : ``image, label, reader``; repeated rows count once.
    readers : number of readers by image.

    Returns
    -------
    ``image, label, value``, sorted by image and label.
    """
    counted = votes.drop_duplicates(["image", "label", "reader"]).groupby(["image", "label"]).size()
    result = counted.rename("votes").reset_index()
    wanted = np.minimum(result["image"].map(readers).to_numpy(), least)
    result["value"] = np.where(result.pop("votes").to_numpy() >= wanted, 1, -1)
    return result


def agreed_boxes(boxes: pd.DataFrame, readers: pd.Series, least: int, overlap: float) -> pd.DataFrame:
    """Boxes on which readers agree.

    Two boxes of one image and finding by different readers belong together where their intersection over union is at
    least ``overlap``, and so do boxes that are linked through others. A set in which at least ``least`` readers (all,
    where the image has fewer) took part gives one box: the median of each edge, taken over the set.

    Parameters
    ----------
    boxes : ``image, label, reader, x, y, w, h``.
    readers : number of readers by image.

    Returns
    -------
    ``image, label, x, y, w, h``, sorted by image and label.
    """
    kept = boxes.reset_index(drop=True)
    sides = ["x", "y", "w", "h"]
    if kept.empty:
        return kept[["image", "label", *sides]]
    kept["box"] = np.arange(len(kept))
    edges = kept.assign(right=kept["x"] + kept["w"], bottom=kept["y"] + kept["h"])
    pairs = edges.merge(edges, on=["image", "label"], suffixes=("", "_2"))
    pairs = pairs[(pairs["box"] < pairs["box_2"]) & (pairs["reader"] != pairs["reader_2"])]
    linked = pairs[_overlap(pairs) >= overlap]
    links = coo_matrix((np.ones(len(linked)), (linked["box"], linked["box_2"])), shape=(len(kept), len(kept)))
    edges["set"] = connected_components(links, directed=False)[1]
    sets = edges.groupby("set").agg(
        image=("image", "first"), label=("label", "first"), n=("reader", "nunique"), x=("x", "median"),
        y=("y", "median"), right=("right", "median"), bottom=("bottom", "median"),
    )  # fmt: skip
    enough = sets["n"].to_numpy() >= np.minimum(sets["image"].map(readers).to_numpy(), least)
    sets = sets[enough].assign(w=lambda s: s["right"] - s["x"], h=lambda s: s["bottom"] - s["y"])
    return sets.sort_values(["image", "label", "x", "y"])[["image", "label", *sides]].reset_index(drop=True)


def _overlap(pairs: pd.DataFrame) -> pd.Series:
    """Intersection over union of ``x, y, w, h, right, bottom`` and the same with ``_2``."""
    width = pairs[["right", "right_2"]].min(axis=1) - pairs[["x", "x_2"]].max(axis=1)
    height = pairs[["bottom", "bottom_2"]].min(axis=1) - pairs[["y", "y_2"]].max(axis=1)
    shared = width.clip(lower=0) * height.clip(lower=0)
    return shared / (pairs["w"] * pairs["h"] + pairs["w_2"] * pairs["h_2"] - shared)
