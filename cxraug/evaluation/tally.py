"""What is counted in a cell per patient (and stratum): the sums from which every rate and every support follows.

Counting once and adding up later is what keeps an audit of many small cells fast: a cell costs its own rows, and the
rest of the set is the whole minus the cell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cxraug.evaluation.measured import Array, Patients
from cxraug.evaluation.subjects import Subject


@dataclass(frozen=True, eq=False)
class Units:
    """Patients, or patients within strata.

    Attributes
    ----------
    of : (n,) unit of each row. patient, stratum : (U,) of each unit. row_stratum : (n,). kinds : number of strata.
    """

    of: Array
    patient: Array
    stratum: Array
    row_stratum: Array
    kinds: int

    @classmethod
    def patients(cls, patients: Patients) -> Units:
        """One unit per patient, all in one stratum."""
        numbers = np.arange(len(patients))
        return cls(patients.of, numbers, np.zeros_like(numbers), np.zeros(patients.n, dtype=np.intp), 1)

    @classmethod
    def within(cls, patients: Patients, stratum: Array) -> Units:
        """One unit per patient and ``stratum`` (n,) int from 0 that occurs."""
        kinds = int(stratum.max()) + 1
        codes, of = np.unique(patients.of * kinds + stratum, return_inverse=True)
        return cls(of, codes // kinds, codes % kinds, stratum, kinds)

    def __len__(self) -> int:
        return len(self.patient)


class Tally:
    """Counts (R or 1, u) over the units ``at`` (u,), made when they are first asked for.

    ``present``, ``absent`` images; ``hits`` and ``alarms``: present and absent images that are called present;
    ``error``: the squared errors of the calibrated probability. ``size`` (K,): images per stratum.
    """

    def __init__(self, units: Units, at: Array, count: Callable[[str], Array], size: Array) -> None:
        self.units, self.at, self._count, self.size = units, at, count, size
        self._counts: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        if name not in self._counts:
            self._counts[name] = self._count(name)
        return self._counts[name]

    @classmethod
    def of_rows(cls, subject: Subject, units: Units, rows: Array) -> Tally:
        """Count over ``rows`` (k,), whose labels are known."""
        unit, present = units.of[rows], subject.y[rows] == 1
        at = np.flatnonzero(np.bincount(unit, minlength=len(units)))

        def values(name: str) -> Array:
            if name in ("present", "absent"):
                return (present if name == "present" else ~present)[None]
            if name == "error":
                assert subject.calibrated is not None
                return np.square(subject.calibrated[:, rows] - present)
            assert subject.decision is not None
            return subject.decision[:, rows] & (present if name == "hits" else ~present)

        def count(name: str) -> Array:
            return np.stack([np.bincount(unit, one, len(units))[at] for one in values(name)])

        return cls(units, at, count, np.bincount(units.row_stratum[rows], minlength=units.kinds))

    def without(self, part: Tally) -> Tally:
        """What is left when ``part``, whose units are among these, is taken out."""
        place = np.searchsorted(self.at, part.at)

        def count(name: str) -> Array:
            left = self[name].copy()
            left[:, place] -= part[name]
            return left

        return Tally(self.units, self.at, count, self.size - part.size)

    @cached_property
    def patient(self) -> Array:
        """Patient (u,) of each unit."""
        return self.units.patient[self.at]

    @cached_property
    def stratum(self) -> Array:
        """Stratum (u,) of each unit."""
        return self.units.stratum[self.at]

    @cached_property
    def images(self) -> Array:
        """Known images (u,) of each unit."""
        return self["present"][0] + self["absent"][0]
