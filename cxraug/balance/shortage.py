"""How many rows each class or finding is short of, and which real rows lend their labels to fill the gap."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from cxraug.balance.refusal import SamplingError

KINDS = ("auto", "not majority", "all", "minority", "not minority")


def missing_positives(
    strategy: str | float | Mapping[str, int] | Callable[[np.ndarray], Mapping[str, int]],
    y: np.ndarray,
    findings: Sequence[str],
) -> dict[str, int]:
    """How many further positives each finding needs, in the order of ``findings``; those without a need are left out.

    Parameters
    ----------
    strategy : ``auto``, ``not majority`` and ``all`` raise every finding to the positives of the most frequent one,
        ``minority`` the rarest alone, ``not minority`` all but the rarest. A float a in (0, 1] raises every finding to
        at least a times the positives of the most frequent one, so that the imbalance ratio per label (IRLbl of
        Charte et al. 2015, Neurocomputing 163) is at most 1/a. A dict maps a finding to its positives afterwards; a
        callable takes ``y`` and returns such a dict.
    y : (n, F) of 0 and 1.

    Raises
    ------
    SamplingError
        An unknown strategy or finding, fewer positives than there are, a finding of the dict without any positive row,
        or no positive at all.
    """
    have = dict(zip(findings, y.sum(axis=0).astype(int).tolist(), strict=True))
    shown = {finding: n for finding, n in have.items() if n}
    if not shown:
        raise SamplingError("the target has one class only: no row shows any finding", expected="at least one 1")
    if isinstance(strategy, (str, Real)) and len(shown) < len(have):
        never = ", ".join(str(finding) for finding in have if finding not in shown)
        warnings.warn(f"no row shows {never}: there are no labels to repeat, and none are drawn", stacklevel=2)
    most = max(shown.values())
    if isinstance(strategy, str):
        wanted = _named_targets(strategy, shown, most)
    elif isinstance(strategy, Real):
        if not 0 < strategy <= 1:
            raise SamplingError("bad sampling_strategy", found=strategy, expected="a float in (0, 1]")
        wanted = {finding: max(n, int(np.ceil(float(strategy) * most))) for finding, n in shown.items()}
    else:
        wanted = _checked_targets(strategy(y) if callable(strategy) else strategy, have)
    return {f: wanted[f] - have[f] for f in findings if f in wanted and wanted[f] > have[f]}


def _named_targets(strategy: str, shown: Mapping[str, int], most: int) -> dict[str, int]:
    if strategy not in KINDS:
        raise SamplingError("bad sampling_strategy", found=strategy, expected=f"one of {', '.join(KINDS)}")
    rarest = min(shown, key=lambda finding: shown[finding])
    left_out = {"minority": set(shown) - {rarest}, "not minority": {rarest}}.get(strategy, set())
    return dict.fromkeys([finding for finding in shown if finding not in left_out], most)


def _checked_targets(targets: Any, have: Mapping[str, int]) -> dict[str, int]:
    if not isinstance(targets, Mapping):
        raise SamplingError("bad sampling_strategy", found=targets, expected="a dict of finding to positives")
    for finding, n in targets.items():
        if finding not in have:
            expected = f"one of {', '.join(map(str, have))}"
            raise SamplingError("sampling_strategy names no finding of y", found=finding, expected=expected)
        if not isinstance(n, Integral) or n < have[finding]:
            expected = f"a whole number, at least the {have[finding]} there are: nothing is taken away"
            raise SamplingError(f"bad number of positives of {finding}", found=n, expected=expected)
        if n and not have[finding]:
            expected = "at least one row, whose labels synthetic rows can repeat"
            raise SamplingError(f"no row shows {finding}", expected=expected)
    return {finding: int(n) for finding, n in targets.items()}


def class_donors(
    y: np.ndarray, missing: Mapping[Any, int], rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Rows (m,) whose labels are repeated, drawn with replacement within each class, and the class each is for (m,).

    ``y`` (n,) are classes; ``missing`` maps a class to the number of rows to draw.
    """
    drawn = [rng.choice(np.flatnonzero(y == name), size=n, replace=True) for name, n in missing.items()]
    wanted = [np.repeat(np.array([name], dtype=object), n) for name, n in missing.items()]
    return _joined(drawn, int), _joined(wanted, object)


def label_donors(
    y: np.ndarray, missing: Mapping[str, int], findings: Sequence[str], rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Rows (m,) whose whole label set is repeated, and the finding each is for (m,).

    The rarest finding comes first. Its rows are drawn with replacement from all real rows that show it, so that its
    companions keep their real frequency; what they bring along is taken off the need of the findings after it. Every
    need is met; a finding that comes along with others may end above its own.
    """
    left = np.array([missing.get(finding, 0) for finding in findings])
    drawn: list[np.ndarray] = []
    wanted: list[np.ndarray] = []
    for at in np.argsort(y.sum(axis=0), kind="stable"):
        if left[at] > 0:
            rows = rng.choice(np.flatnonzero(y[:, at]), size=int(left[at]), replace=True)
            left = left - y[rows].sum(axis=0).astype(int)
            drawn.append(rows)
            wanted.append(np.repeat(np.array([findings[at]], dtype=object), len(rows)))
    return _joined(drawn, int), _joined(wanted, object)


def _joined(parts: list[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=kind)
