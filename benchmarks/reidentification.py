"""How well is a patient recognised from a second X-ray? The attack of ``cxraug privacy`` on real pairs, set by set.

    python benchmarks/reidentification.py --work WORK --real MANIFEST --out benchmarks/REIDENTIFICATION.md

Phantom patients (made here, with several studies each), and of the real manifest the sources of :data:`SETS`.
kermany_pediatric is attacked twice: its files share person numbers between viral and bacterial pneumonia, which may be
two persons, so that the second time a number under another label is another patient. Every patient is attacked by a
network trained on the other folds of the same set. ``--sets`` does some of them; what ``WORK`` holds is not done again,
and the table has all that is finished.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cxraug.machine import machine
from cxraug.privacy.attacks import AttackSettings
from cxraug.privacy.linkage import MATCHED_ON
from cxraug.privacy.reidentification import ATTRIBUTES, REIDENTIFICATION, Gallery, Identification
from cxraug.storage import atomic, read_json, write_json
from cxraug.studies.cache import build_cache
from cxraug.studies.images import Encoding
from cxraug.studies.manifest import Manifest, read_manifest
from cxraug.studies.phantom.cohort import PhantomSettings, make_cohort

PHANTOM = PhantomSettings(n=1800, seed=5, size=64, studies_per_patient=2.0)
SETS = {
    "phantom": [],
    "nih_cxr14": ["nih_cxr14", "nih_cxr14_64px"],
    "kermany_pediatric": ["kermany_pediatric"],
    "kermany_pediatric-by-label": ["kermany_pediatric"],
    "hannover_covid": ["hannover_covid"],
}
BY_LABEL = "-by-label"  # a patient number counts as another patient under another label


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--steps", type=int, default=AttackSettings.steps)
    parser.add_argument("--size", type=int, default=AttackSettings.size)
    options = parser.parse_args()
    settings = AttackSettings(steps=options.steps, size=options.size)
    for name in options.sets.split(","):
        if name != "phantom" and options.real is None:
            continue
        folder = options.work / name
        own = replace(settings, same_labels=name.endswith(BY_LABEL))
        if not (folder / "result.json").is_file():
            write_json(folder / "result.json", attack(manifest_of(name, options), folder, own))
    found = {name: read_json(p) for name in SETS if (p := options.work / name / "result.json").is_file()}
    text = table(found)
    print(text)
    if options.out is not None:
        with atomic(options.out) as temporary:
            temporary.write_text(text, encoding="utf-8")


def manifest_of(name: str, options: argparse.Namespace) -> Manifest:
    """The phantom cohort, or the rows of a set's sources."""
    if name == "phantom":
        return read_manifest(make_cohort(PHANTOM, options.work / name / "cohort", workers=1))
    return read_manifest(options.real, where={"source": SETS[name]})


def attack(manifest: Manifest, folder: Path, settings: AttackSettings) -> dict[str, Any]:
    """Train the networks and attack all real pairs."""
    started = time.process_time()
    manifest, cache = build_cache(manifest, folder / "real", Encoding(settings.size))
    gallery = Gallery.of(manifest, cache, settings.identification)
    found = Identification(gallery, folder, settings.identification).attack_real()
    return {
        "images": len(manifest), "patients": len(np.unique(gallery.patient)), "rows": found.rows,
        "facts": found.facts, "notes": found.notes, "seconds": time.process_time() - started,
        "steps": settings.steps, "size": settings.size, "machine": machine(),
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "# Re-identification of real patients", "",
        "Written by `python benchmarks/reidentification.py` (see there). Two images of one patient against impostors "
        f"of other patients. Matched impostors share {MATCHED_ON}; intervals are 95 %, clustered by patient.", "",
        "| set | images | patients | pairs (patients) | AUC, matched | rank-1, matched | TPR at FMR 1 % | "
        "TPR at FMR 0.1 % | EER | AUC, unmatched |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, result in found.items():
        rows = {(row["attack"], row["measure"].split(" of ")[0]): row for row in result["rows"]}
        first = rows[REIDENTIFICATION, "auc"]
        cells = [name, str(result["images"]), str(result["patients"]), f"{first['n_pairs']} ({first['n_patients']})"]
        for measure in ("auc", "rank-1", "tpr at fmr 0.01", "tpr at fmr 0.001", "eer"):
            cells.append(_cell(rows.get((REIDENTIFICATION, measure))))
        cells.append(_cell(rows.get((ATTRIBUTES, "auc"))))
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "AUC of each attacker alone, matched and unmatched, and the attacker that each fold used:", ""]
    for name, result in found.items():
        alone = [f"{who} {value:.3f}" for who, value in result["facts"]["auc_of_each_attacker"].items() if value]
        used = ", ".join(result["facts"]["attackers"])
        lines.append(
            f"- {name}: {'; '.join(alone)}; used: {used}. {result['steps']} steps a fold at {result['size']} px, "
            f"{result['seconds']:.0f} s of processor time."
        )
        lines += [f"  - {note}" for note in result["notes"]]
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    if row["value"] is None:
        return row["flag"]
    of = row["measure"].partition(" of ")[2]
    text = f"{row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
    return f"{text} of {of}" if of else text


if __name__ == "__main__":
    main()
