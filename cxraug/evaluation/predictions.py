"""Predictions of one or many classifiers on the same patients: reading, checking, and aligned arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from cxraug.errors import InputError
from cxraug.evaluation.measured import Array, Patients
from cxraug.storage import file_sha256
from cxraug.studies import table as table_of
from cxraug.studies.columns import age as years

RUN = ("arm", "seed", "draw")
NAMES = ("image", "patient_id", "study_id", *RUN)  # text, whatever they look like: 007 is not 7
DEFAULT_ARM = "model"
SPLITS = {
    "test": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "train": "train",
    "training": "train",
}


@dataclass(frozen=True)
class Scored:
    """Labels ``y`` (F, n: 1, 0, NaN), probabilities ``p`` (F, n) and ``table`` (n rows: image, patient, groups)."""

    y: Array
    p: Array
    table: pd.DataFrame


@dataclass(frozen=True)
class Predictions:
    """Everything that was predicted, aligned.

    Attributes
    ----------
    table : (n rows) one row per test image, sorted by patient: image, patient_id and the columns that may be groups.
    findings : F names. y : (F, n) 1, 0 or NaN. p : (R, F, n) probabilities of R runs.
    runs : (R rows) ``arm, seed, draw`` as strings and ``file``, the number of the file they came from.
    validation : R entries, each run's own validation rows (may be empty).
    patients : the rows of each patient.
    sources : name and sha256 of each file. notes : what the reader should know.
    unequal : columns of ``table`` (that of the first run) that another run fills otherwise, and where; no groups.
    judged : the split that ``table`` is of, test or val.
    """

    table: pd.DataFrame
    findings: tuple[str, ...]
    y: Array
    p: Array
    runs: pd.DataFrame
    validation: tuple[Scored, ...]
    patients: Patients
    sources: tuple[dict, ...] = ()
    notes: tuple[str, ...] = field(default=())
    unequal: dict[str, str] = field(default_factory=dict)
    judged: Literal["test", "val"] = "test"

    @property
    def n_files(self) -> int:
        """How many files were read."""
        return len(self.sources)

    @property
    def arms(self) -> list[str]:
        """The arms in the order given."""
        return list(dict.fromkeys(self.runs["arm"]))


def read_predictions(
    files: Sequence[str | Path | pd.DataFrame],
    *,
    logits: bool = False,
    strict: bool = True,
    with_train: bool = False,
    on: Literal["test", "val"] = "test",
) -> Predictions:
    """Read and check prediction tables (contract "Predictions" of the design).

    Parameters
    ----------
    files : CSV or Parquet paths, ``NAME:FILE`` (names the arm), or frames. Files without ``arm, seed, draw`` are the
        seeds 0, 1, ... of one arm (of each named arm) in the order given.
    logits : the ``p_`` columns hold logits; they are turned into probabilities.
    strict : refuse runs with other test images than the first; otherwise the images that all runs hold are kept, and a
        note says how many of how many.
    with_train : judge training rows too, as if they were test rows, and say so; otherwise they are left out.
    on : the split to judge. ``val`` leaves the test rows out unread: for what is chosen while test waits.

    Raises
    ------
    InputError : one line with file, row (the header is row 1), column, found and expected, for: missing columns, y
        other than 0, 1 or blank, p outside [0, 1] or blank, the same image twice in a run, a patient in two splits, no
        test rows, training rows alone, runs with other images, labels or findings than the first.
    """
    if not files:
        raise InputError("no predictions given", expected="at least one file")
    frames: list[pd.DataFrame] = []
    sources: list[dict] = []
    notes: list[str] = []
    held: set[tuple] = set()
    seen: dict[str, int] = {}
    for number, given in enumerate(files):
        frame, arm, name = _open(given)
        unscored = [str(c)[2:] for c in frame.columns if str(c)[:2] == "y_" and f"p_{str(c)[2:]}" not in frame.columns]
        if unscored:
            notes.append(f"Not judged, labels without scores (no p_ column): {', '.join(unscored)}.")
        frame = _check(frame, name, logits=logits)
        frame = _label_runs(frame, arm, seen, name).assign(_file=number)  # a patient in train and test is found here
        train = frame["split"] == "train"
        if train.any():
            frame, note = _judge_train(frame, train, name) if with_train else _leave_train(frame, train, name)
            notes.append(note)
        sha256 = file_sha256(name) if name else None
        if name and (arm, sha256) in held:
            raise InputError(
                "the same predictions twice in one arm", file=name, expected="other seeds, or another NAME:"
            )
        held.add((arm, sha256))
        if on == "val":
            frame, note = _judge_validation(frame, name)
            notes.append(note)
        sources.append({"file": name or f"frame {number}", "sha256": sha256})
        frames.append(frame)
    aligned = _align(frames, [str(source["file"]) for source in sources], tuple(sources), notes, strict=strict)
    return replace(aligned, judged=on)


def _judge_validation(frame: pd.DataFrame, name: str | None) -> tuple[pd.DataFrame, str]:
    """The validation rows in the place of the test rows; thresholds then have no rows to be chosen on."""
    val = frame["split"] == "val"
    if not val.any():
        raise InputError("no validation rows", file=name, column="split", expected="rows with split val")
    of = f" of {name}" if name else ""
    note = (
        f"The {int(val.sum())} validation rows{of} are judged; its {int((frame['split'] == 'test').sum())} test rows "
        "were not read. What is chosen by these numbers is not tested by them."
    )
    return frame[val].assign(split="test"), note


def _leave_train(frame: pd.DataFrame, train: pd.Series, name: str | None) -> tuple[pd.DataFrame, str]:
    if train.all():
        raise InputError(
            "every row is of the training split", file=name, column="split", found="train",
            expected="test rows (--with-train judges the training rows)",
        )  # fmt: skip
    return frame[~train], f"{int(train.sum())} rows of the training split were left out{f' of {name}' if name else ''}."


def _judge_train(frame: pd.DataFrame, train: pd.Series, name: str | None) -> tuple[pd.DataFrame, str]:
    of = f" of {name}" if name else ""
    note = (
        f"{int(train.sum())} rows of the training split{of} are judged as test rows, as asked: they say how well the "
        "classifier remembers, not how it does on new patients."
    )
    return frame.assign(split=frame["split"].mask(train, "test")), note


def refuse_one_class(predictions: Predictions) -> None:
    """Raise :class:`InputError` where no finding has a present and an absent test row: nothing could be ranked."""
    present, absent = ((predictions.y == value).any(axis=1) for value in (1, 0))
    if not (present & absent).any():
        only = "present" if present.any() else "absent" if absent.any() else "unknown"
        if present.any() and absent.any():
            only = "of one class"
        raise InputError(
            f"every finding is {only} in every test row that names it",
            found=", ".join(predictions.findings),
            expected="a finding with rows of both classes (y 0 and 1)",
        )


def read_table(path: str | Path) -> pd.DataFrame:
    """A CSV or Parquet file as a frame: numbers where a whole column is one, but :data:`NAMES` as text.

    The index is the row in the file - 2 (the header is row 1). Anything else is an :class:`InputError`.
    """
    return _typed(table_of.read_table(path))


def _typed(table: table_of.Table) -> pd.DataFrame:
    """The frame of ``table``, the text columns of a CSV turned into numbers where all of them are."""
    frame = table.frame.set_axis(table.rows - 2)
    for column in frame.columns:
        if str(column)[:2] in ("y_", "p_") and (plain := _cast(frame[column])) is not None:
            frame[column] = plain
        elif pd.api.types.is_string_dtype(frame[column]):
            text = table.text(column).set_axis(frame.index)
            numbers = pd.to_numeric(text, errors="coerce")
            whole = column not in NAMES and bool((numbers.notna() == text.notna()).all())
            frame[column] = numbers if whole else text
    return frame


def _cast(column: pd.Series) -> Array | None:
    """A text column of plain numbers and blanks as numbers, twenty times as fast as any text; None if it is not."""
    try:
        return pa.array(column).cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowException:
        return None


def _open(given: str | Path | pd.DataFrame) -> tuple[pd.DataFrame, str | None, str | None]:
    if isinstance(given, pd.DataFrame):
        return given.reset_index(drop=True), None, None
    arm, path = None, str(given)
    if not Path(path).exists() and ":" in path:
        arm, path = path.split(":", 1)
        if not arm:
            raise InputError("empty name", found=str(given), expected="NAME:FILE")
    table = table_of.read_table(path)
    frame = _typed(table)
    if "age" in frame.columns:
        frame["age"] = years(table).to_numpy()
    return frame, arm, path


def _check(frame: pd.DataFrame, name: str | None, *, logits: bool) -> pd.DataFrame:
    for column in ("image", "patient_id"):
        if column not in frame.columns:
            raise InputError("missing column", file=name, column=column, expected="image, patient_id, y_*, p_*")
    if frame.empty:
        raise InputError("no rows", file=name, expected="one row per image")
    scored = [str(column)[2:] for column in frame.columns if str(column).startswith("p_")]
    if not scored:
        raise InputError("missing column", file=name, column="p_<finding>", expected="a p_ column per finding")
    values: dict[str, pd.Series] = {}
    if logits and all(_numbers(frame[f"p_{finding}"]).between(0, 1).all() for finding in scored):
        raise InputError(
            "no logits: every p_ is a probability already", file=name, found="--logits", expected="without --logits"
        )
    for finding in scored:
        if f"y_{finding}" not in frame.columns:
            raise InputError("missing column", file=name, column=f"y_{finding}", expected=f"labels of p_{finding}")
        y, p = _numbers(frame[f"y_{finding}"]), _numbers(frame[f"p_{finding}"])
        blank = frame[f"y_{finding}"].isna() | (frame[f"y_{finding}"].astype(str).str.strip() == "")
        _refuse(~(y.isin((0, 1)) | blank), frame, f"y_{finding}", name, "not a label", "0, 1 or blank")
        if logits:
            _refuse(~np.isfinite(p), frame, f"p_{finding}", name, "not a logit", "a number")
            p = 1 / (1 + np.exp(-p.clip(-700, 700)))
        wrong = ~((p >= 0) & (p <= 1))
        _refuse(wrong, frame, f"p_{finding}", name, "not a probability", "0 to 1 (--logits accepts logits)")
        values[f"y_{finding}"], values[f"p_{finding}"] = y, p
    for column in ("image", "patient_id"):
        text = _plain_text(frame[column]).str.strip()
        _refuse(frame[column].isna() | (text == ""), frame, column, name, "blank", "a name")
        values[column] = text
    if "split" in frame.columns:
        split = frame["split"].astype("str").str.strip().str.lower().map(SPLITS)
        _refuse(split.isna(), frame, "split", name, "unknown split", "train, val or test")
    else:
        split = pd.Series("test", index=frame.index, dtype="str")
    return frame.assign(**values, split=split)


def _numbers(column: pd.Series) -> pd.Series:
    return pd.to_numeric(column, errors="coerce").astype(float)


def _refuse(wrong: pd.Series, frame: pd.DataFrame, column: str, name: str | None, problem: str, expected: str) -> None:
    bad = np.flatnonzero(wrong.to_numpy())
    if len(bad):
        found, row = frame[column].iloc[bad[0]], int(frame.index[bad[0]]) + 2
        shown = "nothing" if pd.isna(found) else str(found)
        raise InputError(problem, file=name, row=row, column=column, found=shown, expected=expected)


def _label_runs(frame: pd.DataFrame, arm: str | None, seen: dict[str, int], name: str | None) -> pd.DataFrame:
    """Give every row its arm, seed and draw; check that no image comes twice in a run and splits share no patient."""
    labels: dict[str, pd.Series | str] = {}
    if "arm" in frame.columns:
        found = frame["arm"].astype("str").unique()
        if arm is not None and len(found) > 1:
            raise InputError(
                "a name was given to a file with several arms", file=name, column="arm", found=", ".join(found)
            )
        labels["arm"] = frame["arm"].astype("str") if arm is None else arm
    else:
        labels["arm"] = arm or DEFAULT_ARM
    if "seed" in frame.columns:
        labels["seed"] = _plain_text(frame["seed"])
    else:
        key = arm or (DEFAULT_ARM if "arm" not in frame.columns else str(name))
        labels["seed"] = str(seen.get(key, 0))
        seen[key] = seen.get(key, 0) + 1
    labels["draw"] = _plain_text(frame["draw"]) if "draw" in frame.columns else "0"
    frame = frame.assign(**labels)
    for column in RUN:
        _refuse(frame[column].isna(), frame, column, name, "blank", f"a {column}")
    twice = frame.duplicated([*RUN, "image"])
    if twice.any():
        position = int(np.flatnonzero(twice.to_numpy())[0])
        row, image = int(frame.index[position]) + 2, frame["image"].iloc[position]
        raise InputError("the same image twice in one arm, seed and draw", file=name, row=row, found=image)
    pairs = frame[[*RUN, "patient_id", "split"]].drop_duplicates()
    shared = pairs[pairs.duplicated([*RUN, "patient_id"])]
    if len(shared):
        row, patient = int(shared.index[0]) + 2, shared["patient_id"].iloc[0]
        raise InputError("a patient in two splits", file=name, row=row, column="split", found=patient)
    return frame


def _plain_text(column: pd.Series) -> pd.Series:
    """Names, seeds and draws as text; 1.0 becomes ``1``."""
    if pd.api.types.is_float_dtype(column) and (column.dropna() % 1 == 0).all():
        column = column.astype("Int64")
    return column.astype("str")


def _align(
    frames: list[pd.DataFrame], names: list[str], sources: tuple[dict, ...], notes: list[str], *, strict: bool
) -> Predictions:
    findings = tuple(str(column)[2:] for column in frames[0].columns if str(column).startswith("p_"))
    runs: list[dict] = []
    tests: dict[str, pd.DataFrame] = {}  # by the name that a message gives a run
    validation = []
    for frame, name in zip(frames, names, strict=True):
        others = {str(column)[2:] for column in frame.columns if str(column).startswith("p_")}
        if others != set(findings):
            odd = ", ".join(sorted(others ^ set(findings)))
            raise InputError("other findings than in the first file", file=name, found=odd)
        for key, part in frame.groupby(list(RUN), sort=False, dropna=False):
            run = dict(zip(RUN, map(str, key), strict=True))
            label = " ".join(f"{k} {v}" for k, v in run.items())
            if any(all(run[k] == old[k] for k in RUN) for old in runs):
                raise InputError("the same arm, seed and draw in two files", file=name, found=label)
            test, val = part[part["split"] == "test"], part[part["split"] == "val"]
            if test.empty:
                raise InputError(f"no test rows ({label})", file=name, expected="rows with split test")
            tests[f"{name} ({label})"] = test.sort_values(["patient_id", "image"], kind="stable", ignore_index=True)
            runs.append({**run, "file": int(frame["_file"].iloc[0])})
            validation.append(Scored(_matrix(val, "y_", findings), _matrix(val, "p_", findings), _groups(val)))
    if not strict:
        tests, common = _intersection(tests)
        notes = [*notes, *common]
    first_name, first = next(iter(tests.items()))
    y = _matrix(first, "y_", findings)
    for label, test in tests.items():
        _same_rows(first, y, test, _matrix(test, "y_", findings), findings, first_name, label)
    codes = pd.factorize(first["patient_id"])[0]
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    return Predictions(
        table=_groups(first),
        findings=findings,
        y=y,
        p=np.stack([_matrix(test, "p_", findings) for test in tests.values()]),
        runs=pd.DataFrame(runs),
        validation=tuple(validation),
        patients=Patients(starts, len(codes)),
        sources=sources,
        notes=tuple(notes),
        unequal=_unequal(tests),
    )


def _unequal(tests: dict[str, pd.DataFrame]) -> dict[str, str]:
    """Columns (not scores) that the first run and another, of the same rows, fill otherwise; and which two, where."""
    (a, first), *others = ((name, _groups(test)) for name, test in tests.items())
    found = {}
    for b, other in others:
        for column in [name for name in first.columns if name in other.columns and name not in found]:
            left, right = first[column], other[column]
            if left.dtype != right.dtype:
                left, right = _plain_text(left), _plain_text(right)
            odd = np.flatnonzero(~((left == right) | (left.isna() & right.isna())))
            if len(odd):
                found[column] = (
                    f"{left.iloc[odd[0]]} in {a}, {right.iloc[odd[0]]} in {b}, {first['image'].iloc[odd[0]]}"
                )
    return found


def _groups(frame: pd.DataFrame) -> pd.DataFrame:
    """Image, patient and the columns that may be groups."""
    drop = [c for c in frame.columns if str(c)[:2] in ("y_", "p_") or c in (*RUN, "split", "_file")]
    return frame.drop(columns=drop)


def _intersection(tests: dict[str, pd.DataFrame]) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The test rows of the images that every run holds, and what to say where a run held more."""
    sets = [set(test["image"]) for test in tests.values()]
    shared, held = set.intersection(*sets), set.union(*sets)
    if len(shared) == len(held):
        return tests, []
    if not shared:
        raise InputError("the runs share no test image", found=f"{len(held)} images", expected="the same test images")
    counts = ", ".join(f"{len(images)} in {label}" for label, images in list(zip(tests, sets, strict=True))[:4])
    note = (
        f"The runs hold different test images: judged on the {len(shared)} of {len(held)} that all of them hold "
        f"({counts}{', ...' if len(sets) > 4 else ''}; --strict refuses this)."
    )
    return {label: test[test["image"].isin(shared)].reset_index(drop=True) for label, test in tests.items()}, [note]


def _matrix(frame: pd.DataFrame, prefix: str, findings: Sequence[str]) -> Array:
    return np.ascontiguousarray(frame[[prefix + finding for finding in findings]].to_numpy(dtype=float).T)


def _same_rows(
    first: pd.DataFrame, first_y: Array, other: pd.DataFrame, y: Array, findings: Sequence[str], a: str, b: str
) -> None:
    if not np.array_equal(first["image"].to_numpy(), other["image"].to_numpy()):
        odd = sorted(set(first["image"]) ^ set(other["image"]))
        if odd:
            raise InputError(
                f"{a} and {b} hold different test images ({len(odd)} only in one)", found=odd[0], expected="the same"
            )
    theirs = first.set_index("image")["patient_id"].reindex(other["image"]).to_numpy()
    same = theirs == other["patient_id"].to_numpy()
    if not same.all():
        at = int(np.flatnonzero(~same)[0])
        raise InputError(
            f"{a} and {b} name different patients for image {other['image'].iloc[at]!r}", column="patient_id",
            found=f"{theirs[at]} and {other['patient_id'].iloc[at]}", expected="one name (leading zeros count)",
        )  # fmt: skip
    differs = ~((first_y == y) | (np.isnan(first_y) & np.isnan(y)))
    if differs.any():
        finding, row = (int(v) for v in np.argwhere(differs)[0])
        raise InputError(
            f"{a} and {b} hold different labels", column=f"y_{findings[finding]}", found=other["image"].iloc[row]
        )
