"""The target of a sampler: classes or an indicator matrix, what they mean, and what they are short of."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from imblearn.utils import check_sampling_strategy
from scipy.sparse import issparse
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from cxraug.balance.meaning import Meaning, class_meaning, column_meaning
from cxraug.balance.refusal import SamplingError
from cxraug.balance.shortage import class_donors, label_donors, missing_positives


@dataclass(frozen=True)
class Target:
    """``y`` (n,) or (n, F) as an array and its meaning.

    ``classes`` (n,) are what is balanced; of an indicator matrix whose columns are balanced, None. ``names`` are those
    of the columns of a matrix, also of one that encodes classes.
    """

    y: np.ndarray
    classes: np.ndarray | None
    names: tuple[str, ...]
    meaning: Meaning

    def missing(self, strategy: Any) -> OrderedDict[Any, int]:
        """Class to number of rows to draw, or finding to number of positives that are missing."""
        if self.classes is None:
            return OrderedDict(missing_positives(strategy, self.y, self.names))
        if isinstance(strategy, Mapping) and self.names and set(strategy) <= set(self.names):
            strategy = {self.names.index(name): n for name, n in strategy.items()}
        return OrderedDict(check_sampling_strategy(strategy, self.classes, "over-sampling"))

    def donors(self, missing: Mapping[Any, int], rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
        """The rows (m,) whose labels synthetic rows repeat, and the class or finding each is for (m,)."""
        if self.classes is None:
            return label_donors(self.y, missing, self.names, rng)
        return class_donors(self.classes, missing, rng)

    def counts(self, donors: np.ndarray) -> pd.DataFrame:
        """Rows of each class, or positives of each finding: ``before``, ``synthetic`` and ``after``."""
        if self.classes is None:
            index, shown = pd.Index(self.names, name="finding"), self.y.astype(bool)
        else:
            found = np.unique(self.classes)
            index, shown = pd.Index(found, name="class"), self.classes[:, None] == found
        frame = pd.DataFrame({"before": shown.sum(axis=0), "synthetic": shown[donors].sum(axis=0)}, index=index)
        return frame.assign(after=frame["before"] + frame["synthetic"])


def read_target(y: Any, findings: Any = None) -> Target:
    """Check ``y`` and say what it means; ``findings`` as :class:`cxraug.balance.SyntheticOverSampler` takes it.

    Raises
    ------
    SamplingError
        A sparse or continuous y, unknown labels, an indicator matrix that holds other values than 0 and 1, or names
        that do not fit.
    """
    if issparse(y):
        raise SamplingError("a sparse y is not supported", expected="a dense array")
    columns = getattr(y, "columns", None)
    array = y.to_numpy() if hasattr(y, "to_numpy") else np.asarray(y)
    if array.ndim == 2 and array.shape[1] > 1:
        return _read_matrix(array, columns, findings)
    if array.ndim and array.dtype == object and len(blank := np.flatnonzero(pd.isna(array.reshape(-1)))):
        raise SamplingError(f"row {blank[0]} of y: no class", found=repr(array.reshape(-1)[blank[0]]),
                            expected="a class in every row; decide unknown labels first")  # fmt: skip
    check_classification_targets(y)
    name = getattr(y, "name", None) if columns is None else columns[0]
    classes = column_or_1d(array)
    return Target(classes, classes, (), class_meaning(classes, findings, name if isinstance(name, str) else None))


def _read_matrix(array: np.ndarray, columns: Any, findings: Any) -> Target:
    number = pd.to_numeric(pd.Series(array.reshape(-1)), errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    strange = np.flatnonzero(~np.isin(number, (0.0, 1.0)))
    if len(strange):
        row, column = divmod(int(strange[0]), array.shape[1])
        raise SamplingError(
            f"row {row} of y, column {column}: no 0 or 1", found=float(number[strange[0]]),
            expected="an indicator matrix; decide unknown and uncertain labels first",
        )  # fmt: skip
    if isinstance(findings, Mapping):
        raise SamplingError("findings names classes and y has columns", expected="a list with a name per column")
    given = columns if findings is None else findings
    names = tuple(f"finding {i}" for i in range(array.shape[1])) if given is None else tuple(str(f) for f in given)
    if len(names) != array.shape[1]:
        raise SamplingError("findings does not fit y", found=f"{len(names)} for {array.shape[1]} columns")
    y = number.reshape(array.shape).astype(np.int64)
    meaning = column_meaning(y, names)
    one_vs_all = type_of_target(y) == "multilabel-indicator" and bool((y.sum(axis=1) == 1).all())
    return Target(array, y.argmax(axis=1) if one_vs_all else None, names, meaning)
