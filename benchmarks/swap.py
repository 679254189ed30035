"""A swap of real X-rays at several strengths: what the stand-ins are worth, and who finds the patients in them.

    python benchmarks/swap.py MANIFEST --sources kermany_pediatric --work WORK --out docs/results/swap/kermany

Each strength is a swap of its own under WORK (which holds what links old and new, and is for nobody else), with the
report's utility table and attacks; the attackers' networks are trained once. A point that is done is not done again. At
`attributes` the stand-ins pass the whole gate, the best of several candidates. At the others, where the original images
reach the core, the gate is off and the only candidate counts, since the curve is to show what the checks are for:
`copies` is the share of stand-ins that the copy check would have refused.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxraug.classifiers.settings import TrainSettings
from cxraug.cores.registry import open_core
from cxraug.gate.check import Images
from cxraug.gate.duplicates import Duplicates
from cxraug.gate.settings import GateSettings
from cxraug.privacy.attacks import AttackSettings, attack_swap, link_rows
from cxraug.privacy.choice import OwnPatient
from cxraug.privacy.swap import PLAN, Swapped, swap
from cxraug.privacy.swap_settings import SwapSettings, parse_strength
from cxraug.privacy.utility import SWAPPED, Material, UtilitySettings, utility_table
from cxraug.seeds import derive_seed
from cxraug.storage import read_json, write_json
from cxraug.studies.cache import build_cache
from cxraug.studies.manifest import Manifest, read_manifest

CHECKS = ("agreement", "demographics", "realism", "reports", "duplicates")
COLUMNS = (
    "strength",
    "part",
    "target",
    "impostors",
    "measure",
    "value",
    "ci_low",
    "ci_high",
    "n",
    "n_patients",
    "flag",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--sources", required=True, help="Sources of the manifest, separated by commas.")
    parser.add_argument("--core", default="cxr-nano")
    parser.add_argument("--strengths", default="attributes,0.97,0.9,0.6,0.3")
    parser.add_argument("--patients", type=int, help="Swap at most so many patients, drawn at random.")
    parser.add_argument("--view-as", default="", help="OLD=NEW, for views the core does not know.")
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--candidates", type=int, default=2)
    parser.add_argument("--train-steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--same-labels", action="store_true", help="As of `cxraug privacy`.")
    parser.add_argument("--attack-steps", type=int, default=600)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    real = limited(read_manifest(asked.manifest, where={"source": asked.sources.split(",")}), asked.patients)
    found = []
    for strength in asked.strengths.split(","):
        folder = asked.work / strength
        if not (folder / "point.json").is_file():
            print(f"strength {strength}", file=sys.stderr, flush=True)
            point(real, strength, folder, asked)
        found.append(read_json(folder / "point.json"))
    asked.out.mkdir(parents=True, exist_ok=True)
    rows = [{"strength": part["strength"], **row} for part in found for row in part["rows"]]
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(asked.out / "curve.csv", index=False)
    (asked.out / "curve.md").write_text(table(found))
    print(table(found))


def limited(real: Manifest, patients: int | None) -> Manifest:
    """``real`` with at most so many of its training patients, and all of its other rows."""
    if patients is None:
        return real
    frame = real.frame
    train = (frame["split"] == "train").to_numpy(bool)
    names = np.sort(frame.loc[train, "patient_id"].unique())
    chosen = np.random.default_rng(derive_seed("patients of the swap")).permutation(names)[:patients]
    return real.take(~train | frame["patient_id"].isin(chosen).to_numpy(bool))


def point(real: Manifest, strength: str, folder: Path, asked: argparse.Namespace) -> None:
    """Swap at one strength, measure, and write ``point.json``."""
    plain = strength == "attributes"
    views = dict([asked.view_as.split("=")]) if asked.view_as else {}
    settings = SwapSettings(
        k=asked.k, strength=parse_strength(strength), candidates=asked.candidates if plain else 1, view_as=views,
        own_nearest=plain, gate=GateSettings(max_redraws=0, **({} if plain else dict.fromkeys(CHECKS, False))),
    )  # fmt: skip
    key = folder / "key"  # one key: the same stand-ins are drawn again after an interruption
    if not key.is_file():
        key.parent.mkdir(parents=True, exist_ok=True)
        key.write_text(derive_seed("swap", strength).to_bytes(8, "little").hex() * 4)

    def measure(swapped: Swapped, _: Path) -> None:
        rows = [*utility(swapped, asked, plain), *attacks(swapped, asked, plain), *refused(swapped)]
        facts = {
            name: swapped.facts[name] for name in ("k", "studies", "swapped", "images", "left_out", "cells", "core")
        }
        write_json(folder / "point.json", {"strength": strength, "rows": rows, "facts": facts})

    swap(
        real,
        open_core(asked.core),
        folder / "set",
        settings,
        key=key,
        keep_private=True,
        reporter=measure,
        fresh=(folder / "set").exists(),
    )


def utility(swapped: Swapped, asked: argparse.Namespace, plain: bool) -> list[dict[str, Any]]:
    """AUROC on real test rows of the arms, and its ratio to training on real images.

    The controls are trained at ``attributes`` alone; the arm on real images is the same at every point.
    """
    frame, cache = swapped.real.frame, swapped.cache
    parts: list[Any] = []
    for rows in (swapped.source, *((frame["split"] == name).to_numpy(bool) for name in ("val", "test"))):
        parts += [swapped.real.take(rows), cache.take(rows)]
    more: dict[str, Any] = {} if plain else {"arms": (SWAPPED,)}
    settings = UtilitySettings(train=TrainSettings(steps=asked.train_steps), seeds=asked.seeds, groups=("sex",), **more)
    for seed in range(asked.seeds):  # trained once
        first = asked.work / "attributes" / "set-private" / "utility" / "arms" / f"real-{seed}"
        here = swapped.private / "utility" / "arms" / first.name
        if first.is_dir() and not here.exists():
            shutil.copytree(first, here)
    found = utility_table(Material(*parts, plan=pd.read_parquet(swapped.private / PLAN)), swapped.folder,
                          swapped.private / "utility", settings, size=swapped.encoding.size)  # fmt: skip
    rows = []
    for row in found.to_dict("records"):
        about = {"part": "utility", "target": row["arm"], "impostors": f"{row['group']}={row['level']}", "n": row["n"],
                 "n_patients": row["n_patients"], "flag": row["flag"]}  # fmt: skip
        for name in ("auroc", "ratio"):
            if row[name] == row[name]:
                rows.append(about | {"measure": f"{name}, {row['finding']}", "value": row[name],
                                     "ci_low": row[f"{name}_low"], "ci_high": row[f"{name}_high"]})  # fmt: skip
    return rows


def attacks(swapped: Swapped, asked: argparse.Namespace, plain: bool) -> list[dict[str, Any]]:
    """Every attack of ``cxraug privacy`` on the stand-ins, the real pairs first; on the core's loss once."""
    settings = AttackSettings(steps=asked.attack_steps, loss=plain, same_labels=asked.same_labels)
    found = attack_swap(
        swapped.real, read_manifest(swapped.folder / "manifest.parquet"), swapped.links, swapped.private / "attacks",
        settings, core=swapped.core, networks=asked.work / "networks",
    )  # fmt: skip
    return [
        {"part": row["attack"], **{name: row[name] for name in ("target", "impostors", "measure", "value", "ci_low",
         "ci_high", "n_patients", "flag")}, "n": row["n_pairs"]} for row in found["rows"]
    ]  # fmt: skip


def refused(swapped: Swapped) -> list[dict[str, Any]]:
    """How many stand-ins the copy check of the gate rejects, and how many are nearest to their own patient."""
    made, cache = build_cache(
        read_manifest(swapped.folder / "manifest.parquet"), swapped.private / "copies", swapped.encoding
    )
    rows, originals = link_rows(swapped.real, made, swapped.links)
    source, patients = swapped.source, swapped.real.frame["patient_id"].to_numpy(dtype=object)
    train, nothing = np.asarray(swapped.cache.pixels)[source], np.zeros((len(patients), 0), np.float32)
    check = Duplicates(0.01)
    check.fit(Images(train, nothing[source], patients[source], swapped.cache.sha[source]))
    pixels, ids = np.asarray(cache.pixels)[rows], made.frame["patient_id"].to_numpy(dtype=object)[rows]
    p = check.score(Images(pixels, np.zeros((len(rows), 0), np.float32), ids)).p[:, 0]
    own = OwnPatient(train, patients[source]).hits(pixels, patients[originals])
    about = {"part": "refused", "target": "stand-ins", "impostors": "", "n": len(rows), "flag": ""}
    return [about | {"measure": "by the copy check at 1 %", "value": float((p <= check.tests[0].rate).mean())},
            about | {"measure": "nearest to the own patient", "value": float(own.mean())}]  # fmt: skip


def table(found: list[dict[str, Any]]) -> str:
    """The curve as a table: one row per strength."""
    wanted = {
        "AUROC ratio to real": ("utility", "swapped", "all=all", ("ratio, macro",)),
        "Gaussian swap": ("utility", "Gaussian swap", "all=all", ("ratio, macro",)),
        "re-identification": ("re-identification", "synthetic to original", "matched", ("auc",)),
        "attribute linkage": ("attribute linkage", "synthetic to original", "unmatched", ("auc",)),
        "membership": ("membership", "distance, calibrated by real neighbours", "held-out real images", ("auc",)),
        "closer to train": ("closest record", "synthetic images", "held-out real images", ("closer to train",)),
        "copies": ("refused", "stand-ins", "", ("by the copy check at 1 %",)),
    }
    lines = ["| strength | stand-ins | " + " | ".join(wanted) + " |"]
    lines.append("|---" * (len(wanted) + 2) + "|")
    for part in found:
        cells = [cell(part["rows"], *how) for how in wanted.values()]
        facts = part["facts"]
        lines.append(f"| {part['strength']} | {facts['swapped']} of {facts['studies']} | {' | '.join(cells)} |")
    first = found[0]["rows"]
    matched = cell(first, "re-identification", "real pairs", "matched", ("auc",))
    others = cell(first, "attribute linkage", "real pairs", "unmatched", ("auc",))
    head = f"AUC of the attack on real pairs: {matched} against matched impostors, {others} against any.\n\n"
    return head + "\n".join(lines) + "\n"


def cell(rows: list[dict[str, Any]], part: str, target: str, impostors: str, measures: tuple[str, ...]) -> str:
    """One number with its interval."""
    for row in rows:
        if (row["part"], row["target"], row["impostors"]) == (part, target, impostors) and row["measure"] in measures:
            value, low, high = (row.get(name) for name in ("value", "ci_low", "ci_high"))
            if value is None or value != value:
                return row.get("flag") or ""
            return f"{value:.3f}" + ("" if low is None or low != low else f" [{low:.3f}, {high:.3f}]")
    return ""


if __name__ == "__main__":
    main()
