"""A first recipe for a user's own manifest, with what was found in it filled in and every choice explained."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import yaml

from cxraug.errors import InputError
from cxraug.studies.labels import NO_FINDING
from cxraug.studies.manifest import Manifest

MIN_TEST_POSITIVES = 10  # below that no statement about a finding survives the small-cell rule

TEMPLATE = """\
# cxraug run {file}
# Checked with `cxraug recipe check {file}`. Paths start at this file's folder. Unknown keys are errors.
name: {name}
seed: 0
draws: 3        # random draws of limits and synthetic sets; one draw cannot tell luck from effect
seeds: 3        # trainings per draw and arm

data:
  manifest: {manifest}
  # root: /data/images         # if image paths do not start at the manifest's folder
  # where: {{source: [mine]}}    # keep only rows with these values; the key labels keeps rows with a finding
{label_columns}  findings: {findings}         # what classifiers learn; others are left out
  size: 64                     # pixels; 64 for a first look on a CPU, 224 or more on a GPU
  # limit:                     # "what if I had only 10 of these?"
  #   - {{finding: {finding}, patients: 10}}

audit:
  groups: {groups}
  age_bins: [0, 20, 40, 60, 80]

plan:
  findings: [{finding}]        # what to raise
  budget: 400                  # studies to pull from the core
  companions: 1                # and as many without the wanted findings: looking synthetic must not mean having them

core:                          # phantom-nano is procedural and no match for real X-rays: train your own
  name: train                  # fitted on the training rows of this run, never on validation or test
  train: {{steps: 2000}}

arms:
  use: [real, duplicated, weighted, gaussian, mixed]   # mixed is your core; the others are its controls
  # ratios: [0.5, 1, 2]        # synthetic images per real one, chosen on validation; default: the whole plan

train:
  model: resnet10t             # any timm model
  steps: 400
  # weights: mine.safetensors  # start from your own pretrained classifier

evaluate:
  groups: {groups}
  primary:                     # the one claim the verdict is about; everything else is exploratory
    arm: mixed
    control: duplicated        # same number of images in the same cells, nothing new
    finding: {finding}
    metric: auroc
  # probes: {groups}           # can these be read off what a classifier gives to its last layer?
  # recalibration: platt       # or temperature, isotonic, none: on validation, before Brier score and ECE
"""


def draft_recipe(manifest: Manifest, manifest_path: Path, out: Path, finding: str | None = None) -> str:
    """Text of a commented recipe (YAML) for the manifest that was read from ``manifest_path``.

    ``finding`` is the rare finding of the primary endpoint; by default the one with the fewest training positives among
    those with at least 10 positive test rows.
    """
    usable = _usable(manifest)
    if finding is None:
        if not usable:
            raise InputError(
                f"no finding has {MIN_TEST_POSITIVES} positive and negative test rows, so no effect could be measured",
                file=manifest_path,
            )
        finding = min([name for name in usable if name != NO_FINDING] or usable, key=lambda name: usable[name])
    elif finding not in manifest.findings:
        raise InputError(
            f"unknown finding {finding!r}", file=manifest_path, column="labels", expected=", ".join(manifest.findings)
        )
    groups = [g for g in ("sex", "age", "race") if g in manifest.frame and manifest.frame[g].notna().mean() > 0.5]
    names = sorted({*usable, finding})
    return TEMPLATE.format(
        file=out.name,
        name=_quoted("".join(c if c.isalnum() or c in "._-" else "-" for c in out.stem).strip("-.") or "mine"),
        manifest=_quoted(os.path.relpath(manifest_path.resolve(), out.resolve().parent)),
        label_columns=_label_columns_line(manifest.label_columns),
        findings="[" + ", ".join(_quoted(name) for name in names) + "]",
        finding=_quoted(finding),
        groups="[" + ", ".join(groups) + "]",
    )


def _label_columns_line(columns: dict[str, str]) -> str:
    """The setting ``label_columns`` as a line of the template; nothing where the labels are in ``labels``."""
    if not columns:
        return ""
    same = all(column == finding for column, finding in columns.items())
    pairs = [_quoted(c) if same else f"{_quoted(c)}: {_quoted(finding)}" for c, finding in columns.items()]
    text = ", ".join(pairs)
    return f"  label_columns: {f'[{text}]' if same else f'{{{text}}}'}   # 1, 0, -1 (uncertain) or blank\n"


def _usable(manifest: Manifest) -> dict[str, int]:
    """Training positives of each finding that the test rows can measure and the training rows can teach."""
    y, split = manifest.y(), manifest.frame["split"].to_numpy()
    test, train = y[split == "test"], y[split == "train"]
    counts = {}
    for k, name in enumerate(manifest.findings):
        positive, negative = int(np.nansum(test[:, k])), int((test[:, k] == 0).sum())
        if min(positive, negative) >= MIN_TEST_POSITIVES and np.nansum(train[:, k]) > 0:
            counts[name] = int(np.nansum(train[:, k]))
    return counts


def _quoted(text: str) -> str:
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=10**6).strip()
