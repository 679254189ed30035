"""Whether a recipe can be walked to its end, told before any image is decoded and before any network is built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cxraug.errors import InputError
from cxraug.evaluation.groups import group_levels
from cxraug.studies.cache import refuse_missing
from cxraug.studies.labels import NO_FINDING
from cxraug.studies.limit import limit_patients
from cxraug.studies.manifest import Manifest, findings_with_no_positive

if TYPE_CHECKING:
    from cxraug.cores.core import Card
    from cxraug.recipe import Recipe


def refuse_impossible(recipe: Recipe, read: Callable[[], Manifest] | None = None) -> None:
    """Refuse a recipe whose classifier, gate, core or data cannot do what it asks for.

    ``read`` gives the recipe's manifest and is called once the rest is known to be there; without it the data are not
    looked at.

    Raises
    ------
    InputError
        An unknown model, absent weights, an absent core or one that does not know a finding or view asked for, an
        absent image, or data that :func:`refuse_rows` refuses.
    """
    _refuse_classifiers(recipe)
    card = _core_card(recipe)
    if card is not None:
        _refuse_for_core(recipe, card)
    if read is None:
        return
    manifest = read()
    refuse_rows(recipe, manifest)
    for limit in recipe.data.limit:
        limit_patients(
            manifest, finding=limit.finding, group=limit.group, patients=limit.patients, share=limit.share,
            limit_val=recipe.data.limit_val,
        )  # fmt: skip
    _refuse_plan(recipe, manifest, card)
    if recipe.data.on_bad_image == "error":
        refuse_missing(manifest)


def refuse_rows(recipe: Recipe, manifest: Manifest) -> None:
    """Refuse data without a split, without positives of a named finding, or without a group or level asked for."""
    for split in ("train", "val", "test"):
        if not (manifest.frame["split"] == split).any():
            raise InputError(f"the data have no {split} rows", file=manifest.file, column="split")
    findings = recipe.data.findings or manifest.findings
    if recipe.data.findings is not None:
        empty = findings_with_no_positive(manifest, "train", recipe.data.findings)
        if empty:
            raise InputError(
                f"data.findings names {empty[0]!r}, which has no positive in train", file=manifest.file, column="labels"
            )
    finding = recipe.evaluate.primary.finding
    if finding not in (*findings, "macro"):
        raise InputError(
            f"evaluate.primary.finding {finding!r} does not occur in the data",
            file=manifest.file,
            column="labels",
            expected=f"one of {', '.join(findings)}",
        )
    _refuse_groups(recipe, manifest)
    if recipe.evaluate.probes:
        from cxraug.probes import refuse_probes

        refuse_probes(recipe, manifest, recipe.evaluate.probes)


def _refuse_groups(recipe: Recipe, manifest: Manifest) -> None:
    """Refuse groups without a column, and a primary level that no test row has."""
    frame, primary = manifest.frame, recipe.evaluate.primary
    asked = {"audit.groups": recipe.audit.groups, "evaluate.groups": recipe.evaluate.groups}
    for key, groups in asked.items():
        for column in {part for group in groups for part in group.split("*")}:
            if column not in frame.columns:
                raise InputError(f"{key} names a column that the data do not have", file=manifest.file, column=column)
    if primary.group != "all":
        if primary.group not in recipe.evaluate.groups:
            raise InputError(f"evaluate.primary.group {primary.group!r} is not in evaluate.groups")
        test = frame[(frame["split"] == "test").to_numpy()]
        levels = sorted(set(group_levels(test, primary.group, recipe.evaluate.age_bins)))
        if primary.level not in levels:
            raise InputError(
                f"evaluate.primary.level {primary.level!r} does not occur in the test rows", expected=", ".join(levels)
            )


def _refuse_classifiers(recipe: Recipe) -> None:
    from cxraug.classifiers.models import check_model

    train, gate = recipe.train, recipe.gate
    asked = [("train", train.model, None if train.weights is None else Path(train.weights))]
    if gate.agreement and gate.weights is None:
        asked.append(("gate", gate.model, None))
    for key, model, weights in asked:
        try:
            check_model(model, weights)
        except InputError as error:
            raise InputError(f"{key} settings: {error}") from None
    if gate.networks():
        from cxraug.gate.seen import networks_seen

        networks_seen(gate)


def _core_card(recipe: Recipe) -> Card | None:
    """The card of the core that is asked, with its weights beside it; None where the run makes its own."""
    if recipe.core.name in ("train", "gaussian"):
        return None
    from cxraug.cores.registry import WEIGHTS, find_core, read_card
    from cxraug.cores.spec import parse_spec

    card = read_card(recipe.core.name)
    if parse_spec(recipe.core.name) is None:  # cards of other programs' cores are made from their weights
        weights = find_core(recipe.core.name) / WEIGHTS
        if not weights.is_file():
            raise InputError("the core has no weights", file=weights)
    return card


def _refuse_for_core(recipe: Recipe, card: Card) -> None:
    """Refuse settings that the core's card rules out whatever the data are."""
    from cxraug.synthesis.outside import outside_cohort

    for key in ("sampler_steps", "guidance"):
        if card.kind == "gaussian" and getattr(recipe.core, key) is not None:
            raise InputError(f"core {card.name} has no sampler; remove core.{key} (--set core.{key}=null)")
    if "outside" in recipe.arms.use and outside_cohort(card) is None:
        raise InputError(f"arms.use: the training data of core {card.name} cannot be made here; remove outside")
    finding = recipe.evaluate.primary.finding
    if finding not in ("macro", NO_FINDING, *card.findings):
        raise InputError(
            f"core {card.name} does not know the finding of evaluate.primary",
            found=finding,
            expected=f"one of {', '.join(card.findings)}, or another core",
        )


def _refuse_plan(recipe: Recipe, manifest: Manifest, card: Card | None) -> None:
    """Refuse a plan for findings that the data or the core do not have, or for views that the core does not know.

    So is a table of population weights that cannot be read.
    """
    if recipe.plan.population is not None:
        from cxraug.balance.target import read_weights

        read_weights(recipe.plan.population)
    train = manifest.frame[(manifest.frame["split"] == "train").to_numpy()]
    seen = sorted(set(train["view"]))
    core = "the core of this run" if card is None else f"core {card.name}"
    findings = recipe.data.findings or manifest.findings
    known = findings if card is None else [f for f in findings if f in (*card.findings, NO_FINDING)]
    views = seen if card is None else card.views
    for key, asked, have in (
        ("findings", recipe.plan.findings or (), known),
        ("views", recipe.plan.views or (), views),
    ):
        for name in asked:
            if name not in have:
                raise InputError(
                    f"plan.{key}: data and {core} do not both know it",
                    found=name,
                    expected=f"one of {', '.join(have) or 'none'}",
                )
    if recipe.plan.views is None and not set(seen) & set(views):
        raise InputError(
            f"{core} knows none of the views of the training rows",
            file=manifest.file,
            column="view",
            found=", ".join(seen),
            expected=f"one of {', '.join(views)}",
        )
