"""The stages of a run, each resumable: audit, learning curve, cores, sets, arms, evaluation, report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxraug.arm_job import ArmJob, chosen_jobs, curve_jobs, lead_arm, train_arms
from cxraug.recipe import WITHOUT_GATE
from cxraug.run import Run, once
from cxraug.seeds import derive_seed
from cxraug.studies.burned_text import clean_rows


def audit(run: Run) -> None:
    """Audit what the first draw leaves: that is the data set the user has to balance."""
    from cxraug.balance.audit import audit_manifest, write_audit, written_rows
    from cxraug.balance.naming import headlines

    folder = run.folder / "audit"

    def work() -> list[str]:
        keep = run.keep(0).keep
        found = audit_manifest(
            run.manifest.take(keep),
            groups=run.recipe.audit.groups,
            age_bins=run.recipe.audit.age_bins,
            pixel_sha=run.cache.sha[keep],
            writing=run.cache.writing[keep],
        )
        write_audit(found, folder, written=written_rows(run.manifest.take(keep), run.cache.writing[keep]))
        return [named["sentence"] for named in headlines(found["named"], 8)]

    for sentence in once(folder, work):
        _say(sentence)


def curve(run: Run) -> None:
    """Train the real arm on more and more patients of the limited finding: the room left for any augmentation.

    The test rows of these trainings are read with all others, in :func:`evaluate`.
    """
    if run.recipe.curve is None:
        return
    train_arms(run, curve_jobs(run), "learning curve")


def common_core(run: Run) -> None:
    """Train the run's own core once on the rows common to all draws (``core.name: train``)."""
    settings = run.recipe.core
    if settings.train is None:
        return
    keep = np.all([run.keep(draw).keep for draw in range(run.recipe.draws)], axis=0)
    _train_core(run, run.rows("train") & keep, run.folder / "core", settings.train, init=None, seed=("core",))


def draws(run: Run, probes: Sequence[str] = ()) -> None:
    """Every draw: plan, sets, gate, and all arms; the ratio is chosen on validation before the other arms train.

    ``probes`` : attributes that are looked for in the arms' features once all are trained.
    """
    recipe = run.recipe
    for draw in range(recipe.draws):
        fill_draw(run, draw)
    lead = lead_arm(run)
    ratios: list[float | None] = [*recipe.arms.ratios] if recipe.arms.ratios else [None]
    jobs = [
        ArmJob(str(run.folder), lead, ratio, draw, seed)
        for draw in range(recipe.draws)
        for ratio in ratios
        for seed in range(recipe.seeds)
    ]
    train_arms(run, jobs, f"arm {lead}")
    train_arms(run, [job for job in chosen_jobs(run) if job.kind != lead], "other arms")
    if probes:
        from cxraug.probes import probe_arms

        probe_arms(run, probes)


def fill_draw(run: Run, draw: int) -> None:
    """Plan a draw, generate its sets and gate them."""
    folder = run.draw_folder(draw)
    once(folder / "plan", lambda: _plan(run, draw))
    plan = pd.read_parquet(folder / "plan" / "plan.parquet")
    kinds = set(run.recipe.arms.use)
    for name in ("core", "gaussian", "outside"):
        if name == "core" or name in kinds:
            once(folder / "sets" / name, lambda name=name: _fill_set(run, draw, plan, name))  # type: ignore[misc]
    for name in (name for name in WITHOUT_GATE if name in kinds):
        once(folder / name, lambda name=name: _list_without_gate(run, draw, plan, name))  # type: ignore[misc]


def _plan(run: Run, draw: int) -> dict[str, Any]:
    from cxraug.balance.cost import plan_cost
    from cxraug.balance.plan import make_plan, write_plan
    from cxraug.balance.verification import verify_plan

    recipe = run.recipe
    keep = run.rows("train") & run.keep(draw).keep
    train = run.manifest.take(keep)
    card = _core(run, draw, "core", keep).card
    # the plan keeps each study's source, which says what its labels leave open, also for a core that is told none
    card = card.model_copy(
        update={"conditions": [*card.conditions, "source"], "sources": sorted(set(train.frame["source"]))}
    )
    n = None if recipe.arms.ratios is None else int(np.ceil(max(recipe.arms.ratios) * len(train)))
    if n is not None and recipe.plan.budget is not None:
        n = min(n, recipe.plan.budget)
    plan = make_plan(
        train,
        recipe.plan,
        findings=run.findings,
        groups=recipe.audit.groups,
        age_bins=recipe.audit.age_bins,
        seed=derive_seed(recipe.seed, "plan", draw),
        core_card=card,
        n=n,
    )
    for note in plan.notes:
        _say(f"draw {draw}, plan: {note}")
    limits = verify_plan(plan.frame, train, recipe.plan, findings=run.findings, groups=plan.groups,
                         age_bins=recipe.audit.age_bins, card=card, n=n)  # fmt: skip
    for broken in limits[~limits["holds"]].to_dict("records"):
        _say(f"draw {draw}, plan: a limit is not kept: {broken['limit']}, {broken['tightest']}")
    folder = run.draw_folder(draw) / "plan"
    write_plan(plan, folder, fresh=True, settings=recipe.plan, limits=limits, cost=plan_cost(plan.frame).to_json())
    _say(f"draw {draw}: {len(plan.frame)} studies planned for {len(train)} real training images")
    return {"studies": len(plan.frame), "real_images": len(train), "notes": plan.notes}


def _fill_set(run: Run, draw: int, plan: pd.DataFrame, name: str) -> dict[str, Any]:
    from cxraug.gate.gate import gate_set
    from cxraug.synthesis.generate import generate_set

    folder = run.draw_folder(draw)
    out = folder / "sets" / name
    if name == "outside":
        from cxraug.synthesis.outside import outside_set

        return outside_set(run.recipe.core.name, plan, out, cells=run.cells, encoding=run.recipe.data.encoding,
                           seed=derive_seed(run.recipe.seed, "outside", draw))  # fmt: skip
    keep = run.rows("train") & run.keep(draw).keep
    core = _core(run, draw, name, keep)
    asked, notes = _asked(plan, core.card.conditions)
    for note in notes:
        _say(f"draw {draw}, {name}: {note}")
    generate_set(asked, core, out)
    summary = gate_set(
        out,
        run.manifest.take(keep),
        run.cache.take(keep),
        run.recipe.data.encoding,
        run.recipe.gate,
        findings=run.findings,
        core=core,
        plan=plan,
        seed=derive_seed(run.recipe.seed, "gate", draw),
        folder=folder / "gate",
        groups=run.recipe.audit.groups,
        age_bins=run.recipe.audit.age_bins,
    )
    _say(f"draw {draw}, {name}: {summary['accepted']} of {summary['total']} images accepted")
    return {"accepted": summary["accepted"], "total": summary["total"], "notes": notes}


def _list_without_gate(run: Run, draw: int, plan: pd.DataFrame, name: str) -> dict[str, Any]:
    """What the core's set would be without its gate, or with a gate that throws out at random."""
    from cxraug.synthesis.rejection import list_first_draws, list_random_rejection

    folder = run.draw_folder(draw)
    if name == "ungated":
        return list_first_draws(folder / "sets" / "core", folder / name)
    core = _core(run, draw, "core", run.rows("train") & run.keep(draw).keep)
    asked, _ = _asked(plan, core.card.conditions)
    return list_random_rejection(
        folder / "sets" / "core",
        asked,
        core,
        folder / name,
        cells=list(run.cells(plan.assign(view=plan["views"]))),
        seed=derive_seed(run.recipe.seed, "random rejection", draw),
    )


def _asked(plan: pd.DataFrame, conditions: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """The plan as the core is asked: a core that knows no sources is told none, and this is said, not hidden."""
    notes = []
    if "source" not in conditions and plan["source"].fillna("").ne("").any():
        plan = plan.assign(source=None)
        notes.append("the core knows no sources; prompts leave the source out")
    elif plan["source"].fillna("").eq("").all():
        plan = plan.assign(source=None)
    return plan, notes


def _core(run: Run, draw: int, name: str, keep: np.ndarray) -> Any:
    from cxraug.cores.registry import open_core

    settings, folder = run.recipe.core, run.draw_folder(draw)
    if name == "gaussian" or settings.name == "gaussian":
        return _fit_gaussian(run, keep, folder / "cores" / "gaussian")
    if settings.train is None:
        own = settings.name
    else:
        own = str(run.folder / "core")
        if settings.finetune_steps:
            own = str(folder / "cores" / "core")
            rate = settings.train.finetune_lr  # a fine-tune keeps what the common rows taught
            tuned = settings.train.model_copy(update={"steps": settings.finetune_steps, "lr": rate})
            _train_core(run, keep, Path(own), tuned, init=run.folder / "core", seed=("core", draw))
    asked = {"sampler_steps": settings.sampler_steps, "guidance": settings.guidance}
    overrides = {name: value for name, value in asked.items() if value is not None}
    return open_core(own, device=settings.device, overrides=overrides)


def _fit_gaussian(run: Run, keep: np.ndarray, folder: Path) -> Any:
    from cxraug.cores.conditions import Conditions
    from cxraug.cores.gaussian import fit_gaussian
    from cxraug.cores.registry import open_core

    if not (folder / "card.json").is_file():
        keep = _without_text(run, keep)
        train = run.manifest.take(keep)
        fit_gaussian(
            np.asarray(run.cache.pixels[keep]),
            Conditions.from_manifest(train, run.findings),
            folder,
            seen=run.seen(keep),
            training_data=_described(run, keep),
            encoding=run.recipe.data.encoding,
        )
    return open_core(folder)


def _train_core(run: Run, keep: np.ndarray, folder: Path, settings: Any, *, init: Path | None, seed: tuple) -> None:
    from cxraug.cores.conditions import Conditions
    from cxraug.cores.diffusion.training import train_diffusion

    def work() -> str:
        rows = _without_text(run, keep)
        return train_diffusion(
            np.asarray(run.cache.pixels[rows]),
            Conditions.from_manifest(run.manifest.take(rows), run.findings),
            folder,
            settings,
            init=init,
            seen=run.seen(rows),
            training_data=_described(run, rows),
            encoding=run.recipe.data.encoding,
            name=f"{run.recipe.name}-{'-'.join(map(str, seed))}",
            seed=derive_seed(run.recipe.seed, *seed),
        ).name

    once(folder, work)


def _without_text(run: Run, keep: np.ndarray) -> np.ndarray:
    """The rows of ``keep`` that a core of the run may be trained on, as ``core.burned_text`` says."""
    rows = keep.copy()
    rows[keep] = clean_rows(run.cache.writing[keep], run.recipe.core.burned_text)
    return rows


def _described(run: Run, rows: np.ndarray) -> dict[str, Any]:
    frame = run.manifest.frame[rows]
    return {"run": run.recipe.name, "images": len(frame), "patients": int(frame["patient_id"].nunique())}


def evaluate(run: Run) -> dict[str, Any]:
    """Read the test rows once: cells, gaps, comparisons, probes and the verdict on the primary endpoint."""
    from cxraug.conclusion import conclude
    from cxraug.probes import probe_arms

    def work() -> dict[str, Any]:
        if run.recipe.evaluate.probes:
            probe_arms(run, run.recipe.evaluate.probes)
        return conclude(run)

    return once(run.folder / "evaluation", work)


def report(run: Run) -> dict[str, Any]:
    """Write the page; return the verdict."""
    from cxraug.pages.report import write_run_report
    from cxraug.storage import read_json

    write_run_report(run.folder)
    return {**read_json(run.folder / "verdict.json"), "folder": str(run.folder)}


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)
