"""What is measured in a cell (finding x group level), and whether there is enough of it to be shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxraug.evaluation.auprc import auprc, bootstrap_auprc
from cxraug.evaluation.auroc import auroc
from cxraug.evaluation.calibration import calibration_slope
from cxraug.evaluation.ece import squared_ece
from cxraug.evaluation.measured import Array, Measured, Patients
from cxraug.evaluation.metrics import METRICS, base_metric
from cxraug.evaluation.rates import RATES, rate
from cxraug.evaluation.subjects import Subject
from cxraug.evaluation.tally import Tally, Units

SMALL = 4  # a cell with fewer than 1/4 of all rows is sorted by itself


class Cell:
    """Rows of the set: all, one level of a grouping, or the rest of one. Made by :meth:`whole`, ``part``, ``rest``.

    Attributes
    ----------
    mask : (n,) bool. rows : (k,) their numbers. patients : of the whole set. units : its patients as units.
    """

    def __init__(self, mask: Array, patients: Patients, units: Units, of: Cell | None, left_out: Cell | None) -> None:
        self.mask, self.patients, self.units = mask, patients, units
        self.rows = np.flatnonzero(mask)
        self._of, self._left_out = of, left_out
        self._tallies: dict[tuple[Subject, Units], Tally] = {}
        self._held: dict[tuple[Subject, str], tuple[int, int, int, int]] = {}

    @classmethod
    def whole(cls, patients: Patients) -> Cell:
        """Every row."""
        return cls(np.ones(patients.n, dtype=bool), patients, Units.patients(patients), None, None)

    def part(self, mask: Array) -> Cell:
        """The rows in ``mask`` (n,) bool."""
        return Cell(mask, self.patients, self.units, self, None)

    def rest(self, part: Cell) -> Cell:
        """The rows that are not in ``part``."""
        return Cell(self.mask & ~part.mask, self.patients, self.units, self, part)

    def known(self, subject: Subject) -> Array:
        """Rows (k,) whose label is not blank."""
        return self.rows[subject.known[self.rows]]

    def ascending(self, values: Array, order: Array, subject: Subject) -> Array:
        """The known rows (k,) by ascending ``values`` (n,), of which ``order`` (n,) sorts all."""
        if len(self.rows) * SMALL < len(values):
            rows = self.known(subject)
            return rows[np.argsort(values[rows])]
        return order[np.flatnonzero((self.mask & subject.known)[order])]

    def tally(self, subject: Subject, units: Units | None = None) -> Tally:
        """What is counted of ``subject`` per patient, or per unit of ``units``."""
        units = units or self.units
        key = subject, units
        if key not in self._tallies:
            if self._of is not None and self._left_out is not None:
                return self._of.tally(subject, units).without(self._left_out.tally(subject, units))
            self._tallies[key] = Tally.of_rows(subject, units, self.known(subject))
        return self._tallies[key]

    def classes(self, subject: Subject) -> tuple[int, int]:
        """Patients with a positive, and with a negative."""
        return self.held(subject, "positive")[-1], self.held(subject, "negative")[-1]

    def held(self, subject: Subject, needs: str) -> tuple[int, int, int, int]:
        """Known images, those present, patients; and patients with what is needed (never more than its images)."""
        key = subject, needs
        if key not in self._held:
            tally = self.tally(subject)
            images, counts = tally.images, needed(needs, tally)
            enough = min(int(np.count_nonzero(one)) for one in counts)
            numbers = int(images.sum()), int(tally["present"].sum()), int(np.count_nonzero(images))
            self._held[key] = (*numbers, enough)
        return self._held[key]


@dataclass(frozen=True)
class Support:
    """How much a metric's cell holds: images, patients, patients with what it needs (``enough``), and its flag."""

    n: int
    n_pos: int
    n_patients: int
    enough: int
    flag: str

    @property
    def shown(self) -> bool:
        """Not suppressed."""
        return self.flag != "suppressed"


def measure(subject: Subject, metric: str, cell: Cell) -> Measured:
    """``metric`` of ``subject`` in ``cell``, in every run."""
    metric, y, patients = base_metric(metric, subject.name), subject.y, cell.patients
    if metric == "fnr":
        return measure(subject, "tpr", cell).complement()
    if metric in RATES:
        return rate(metric, cell.tally(subject), len(patients))
    if metric in ("auroc", "auprc"):
        assert subject.scores is not None
        rows = [cell.ascending(*pair, subject) for pair in zip(subject.scores, subject.order, strict=True)]
        return (auroc if metric == "auroc" else auprc)(subject.scores, rows, y, patients, cell.classes(subject))
    assert subject.calibrated is not None
    if metric == "calibration_slope":
        return calibration_slope(subject.calibrated, cell.known(subject), y, patients)
    pairs = zip(subject.calibrated, subject.calibrated_order, strict=True)
    rows = [cell.ascending(*pair, subject) for pair in pairs]
    return squared_ece(subject.calibrated, rows, y, patients, cell.classes(subject))


def support(subject: Subject, metric: str, cell: Cell, *, min_cell: int, few: int) -> Support:
    """Count what ``metric`` needs in ``cell`` (rule 8 of the evidence rules).

    Suppressed below ``min_cell`` images or patients of what is needed (and always where it is undefined); flagged
    ``few`` below ``few``. For PPV and NPV the run that calls (clears) the fewest counts.
    """
    n, n_pos, n_patients, enough = cell.held(subject, METRICS[base_metric(metric, subject.name)].needs)
    return Support(n, n_pos, n_patients, enough, flag_of(metric, enough, n, n_pos, min_cell, few))


def needed(needs: str, tally: Tally) -> list[Array]:
    """The counts (u,) of which there must be enough, each."""
    if needs == "called":
        return list(tally["hits"] + tally["alarms"])
    if needs == "cleared":
        return list(tally.images - tally["hits"] - tally["alarms"])
    counts = {"positive": ["present"], "negative": ["absent"], "both": ["present", "absent"], "any": []}[needs]
    return [tally[name][0] for name in counts] or [tally.images]


def flag_of(metric: str, enough: float, n: int, n_pos: int, min_cell: int, few: int) -> str:
    """``suppressed``, ``few`` or nothing."""
    if enough < 1 or enough < min_cell or (metric in ("auroc", "auprc") and n_pos in (0, n)):
        return "suppressed"
    return "few" if enough < few else ""


def bootstrap_variance(
    subject: Subject, runs: Array, weights_of_runs: Array, cell: Cell, weights: list[Array]
) -> float:
    """Patient-bootstrap variance of the weighted mean AUPRC over ``runs`` (positions); NaN replicates left out."""
    assert subject.scores is not None
    total = np.zeros(sum(part.shape[1] for part in weights))
    for run, share in zip(runs, weights_of_runs, strict=True):
        score = subject.scores[run]
        rows = cell.ascending(score, subject.order[run], subject)
        total += share * bootstrap_auprc(score, rows, subject.y, cell.patients.of, weights)
    return float(np.nanvar(total, ddof=1))
