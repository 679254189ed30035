"""The demographics check: an image should look like a patient of the sex, age and race that were asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

from cxraug.cores.measures.paired import bounds, paired_auroc, paired_correlation
from cxraug.evaluation.uncertainty import interval
from cxraug.gate.attributes import AGE, RACE, SEX, YEARS
from cxraug.gate.check import Check, Evidence, Images, Test
from cxraug.gate.null import Null, resolved_by
from cxraug.gate.reader import Reader
from cxraug.gate.settings import GateSettings

MIN_SIDE = 10  # images on each side, before it is asked whether a reader is above chance


class Demographics(Check):
    """One test per attribute, against real images with the same attribute.

    - sex: the score of ``sex=F``, low for a woman or high for a man, among real images of that sex.
    - race: the score of the race asked for, low among real images of that race. Races that no reader knows are not
      judged.
    - age: the reader's age minus what it says on average of real patients of that age, in standard deviations at that
      age (both parabolas of age), in either direction, among all real images with an age: readers err more, and
      towards the middle, at the ends.

    A reader that is not above chance on held-out real images (lower 95 % bound, patient-clustered, of the AUROC or of
    the correlation) abstains, and so does a test with too few real images.
    """

    name = "demographics"

    def __init__(self, settings: GateSettings, rate: float, reader: Reader) -> None:
        self.settings, self.rate, self.reader = settings, rate, reader
        self.found: dict[str, dict[str, Any]] = {}

    def fit(self, real: Images) -> Evidence:
        """Measure the shared reader on held-out real images and calibrate the tests of what it can read."""
        self.reader.fit(real)
        self.asked = {
            name: strange for name in ("sex", "race", "age") if (strange := self._open(name, real)) is not None
        }
        rate = self.rate / max(len(self.asked), 1)
        needed = max(self.settings.min_calibration, resolved_by(self.settings.false_reject))
        self.nulls: dict[tuple[str, str], Null] = {}
        tests = []
        for name in self.asked:
            value, kind = self._strangeness(name, self.reader.real, real)
            for one in sorted(set(kind[kind != ""].astype(str))):
                rows = (kind == one) & np.isfinite(value)
                null = Null(value[rows], None if real.levels is None else real.levels[rows],
                            max(needed, resolved_by(rate)))  # fmt: skip
                if len(null) >= needed:
                    self.nulls[name, one] = null
                else:
                    self._note(name, f"{one}: {len(null)} real images of {needed} needed, not judged")
            if mine := [null.finest for (of, _), null in self.nulls.items() if of == name]:
                tests.append(Test(name, f"demographics: {name} does not look as asked", rate, finest=max(mine)))
        self.tests = tuple(tests)
        return Evidence(self._p_values(self.reader.real, real, member=True))

    def score(self, batch: Images) -> Evidence:
        """p-values of synthetic images."""
        return Evidence(self._p_values(self.reader.score(batch), batch, member=False))

    def describe(self, levels: dict[str, float]) -> dict[str, Any]:
        """Per attribute: how well it is read on held-out real images, calibration counts, and why a test abstains."""
        for name, found in self.found.items():
            found["level"] = levels.get(name)
            found["n_calibration"] = {one: len(null) for (of, one), null in self.nulls.items() if of == name}
            found["small_levels"] = {k: v for (of, _), null in self.nulls.items() if of == name
                                     for k, v in null.small.items()}  # fmt: skip
        return {"model": self.reader.describe(), "attributes": self.found}

    def _open(self, name: str, real: Images) -> Any:
        """What turns scores into the strangeness of a claim; None (and a note) where the attribute cannot be judged."""
        self.found[name] = {"note": None}
        values = {"sex": real.female, "race": real.race, "age": real.age}[name]
        at = self._outputs(name)
        if values is None or not at:
            self._abstain(name, "the real data or the reader do not know it")
            return None
        score = self.reader.real
        if name == "age":
            return self._open_age(score, values, at, real)
        return self._open_kinds(name, score, values, at, real)

    def _open_age(self, score: np.ndarray, age: np.ndarray, at: dict[str, int], real: Images) -> _Expected | None:
        said = score[:, list(at.values())].mean(axis=1)
        known = np.isfinite(said) & np.isfinite(age)
        if known.sum() < 2 * MIN_SIDE:
            self._abstain("age", "too few calibration images")
            return None
        found = paired_correlation(said[None, known], age[known], real.patients[known])
        low, high = bounds(found, 0)
        self.found["age"] |= {"correlation": float(found.value[0]), "correlation_low": low, "correlation_high": high}
        if low <= 0:
            self._abstain("age", f"correlation with the age: lower bound {low:.2f}, not above 0")
            return None
        return _Expected.fit(said[known], age[known])

    def _open_kinds(
        self, name: str, score: np.ndarray, values: np.ndarray, at: dict[str, int], real: Images
    ) -> dict[str, int] | None:
        """The columns of the sexes or races that are read better than by chance."""
        areas: dict[str, dict[str, float]] = {}
        for value, column in at.items():
            truth = values if name == "sex" else np.where([r is None for r in values], np.nan, values == value)
            truth = np.where(np.isnan(score[:, column]), np.nan, truth.astype(float))
            if min((truth == 1).sum(), (truth == 0).sum()) < MIN_SIDE:
                continue
            area = paired_auroc(score[None, :, column], truth, real.patients)
            assert area is not None
            low, high = interval(area.value, area.variance, area.df, "logit", 0.05)
            areas[value] = {"auroc": float(area.value[0]), "auroc_low": float(low[0]), "auroc_high": float(high[0])}
        self.found[name]["auroc"] = areas
        seen = {value: at[value] for value, area in areas.items() if area["auroc_low"] > 0.5}
        if not seen:
            best = max((area["auroc_low"] for area in areas.values()), default=None)
            why = "too few calibration images" if best is None else f"AUROC lower bound {best:.2f}, not above 0.5"
            self._abstain(name, why)
            return None
        return seen

    def _outputs(self, name: str) -> dict[str, int]:
        """The value that each column of the reader's scores is about."""
        names = self.reader.names
        if name == "sex":
            return {"F": names.index(SEX)} if SEX in names else {}
        if name == "race":
            return {out.removeprefix(RACE): i for i, out in enumerate(names) if out.startswith(RACE)}
        return {out: i for i, out in enumerate(names) if out.startswith(AGE) or out == YEARS}

    def _strangeness(self, name: str, score: np.ndarray, images: Images) -> tuple[np.ndarray, np.ndarray]:
        """How little an image looks as claimed (n,), NaN where nothing is claimed, and with whom it compares (n,)."""
        value, kind = np.full(len(images), np.nan), np.full(len(images), "", dtype=object)
        how = self.asked[name]
        if name == "sex" and images.female is not None:
            x = score[:, how["F"]]
            value = np.where(images.female == 1, -x, np.where(images.female == 0, x, np.nan))
            kind = np.where(images.female == 1, "F", np.where(images.female == 0, "M", "")).astype(object)
        elif name == "race" and images.race is not None:
            for race, column in how.items():
                rows = images.race == race
                value[rows], kind[rows] = -score[rows, column], race
        elif name == "age" and images.age is not None:
            value = how.strangeness(score[:, list(self._outputs("age").values())].mean(axis=1), images.age)
            kind = np.where(np.isfinite(images.age), "all ages", "").astype(object)
        return value, kind

    def _p_values(self, score: np.ndarray, images: Images, *, member: bool) -> np.ndarray:
        p = np.full((len(images), len(self.tests)), np.nan)
        for column, test in enumerate(self.tests):
            value, kind = self._strangeness(test.name, score, images)
            for (name, one), null in self.nulls.items():
                rows = (kind == one) & np.isfinite(value)
                if name == test.name and rows.any():
                    levels = None if images.levels is None else images.levels[rows]
                    p[rows, column] = null.p(value[rows], levels, member=member)
        return p

    def _abstain(self, name: str, why: str) -> None:
        self._note(name, f"abstains: {why}")

    def _note(self, name: str, text: str) -> None:
        said = self.found[name]["note"]
        self.found[name]["note"] = f"{said}; {text}" if said else text


class _Expected:
    """Mean and standard deviation of what the reader says of real patients of an age, both parabolas of the age."""

    def __init__(self, mean: np.ndarray, spread: np.ndarray, centre: float, scale: float) -> None:
        self.mean, self.spread, self.centre, self.scale = mean, spread, centre, scale

    @classmethod
    def fit(cls, said: np.ndarray, age: np.ndarray) -> _Expected:
        centre, scale = float(age.mean()), max(float(age.std()), 1e-9)
        x = (age - centre) / scale
        mean = np.polyfit(x, said, 2)
        apart = np.abs(said - np.polyval(mean, x))
        return cls(mean, np.polyfit(x, apart, 2), centre, scale)

    def strangeness(self, said: np.ndarray, age: np.ndarray) -> np.ndarray:
        x = (age - self.centre) / self.scale
        apart, usual = np.abs(said - np.polyval(self.mean, x)), np.polyval(self.spread, x)
        # a parabola may dip to zero at ages that hardly occur: a quarter of the spread at the mean age is the least
        return apart / np.maximum(usual, max(self.spread[-1], 1e-9) / 4)
