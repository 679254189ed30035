"""What importing and auditing the archives costs, on the real tables that torchxrayvision carries, and what they hold.

    python benchmarks/sources.py [SOURCE ...] [--out benchmarks/SOURCES.md]   seconds, peak memory, what was odd
    python benchmarks/sources.py --counts nih                                  the tables of a data card

The tables are copied from the installed package to a temporary folder in the archive's own layout and imported by
`cxraug import SOURCE ROOT --table-only` in a process of its own, then audited by `cxraug audit m.parquet --no-pixels
--groups sex,age`, the page included. Seconds are wall and processor time of the whole
command, start of Python included; memory is the largest resident set of the process. MIMIC-CXR has no public table.
Sources that are not named keep the rows that the file has of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from cxraug.evaluation.groups import group_levels, level_order
from cxraug.studies.manifest import Manifest, read_manifest

SHIPPED = {  # source -> file of the package -> its official name
    "nih": {"Data_Entry_2017_v2020.csv.gz": "Data_Entry_2017_v2020.csv.gz",
            "BBox_List_2017.csv.gz": "BBox_List_2017.csv.gz"},
    "chexpert": {"chexpert_train.csv.gz": "train.csv.gz"},
    "padchest": {"PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz":
                 "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"},
    "vindr": {"vinbigdata-train.csv.gz": "train.csv.gz"},
    "rsna": {"kaggle_stage_2_train_labels.csv.zip": "stage_2_train_labels.csv",
             "kaggle_stage_2_train_images_dicom_headers.csv.gz": "kaggle_stage_2_train_images_dicom_headers.csv.gz"},
    "siim": {"siim-pneumothorax-train-rle.csv.gz": "train-rle.csv.gz"},
    "openi": {"NLMCXR_reports.tgz": "", "nlmcxr_dicom_metadata.csv.gz": "nlmcxr_dicom_metadata.csv.gz"},
}  # fmt: skip
AGE_BINS = (0, 20, 40, 60, 80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", choices=[[], *SHIPPED], metavar="SOURCE")
    parser.add_argument("--counts", choices=list(SHIPPED))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.counts:
        with tempfile.TemporaryDirectory() as folder:
            root = prepare(options.counts, Path(folder))
            record, *_ = import_measured(options.counts, root)
            print("\n".join(count_tables(read_manifest(root / "m.parquet"), record)))
        return
    kept = options.out.read_text().splitlines() if options.out and options.out.exists() else []
    cost, odd = [], []
    for key in SHIPPED:
        if options.sources and key not in options.sources:
            before = [line for line in kept if line.startswith(f"| {key} |")]
            cost, odd = cost + before[:1], odd + before[1:]
            continue
        with tempfile.TemporaryDirectory() as folder:
            root = prepare(key, Path(folder))
            record, wall, cpu, peak = import_measured(key, root)
            size = (root / "m.parquet").stat().st_size / 2**20
            words = [
                "audit",
                str(root / "m.parquet"),
                "--no-pixels",
                "--groups",
                "sex,age",
                "--out",
                str(root / "audit"),
            ]
            looked = measured([*words, "--json"], root / "audit.out")
        cost.append(f"| {key} | {record['files'][0]} | {record['images']:,} | {record['patients']:,} | {wall:.1f} | "
                    f"{cpu:.1f} | {peak:.0f} | {size:.1f} | {looked[0]:.1f} | {looked[2]:.0f} |")  # fmt: skip
        odd += [f"| {key} | {what} | {n:,} |" for what, n in record["odd"].items()]
    text = "\n".join([
        "# Importing and auditing the archives", "", "    python benchmarks/sources.py --out benchmarks/SOURCES.md", "",
        " ".join(__doc__.split("\n\n")[2].split()), "",
        "| source | table | images | patients | wall s | CPU s | peak MB | manifest MB | audit: wall s | peak MB |",
        "|---|---|---|---|---|---|---|---|---|---|", *cost, "",
        "What was odd in the tables, as the import counts it:", "", "| source | what | number |", "|---|---|---|", *odd,
    ])  # fmt: skip
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


def prepare(key: str, folder: Path) -> Path:
    """Lay the shipped files of a source out in ``folder``, by their official names."""
    spec = find_spec("torchxrayvision")
    if spec is None or spec.origin is None:
        raise SystemExit("these tables come with torchxrayvision: pip install torchxrayvision")
    for name, official in SHIPPED[key].items():
        shipped = Path(spec.origin).parent / "data" / name
        if name.endswith(".zip"):
            with zipfile.ZipFile(shipped) as files:
                (folder / official).write_bytes(files.read(official))
        elif name.endswith(".tgz"):
            with tarfile.open(shipped) as files:
                files.extractall(folder, filter="data")
        else:
            shutil.copy(shipped, folder / official)
    return folder


def import_measured(key: str, root: Path) -> tuple[dict[str, Any], float, float, float]:
    """The record of an import to ``root/m.parquet``, its wall and processor seconds, and its peak memory in MB."""
    words = ["import", key, str(root), "--table-only", "--json", "--out", str(root / "m.parquet")]
    wall, cpu, peak = measured(words, root / "answer.json")
    return json.loads((root / "answer.json").read_text()), wall, cpu, peak


def measured(words: list[str], answer: Path) -> tuple[float, float, float]:
    """Wall and processor seconds of a command, and its peak memory in MB; what it prints goes to ``answer``."""
    started = time.perf_counter()
    with answer.open("wb") as stream:
        process = subprocess.Popen([sys.executable, "-m", "cxraug", *words], stdout=stream)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"cxraug {words[0]} {words[1]} ended with {process.returncode}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def count_tables(manifest: Manifest, record: dict[str, Any]) -> list[str]:
    """Lines of Markdown: images and patients by sex, age and view; images by finding, sex and age band."""
    frame = manifest.frame
    age = group_levels(frame, "age", AGE_BINS)
    columns = {"sex": frame["sex"].fillna("missing"), "age": age, "view": frame["view"]}
    lines = [f"{record['images']:,} images, {record['patients']:,} patients", ""]
    lines += ["| | level | images | share | patients |", "|---|---|---|---|---|"]
    for name, levels in columns.items():
        order = level_order(levels, AGE_BINS) if name == "age" else sorted(levels.unique())
        for level in order:
            mask = (levels == level).to_numpy()
            patients = frame.loc[mask, "patient_id"].nunique()
            lines.append(f"| {name} | {level} | {mask.sum():,} | {mask.mean():.1%} | {patients:,} |")
    known = frame["age"].dropna()
    if len(known):
        lines += ["", f"Age of the images: median {known.median():.0f}, quartiles {known.quantile(0.25):.0f} and "
                  f"{known.quantile(0.75):.0f}, from {known.min():.0f} to {known.max():.0f} years."]  # fmt: skip
    with_sex = bool(frame["sex"].notna().any())
    more = " women | share of women |" if with_sex else ""
    lines += ["", f"| finding | images | share of known | uncertain |{more}"]
    lines.append("|---|---|---|---|" + ("---|---|" if with_sex else ""))
    y = pd.DataFrame(manifest.y(), columns=list(manifest.findings))
    women = (frame["sex"] == "F").to_numpy()
    for finding in sorted(manifest.findings, key=lambda f: -(y[f] == 1).sum()):
        has, told = (y[finding] == 1).to_numpy(), y[finding].notna().sum()
        line = f"| {finding} | {has.sum():,} | {has.sum() / told:.1%} | {record['uncertain'].get(finding, 0):,} |"
        lines.append(line + (f" {(has & women).sum():,} | {(has & women).sum() / has.sum():.0%} |" if with_sex else ""))
    return lines


if __name__ == "__main__":
    main()
