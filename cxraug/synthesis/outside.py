"""The control that starts from the same outside data as a core: those data themselves, in the plan's cells.

A core that learned from other patients brings their information along. Whether the *generator* helps is seen only
beside an arm that adds images of those patients directly (rule 2 of the evidence rules).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from cxraug.cores.core import Card
from cxraug.errors import InputError
from cxraug.progress import track
from cxraug.storage import atomic
from cxraug.studies.images import Encoding, encode
from cxraug.studies.phantom.cohort import PhantomSettings


def outside_cohort(card: Card) -> PhantomSettings | None:
    """The phantom cohort a core was trained on, or None if its training data cannot be made again."""
    settings = card.training_data.get("phantom")
    return None if settings is None else PhantomSettings.model_validate(settings)


def outside_set(
    core: str,
    plan: pd.DataFrame,
    out: Path,
    *,
    cells: Callable[[pd.DataFrame], np.ndarray],
    encoding: Encoding,
    seed: int,
) -> dict[str, Any]:
    """Write a set with one study of the core's own training cohort for every row of ``plan``.

    Each row gets a study of its cell (label set, sex, age band, views), where there is none a study of its label set
    and views, used again only when the cohort has no more. A label set that the cohort does not have in the views asked
    for is an :class:`InputError`. Returns counts for the report: images, and studies of the label set only.
    """
    from cxraug.cores.registry import read_card
    from cxraug.studies.phantom.cohort import render_study, sample_cohort

    card = read_card(core)
    settings = outside_cohort(card)
    if settings is None:
        raise InputError(f"core {card.name}: its training data cannot be made here, so there is no outside arm",
                         expected="arms.use without outside")  # fmt: skip
    cohort = sample_cohort(settings)
    chosen, fallback = _choose(plan, cohort, cells, np.random.default_rng(seed))
    (out / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    records: list[dict[str, Any]] = cohort.to_dict("records")  # type: ignore[assignment]
    for prompt, number in track(list(zip(plan.to_dict("records"), chosen, strict=True)), "outside data"):
        rendered = render_study(records[number], settings)
        for view in str(prompt["views"]).split("|"):
            name = f"images/{prompt['prompt_id']}_{view.replace(' ', '-')}.png"
            with atomic(out / name) as temporary:
                Image.fromarray(encode(rendered.images[view], encoding)).save(temporary)
            rows.append({"image": name, "patient_id": records[number]["patient_id"], "study_id": prompt["prompt_id"],
                         "prompt_id": prompt["prompt_id"], "view": view, "sex": prompt["sex"], "age": prompt["age"],
                         "labels": prompt["labels"], "split": "train", "synthetic": True, "core": "outside data",
                         "gate": "accept", "gate_reasons": ""})  # fmt: skip
    with atomic(out / "manifest.parquet") as temporary:
        pd.DataFrame(rows).to_parquet(temporary, index=False)
    return {"accepted": len(rows), "total": len(rows), "from_label_set_only": fallback}


def _choose(
    plan: pd.DataFrame, cohort: pd.DataFrame, cells: Callable[[pd.DataFrame], np.ndarray], rng: np.random.Generator
) -> tuple[list[int], int]:
    first = plan["views"].str.split("|").str[0]
    wanted = cells(plan.assign(view=first))
    have = {view: cells(cohort.assign(view=view)) for view in pd.unique(first)}  # a cell's view is the one asked for
    label_set = np.array([key.split("|")[0] for key in next(iter(have.values()))]) if have else np.array([])
    shown = [set(views.split("|")) for views in cohort["views"]]
    able = {views: np.array([s.issuperset(views.split("|")) for s in shown]) for views in pd.unique(plan["views"])}
    order = rng.permutation(len(cohort))
    used = np.zeros(len(cohort), int)
    chosen, fallback = [], 0
    for key, view, views in zip(wanted, first, plan["views"], strict=True):
        usable = order[able[views][order]]
        exact = usable[have[view][usable] == key]
        if not len(exact):
            fallback += 1
            exact = usable[label_set[usable] == key.split("|")[0]]
        if not len(exact):
            raise InputError(
                f"the outside data have no study with the label set {key.split('|')[0]!r}",
                expected=f"one with the views {views}",
            )
        best = exact[np.argmin(used[exact])]
        used[best] += 1
        chosen.append(int(best))
    return chosen, fallback
