"""From the predictions of all arms to the evaluation files and the verdict on the primary endpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cxraug.arm_job import arm_folder, chosen_jobs, curve_jobs
from cxraug.recipe import CONTROLS, WITHOUT_GATE
from cxraug.run import Run
from cxraug.seeds import derive_seed
from cxraug.storage import atomic, read_json, write_json

if TYPE_CHECKING:
    from cxraug.evaluation.room import Room


HARDLY_TOLD = 0.6  # AUROC of the source probe up to which a source is no ready shortcut


def conclude(run: Run) -> dict[str, Any]:
    """Evaluate every arm on the test rows and write ``evaluation/`` and ``verdict.json``."""
    from cxraug.evaluation.endpoint import verdict
    from cxraug.evaluation.evaluate import evaluate, write_evaluation
    from cxraug.evaluation.predictions import read_predictions

    recipe = run.recipe
    tables = [pd.read_parquet(arm_folder(job) / "predictions.parquet") for job in chosen_jobs(run)]
    settings = recipe.evaluate.settings(comparisons=comparisons(run), seed=derive_seed(recipe.seed, "evaluate"))
    predictions = read_predictions([pd.concat(tables, ignore_index=True)])
    result = evaluate(predictions, settings, recalibration=recipe.evaluate.recalibration)
    write_evaluation(result, run.folder / "evaluation")
    outside, notes = outside_data(run)
    if recipe.data.limit and not recipe.data.limit_val:
        notes.append("validation was not limited (limit_val: false)")
    notes += thrown_out(run) + unjudged(run)
    probe = source_probe(run) if recipe.evaluate.source_probe else None
    if probe is not None:
        told = f"the source of a test image is told from its pixels with AUROC {probe['auroc']:.3f}"
        notes.append(told + ("; read findings within one source" if probe["auroc"] > HARDLY_TOLD else " (hardly)"))
    notes += under_represented(run, result.comparison)
    found = verdict(result, recipe.evaluate.primary, room=room(run), outside=outside, notes=notes)
    write_json(run.folder / "verdict.json", {**found, "source_probe": probe})
    return found


def comparisons(run: Run) -> list[tuple[str, str]]:
    """(control, arm) pairs: every arm against each of its controls that the recipe trains, the primary pair first."""
    primary, use = run.recipe.evaluate.primary, run.recipe.arms.use
    pairs = [(primary.control, primary.arm)]
    pairs += [(control, arm) for arm in use for control in CONTROLS.get(arm, ()) if control in use]
    return list(dict.fromkeys(pairs))


def curve_points(run: Run) -> None:
    """Write ``curve/points.csv``, the test AUROC of every training of the learning curve, and print the means."""
    from sklearn.metrics import roc_auc_score

    assert run.recipe.curve is not None
    finding, rows = run.recipe.curve.finding, []
    for job in curve_jobs(run):
        table = pd.read_parquet(arm_folder(job) / "predictions.parquet")
        table = table[(table["split"] == "test") & table[f"y_{finding}"].notna()]
        value = roc_auc_score(table[f"y_{finding}"], table[f"p_{finding}"])
        rows.append({"n_patients": str(job.patients), "draw": job.draw, "seed": job.seed, "auroc": value})
    points = pd.DataFrame(rows)
    with atomic(run.folder / "curve" / "points.csv") as temporary:
        points.to_csv(temporary, index=False)
    means = points.groupby("n_patients", sort=False)["auroc"].mean()
    text = ", ".join(f"{n} patients {v:.3f}" for n, v in means.items())
    print(f"  learning curve: {text}", file=sys.stderr, flush=True)


def room(run: Run) -> Room | None:
    """What the learning curve leaves to the primary comparison: real data of all patients against its control."""
    from cxraug.evaluation.predictions import read_predictions
    from cxraug.evaluation.room import learning_room

    curve = run.recipe.curve
    if curve is None:
        return None
    curve_points(run)
    primary = run.recipe.evaluate.primary
    if (primary.finding, primary.metric, primary.group) != (curve.finding, "auroc", "all"):
        return None  # the curve is about the AUROC of its finding in the whole set
    jobs = {"all patients": [job for job in curve_jobs(run) if job.patients == "all"]}
    jobs["control"] = [job for job in chosen_jobs(run) if job.kind == primary.control]
    tables = [
        pd.read_parquet(arm_folder(job) / "predictions.parquet").assign(arm=name)
        for name, own in jobs.items()
        for job in own
    ]
    predictions = read_predictions([pd.concat(tables, ignore_index=True)])
    return learning_room(predictions, curve.finding, control="control", ceiling="all patients")


def outside_data(run: Run) -> tuple[bool, list[str]]:
    """Whether anything in the arms has learned from data other than this run's training rows, and what to say of it."""
    from cxraug.synthesis.outside import outside_cohort

    recipe = run.recipe
    notes: list[str] = []
    ours = run.manifest.frame["patient_id"].to_numpy()[run.rows("train")]
    outside = False
    if recipe.core.name not in ("train", "gaussian"):
        from cxraug.cores.registry import read_card

        card = read_card(recipe.core.name)
        outside = card.hashes.count_patients(ours) < len(card.hashes.patients) or not card.hashes.patients
        if not card.hashes.patients:
            notes.append(
                f"core {card.name} does not say what it was trained on: that it has not seen the test is unverified"
            )
        if outside and "outside" not in recipe.arms.use:
            can = outside_cohort(card) is not None
            notes.append(
                "no control from the same outside data stands beside it"
                + (": add outside to arms.use" if can else f": the data of core {card.name} cannot be made here")
            )
    if recipe.train.weights is not None:
        from cxraug.classifiers.models import weights_seen

        seen = weights_seen(Path(recipe.train.weights))
        if seen is None or not seen.patients or seen.count_patients(ours) < len(seen.patients):
            outside = True  # the same weights start every arm, so each control starts from them too
            notes.append(
                "initial weights come from outside data"
                + (" (no card: unverified)" if seen is None or not seen.patients else "")
            )
    if recipe.gate.networks():
        from cxraug.gate.seen import networks_seen

        every = networks_seen(recipe.gate).values()
        if any(seen is None or not seen.patients or seen.count_patients(ours) < len(seen.patients) for seen in every):
            outside = True
            unknown = " (no card: unverified)" if None in every else ""
            notes.append(f"the gate's classifier was trained on outside data{unknown}")
    return outside, notes


def thrown_out(run: Run) -> list[str]:
    """How much the gate threw out, where its use is in question: a gate that rejects nothing can change nothing."""
    if not set(run.recipe.arms.use) & set(WITHOUT_GATE):
        return []
    draws = range(run.recipe.draws)
    counts = [read_json(run.draw_folder(draw) / "sets" / "core" / "gate.json")["studies"]["all"] for draw in draws]
    n, at_once, accepted = (sum(count[key] for count in counts) for key in ("n", "accepted_first", "accepted"))
    if n == at_once:
        return ["the gate threw out nothing, so the arms with and without it hold the same images"]
    return [
        f"the gate threw out the first draw of {n - at_once} of {n} studies ({(n - at_once) / n:.1%}) and left out "
        f"{n - accepted} after its re-draws"
    ]


def unjudged(run: Run) -> list[str]:
    """Whether the gate could judge the primary finding's label at all: where it abstains, it accepts unchecked."""
    finding, draws = run.recipe.evaluate.primary.finding, run.recipe.draws
    if not run.recipe.gate.agreement:
        return [f"the gate did not check labels (gate.agreement: false): synthetic {finding} is unchecked"]
    blind = 0
    for draw in range(draws):
        gate = read_json(run.draw_folder(draw) / "sets" / "core" / "gate.json")
        judged = gate["checks"]["agreement"]["findings"].get(finding)
        blind += judged is not None and judged["present_cutoff"] is None and judged["absent_cutoff"] is None
    if not blind:
        return []
    return [
        f"the gate could not judge {finding} in {blind} of {draws} draw{'s' if draws > 1 else ''} (trained on "
        "the same real images, its classifier is not above chance): what it accepted there is unchecked for that label"
    ]


def under_represented(run: Run, comparison: pd.DataFrame) -> list[str]:
    """What the primary comparison gives in each group level that the audit named as under-represented."""
    primary, sentences = run.recipe.evaluate.primary, []
    named = read_json(run.folder / "audit" / "audit.json")["named"]
    for item in (n for n in named if n["kind"] == "under-represented group"):
        row = comparison[
            (comparison["baseline"] == primary.control)
            & (comparison["arm"] == primary.arm)
            & (comparison["finding"] == primary.finding)
            & (comparison["metric"] == primary.metric)
            & (comparison["group"] == item["group"])
            & (comparison["level"] == item["level"])
        ]
        if (item["group"], item["level"]) == (primary.group, primary.level) or row.empty:
            continue
        where, values = f"{item['group']} {item['level']}", row.iloc[0]
        if values["flag"] == "suppressed" or pd.isna(values["difference"]):
            sentences.append(f"In the under-represented group {where} too few test cases are left to show an effect.")
            continue
        few = ", few test cases" if values["flag"] == "few" else ""
        interval = f"{values['difference']:+.3f} [{values['ci_low']:.3f}, {values['ci_high']:.3f}]"
        sentences.append(
            f"In the under-represented group {where} the same comparison gives {interval} (exploratory{few}; smallest "
            f"detectable effect {values['mde']:.3f})."
        )
    return sentences


def source_probe(run: Run) -> dict[str, Any] | None:
    """AUROC of telling a row's source from its pixels (mean over sources), by a classifier trained like an arm.

    Where this is high, a finding that is confounded with the source can be scored without looking at the finding.
    """
    from sklearn.metrics import roc_auc_score

    from cxraug.classifiers.arms import Images, arm_data
    from cxraug.classifiers.prediction import predict_arm
    from cxraug.classifiers.training import train_arm

    sources = run.manifest.frame["source"].to_numpy()
    names = sorted(set(sources))
    if len(names) < 2:
        return None
    y = np.stack([(sources == name).astype(np.float32) for name in names], axis=1)
    parts = {split: run.rows(split) for split in ("train", "val", "test")}
    folder = run.folder / "source_probe"
    images = {split: Images(np.asarray(run.cache.pixels[mask]), y[mask]) for split, mask in parts.items()}
    data = arm_data("real", images["train"], ["" for _ in images["train"].y], added=None, planned_cells=None, seed=0)
    train_arm(
        data, images["val"], folder, run.recipe.train, findings=tuple(names),
        seed=derive_seed(run.recipe.seed, "source probe"), select=None, card={"arm": "source probe"},
        seen=run.seen(parts["train"]),
    )  # fmt: skip
    p = predict_arm(folder, images["test"].pixels, device=run.recipe.train.device)
    usable = [k for k in range(len(names)) if 0 < images["test"].y[:, k].sum() < len(p)]
    if not usable:
        return None
    values = {names[k]: float(roc_auc_score(images["test"].y[:, k], p[:, k])) for k in usable}
    print(f"  source probe AUROC: {values}", file=sys.stderr, flush=True)
    return {"auroc": float(np.mean(list(values.values()))), "per_source": values, "n": len(p)}
