"""Sex, age and race as outputs of the gate's cross-fitted networks, beside the findings: one training for all."""

from __future__ import annotations

import numpy as np

from cxraug.gate.check import Images

SEX, AGE, RACE = "sex=F", "age>=", "race="
YEARS = "age"  # from a network that says the age itself
CUTS = 5  # of age: the network says for each whether the patient is older (ordinal regression: Frank & Hall 2001)
FEWEST = 10  # images on each side of a question, before a network is asked it


def attribute_targets(real: Images) -> tuple[tuple[str, ...], np.ndarray]:
    """Names (A,) and values float32 (n, A), 1, 0 or NaN, of what can be asked about the patients of ``real``.

    ``sex=F``; ``age>=YEARS`` at the quantiles 1/6 to 5/6 of the known ages; ``race=NAME`` for each race. A question
    with fewer than 10 images on one side is left out.
    """
    asked: dict[str, np.ndarray] = {}
    if real.female is not None:
        asked[SEX] = real.female
    if real.age is not None and np.isfinite(real.age).any():
        for years in np.unique(np.round(np.nanquantile(real.age, np.arange(1, CUTS + 1) / (CUTS + 1)))):
            asked[f"{AGE}{years:g}"] = np.where(np.isnan(real.age), np.nan, real.age >= years)
    if real.race is not None:
        known = np.array([bool(race) for race in real.race])
        for race in sorted(set(real.race[known])):
            asked[f"{RACE}{race}"] = np.where(known, real.race == race, np.nan)
    usable = {name: y for name, y in asked.items() if min((y == 1).sum(), (y == 0).sum()) >= FEWEST}
    values = np.stack(list(usable.values()), axis=1) if usable else np.zeros((len(real), 0))
    return tuple(usable), values.astype(np.float32)
