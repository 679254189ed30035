"""The anonymisation swap: a private set in, a synthetic one out in which no study can be traced to its original.

    manifest -> studies -> cells of at least k patients -> plan -> candidates -> gate -> staging -> read-back -> OUT

Everything that knows both sides lies in a private folder, from which an interrupted swap goes on. OUT appears whole, by
renaming, once it has been read back.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxraug.cores.core import VIEWS, Card, GenerativeCore
from cxraug.errors import InputError, WorkError
from cxraug.gate.gate import OTHER_VIEW, Gate, open_checks, real_images
from cxraug.privacy.cells import (
    LEFT_OUT_CELL,
    PUBLISHED,
    UNKNOWN,
    band_age,
    cell_patients,
    coarsen,
    losses,
    shown,
    smallest_cell,
)
from cxraug.privacy.choice import Choice, OwnPatient, choose
from cxraug.privacy.pseudonyms import Pseudonyms, parse_date, read_key, write_key
from cxraug.privacy.readback import (
    Originals,
    eight_bit,
    original_strings,
    read_back,
    refuse_leak,
    tile_hashes,
)
from cxraug.privacy.standins import configure_strength, refuse_unknown, standin_plan, studies_of
from cxraug.privacy.swap_settings import SwapSettings
from cxraug.privacy.texts import RarePhrases, overlap
from cxraug.progress import track
from cxraug.storage import atomic, digest, read_json, write_json
from cxraug.studies.cache import PixelCache, build_cache
from cxraug.studies.images import Encoding, encode, read_pixels
from cxraug.studies.labels import NO_FINDING, label_matrix, parse_labels
from cxraug.studies.manifest import Manifest
from cxraug.studies.seen import refuse_hidden
from cxraug.synthesis.assembly import MANIFEST, PROVENANCE, set_frame
from cxraug.synthesis.generate import first_draw, generate_set, redraw
from cxraug.synthesis.provenance import core_facts
from cxraug.synthesis.unit import IMAGES, disk_full_is_work_error, image_path, write_lines, write_png

STATE, KEY, README, SET, STAGING, CACHE = "swap.json", "key", "README.txt", "set", "staging", "cache"
LINKS, LEFT_OUT, REPORT, PLAN = "links.csv", "left_out.csv", "report", "standins.parquet"
OWN_FILES = (IMAGES, MANIFEST, PROVENANCE, LEFT_OUT, REPORT)  # of a finished swap
DATE_COLUMNS = ("date", "study_date", "studydate", "exam_date", "acquisition_date")
PATHS = {"weights", "xrv_findings", "xrv_sex", "xrv_age", "xrv_race"}  # of the gate's settings: not given out
FELL = "its cell fell under k because other stand-ins were refused"
NO_REPORT = "no report to draw it from"
PRIVATE_TEXT = """PRIVATE: this folder links synthetic studies to real patients.

It is what `cxraug anonymize` works in: the key of the new names, the plan with paths of real images, all candidates,
decoded real images (cache/) and the list of which stand-in stands for which study (links.csv). Whoever has it can undo
the swap. It is removed when the swap is done unless --keep-private was given. Never share it; delete it when you can.
"""


@dataclass
class Swapped:
    """A swap as far as the report needs it.

    Attributes
    ----------
    real : all rows of the manifest and ``cache`` their pixels, aligned. source : (n,) bool, the rows that were swapped.
    folder : the swapped set; ``frame`` its manifest rows; ``published`` the columns of a cell of each stand-in.
    links : ``prompt_id, view, image, patient_id`` of the originals, one row per image (private).
    facts : counts, k, losses and read-back, JSON-ready and publishable.
    """

    real: Manifest
    cache: PixelCache
    source: np.ndarray
    folder: Path
    private: Path
    frame: pd.DataFrame
    published: pd.DataFrame
    links: pd.DataFrame
    core: GenerativeCore
    settings: SwapSettings
    encoding: Encoding
    facts: dict[str, Any] = field(default_factory=dict)


Reporter = Callable[[Swapped, Path], Any]


def swap(
    manifest: Manifest,
    core: GenerativeCore,
    out: str | Path,
    settings: SwapSettings,
    *,
    private: str | Path | None = None,
    key: str | Path | None = None,
    keep_key: str | Path | None = None,
    keep_private: bool = False,
    fresh: bool = False,
    hidden: bool = True,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Swap every study of the chosen splits for a synthetic stand-in; go on where an earlier call stopped.

    Parameters
    ----------
    manifest : real rows; those of other splits than ``settings.splits`` are never written.
    core : any generative core; what it cannot honour is refused by name unless ``settings.drop`` gives it up.
    out : the swapped set: ``manifest.parquet, images/, provenance.jsonl, left_out.csv`` and ``report/``.
    private : folder of everything that links old and new; default ``<out>-private``. Removed at the end unless
        ``keep_private``.
    key, keep_key : file to take the key of the new names from, or to leave it in; otherwise nobody ever has it.
    fresh : throw away an unfinished swap in ``private`` and a finished one in ``out``.
    hidden : refuse a core that has seen validation or test rows (which utility is measured on).
    reporter : writes the report into a folder; what it writes is read back like everything else.

    Returns
    -------
    Counts and what was measured, JSON-ready.

    Raises
    ------
    InputError : bad input; a folder that holds something else. HiddenDataError : see ``hidden``.
    WorkError : no study could be swapped; disk full; the read-back found something of the originals.
    """
    out = Path(os.path.abspath(out))
    private = Path(os.path.abspath(private if private is not None else f"{out}-private"))
    if private == out or private.is_relative_to(out) or out.is_relative_to(private):
        raise InputError("the private folder and the swapped set must not lie in each other", file=private)
    if keep_key is not None:
        _refuse_key_place(Path(os.path.abspath(keep_key)), out, private)
    _refuse_synthetic(manifest)
    source = manifest.frame["split"].isin(settings.splits).to_numpy(bool)
    if not source.any():
        raise InputError("no row to swap", file=manifest.file, column="split", expected=", ".join(settings.splits))
    dates = _date_column(manifest, settings)
    studies = studies_of(manifest.take(source), settings)
    configure_strength(core, settings)
    refuse_unknown(studies, core, settings)
    able, without = _with_reports(studies, settings)
    coarsened = coarsen(able, settings.k)
    if not coarsened.kept.any():
        raise InputError(f"no combination of attributes has {settings.k} patients, so no study can be swapped",
                         file=manifest.file, expected="--drop attributes, or lower --k")  # fmt: skip
    replaces = fresh or _replaces(private)
    _refuse_finished(out, replaces)
    names = _claim(private, manifest, core, settings, key, fresh)
    encoding = Encoding(size=settings.size, fit=core.card.image_encoding.fit)
    real, cache = build_cache(manifest, private / CACHE, encoding)
    if hidden:
        refuse_seen(core.card, real, cache)

    paths = [str(path) for path in manifest.take(source).paths()]
    plan, links = standin_plan(able, coarsened.published, names, core.card, settings, paths)
    published = coarsened.published.set_axis(
        [names.name("study", able.loc[i, "key"]) for i in coarsened.published.index]
    )
    with atomic(private / PLAN) as temporary:
        plan.to_parquet(temporary, index=False)
    draws = _draw(plan, core, private / SET, settings.candidates)

    rows = np.flatnonzero(source)
    findings = [f for f in real.findings if f != NO_FINDING and f not in settings.drop]
    gate, real_images = _fitted_gate(real, cache, settings, findings, names, private)
    forbidden = original_strings(manifest.frame, root=manifest.root, file=manifest.file,
                                 public=_public_words(published, core.card))  # fmt: skip
    phrases = _phrases(manifest.frame, settings)
    owners = dict(zip(links["prompt_id"], links["patient"], strict=True))
    own = OwnPatient(real_images.pixels, real_images.patients) if settings.own_nearest else None
    claims = _claims(published.loc[plan["prompt_id"]], findings)
    choice = choose(draws, private / SET, gate, encoding, settings.gate, y=claims, owners=owners, own=own,
                    phrases=phrases, forbidden=forbidden)  # fmt: skip
    fallen = _fallen(choice, published, owners, settings.k)
    for prompt in fallen:
        del choice.draw[prompt]
    _write_private(private, able, without, coarsened.kept, links, choice, fallen, manifest.take(source))
    if not choice.draw:
        common = Counter(why for reasons in choice.refused.values() for why in set(reasons)).most_common(1)
        raise WorkError("no study has a stand-in that may be published"
                        + (f"; the most frequent reason: {common[0][0]}" if common else ""))  # fmt: skip

    staging = private / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    new_dates = {} if dates is None else _new_dates(links, manifest.take(source).frame[dates], names, settings, choice)
    frame = _write_set(staging, private / SET, draws, choice, published, settings, core, names, owners, new_dates)
    left_out = _left_out_counts(without, coarsened.kept, choice, fallen, settings.k)
    with atomic(staging / LEFT_OUT) as temporary:
        left_out.to_csv(temporary, index=False)
    originals = _originals(manifest, cache, forbidden, core.card, source)
    found = read_back(staging, originals, images=frame["image"].tolist())
    _refuse(found, staging)

    kept = published.loc[list(choice.draw)]
    facts = {
        "k_asked": settings.k,
        "k": smallest_cell(_published_of(frame), _patients_of(frame, owners)),
        "histories": _histories(frame, settings),
        "studies": len(studies), "swapped": len(choice.draw), "images": len(frame),
        "patients": int(studies["patient"].nunique()), "splits": list(settings.splits),
        "rows_never_written": int((~source).sum()),
        "left_out": left_out.to_dict("records"),
        "cells": {"published": len(kept.drop_duplicates()), **losses(able, coarsened, settings.k)},
        "columns": list(frame.columns),
        "core": core_facts(core), "settings": settings.model_dump(mode="json", exclude={"gate": PATHS}),
        "gate": gate.describe()["real"],
        "candidates_tried": choice.tried,
        "reports": overlap(frame.drop_duplicates("study_id")["report"].dropna().tolist(), phrases),
        "read_back": found.to_json(),
    }  # fmt: skip
    if reporter is not None:
        where = links.loc[links["prompt_id"].isin(choice.draw)]
        swapped = Swapped(real, cache, source, staging, private, frame, kept, _image_links(where, real, rows), core,
                          settings, encoding, facts)  # fmt: skip
        reporter(swapped, staging / REPORT)
        again = read_back(staging, originals, images=frame["image"].tolist())
        _refuse(again, staging)
    _give_out(staging, out, replaces)
    if keep_key is not None:
        write_key(keep_key, names.key)
    if not keep_private:
        shutil.rmtree(private)
    return {**facts, "folder": str(out), "private": str(private) if keep_private else None}


def _refuse_key_place(file: Path, out: Path, private: Path) -> None:
    """Raise :class:`InputError` for a key that would be given out with the set, thrown away, or not be written."""
    for folder, what in ((out, "would be given out with the set"), (private, "is thrown away with the private folder")):
        if file.is_relative_to(folder):
            raise InputError(f"--keep-key: a key in this folder {what}", file=file, expected="a file elsewhere")
    if not file.parent.is_dir():
        raise InputError("--keep-key: no such folder", file=file.parent)


def refuse_seen(card: Card, real: Manifest, cache: PixelCache) -> None:
    """Raise :class:`HiddenDataError` for a core that has seen validation or test rows of ``real``."""
    split, ids = real.frame["split"].to_numpy(), real.frame["patient_id"].to_numpy()
    roles = {"test": split == "test", "validation": split == "val"}
    patients: dict[str, Iterable[str]] = {role: list(ids[rows]) for role, rows in roles.items()}
    images: dict[str, Iterable[str]] = {role: list(cache.sha[rows]) for role, rows in roles.items()}
    refuse_hidden(card.hashes, f"core {card.name}", patients=patients, images=images)


def _refuse_synthetic(manifest: Manifest) -> None:
    frame = manifest.frame
    if "synthetic" in frame and frame["synthetic"].fillna(False).astype(bool).any():
        raise InputError("a synthetic row: only real studies are swapped", file=manifest.file, column="synthetic",
                         found="True", expected="real rows (--where synthetic=False)")  # fmt: skip


def _replaces(private: Path) -> bool:
    """Whether the swap that is under way in ``private`` was begun to replace a finished one."""
    return (private / STATE).is_file() and bool(read_json(private / STATE).get("replaces"))


def _refuse_finished(out: Path, fresh: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    finished = out.is_dir() and (out / LEFT_OUT).is_file() and (out / MANIFEST).is_file()
    if not finished:
        raise InputError("this folder holds something that is no swapped set", file=out, expected="a new folder")
    if not fresh:
        raise InputError("this folder holds a finished swap", file=out, expected="another folder, or --fresh")


def _claim(
    private: Path, manifest: Manifest, core: GenerativeCore, settings: SwapSettings, key: str | Path | None, fresh: bool
) -> Pseudonyms:
    """Make ``private`` the folder of exactly this swap, or refuse; its key."""
    given = None if key is None else read_key(key)
    work = digest([manifest.digest(), str(manifest.root), core_facts(core), settings.model_dump(mode="json"),
                   None if given is None else given.hex()])  # fmt: skip
    state = private / STATE
    if fresh and state.is_file():
        shutil.rmtree(private)
    if state.is_file():
        if read_json(state).get("work") != work:
            raise InputError("this private folder holds an unfinished swap of other rows, core or settings",
                             file=private, expected="the same, another --private, or --fresh")  # fmt: skip
        return Pseudonyms(read_key(private / KEY))
    strangers = [] if not private.exists() else [p.name for p in private.iterdir() if p.name not in (KEY, README)]
    if strangers:
        raise InputError("the private folder holds something else", file=private, expected="an empty or new folder")
    with disk_full_is_work_error(private):
        private.mkdir(parents=True, exist_ok=True)
        os.chmod(private, 0o700)
        names = Pseudonyms(given)
        write_key(private / KEY, names.key)
        with atomic(private / README) as temporary:
            temporary.write_text(PRIVATE_TEXT)
        write_json(state, {"work": work, "replaces": fresh})
    return names


def _with_reports(studies: pd.DataFrame, settings: SwapSettings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Studies that the strength asked for can be done with, and those without the report that it needs."""
    if settings.strength != "report":
        return studies, studies.iloc[:0]
    there = (studies["report"] != UNKNOWN).to_numpy(bool)
    if not there.any():
        raise InputError("--strength report, and no row has a report", expected="a manifest with reports")
    return studies[there].reset_index(drop=True), studies[~there]


def _draw(plan: pd.DataFrame, core: GenerativeCore, folder: Path, candidates: int) -> list[list[dict[str, Any]]]:
    generate_set(plan, core, folder, root="/")
    draws = [first_draw(folder)]
    for draw in range(1, candidates):
        draws.append(redraw(folder, core, plan["prompt_id"].tolist(), draw))
    return draws


def _fitted_gate(
    real: Manifest, cache: PixelCache, settings: SwapSettings, findings: Sequence[str], names: Pseudonyms, private: Path
) -> tuple[Gate, Any]:
    """The gate, fitted on the real training rows and those that are swapped, with what it saw of them."""
    seen = real.frame["split"].isin(["train", *settings.splits]).to_numpy(bool)
    rows = real.take(seen)
    rows = replace(rows, frame=rows.frame.assign(split="train"))
    images = real_images(rows, cache.take(seen), list(findings), settings.gate)
    checks = open_checks(settings.gate, tuple(findings), names.seed("gate"), private / "gate")
    return Gate(checks, settings.gate.false_reject).fit(images), images


def _claims(published: pd.DataFrame, findings: Sequence[str]) -> pd.DataFrame:
    """What each stand-in's label text claims: prompts x findings, 1, 0 or NaN."""
    y = label_matrix(published["labels"], None, list(findings), {"": ()})
    return pd.DataFrame(y, index=published.index, columns=list(findings))


def _phrases(frame: pd.DataFrame, settings: SwapSettings) -> RarePhrases:
    """The phrases of all real reports, none where there are none: new reports are judged all the same."""
    if "report" not in frame:
        return RarePhrases.of([], [], settings.k, limit=settings.max_phrases)
    there = frame[["patient_id", "report"]].dropna().drop_duplicates()
    reports, patients = there["report"].astype(str).tolist(), there["patient_id"].tolist()
    return RarePhrases.of(reports, patients, settings.k, limit=settings.max_phrases)


def _fallen(choice: Choice, published: pd.DataFrame, owners: dict[str, str], k: int) -> list[str]:
    """Stand-ins whose cell has fewer than k patients once the refused ones are gone."""
    chosen = list(choice.draw)
    counts = cell_patients(published.loc[chosen, list(PUBLISHED)], [owners[prompt] for prompt in chosen])
    return [prompt for prompt, count in zip(chosen, counts, strict=True) if count < k]


def _write_private(
    private: Path, studies: pd.DataFrame, without: pd.DataFrame, kept: np.ndarray, links: pd.DataFrame, choice: Choice,
    fallen: Sequence[str], manifest: Manifest,
) -> None:  # fmt: skip
    rows = [{"patient_id": s["patient"], "study_id": s["study"], "reason": NO_REPORT} for _, s in without.iterrows()]
    rows += [{"patient_id": s["patient"], "study_id": s["study"], "reason": LEFT_OUT_CELL}
             for _, s in studies[~kept].iterrows()]  # fmt: skip
    for link in links.itertuples():
        reasons = sorted(set(choice.refused.get(str(link.prompt_id), []))) or [FELL] * (link.prompt_id in fallen)
        if reasons:
            rows.append({"patient_id": link.patient, "study_id": link.study, "reason": "|".join(reasons)})
    with atomic(private / LEFT_OUT) as temporary:
        pd.DataFrame(rows, columns=["patient_id", "study_id", "reason"]).to_csv(temporary, index=False)
    chosen = links[links["prompt_id"].isin(choice.draw)]
    with atomic(private / LINKS) as temporary:
        _image_links(chosen, manifest, np.arange(len(manifest))).to_csv(temporary, index=False)


def _image_links(links: pd.DataFrame, manifest: Manifest, rows: np.ndarray) -> pd.DataFrame:
    """One row per image of the originals; ``rows`` maps positions of the swapped part to those of ``manifest``."""
    image = manifest.frame["image"].to_numpy(dtype=object)
    found = [
        {"prompt_id": link["prompt_id"], "view": view, "image": image[rows[at]], "patient_id": link["patient"]}
        for link in links.to_dict("records")
        for view, at in zip(str(link["views"]).split("|"), link["rows"], strict=True)
    ]
    return pd.DataFrame(found, columns=["prompt_id", "view", "image", "patient_id"])


def _left_out_counts(
    without: pd.DataFrame, kept: np.ndarray, choice: Choice, fallen: Sequence[str], k: int
) -> pd.DataFrame:
    """Reasons and counts that may be published: below ``k`` they are given as ``<k``."""
    counts = Counter({NO_REPORT: len(without), LEFT_OUT_CELL: int((~kept).sum()), FELL: len(fallen)})
    for reasons in choice.refused.values():
        counts[" and ".join(sorted({_kind(reason) for reason in reasons} - {""}))] += 1
    rows = [{"reason": reason, "studies": shown(n, k)} for reason, n in sorted(counts.items()) if n]
    return pd.DataFrame(rows, columns=["reason", "studies"])


def _kind(reason: str) -> str:
    """What of a reason is published: which check of the gate it was, but not which finding."""
    if reason == OTHER_VIEW:
        return ""
    check, colon, _ = reason.partition(": ")
    return f"every candidate was refused by the gate ({check})" if colon else reason


def _date_column(manifest: Manifest, settings: SwapSettings) -> str | None:
    if settings.dates == "none":
        return None
    columns = {str(name).lower(): str(name) for name in manifest.frame.columns}
    if settings.dates is not None:
        if settings.dates not in manifest.frame.columns:
            raise InputError("--dates names no column", file=manifest.file, found=settings.dates,
                             expected=f"one of {', '.join(map(str, manifest.frame.columns))}, or none")  # fmt: skip
        return settings.dates
    return next((columns[name] for name in DATE_COLUMNS if name in columns), None)


def _new_dates(
    links: pd.DataFrame, old: pd.Series, names: Pseudonyms, settings: SwapSettings, choice: Choice
) -> dict[str, str]:
    """New dates by prompt_id, shifted by one random span per new patient; a study without a date gets none."""
    days: dict[str, list[tuple[str, Any]]] = {}
    for link in links.itertuples():
        text = old.iloc[link.rows[0]]  # type: ignore[index]
        if text != text or text is None or not str(text).strip():
            continue
        try:
            day = parse_date(str(text))
        except ValueError:
            raise InputError("not a date", column=str(old.name), found=str(text),
                             expected="2019-03-31 or 20190331, or --dates none") from None  # fmt: skip
        if link.prompt_id in choice.draw:
            owner = str(link.patient) if settings.keep_patients else str(link.prompt_id)
            days.setdefault(owner, []).append((str(link.prompt_id), day))
    shifted = {}
    for owner, pairs in days.items():
        for (prompt, _), day in zip(pairs, names.dates(owner, [day for _, day in pairs]), strict=True):
            shifted[prompt] = day.isoformat()
    return shifted


def _write_set(
    staging: Path, drawn: Path, draws: Sequence[Sequence[dict[str, Any]]], choice: Choice, published: pd.DataFrame,
    settings: SwapSettings, core: GenerativeCore, names: Pseudonyms, owners: dict[str, str], new_dates: dict[str, str],
) -> pd.DataFrame:  # fmt: skip
    """Write images, manifest and provenance in the order of the new ids, with nothing in them but what may be known."""
    chosen = [line for draw, lines in enumerate(draws) for line in lines
              if choice.draw.get(line["prompt_id"]) == draw]  # fmt: skip
    place = {prompt: number for number, prompt in enumerate(sorted(choice.draw))}
    chosen.sort(key=lambda line: (place[line["prompt_id"]], line["prompt"]["views"].index(line["view"])))
    public = []
    with disk_full_is_work_error(staging):
        for line in track(chosen, "writing the swapped set"):
            image = image_path(line["prompt_id"], line["view"], 0)
            sha256 = write_png(staging / image, read_pixels(drawn / line["image"]))
            public.append(_public_line(line, place[line["prompt_id"]], image, sha256, settings))
        write_lines(staging / PROVENANCE, public)
    frame = set_frame(public)
    rows = published.loc[frame["prompt_id"]]
    for name in ("labels", "sex", "race", "source"):
        values = rows[name].to_numpy(dtype=object)
        frame[name] = pd.Series([None if v == UNKNOWN and name != "source" else v for v in values], dtype="str")
    frame["age"] = [band_age(band) for band in rows["age_band"]]
    place_of_age = int(np.flatnonzero(frame.columns == "age")[0])
    frame.insert(place_of_age + 1, "age_band", pd.Series([band or None for band in rows["age_band"]], dtype="str"))
    frame["gate"] = "accept"
    if settings.keep_patients:
        frame["patient_id"] = [f"syn-{names.name('patient', owners[prompt])}" for prompt in frame["prompt_id"]]
    if new_dates:
        frame["date"] = pd.Series([new_dates.get(prompt) for prompt in frame["prompt_id"]], dtype="str")
    if settings.guided:
        frame = frame.drop(columns="seed")
    annotated = {str(source): _annotated(part["labels"]) for source, part in frame.groupby("source")}
    findings = tuple(sorted({f for known in annotated.values() for f in known}))
    Manifest(frame, staging, None, findings, annotated).save(staging / MANIFEST)
    return frame


def _public_line(line: dict[str, Any], index: int, image: str, sha256: str, settings: SwapSettings) -> dict[str, Any]:
    """A provenance line without what links to the original.

    Where the core was given the real image or report, the seed is left out: with it, anyone who holds a candidate for
    the original could repeat the drawing and compare bytes.
    """
    prompt = {name: value for name, value in line["prompt"].items() if name not in ("reference_image", "report")}
    kept = {name: value for name, value in line.items() if name != "seed" or not settings.guided}
    extra = {"seed": 0} if settings.guided else {}
    return {**kept, **extra, "index": index, "draw": 0, "image": image, "sha256": sha256, "prompt": prompt}


def _annotated(labels: pd.Series) -> tuple[str, ...]:
    """Findings that any of the label texts says something about."""
    return tuple(sorted({f for text in pd.unique(labels.dropna()) for f, v in parse_labels(text).items() if v >= 0}))


def _published_of(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per study with everything about it that the written manifest says of its patient."""
    views = frame.groupby("study_id", sort=False)["view"].agg("|".join)
    columns = [c for c in ("labels", "sex", "race", "age", "age_band", "source") if c in frame]
    studies = frame.drop_duplicates("study_id").set_index("study_id")[columns]
    return studies.astype("str").assign(views=views.reindex(studies.index))


def _histories(frame: pd.DataFrame, settings: SwapSettings) -> dict[str, int] | None:
    """Where studies of a patient stay together: of how many new patients fewer than k share the whole list of studies.

    k holds for every study by itself; a list of several studies is rarer than each of them.
    """
    if not settings.keep_patients:
        return None
    studies = frame.drop_duplicates("study_id")
    text = _published_of(frame).reindex(studies["study_id"]).fillna(UNKNOWN).agg("\0".join, axis=1).to_numpy()
    lists = pd.Series(text).groupby(studies["patient_id"].to_numpy()).agg(lambda part: "\1".join(sorted(part)))
    alike = lists.map(lists.value_counts())
    return {"patients": len(lists), "rare": int((alike < settings.k).sum())}


def _patients_of(frame: pd.DataFrame, owners: dict[str, str]) -> list[str]:
    return [owners[prompt] for prompt in frame.drop_duplicates("study_id")["prompt_id"]]


def _originals(manifest: Manifest, cache: PixelCache, forbidden: Any, card: Card, source: np.ndarray) -> Originals:
    tiles = []
    for path in track(manifest.take(source).paths(), "reading the originals"):
        pixels = read_pixels(path)
        tiles.append(tile_hashes(eight_bit(pixels)))
        tiles.append(tile_hashes(encode(pixels, card.image_encoding)))
    every = np.unique(np.concatenate(tiles)) if tiles else np.zeros(0, np.uint64)
    return Originals(forbidden, frozenset(str(sha) for sha in cache.sha), every, int(source.sum()))


def _public_words(published: pd.DataFrame, card: Card) -> set[str]:
    """Words that a swapped set has by design: an original id that is one of them says nothing."""
    words = {"train", "accept", "reject", "synthetic", "label", "male", "female", "true", "false", "none", "null"}
    words |= {*VIEWS, *card.views, *card.findings, *card.sources, *card.races, card.name, card.version, NO_FINDING}
    for name in ("sex", "race", "source", "age_band"):
        words |= set(published[name])
    return words | {f for text in pd.unique(published["labels"]) for f in parse_labels(text)}


def _refuse(found: Any, staging: Path) -> None:
    if found.problems:
        shutil.rmtree(staging, ignore_errors=True)
    refuse_leak(found)


def _give_out(staging: Path, out: Path, fresh: bool) -> None:
    """Put the set where it belongs, whole; every file gets the same time, which says nothing about its original."""
    now = time.time()
    for path in sorted(staging.rglob("*"), reverse=True):
        os.utime(path, (now, now))
    os.chmod(staging, 0o755)
    os.utime(staging, (now, now))
    with disk_full_is_work_error(out):
        if out.exists():
            for name in OWN_FILES if fresh else ():
                shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink(missing_ok=True)
            out.rmdir()  # only what a swap writes was in it
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(staging, out)
        except OSError:  # another file system
            partial = out.with_name(f".{out.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(staging, partial)
            os.rename(partial, out)
