"""A run's result as a small folder to publish: tables, verdict, settings and one sheet of synthetic images."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from cxraug.errors import InputError
from cxraug.gate.settings import XRV_KEYS
from cxraug.pages import verdict
from cxraug.pages.markdown import bullets, plain_text, table
from cxraug.pages.page import interval, number
from cxraug.pages.results import draw_interval
from cxraug.pages.runfolder import RunFolder, SetFolder, read_run, whole
from cxraug.pages.sheet import choose, read_synthetic, refuse_real
from cxraug.storage import atomic, write_json

PER_CELL = 8
TABLES = ("cells", "gaps", "comparison")
LINE = 14  # pixels of a caption
# paths tell of the machine, not of the run
LEFT_OUT = ("data.manifest", "data.root", "train.weights", *(f"gate.{key}" for key in ("weights", *XRV_KEYS)))


def write_share(run: str | Path, folder: str | Path) -> Path:
    """Write what may be published of the finished run ``run`` into ``folder``; returns its ``result.md``.

    ``result.md`` (verdict, the arm against each control, learning curve, gate, machine and time), ``verdict.json``,
    ``settings.json`` (paths cut to names), ``recipe.yaml``, ``cells.csv``, ``gaps.csv``, ``comparison.csv`` (over all
    seeds and draws), ``curve.csv``, ``sheet.png`` (accepted synthetic images of the first draw, as generated).
    No real image, patient or single prediction is in it.

    Raises
    ------
    InputError : the run has no verdict yet, or ``folder`` holds something else.
    """
    found, folder = read_run(run), Path(folder)
    if not found.verdict:
        raise InputError("this run has no verdict yet", file=found.path, expected="a run that has finished")
    if folder.exists() and any(folder.iterdir()) and not (folder / "verdict.json").is_file():
        raise InputError("this folder holds something else", file=folder, expected="a new folder, or one shared before")
    folder.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        table = whole(getattr(found, name))
        table = table[table["flag"] != "suppressed"] if "flag" in table else table
        with atomic(folder / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
    if not found.curve.empty:
        with atomic(folder / "curve.csv") as temporary:
            found.curve.to_csv(temporary, index=False, float_format="%.6g")
    write_json(folder / "verdict.json", found.verdict)
    write_json(folder / "settings.json", _without_paths(found.settings))
    if (found.path / "recipe.yaml").is_file():
        shutil.copyfile(found.path / "recipe.yaml", folder / "recipe.yaml")
    part = _first_set(found)
    has_sheet = part is not None and _write_sheet(part, found, folder / "sheet.png")
    with atomic(folder / "result.md") as temporary:
        temporary.write_text(_result(found, part, has_sheet=has_sheet), encoding="utf-8")
    return folder / "result.md"


def _result(run: RunFolder, part: SetFolder | None, *, has_sheet: bool) -> str:
    found = run.verdict
    name = run.setting("name", default=run.path.name)
    blocks = [f"# {plain_text(name)}", f"**{plain_text(verdict.sentence(found))}.**"]
    blocks += [plain_text(verdict.meaning(found)), bullets(verdict.caveats(found))]
    blocks += [_controls(run), _curve(run), _arms(run), _gate(run), _probe(found)]
    if has_sheet and part is not None:
        blocks.append(f"![Synthetic images of {part.draw}](sheet.png)")
        blocks.append(
            "Synthetic images that the gate accepted, the first of each finding and group in the order generated."
        )
    blocks += [_made(run)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _controls(run: RunFolder) -> str:
    rows = verdict.primary_rows(run.verdict, run.comparison)
    lines = []
    for row in rows.to_dict("records"):
        if row["flag"] == "suppressed":
            lines.append([plain_text(row["baseline"]), "suppressed", "", ""])
            continue
        difference = interval(row["difference"], row["ci_low"], row["ci_high"], "+.3f")
        p, mde = plain_text(verdict.p_text(row["p_adjusted"])), verdict.detectable_text(row["mde"])
        lines.append([plain_text(row["baseline"]), difference, p, mde])
    title = plain_text(f"{verdict.endpoint(run.verdict)}: {run.verdict.get('arm')} against each control")
    return f"## {title}\n\n{table(['control', 'difference [95 %]', 'p (Holm)', 'smallest detectable'], lines)}"


def _curve(run: RunFolder) -> str:
    if run.curve.empty:
        return ""
    lines = []
    for count in dict.fromkeys(run.curve["n_patients"]):
        points = run.curve[run.curve["n_patients"] == count]
        value, (low, high) = draw_interval(points.dropna(subset=["auroc"]))
        text = interval(value, low, high) if low is not None else number(value)
        lines.append([plain_text(count), text, str(len(points))])
    head = ["training patients", "test AUROC [95 % over draws]", "trainings"]
    return f"## Learning curve of the real data\n\n{table(head, lines)}"


def _arms(run: RunFolder) -> str:
    found = run.verdict
    cells = whole(run.cells)
    keep = (cells["finding"] == found.get("finding")) & (cells["metric"] == found.get("metric"))
    keep &= (cells["group"] == (found.get("group") or "all")) & (cells["level"] == (found.get("level") or "all"))
    lines = [
        [
            plain_text(row["arm"]),
            interval(row["value"], row["ci_low"], row["ci_high"]) if row["flag"] != "suppressed" else "suppressed",
        ]
        for row in cells[keep].to_dict("records")
    ]
    return f"## Every arm\n\n{table(['arm', plain_text(verdict.endpoint(found)) + ' [95 %]'], lines)}" if lines else ""


def _gate(run: RunFolder) -> str:
    lines = []
    for part in run.sets:
        if "gate" in part.rows:
            accepted = int((part.rows["gate"] == "accept").sum())
            lines.append([plain_text(part.draw), plain_text(part.name), f"{accepted} of {len(part.rows)}"])
    if not lines:
        return ""
    chosen = [f"{draw.ratio['chosen']:g}" for draw in run.draws if draw.ratio.get("chosen") is not None]
    told = f"Synthetic images per real one, chosen on validation, by draw: {', '.join(chosen)}." if chosen else ""
    return f"## What the gate accepted\n\n{table(['draw', 'set', 'images'], lines)}\n\n{told}".rstrip()


def _probe(found: dict[str, Any]) -> str:
    probe = found.get("source_probe")
    if not isinstance(probe, dict):
        return ""
    return f"The source of a test image is told from its pixels with AUROC {number(probe.get('auroc'))} (source probe)."


def _made(run: RunFolder) -> str:
    machine = run.settings.get("machine", {})
    words = [str(machine[key]) for key in ("processor", "gpu") if machine.get(key)]
    words += [f"{machine['cores']} cores"] if machine.get("cores") else []
    words += [f"{machine['memory_gib']} GiB"] if machine.get("memory_gib") else []
    lines = [f"- machine: {', '.join(words) or 'not recorded'}"]
    if run.seconds:
        stages = ", ".join(f"{stage} {seconds / 60:.1f}" for stage, seconds in run.seconds.items() if seconds >= 3)
        lines.append(f"- time: {sum(run.seconds.values()) / 60:.0f} minutes ({stages})")
    versions = run.settings.get("versions", {})
    lines.append(f"- versions: {', '.join(f'{name} {version}' for name, version in versions.items())}")
    lines.append(
        "- tables here are over all seeds and draws, without the suppressed rows; `recipe.yaml` and "
        "`settings.json` hold every setting"
    )
    return "## How it was made\n\n" + "\n".join(lines)


def _without_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with every path cut to its name: folders of a machine say nothing about a result."""
    recipe = {
        key: dict(value) if isinstance(value, dict) else value for key, value in settings.get("recipe", {}).items()
    }
    for path in LEFT_OUT:
        part, key = path.split(".")
        if isinstance(recipe.get(part), dict) and recipe[part].get(key):
            recipe[part][key] = Path(str(recipe[part][key])).name
    core = recipe.get("core")
    if isinstance(core, dict) and core.get("name"):
        core["name"] = Path(str(core["name"])).name
    return {**settings, "recipe": recipe} if recipe else dict(settings)


def _first_set(run: RunFolder) -> SetFolder | None:
    return next((part for part in run.sets if part.name == "core" and len(part.rows)), None)


def _write_sheet(part: SetFolder, run: RunFolder, path: Path) -> bool:
    """Accepted synthetic images, one row per finding and group level, captioned with it; False if none."""
    rows = part.rows[part.rows["gate"] == "accept"] if "gate" in part.rows else part.rows
    refuse_real(rows, part.folder / "manifest.parquet")
    groups = [g for g in run.setting("evaluate", "groups", default=[]) or [] if "*" not in g and g != "source"]
    findings = run.setting("data", "findings") or sorted(
        {f for text in rows["labels"] for f in str(text).split("|") if f[:1] not in ("-", "?")}
    )
    strips = [
        (finding if level == "all" else f"{finding}, {level}", strip)
        for finding, levels in choose(rows, findings, groups, per_cell=PER_CELL)
        for level, strip in levels
    ]
    if not strips:
        return False
    lines = []
    for caption, strip in strips:
        images = [read_synthetic(part.folder, str(name)) for name in strip["image"]]
        side = max(max(image.shape) for image in images)
        canvas = Image.new("L", (PER_CELL * (side + 2), side + LINE + 4), 255)
        ImageDraw.Draw(canvas).text((2, 1), caption.encode("ascii", "replace").decode(), 0)
        for column, image in enumerate(images):
            canvas.paste(Image.fromarray(image), (column * (side + 2), LINE + 2))
        lines.append(canvas)
    sheet = Image.new("L", (max(c.width for c in lines), sum(c.height for c in lines)), 255)
    for canvas, top in zip(lines, np.cumsum([0, *(c.height for c in lines)]), strict=False):
        sheet.paste(canvas, (0, int(top)))
    with atomic(path) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)
    return True
