"""Fidelity as a page: every measure beside its floor, and the spectra and grey levels behind them; no image."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from markupsafe import Markup

from cxraug.pages.page import (
    Cell,
    bullets,
    facts,
    figure,
    fold,
    interval,
    note,
    number,
    paragraph,
    render_page,
    section,
    table,
)
from cxraug.pages.plot import Line, line_keys, lines_plot

WHAT = {
    "frechet": "Fréchet distance of features; 0 is equal, biased upwards at small n",
    "kid": "kernel distance of features, unbiased; 0 is equal",
    "precision": "share of the synthetic images that lie among real ones",
    "recall": "share of the real images that lie among synthetic ones",
    "density": "how many real images' neighbourhoods a synthetic image lies in; about 1 is equal",
    "coverage": "share of the real images with a synthetic one nearby",
    "spectrum": "root mean square difference of the mean spectra in decibels; 0 is equal",
    "power_low": "power up to 1/16 cycle per pixel over that of real images; 1 is equal",
    "power_middle": "power from 1/16 to 3/16 cycle per pixel over that of real images",
    "power_high": "power from 3/16 to 1/2 cycle per pixel over that of real images; below 1 is blurred",
    "wasserstein": "1-Wasserstein distance of the pooled grey levels, in grey levels",
    "grey_mean": "mean grey level minus that of real images",
    "grey_sd": "contrast (standard deviation of the grey levels of an image) minus that of real images",
    "ms_ssim": "mean similarity of two images of the set (MS-SSIM); above the floor is less diverse",
}


def fidelity_page(found: dict[str, Any]) -> str:
    """Return what :func:`cxraug.fidelity.comparison.compare_sets` found as one offline HTML file."""
    cells: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in found["rows"]:
        cells.setdefault((row["finding"], row["group"], row["level"]), []).append(row)
    shown = {key: rows for key, rows in cells.items() if rows[0]["flag"] != "suppressed"}
    whole = next(iter(shown))
    parts = {
        "all": ("Whole sets", [_about(found), _scores(shown[whole])]),
        "curves": ("Spectrum and grey levels", _curves(found["curves"])),
        "cells": ("By finding and group", _cells({k: v for k, v in shown.items() if k != whole}, cells)),
        "method": ("How this was measured", _method(found)),
    }
    body = Markup("").join(section(key, title, *content) for key, (title, content) in parts.items())
    subtitle = f"{found['n']:,} images in each sample, extractor {found['extractor']['name']}"
    return render_page("Fidelity", body, subtitle=subtitle, nav=[(key, title) for key, (title, _) in parts.items()])


def _about(found: dict[str, Any]) -> Markup:
    sides = found["counts"]
    pairs = [(side, f"{c['images']:,} images, {c['patients']:,} patients or prompts") for side, c in sides.items()]
    used = found["extractor"]
    return facts([*pairs, ("views", ", ".join(found["views"])), ("extractor", f"{used['name']} {used['sha256'][:12]}")])


def _scores(rows: list[dict[str, Any]]) -> Markup:
    columns = [
        {
            "measure": row["measure"],
            "synthetic against real": Cell(interval(row["score"], row["ci_low"], row["ci_high"]), row["score"]),
            "real against real": Cell(_spread(row), row["floor"]),
            "minus real": Cell(
                interval(row["difference"], row["difference_low"], row["difference_high"], "+.3f"), row["difference"]
            ),
            "beyond chance": _beyond(row),
            "what it is": WHAT[row["measure"]],
        }
        for row in rows
    ]
    first = rows[0]
    caption = (
        f"n = {first['n']:,} in each sample{' (few)' if first['flag'] else ''}; 95 % intervals; real against real: "
        f"mean over {first['halves']} random halves, in brackets what 95 % of further halves would give"
    )
    return table(pd.DataFrame(columns), caption=caption)


def _spread(row: dict[str, Any]) -> str:
    low = row["floor_low"]
    known = low is not None and math.isfinite(low)
    return interval(row["floor"], low, row["floor_high"]) if known else number(row["floor"])


def _beyond(row: dict[str, Any]) -> str:
    """Where the score lies outside of what real images give against real ones, and its own chance cannot explain that.

    Both the spread of the floor and the interval of the difference must say so: the first leaves out what chance does
    to the score, the second stands beside it on the page.
    """
    low, high = row["floor_low"], row["floor_high"]
    if low is None or not math.isfinite(low):
        return "not assessed"
    if row["score"] > high and row["difference_low"] > 0:
        return "above"
    return "below" if row["score"] < low and row["difference_high"] < 0 else "no"


def _cells(
    shown: dict[tuple[str, str, str], list[dict[str, Any]]], every: dict[tuple[str, str, str], list[dict[str, Any]]]
) -> list[Markup]:
    parts = [fold(f"{_name(key)} (n = {rows[0]['n']:,})", _scores(rows)) for key, rows in shown.items()]
    left = [f"{_name(key)} ({rows[0]['n']})" for key, rows in every.items() if rows[0]["flag"] == "suppressed"]
    if left:
        parts.append(note(f"Suppressed, too few images per sample (their number in brackets): {', '.join(left)}."))
    return parts or [paragraph("Findings and groups were not asked for (--by findings, --groups).")]


def _name(key: tuple[str, str, str]) -> str:
    finding, group, level = key
    what = "every finding" if finding == "all" else finding
    return what if group == "all" else f"{what}, {group} {level}"


def _curves(curves: dict[str, Any]) -> list[Markup]:
    frequency = [float(f) for f in curves["frequency"]]

    def lines(values: dict[str, Any], at: list[float]) -> list[Line]:
        return [
            Line(name, tuple(zip(at, map(float, y), strict=True)), faint=name == "real, other half")
            for name, y in values.items()
        ]

    spectra = lines(curves["spectrum"], frequency)
    shares = {name: [sum(map(float, y[i : i + 4])) for i in range(0, 256, 4)] for name, y in
              curves["histogram"].items()}  # fmt: skip
    greys = lines(shares, [4.0 * i + 1.5 for i in range(64)])
    return [
        line_keys(spectra),
        figure(
            lines_plot(spectra, x_name="cycles per pixel", y_name="power (dB)"),
            "Radially averaged power spectrum, mean over images",
        ),
        figure(
            lines_plot(greys, x_name="grey level", y_name="share"),
            "Share of all pixels at grey levels, in bins of four",
        ),
    ]


def _method(found: dict[str, Any]) -> list[Markup]:
    used = found["extractor"]
    items = [f"{used['name']} is {used['note']}", *found["notes"]]
    return [bullets(items)]
