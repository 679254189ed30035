"""The page of a core's evaluation: measures beside real ones, and contact sheets of what was generated, per prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from cxraug.cores.measures.evaluation import NEAREST, RESULT
from cxraug.cores.measures.rows import MAIN
from cxraug.errors import InputError
from cxraug.pages import plot
from cxraug.pages.page import Cell, blocks, bullets, facts, figure, fold, interval, note, number, render_page, section
from cxraug.pages.page import table as html_table
from cxraug.pages.report import REPORT
from cxraug.pages.sheet import sheet
from cxraug.storage import atomic, read_json
from cxraug.studies.manifest import read_manifest
from cxraug.synthesis.assembly import MANIFEST

PER_SHEET = 12
NEAR = 20
RATIOS = ("label auroc", "sex auroc", "sex accuracy", "age correlation", "box adherence", "mask adherence",
          "pair auroc", "report agreement")  # fmt: skip
SWAP_STEP = 0.2  # of a real difference: an output that was not swapped and moved by more is marked


def write_core_report(folder: str | Path) -> Path:
    """Write ``report.html`` into the folder of an evaluation and return its path; the same folder, the same bytes.

    No real image is shown, nor a generated one that is closer to a training image than held-out real ones are.

    Raises :class:`InputError` if ``folder`` holds no evaluation.
    """
    folder = Path(folder)
    found = read_json(folder / RESULT)
    if not isinstance(found, dict) or "rows" not in found:
        raise InputError("not the result of an evaluation of a core", file=folder / RESULT)
    rows = pd.DataFrame(found["rows"])
    copies = _copies(folder)
    names = list(dict.fromkeys(rows["prompts"]))
    parts = [_summary(found, rows), _ratios(rows)]
    for name in names:
        parts.append(_prompts(folder, name, rows[rows["prompts"] == name], found, copies))
    parts += [_swaps(found), _nearest(found), _method(found)]
    nav = [("summary", "In short"), ("ratios", "Beside real images")]
    nav += [(_key(name), f"Prompts: {name}") for name in names]
    nav += [(key, text) for key, text in (("swapped", "One attribute changed"), ("nearest", "Nearest training images"))
            if any(f'<section id="{key}"' in str(part) for part in parts)]  # fmt: skip
    title = f"Measures of {found['core']['name']}"
    about = found["manifest"]
    subtitle = f"{about['studies']} prompts made of real studies of {about['patients']} patients, {about['file']}"
    html = render_page(title, blocks(parts), subtitle=subtitle, nav=[*nav, ("method", "Method and settings")])
    with atomic(folder / REPORT) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return folder / REPORT


def _summary(found: dict[str, Any], rows: pd.DataFrame) -> Markup:
    main = rows[rows["prompts"].isin([MAIN, "swaps", "repeats", "all"])]
    wanted = (
        ("label auroc", "macro", "Findings: macro AUROC"), ("sex accuracy", "sex", "Sex: accuracy"),
        ("age correlation", "age", "Age: correlation"), ("pair auroc", "frontal and lateral", "Views: pair AUROC"),
        ("ms-ssim", "one prompt", "Similarity within a prompt"),
    )  # fmt: skip
    pairs = []
    for measure, of, text in wanted:
        part = main[(main["measure"] == measure) & (main["of"] == of)]
        if len(part):
            row = part.iloc[0]
            there = row["generated"] is not None and row["generated"] == row["generated"]
            value = f"{number(row['generated'])} (real {number(row['real'])})" if there else str(row["flag"])
            pairs.append((text, value))
    copied = main[main["flag"] == "copies"]
    lines = [
        "The probes were trained on real images of other patients. First read how good they are on real images "
        "(column real): where that is poor, a row is flagged and says nothing about the core.",
    ]
    weak = sorted(set(rows[rows["flag"] == "weak probe"]["of"]))
    if weak:
        lines.append(f"Weak probes: {', '.join(weak)}.")
    never = rows[rows["flag"] == "not known to this core"]
    if len(never):
        told = sorted({f"{of or measure}" for of, measure in zip(never["of"], never["measure"], strict=True)})
        lines.append(f"Not known to this core: {', '.join(told)}.")
    warned = note("Generated images lie closer to training images than any held-out real one does.", "bad")
    return section("summary", "In short", facts(pairs), bullets(lines), warned if len(copied) else "")


def _ratios(rows: pd.DataFrame) -> Markup:
    chosen = rows[rows["measure"].isin(RATIOS) & rows["ratio"].notna() & (rows["flag"] != "weak probe")]
    if chosen.empty:
        return Markup("")
    marks = [
        plot.Interval(
            f"{row['measure']}: {row['of']}", float(row["ratio"]), _float(row["ci_low"]), _float(row["ci_high"]),
            group=str(row["prompts"]), strong=row["of"] == "macro", few=row["flag"] == "few",
        )
        for row in chosen.to_dict("records")
    ]  # fmt: skip
    picture = figure(
        plot.forest(marks, what="generated / real", reference=1.0, sides=("worse than real", "better than real")),
        "Each measure on generated images over the same measure on the real images of the same prompts, 95 % interval.",
    )
    return section("ratios", "Beside real images", picture)


def _prompts(folder: Path, name: str, rows: pd.DataFrame, found: dict[str, Any], copies: set[str]) -> Markup:
    shown = pd.DataFrame(
        {
            "measure": rows["measure"], "of": rows["of"], "real": rows["real"], "generated": rows["generated"],
            "chance": rows["chance"],
            "ratio [95 %]": [Cell(interval(r, a, b), r) for r, a, b in
                             zip(rows["ratio"], rows["ci_low"], rows["ci_high"], strict=True)],
            "difference [95 %]": [Cell(interval(d, a, b), d) for d, a, b in
                                  zip(rows["difference"], rows["difference_low"], rows["difference_high"],
                                      strict=True)],
            "n": rows["n"], "flag": rows["flag"],
        }
    )  # fmt: skip
    parts: list[str | Markup] = []
    place = folder / "sets" / name.replace(" ", "-")
    if name in found["sets"] and (place / MANIFEST).is_file():
        frame = read_manifest(place / MANIFEST, root=place).frame
        keep = [f"{place.relative_to(folder)}/{image}" not in copies for image in frame["image"]]
        parts.append(sheet(place, frame[keep].head(PER_SHEET)))
        left = len(frame) - sum(keep)
        if left:
            parts.append(note(f"{left} images close to training images are not shown.", "warning"))
    parts.append(html_table(shown, caption=f"Measures on the prompts “{name}”"))
    methods = list(dict.fromkeys(f"{m}: {how}" for m, how in zip(rows["measure"], rows["method"], strict=True) if how))
    if methods:
        parts.append(fold("How these are measured", bullets(methods)))
    return section(_key(name), f"Prompts: {name}", *parts)


def _swaps(found: dict[str, Any]) -> Markup:
    if not found["swaps"]:
        return Markup("")
    cells = pd.DataFrame(found["swaps"])
    names = list(dict.fromkeys(cells["read"]))
    lines = []
    for swapped, part in cells.groupby("swapped", sort=False):
        by = part.set_index("read")
        line = []
        for read in names:
            value = _float(by.loc[read, "change"])
            if value is None:
                line.append(plot.Heat(note="–"))
                continue
            off = read != swapped and abs(value) > SWAP_STEP
            line.append(plot.Heat(value, worse=read != swapped, strong=read == swapped or off))
        lines.append((str(swapped), line))
    lead = (
        "The same seed with one attribute changed: the mean change of every output of the reader, in units of the "
        "difference between real groups (age: 30 years). On the diagonal 1 is as much as real; elsewhere 0 is right."
    )
    picture = plot.heat_map(names, lines, caption="Change of the column's output when the row is swapped",
                            corner="swapped")  # fmt: skip
    return section("swapped", "One attribute changed", picture, lead=lead)


def _nearest(found: dict[str, Any]) -> Markup:
    if not found["nearest"]:
        return Markup("")
    rows = pd.DataFrame(found["nearest"]).sort_values("distance").head(NEAR)
    columns = ["image", "nearest_image", "distance", "closest_real", "correlation", "closer_than_real"]
    rows = rows[columns].assign(closer_than_real=["yes" if v else "no" for v in rows["closer_than_real"]])
    lead = "The generated images that are nearest to training images. Neither side is shown here: look at the files."
    return section("nearest", "Nearest training images", html_table(rows, caption=f"Also in {NEAREST}"), lead=lead)


def _method(found: dict[str, Any]) -> Markup:
    core, probes = found["core"], found["probes"]
    pairs = [
        ("Core", f"{core['name']} {core['version']} ({core['sha256'][:12]})"),
        ("Sampler", ", ".join(f"{k} {v}" for k, v in core["sampler"].items()) or "none"),
        *((f"Probe: {name}", f"{part['sha256'][:12]}, {part['steps']} steps")
          for name, part in probes.items() if name != "trained_on"),
        ("Probes trained on", f"{probes['trained_on']['images']} real images of the split "
                              f"{probes['trained_on']['split']}"),
        ("Extractor", f"{found['extractor']['name']} ({found['extractor']['sha256'][:12]})"),
        ("Splits", ", ".join(found["settings"]["splits"])), ("Seed", str(found["settings"]["seed"])),
    ]  # fmt: skip
    lines = [
        "A prompt takes its attributes from one real study; real and generated stand row by row beside each other, and "
        "intervals are clustered by the patient of that study.",
        "Intervals say how sure a number is for this core and these probes. Other probes would give others.",
        *found["notes"],
    ]
    return section("method", "Method and settings", facts(pairs), bullets(lines))


def _copies(folder: Path) -> set[str]:
    path = folder / NEAREST
    if not path.is_file():
        return set()
    rows = pd.read_csv(path)
    return set(rows["image"][rows["closer_than_real"].astype(bool)])


def _key(name: str) -> str:
    return "prompts-" + name.replace(" ", "-")


def _float(value: Any) -> float | None:
    return None if value is None or value != value else float(value)
