"""``cxraug core evaluate``: generate what real test rows describe, measure both, write the tables."""

from __future__ import annotations

import importlib.metadata
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxraug.cores.core import LATERAL, GenerativeCore
from cxraug.cores.measures import table
from cxraug.cores.measures.attributes import age_adherence, label_adherence, sex_adherence
from cxraug.cores.measures.consistency import Towers, embed_views, train_towers, view_consistency
from cxraug.cores.measures.diversity import diversity, twins
from cxraug.cores.measures.fitting import kept
from cxraug.cores.measures.lessons import lesson_rows, lessons_of, view_pairs
from cxraug.cores.measures.memorisation import Training, memorisation
from cxraug.cores.measures.reader import BATCH, CELL, PARTS, Reader, read, train_reader
from cxraug.cores.measures.regions import box_adherence, mask_adherence, mask_parts
from cxraug.cores.measures.report_agreement import report_agreement_rows
from cxraug.cores.measures.retrieval import NO_SPACE, retrieval
from cxraug.cores.measures.rows import (
    FRONTAL,
    GIVEN,
    MAIN,
    REPORTED,
    SETS,
    choose_rows,
    missing_fields,
    plan_of,
)
from cxraug.cores.measures.swaps import LEAST_UNIT, real_units, swap_matrix, swap_plan, swap_rows
from cxraug.errors import InputError
from cxraug.fidelity.comparison import compare_sets
from cxraug.fidelity.extractors import Extractor, open_extractor
from cxraug.fidelity.score import MEASURES, MIN_IMAGES
from cxraug.storage import atomic, write_json
from cxraug.studies.cache import build_cache
from cxraug.studies.images import Encoding
from cxraug.studies.labels import NO_FINDING
from cxraug.studies.manifest import Manifest, read_manifest
from cxraug.studies.seen import refuse_hidden
from cxraug.synthesis.assembly import MANIFEST
from cxraug.synthesis.generate import generate_set

TABLE, RESULT, SWAPS, NEAREST = "measures.csv", "core_evaluation.json", "swaps.csv", "nearest.csv"
TOWER_STEPS = 0.8  # of the reader's steps


@dataclass(frozen=True)
class EvaluationSettings:
    """What an evaluation is told.

    ``splits`` are those of the real rows that prompts are made of; ``n`` studies of them (None: all); ``sets`` the
    prompts (names of :data:`cxraug.cores.measures.rows.SETS`; empty for all); ``probe_steps`` optimiser steps of the
    reader, which sees ``side`` pixels (a core of fewer is read at its own); ``swaps`` prompts whose attributes are
    swapped; ``pairs`` prompts that are generated twice.
    """

    splits: tuple[str, ...] = ("test",)
    n: int | None = None
    seed: int = 0
    sets: tuple[str, ...] = ()
    probe_steps: int = 1500
    side: int = 128
    swaps: int = 48
    pairs: int = 100
    extractor: str = "conv-random"
    device: str = "cpu"


def evaluate_core(
    core: GenerativeCore,
    manifest: Manifest,
    out: str | Path,
    settings: EvaluationSettings,
    *,
    probes: Path | None = None,
    train: Manifest | None = None,
    fresh: bool = False,
) -> dict[str, Any]:
    """Measure ``core`` on prompts made of real rows of ``manifest``, beside those rows; write the tables into ``out``.

    Parameters
    ----------
    manifest : real images: rows of ``settings.splits`` to measure against, rows of ``train`` for the probes.
    out : ``sets/`` (generated, resumable), ``probes/``, ``measures.csv``, ``swaps.csv``, ``nearest.csv`` and
        ``core_evaluation.json``.
    probes : folder of the probes; default ``out/probes``. One folder may serve many cores of the same
        views and resolution.
    train : images that the core was trained on, for memorisation; default the train rows of ``manifest`` if the core's
        card says that it saw them.
    fresh : throw away the sets (and the probes in ``out``) that are there.

    Returns
    -------
    What ``core_evaluation.json`` holds.

    Raises
    ------
    InputError : no rows, a core that has seen the rows to measure against (HiddenDataError), probes or sets of other
        work in the folders.
    """
    evaluation = _Evaluation(core, manifest, Path(out), settings, probes, train, fresh)
    return evaluation.run()


class _Evaluation:
    """One evaluation in flight: the real rows, the probes and the rows of the table so far."""

    def __init__(
        self, core: GenerativeCore, manifest: Manifest, out: Path, settings: EvaluationSettings,
        probes: Path | None, train: Manifest | None, fresh: bool,
    ) -> None:  # fmt: skip
        self.core, self.card, self.manifest, self.out, self.settings = core, core.card, manifest, out, settings
        self.train, self.fresh = train, fresh
        strange = [name for name in settings.sets if name not in SETS]
        if strange:
            raise InputError("--sets: no such set of prompts", found=strange[0], expected=", ".join(SETS))
        self.extractor: Extractor = open_extractor(settings.extractor)
        if fresh:
            for name in ("sets", "probes", "cache"):
                shutil.rmtree(out / name, ignore_errors=True)
        self.probes = probes or out / "probes"
        self.encoding = Encoding(min(settings.side, self.card.resolution) // 16 * 16)
        self.rows = choose_rows(manifest, settings.splits, self.card.views, settings.n, settings.seed)
        self.findings = [f for f in manifest.findings if f != NO_FINDING]
        self.known = [f for f in self.findings if f in self.card.findings]
        self.table: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.times: dict[str, float] = {}
        self.main: Manifest | None = None
        self.swaps = pd.DataFrame()
        self.listed: list[pd.DataFrame] = []
        self.sets: dict[str, int] = {}

    def run(self) -> dict[str, Any]:
        self.real = self._pixels(self.rows.manifest, "real")
        self._refuse_seen()
        self._time("probes", self._train_probes)
        self.said = read(self.reader, self.real, device=self.settings.device)
        for name in self.settings.sets or SETS:
            self._time(f"set: {name}", lambda name=name: self._set(name))
        self._time("swaps", self._swap)
        self._time("diversity", self._diversity)
        self._time("memorisation", self._memorisation)
        self._retrieval()
        return self._write()

    # the real side

    def _refuse_seen(self) -> None:
        shas = self._cache(self.rows.manifest, "real", self.encoding).sha
        refuse_hidden(
            self.card.hashes, f"core {self.card.name}",
            patients={"/".join(self.settings.splits): self.rows.patients},
            images={"/".join(self.settings.splits): shas},
        )  # fmt: skip

    def _train_probes(self) -> None:
        rows = lesson_rows(self.manifest, self.card.views, self.settings.seed)
        shared = set(rows.frame["patient_id"]) & set(self.rows.patients)
        if shared:
            raise InputError(
                "the probes' training rows share patients with the rows to measure against",
                file=self.manifest.file, found=sorted(shared)[0], expected="--splits without train",
            )  # fmt: skip
        data = {"rows": rows.digest(), "encoding": vars(self.encoding), "seed": self.settings.seed}
        lessons, self.boxed = lessons_of(rows, self.findings, self.probes / "pixels", self.encoding)
        channels = lessons.maps.shape[1]
        self.has_masks = channels > len(self.boxed)
        steps = self.settings.probe_steps
        self.reader, self.reader_facts = kept(
            self.probes / "reader",
            {**data, "steps": steps, "batch": BATCH, "findings": self.findings, "channels": channels},
            lambda: train_reader(lessons, steps=steps, seed=self.settings.seed, device=self.settings.device),
            lambda: Reader(len(self.findings), channels),
        )
        self.towers: Towers | None = None
        frontal, lateral = view_pairs(rows)
        if len(frontal) >= 2 * MIN_IMAGES:
            sex = rows.frame["sex"].fillna("").to_numpy(str)[frontal]
            patients = rows.frame["patient_id"].to_numpy(str)[frontal]
            steps = max(round(TOWER_STEPS * steps), 1)
            self.towers, self.tower_facts = kept(
                self.probes / "towers",
                {**data, "steps": steps},
                lambda: train_towers(
                    lessons.pixels[frontal], lessons.pixels[lateral], sex, patients,
                    steps=steps, seed=self.settings.seed, device=self.settings.device,
                ),
                Towers,
            )  # fmt: skip
        self.lessons_n = len(rows)

    # one set of prompts

    def _generate(self, name: str, plan: pd.DataFrame) -> Manifest:
        folder = self.out / "sets" / name.replace(" ", "-")
        generate_set(plan, self.core, folder, root=self.manifest.root)  # masks lie beside the real images
        self.sets[name] = len(plan)
        return read_manifest(folder / MANIFEST, root=folder)

    def _set(self, name: str) -> None:
        missing = missing_fields(name, self.card)
        lacking = [f for f in SETS[name] if f in ("boxes", "mask", "report") and not self._has(f)]
        if missing or lacking:
            why = table.UNKNOWN if missing else f"no {lacking[0]} in the manifest"
            self.table.append(table.unknown("prompts", ", ".join(missing or lacking), name, why))
            return
        plan = plan_of(self.rows, name, self.card, self.findings, seed=self.settings.seed)
        if not len(plan):
            self.table.append(table.unknown("prompts", name, name, "no pairs of views in the manifest"))
            return
        made, wanted = self._generate(name, plan), self.rows.wanted(name)
        images = self._aligned(made, name, wanted)
        said = read(self.reader, images, device=self.settings.device)
        if name == MAIN:
            self.main = made
        sides = [side for side in self._sides() if side in self.rows.projection[wanted]]
        for side in sides:
            self._fidelity(name, made, side)
        fields = SETS[name]
        whole = bool({"report", *GIVEN} & set(fields))  # shows a study, and with it all that can be read off it
        for side in sides:
            at, of = wanted[self.rows.projection[wanted] == side], _of(side)
            own, other, who = self.said.take(at), said.take(at), self.rows.patients[at]
            if "findings" in fields or whole:
                lost = [f for f in self.findings if f not in self.known]
                if "findings" not in self.card.conditions and not whole:
                    lost = list(self.findings)
                y = self.rows.y(self.findings)[at]
                self.table += label_adherence(
                    own.findings, other.findings, y, self.findings, who, prompts=name, of=of, unknown=lost
                )
            for field, measure in (("sex", sex_adherence), ("age", age_adherence)):
                if field not in fields and not whole:
                    continue
                if field not in self.card.conditions and not whole:
                    self.table.append(table.unknown(f"{field} adherence", field + of, name))
                    continue
                values = (own.female, other.female) if field == "sex" else (own.age, other.age)
                asked = self.rows.female[at] if field == "sex" else self.rows.age[at]
                self.table += measure(*values, asked, who, prompts=name, of=of)
            if "boxes" in fields:
                boxes = [self.rows.boxes[i] for i in at]
                self.table += box_adherence(
                    own, other, boxes, self.boxed, who, prompts=name, of=of, seed=self.settings.seed
                )
            if "mask" in fields and self.has_masks:
                self.table += mask_adherence(own, other, self._masks(at), who, prompts=name, of=of)
        if name == MAIN:
            self._not_measured(name)
        if name in REPORTED:
            self._reports(name, plan, made)
        self._consistency(name, images)

    def _not_measured(self, name: str) -> None:
        for finding in self.card.findings:
            if finding not in self.findings:
                self.table.append(table.unknown("label auroc", finding, name, "not in the manifest"))
        for field in ("race", "source"):
            why = "no probe reads it" if field in self.card.conditions else table.UNKNOWN
            self.table.append(table.unknown(f"{field} adherence", field, name, why))
        for view in sorted(set(self.manifest.frame["view"]) - set(self.card.views)):
            self.table.append(table.unknown("view", view, name))

    def _fidelity(self, name: str, made: Manifest, side: str) -> None:
        real = self._held_out(side)
        other = made.take(made.frame["view"].isin(set(real.frame["view"])).to_numpy(bool))
        if real.frame["patient_id"].nunique() < 2 * MIN_IMAGES or other.frame["patient_id"].nunique() < MIN_IMAGES:
            why = f"fewer than {2 * MIN_IMAGES} real patients or {MIN_IMAGES} prompts"
            self.table += [table.unknown(measure, "all" + _of(side), name, why) for measure in MEASURES]
            return
        found = compare_sets(real, other, self.extractor, by_findings=name == MAIN, seed=self.settings.seed)
        how = f"extractor {self.extractor.name} ({self.extractor.sha256[:12]}); real: the real-against-real floor at "
        for line in found["rows"]:
            value = {"real": line["floor"], "generated": line["score"]}
            value |= {part: line[part] for part in ("difference", "difference_low", "difference_high")}
            if line["flag"] == "suppressed":
                value = {}
            elif value["real"] > 0 and value["generated"] > 0:
                value["ratio"] = value["generated"] / value["real"]
            self.table.append(
                table.row(line["measure"], line["finding"] + _of(side), name, value, n=line["n"],
                          method=how + f"n = {line['n']}", flag=line["flag"])
            )  # fmt: skip

    def _consistency(self, name: str, images: np.ndarray) -> None:
        frontal, lateral = view_pairs(self.rows.manifest)
        if self.towers is None or not len(frontal):
            if name == MAIN:
                knows = LATERAL in self.card.views and len(self.card.views) > 1
                why = "no pairs of views in the manifest" if knows else table.UNKNOWN
                self.table.append(table.unknown("pair auroc", "frontal and lateral", name, why))
            return
        vectors = [
            embed_views(self.towers, x[frontal], x[lateral], device=self.settings.device) for x in (self.real, images)
        ]
        sex = self.rows.manifest.frame["sex"].fillna("").to_numpy(str)[frontal]
        self.table += view_consistency(
            vectors[0], vectors[1], sex, self.rows.patients[frontal], prompts=name, seed=self.settings.seed
        )

    # several images of one prompt

    def _swap(self) -> None:
        if self.settings.swaps < 1:
            return
        side = self._sides()[0]
        at = np.flatnonzero(self.rows.projection == side)
        plan = plan_of(self.rows, MAIN, self.card, self.findings, seed=self.settings.seed)
        first = dict(zip(self.rows.study[at][::-1], self.rows.views[at][::-1], strict=True))
        plan["views"] = [first.get(int(name[1:8])) for name in plan["prompt_id"]]
        swaps = swap_plan(plan[plan["views"].notna()], self.known, self.card.conditions, self.settings.swaps)
        for field in ("sex", "age"):
            if field not in self.card.conditions:
                self.table.append(table.unknown("swap: own change", field, "swaps"))
        made = self._generate("swaps", swaps.drop(columns=["base", "swapped", "direction"]))
        images = self._pixels(made, "swaps")
        order = {name: i for i, name in enumerate(made.frame["prompt_id"])}
        said = read(self.reader, images[[order[name] for name in swaps["prompt_id"]]], device=self.settings.device)
        real, names = self.said.take(at), [*self.findings, "sex", "age"]
        units = real_units(real, self.rows.y(self.findings)[at], self.rows.female[at], self.rows.age[at])
        self.swaps = swap_matrix(said, swaps, self.findings, units)
        weak = [name for name, unit in zip(names, units, strict=True) if not unit >= LEAST_UNIT] + self._weak()
        self.table += swap_rows(self.swaps, weak)

    def _weak(self) -> list[str]:
        """What the reader cannot tell on real images, by the rows of the table."""
        return [
            str(line["of"]) for line in self.table
            if line["measure"] in ("label auroc", "sex auroc", "age correlation") and line["flag"] == table.WEAK
        ]  # fmt: skip

    def _diversity(self) -> None:
        if self.settings.pairs < 1:
            return
        sex = self.rows.manifest.frame["sex"].fillna("").to_numpy(str)
        at = np.flatnonzero(self.rows.projection == self._sides()[0])
        y, ages, views, who = self.rows.y(self.findings), self.rows.age, self.rows.views, self.rows.patients
        found = twins(y[at], sex[at], ages[at], views[at], who[at])
        rng = np.random.default_rng([self.settings.seed, 13])
        chosen = [at[list(found[i])] for i in sorted(rng.permutation(len(found))[: self.settings.pairs])]
        if not chosen:
            self.table.append(table.unknown("ms-ssim", "one prompt", "repeats", "no two alike patients in the rows"))
            return
        first = [int(self.rows.study[i]) for i, _ in chosen]
        second = [int(self.rows.study[j]) for _, j in chosen]
        plan = plan_of(self.rows.of_studies(first), MAIN, self.card, self.findings, seed=self.settings.seed, repeats=2)
        made = self._generate("repeats", plan)
        images = self._pixels(made, "repeats")
        place = {key: i for i, key in enumerate(zip(made.frame["prompt_id"], made.frame["view"], strict=True))}
        for side in self._sides():
            row = {int(self.rows.study[i]): int(i) for i in np.flatnonzero(self.rows.projection == side)}
            both = [(row[i], row[j]) for i, j in zip(first, second, strict=True) if i in row and j in row]
            a, b = (np.array([pair[k] for pair in both], int) for k in (0, 1))
            two = [images[[place[f"p{self.rows.study[i]:07d}-{again}", views[i]] for i in a]] for again in (0, 1)]
            real = self.real[a], self.real[b]
            self.table.append(diversity(real, (two[0], two[1]), who[a], prompts="repeats", of="one prompt" + _of(side)))

    def _memorisation(self) -> None:
        train, why = self.train, "its training images are not at hand (--train MANIFEST)"
        shas: np.ndarray | None = None
        if train is None:
            mine = self.manifest.frame["split"].eq("train") & self.manifest.frame["view"].isin(self.card.views)
            train = self.manifest.take(mine.to_numpy(bool))
        train = train.take(train.frame["view"].isin(self.card.views).to_numpy(bool))
        if len(train):
            shas = self._cache(train, "train", self.extractor.encoding).sha
        seen = 0 if shas is None else self.card.hashes.count_images(shas)
        if not seen and (self.train is None or self.card.hashes.images):
            if self.train is not None:
                raise InputError("--train holds no image that the core's card says it was trained on",
                                 file=self.train.file, expected="the images that the core was trained on")  # fmt: skip
            self.table.append(table.unknown("nearest training image", "all", "all", why))
            return
        if shas is not None and self.card.hashes.images:
            total = len(self.card.hashes.images)
            self.notes.append(f"memorisation: {seen} of the core's {total} training images were compared with")
        sets = [read_manifest(self.out / "sets" / s.replace(" ", "-") / MANIFEST) for s in self.sets]
        for side in self._sides():
            views = set(self.rows.views[self.rows.projection == side])
            own = [s.take(s.frame["view"].isin(views).to_numpy(bool)) for s in sets]
            pixels = [self._pixels(s, f"near-{name}-{side}", self.extractor.encoding)
                      for name, s in zip(self.sets, own, strict=True) if len(s)]  # fmt: skip
            names = [f"sets/{name.replace(' ', '-')}/{image}" for name, s in zip(self.sets, own, strict=True)
                     for image in s.frame["image"]]  # fmt: skip
            held = self._held_out(side)
            part = train.take(train.frame["view"].isin(views).to_numpy(bool))
            if not len(part) or not pixels:
                continue
            rows, listed = memorisation(
                np.concatenate(pixels), self._pixels(held, f"near-real-{side}", self.extractor.encoding),
                Training(self._pixels(part, f"near-train-{side}", self.extractor.encoding),
                         part.frame["image"].tolist(), part.frame["patient_id"].tolist()),
                images=names, real_patients=held.frame["patient_id"].tolist(), of="images" + _of(side),
            )  # fmt: skip
            self.table += rows
            self.listed.append(listed)

    # what only some cores have

    def _retrieval(self) -> None:
        if not hasattr(self.core, "embed"):
            self.table.append(table.unknown("recall@1", "reports and images", MAIN, NO_SPACE))
            return
        reports = self.rows.manifest.frame.get("report", pd.Series(np.nan, index=self.rows.manifest.frame.index))
        at = np.flatnonzero(reports.notna().to_numpy(bool) & (self.rows.projection == self._sides()[0]))
        if not len(at) or self.main is None:
            self.table.append(table.unknown("recall@1", "reports and images", MAIN, "no report in the manifest"))
            return
        native = Encoding(self.card.resolution)
        texts, view = reports.iloc[at].astype("str").tolist(), str(self.rows.views[at[0]])
        try:
            words = np.asarray(self.core.embed(texts))
        except InputError:  # a core of this kind that was trained without the stage that aligns its encoders
            self.table.append(table.unknown("recall@1", "reports and images", MAIN, NO_SPACE))
            return
        images = [self._pixels(m, f"embed-{i}", native) for i, m in enumerate((self.rows.manifest, self.main))]
        made = images[1][self._order(self.main, np.arange(len(self.rows)))]
        vectors = [np.asarray(self.core.embed(x[at], view)) for x in (images[0], made)]
        self.table += retrieval(vectors[0], vectors[1], words, texts, self.rows.patients[at], prompts=MAIN, of="")

    def _reports(self, name: str, plan: pd.DataFrame, made: Manifest) -> None:
        reports = made.frame.drop_duplicates("prompt_id").set_index("prompt_id")["report"]
        texts = reports[plan["prompt_id"]].tolist()
        if not all(isinstance(text, str) for text in texts):
            self.table.append(table.unknown("report agreement", "micro", name, "core writes no reports"))
            return
        place = {f"p{number:07d}": i for i, number in reversed(list(enumerate(self.rows.study)))}
        first = np.array([place[prompt] for prompt in plan["prompt_id"]])
        real = None
        if self._has("report"):
            frame = self.rows.manifest.frame
            real = [text if isinstance(text, str) else "" for text in frame["report"].iloc[first]]
        self.table += report_agreement_rows(
            real, texts, self.rows.y(self.known)[first], self.known, self.rows.patients[first], prompts=name
        )

    # small parts

    def _sides(self) -> list[str]:
        return [side for side in (FRONTAL, LATERAL) if (self.rows.projection == side).any()]

    def _held_out(self, side: str) -> Manifest:
        """All real rows of the splits in the views of one projection, chosen for prompts or not."""
        frame = self.manifest.frame
        mask = frame["split"].isin(self.settings.splits)
        mask &= frame["view"].isin(set(self.rows.views[self.rows.projection == side]))
        if "synthetic" in frame:
            mask &= ~frame["synthetic"].fillna(False).astype(bool)
        return self.manifest.take(mask.to_numpy(bool))

    def _has(self, column: str) -> bool:
        frame = self.rows.manifest.frame
        return column in frame and bool(frame[column].notna().any())

    def _masks(self, at: np.ndarray) -> np.ndarray:
        rows, grid = self.rows.manifest.take(at), self.encoding.size // CELL
        found = np.full((len(at), len(PARTS), grid, grid), np.nan)
        there = np.flatnonzero(rows.frame["mask"].notna().to_numpy(bool))
        for i, path in zip(there, rows.take(there).paths("mask"), strict=True):
            found[i] = mask_parts(path, grid)
        return found

    def _order(self, made: Manifest, wanted: np.ndarray) -> np.ndarray:
        """The position in a generated set of the image of each of the real rows ``wanted``."""
        place = {key: i for i, key in enumerate(zip(made.frame["prompt_id"], made.frame["view"], strict=True))}
        names = zip(self.rows.study[wanted], self.rows.views[wanted], strict=True)
        return np.array([place[f"p{s:07d}", v] for s, v in names])

    def _aligned(self, made: Manifest, name: str, wanted: np.ndarray) -> np.ndarray:
        """Generated images in the order of the real rows; views that were given stay as they are."""
        images = np.array(self.real)
        images[wanted] = self._pixels(made, name.replace(" ", "-"))[self._order(made, wanted)]
        return images

    def _cache(self, manifest: Manifest, name: str, encoding: Encoding):  # type: ignore[no-untyped-def]
        return build_cache(manifest, self.out / "cache" / name, encoding)[1]

    def _pixels(self, manifest: Manifest, name: str, encoding: Encoding | None = None) -> np.ndarray:
        return np.asarray(self._cache(manifest, name, encoding or self.encoding).pixels)

    def _time(self, what: str, work) -> None:  # type: ignore[no-untyped-def]
        start = time.monotonic()
        work()
        self.times[what] = round(time.monotonic() - start, 1)

    def _write(self) -> dict[str, Any]:
        frame = table.frame(self.table)
        for name, part in (
            (TABLE, frame),
            (SWAPS, self.swaps),
            (NEAREST, pd.concat(self.listed) if self.listed else None),
        ):
            if part is not None and len(part):
                with atomic(self.out / name) as temporary:
                    part.to_csv(temporary, index=False)
        probes = {"reader": self.reader_facts} | ({"towers": self.tower_facts} if self.towers is not None else {})
        found = {
            "core": {"name": self.card.name, "version": self.card.version, "sha256": self.card.sha256,
                     "sampler": dict(self.core.sampler), "conditions": self.card.conditions, "views": self.card.views},
            "manifest": {"file": self.manifest.file.name if self.manifest.file else None,
                         "digest": self.manifest.digest(), "studies": int(self.rows.study.max()) + 1,
                         "images": len(self.rows), "patients": len(set(self.rows.patients))},
            "settings": asdict(self.settings), "sets": self.sets, "findings": self.findings,
            "probes": {name: {"sha256": facts["sha256"], **facts["settings"]} for name, facts in probes.items()}
            | {"trained_on": {"split": "train", "images": self.lessons_n}},
            "extractor": self.extractor.describe(), "notes": self.notes, "seconds": self.times,
            "versions": {name: importlib.metadata.version(name) for name in ("torch", "numpy", "timm")},
            "rows": frame.to_dict("records"), "swaps": self.swaps.to_dict("records"),
            "nearest": [] if not self.listed else pd.concat(self.listed).to_dict("records"),
        }  # fmt: skip
        write_json(self.out / RESULT, found)
        return found


def _of(side: str) -> str:
    """What is appended to a row's name: nothing for frontal views."""
    return "" if side == FRONTAL else f", {side}"
