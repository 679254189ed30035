"""The report of a swap: what it costs and what it gives, side by side, and what is not promised."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from cxraug.errors import InputError
from cxraug.pages.swap import ATTACK_COLUMNS, swap_page
from cxraug.privacy.attacks import AttackSettings, attack_swap
from cxraug.privacy.swap import PLAN, Swapped
from cxraug.privacy.utility import COLUMNS, Material, UtilitySettings, judged_findings, utility_table
from cxraug.storage import atomic, write_json
from cxraug.studies.cache import build_cache
from cxraug.studies.manifest import Manifest, read_manifest
from cxraug.studies.seen import refuse_hidden

PAGE, FACTS, UTILITY, ATTACKS = "swap.html", "swap.json", "utility.csv", "attacks.csv"
SHOWN = ("rows", "sentences", "alarms", "notes", "counts", "not_promised", "rule", "extractor", "settings")
NOT_PROMISED = (
    "This is no differential privacy: no number here bounds what an attacker with other knowledge or another method "
    "can find out. The attacks are those that are named, at the strength they reach on real pairs.",
    "Attributes are kept by design: whoever knows the age band, sex and findings of a person learns that k or more "
    "patients with them are in the data, and what those patients have in common.",
    "k counts patients of this data set who share everything that is published. It does not protect what all patients "
    "of a cell share, and a report that a core wrote may say more about a (made-up) patient than the columns do.",
    "The core may have memorised what it was trained on, from these patients or from others. The copy check and the "
    "attacks look for it in what was drawn here, not in the core: do not give the core away with the set.",
    "A stand-in is no finding about its patient. Nothing diagnostic may be read from any of these images.",
)


def write_report(
    swapped: Swapped,
    folder: Path,
    *,
    settings: UtilitySettings,
    test: Manifest | None = None,
    attack: AttackSettings | None = None,
) -> dict[str, Any]:
    """Measure utility and privacy of a swap; write ``swap.html, swap.json, utility.csv, attacks.csv`` into ``folder``.

    Parameters
    ----------
    swapped : from :func:`cxraug.privacy.swap.swap`, before it is given out. Trainings and networks stay in its private
        folder, so an interrupted report goes on.
    test : real rows to test on; default the rows of the split test.
    attack : the attackers' settings; None: their defaults.
    """
    notes = _history_notes(swapped.facts)
    utility = _utility(swapped, settings, test, notes)
    for name in ("n", "n_pos", "n_patients"):  # counts of a few patients are not given out
        utility[name] = utility[name].where(utility[name].isna() | (utility[name] >= swapped.settings.k))
    attacks = _attacks(swapped, attack)
    facts = {**swapped.facts, "utility": utility.to_dict("records"), "attacks": attacks, "notes": notes,
             "not_promised": list(NOT_PROMISED), "utility_settings": settings.model_dump(mode="json")}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / UTILITY) as temporary:
        utility.to_csv(temporary, index=False)
    if attacks is not None:
        with atomic(folder / ATTACKS) as temporary:
            rows = pd.DataFrame(attacks["rows"])
            first = [name for name in ATTACK_COLUMNS if name in rows]
            rows[[*first, *rows.columns.difference(first)]].to_csv(temporary, index=False)
    whole = utility[utility["group"] == "all"]
    write_json(folder / FACTS, {**facts, "utility": whole.to_dict("records")})
    with atomic(folder / PAGE) as temporary:
        temporary.write_text(swap_page(facts, swapped.frame, swapped.folder), encoding="utf-8")
    return facts


def _history_notes(facts: dict[str, Any]) -> list[str]:
    found = facts["histories"]
    if found is None or not found["rare"]:
        return []
    return [
        f"Studies of a patient were kept together. k holds for each study by itself, but {found['rare']:,} of "
        f"{found['patients']:,} new patients have a list of studies that fewer than k share: whoever knows several "
        "examinations of a person may find that person's list. Without --keep-patients there are no lists."
    ]


def _utility(swapped: Swapped, settings: UtilitySettings, test: Manifest | None, notes: list[str]) -> pd.DataFrame:
    real, cache = swapped.real, swapped.cache
    split = real.frame["split"].to_numpy()
    if swapped.settings.view_as:
        real = replace(real, frame=real.frame.assign(view=real.frame["view"].replace(dict(swapped.settings.view_as))))
    if test is None:
        rows = (split == "test") & ~swapped.source
        tested = (real.take(rows), cache.take(rows))
    else:
        tested = build_cache(test, swapped.private / "test-cache", swapped.encoding)
        refuse_hidden(swapped.core.card.hashes, f"core {swapped.core.card.name}",
                      patients={"test": tested[0].frame["patient_id"]}, images={"test": tested[1].sha})  # fmt: skip
    if not len(tested[0]):
        notes.append(
            "Utility was not measured: there is no real test row (rows of the split test, or --test MANIFEST)."
        )
        return pd.DataFrame(columns=list(COLUMNS))
    val = (split == "val") & ~swapped.source
    if not val.any():
        notes.append("No validation row: the classifiers of the utility table keep the weights of their last step.")
    train = swapped.source & ~real.frame["view"].isin(swapped.settings.drop).to_numpy(bool)
    material = Material(
        real.take(train), cache.take(train), real.take(val), cache.take(val), *tested,
        plan=pd.read_parquet(swapped.private / PLAN),
    )  # fmt: skip
    try:
        judged_findings(material)
    except InputError as error:
        notes.append(f"Utility was not measured: {error}.")
        return pd.DataFrame(columns=list(COLUMNS))
    return utility_table(material, swapped.folder, swapped.private / "utility", settings, size=swapped.encoding.size,
                         fit=swapped.encoding.fit)  # fmt: skip


def _attacks(swapped: Swapped, settings: AttackSettings | None) -> dict[str, Any]:
    """Every attack on real pairs and on the stand-ins, less what would identify the data (its digests)."""
    found = attack_swap(
        swapped.real, read_manifest(swapped.folder / "manifest.parquet"), swapped.links, swapped.private / "attacks",
        settings, core=swapped.core,
    )  # fmt: skip
    return {name: found[name] for name in SHOWN if name in found}
