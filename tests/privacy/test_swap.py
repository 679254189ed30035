"""The whole swap on a toy set: what is kept, what is new, what is refused, and that nothing real gets out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from synthesis.toycore import FINDINGS, ToyCore, draw_chest

from cxraug.cores.core import Prompt
from cxraug.errors import HiddenDataError, InputError, WorkError
from cxraug.gate.settings import GateSettings
from cxraug.privacy import swap as module
from cxraug.privacy.cells import smallest_cell
from cxraug.privacy.swap import swap
from cxraug.privacy.swap_settings import SwapSettings, parse_strength
from cxraug.studies.manifest import Manifest, read_manifest
from cxraug.studies.seen import Seen

REPORT = "Patient number {0} has the following very special finding number {0} today."
# Copies alone are looked for: the other checks train networks and have tests of their own.
OTHERS = dict.fromkeys(("agreement", "demographics", "realism", "reports"), False)
GATE = GateSettings(**OTHERS, copy_rate=0.01, max_redraws=0)
OPEN = GateSettings(**OTHERS, duplicates=False)


def write_real(folder: Path, n: int = 60, **columns: Any) -> Path:
    """n training studies of 2n / 3 patients in few cells, and 10 test rows."""
    (folder / "scans").mkdir(parents=True)
    rng = np.random.default_rng(5)
    rows = []
    for i in range(n + 10):
        labels = {"Effusion": int(i % 2 == 0), "Mass": int(i % 3 == 0)}
        name = f"scans/original-{i:03d}.png"
        Image.fromarray(draw_chest(labels, rng)).save(folder / name)
        patient = f"secret-{i - (i % 3 == 2):03d}"
        rows.append(
            {"image": name, "patient_id": patient, "study_id": f"visit-{i:03d}", "sex": "F" if i % 2 else "M",
             "age": 30 + i % 20, "view": "PA", "labels": "|".join(("" if v else "-") + f for f, v in labels.items()),
             "split": "train" if i < n else "test", "source": "here", "report": REPORT.format(i)}
        )  # fmt: skip
    pd.DataFrame(rows).assign(**columns).to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Manifest:
    return read_manifest(write_real(tmp_path_factory.mktemp("real") / "clinic"))


class Writing(ToyCore):
    """A toy core that writes reports and has a strength."""

    sampler_fields = frozenset({"strength"})

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        conditions = [*self.card.conditions, "reference_image", "report"]
        self.card = self.card.model_copy(update={"conditions": conditions, "settings": {"writes_report": True}})
        self.says = "The heart is not enlarged and the lungs are clear."
        self.given: list[Prompt] = []

    def configure(self, **sampler: Any) -> None:
        self.sampler = {**self.sampler, **{k: v for k, v in sampler.items() if v is not None}}

    def _generate(self, prompts, seeds):
        self.given += prompts
        studies = super()._generate(prompts, seeds)
        for study in studies:
            study.report = self.says
        return studies


def settings(**changes: Any) -> SwapSettings:
    return SwapSettings(**{"k": 3, "candidates": 2, "size": 32, "gate": GATE, **changes})


def read(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "manifest.parquet")


@pytest.fixture(scope="module")
def done(real, tmp_path_factory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("out") / "swapped"
    return swap(real, Writing(), out, settings(), keep_private=True), out


def test_every_stand_in_keeps_the_findings_and_demographics_of_its_original(real, done) -> None:
    facts, out = done
    frame = read(out)
    links = pd.read_csv(Path(facts["private"]) / "links.csv")
    both = frame.merge(links, on="prompt_id", suffixes=("", "_real")).merge(
        real.frame, left_on="image_real", right_on="image", suffixes=("", "_was")
    )
    assert len(both) == len(frame) == facts["images"] > 40
    assert (both["labels"] == both["labels_was"]).all()
    assert (both["sex"] == both["sex_was"]).all()
    assert ((both["age"] - both["age_was"]).abs() <= 5).all()
    assert set(frame["age"]) <= {35.0, 45.0}
    assert (both["split_was"] == "train").all()
    assert set(frame["report"]) == {"The heart is not enlarged and the lungs are clear."}
    assert facts["swapped"] + sum(row["studies"] if row["studies"] != "<3" else 1 for row in facts["left_out"]) <= 60


def test_k_holds_in_what_was_written(done) -> None:
    facts, out = done
    frame = read(out)
    links = pd.read_csv(Path(facts["private"]) / "links.csv").set_index("prompt_id")
    columns = ["labels", "sex", "age", "age_band", "race", "source", "view"]
    patients = links.loc[frame["prompt_id"], "patient_id"]
    assert smallest_cell(frame[columns], patients) == facts["k"] >= 3


def test_the_set_is_a_generated_set_that_reads_without_an_error(done) -> None:
    _, out = done
    again = read_manifest(out / "manifest.parquet")
    assert (again.frame["patient_id"] == "syn-" + again.frame["prompt_id"]).all()
    assert (again.frame["study_id"] == again.frame["prompt_id"]).all()
    assert set(again.frame["split"]) == {"train"}
    assert again.frame["synthetic"].all()
    assert np.isfinite(again.y(["Effusion", "Mass"])).all()
    lines = [json.loads(line) for line in (out / "provenance.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines] == again.frame["image"].tolist()
    assert {path.name for path in out.iterdir()} == {"images", "manifest.parquet", "provenance.jsonl", "left_out.csv"}


def test_no_byte_of_the_originals_is_in_the_output(real, done) -> None:
    _, out = done
    secrets = [*real.frame["patient_id"], *real.frame["study_id"], *real.frame["image"], "original-", "special"]
    content = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    content += read(out).to_csv().encode() + str(sorted(p.name for p in out.rglob("*"))).encode()
    assert [s for s in secrets if s.encode() in content] == []
    assert len({path.stat().st_mtime_ns for path in out.rglob("*")}) == 1


def test_the_order_says_nothing_about_the_old_one(done) -> None:
    facts, out = done
    frame = read(out)
    links = pd.read_csv(Path(facts["private"]) / "links.csv").set_index("prompt_id")
    assert frame["prompt_id"].is_monotonic_increasing
    old = links.loc[frame["prompt_id"], "image"].rank()
    assert abs(np.corrcoef(old, np.arange(len(old)))[0, 1]) < 0.45  # 3.5 standard errors of independence at n = 60


def test_names_change_with_the_key_and_stay_with_it(real, tmp_path) -> None:
    for name, extra in (("a", {"keep_key": tmp_path / "key"}), ("b", {"key": tmp_path / "key"}), ("c", {})):
        swap(real, Writing(), tmp_path / name, settings(candidates=1), **extra)
    a, b, c = (read(tmp_path / name) for name in "abc")
    pd.testing.assert_frame_equal(a, b)
    assert not set(a["prompt_id"]) & set(c["prompt_id"])
    assert (tmp_path / "a" / "provenance.jsonl").read_bytes() == (tmp_path / "b" / "provenance.jsonl").read_bytes()
    assert not list(tmp_path.glob("*-private"))


def test_reports_that_repeat_or_name_are_never_given_out(real, tmp_path) -> None:
    core = Writing()
    core.says = REPORT.format(7)
    with pytest.raises(WorkError, match=r"no study has a stand-in.*rare phrases"):
        swap(real, core, tmp_path / "a", settings())
    core.says = "Discussed with Dr. Frankenstein."
    with pytest.raises(WorkError, match="looks like a name"):
        swap(real, core, tmp_path / "b", settings())
    silent = replace(real, frame=real.frame.drop(columns="report"))
    with pytest.raises(WorkError, match="looks like a name"):
        swap(silent, core, tmp_path / "b", settings(), fresh=True)
    core.says = "As in secret-009 before."
    with pytest.raises(WorkError, match="an id, name or date of the original data"):
        swap(real, core, tmp_path / "c", settings())
    assert not any((tmp_path / name).exists() for name in "abc")


def test_a_copy_is_not_a_stand_in(real, tmp_path) -> None:
    copied = np.asarray(Image.open(real.paths()[4]))

    def paint(prompt: Prompt, view: str, seed: int) -> np.ndarray:
        if seed % 3 == 0:
            return copied
        return draw_chest(dict(prompt.labels), np.random.default_rng(seed))

    facts = swap(real, ToyCore(paint=paint), tmp_path / "a", settings(candidates=1))
    assert "every candidate was refused by the gate (duplicates)" in {row["reason"] for row in facts["left_out"]}
    pixels = [np.asarray(Image.open(path)) for path in (tmp_path / "a" / "images").iterdir()]
    assert not any((image == copied).all() for image in pixels)


def test_a_stand_in_nearest_to_its_own_patient_is_refused(real, tmp_path) -> None:
    """An image-guided core that hardly changes anything."""

    class Copying(Writing):
        def _generate(self, prompts, seeds):
            studies = super()._generate(prompts, seeds)
            for prompt, study, seed in zip(prompts, studies, seeds, strict=True):
                path = json.loads(prompt.reference_image)["PA"]
                noise = np.random.default_rng(seed).normal(scale=25, size=(32, 32))
                study.images["PA"] = np.clip(np.asarray(Image.open(path)) + noise, 0, 255).astype(np.uint8)
            return studies

    with pytest.raises(WorkError, match="of the patient it stands for"):
        swap(
            real,
            Copying(),
            tmp_path / "a",
            settings(strength=0.3, gate=OPEN),
        )
    facts = swap(real, Copying(), tmp_path / "b", settings(
        strength=0.3, own_nearest=False, gate=OPEN))  # fmt: skip
    assert facts["core"]["sampler"]["strength"] == 0.3
    assert "seed" not in read(tmp_path / "b")
    lines = [json.loads(line) for line in (tmp_path / "b" / "provenance.jsonl").read_text().splitlines()]
    assert {line["seed"] for line in lines} == {0}
    assert all("reference_image" not in line["prompt"] for line in lines)


def test_the_real_report_may_be_a_condition_and_is_not_published(real, tmp_path) -> None:
    core = Writing()
    swap(real, core, tmp_path / "a", settings(strength="report", candidates=1))
    assert {prompt.report for prompt in core.given} <= set(real.frame["report"])
    assert read(tmp_path / "a")["report"].isna().all()
    assert b"special" not in (tmp_path / "a" / "provenance.jsonl").read_bytes()


def test_patients_stay_patients_only_when_asked(real, tmp_path) -> None:
    facts = swap(real, Writing(), tmp_path / "a", settings(keep_patients=True, candidates=1), keep_private=True)
    frame = read(tmp_path / "a")
    links = pd.read_csv(Path(facts["private"]) / "links.csv").set_index("prompt_id")
    old = links.loc[frame["prompt_id"], "patient_id"].to_numpy()
    assert frame["patient_id"].nunique() == len(set(old)) < len(frame)
    assert len(set(zip(frame["patient_id"], old, strict=True))) == len(set(old))
    lists: dict[str, list] = {}
    for row in frame.itertuples():
        lists.setdefault(row.patient_id, []).append((row.labels, row.sex, row.age_band))
    counts = Counter(tuple(sorted(studies, key=str)) for studies in lists.values())
    rare = sum(n for n in counts.values() if n < 3)
    assert facts["histories"] == {"patients": len(lists), "rare": rare}


def test_dates_are_shifted_and_no_other_column_is_carried_over(tmp_path) -> None:
    dated = read_manifest(write_real(tmp_path / "clinic", date="2019-03-31", ward="ward 7b", physician="Ada Lovelace"))
    swap(dated, Writing(), tmp_path / "a", settings(candidates=1))
    frame = read(tmp_path / "a")
    assert frame["date"].str[:2].isin(["21", "22"]).all()
    assert frame["date"].nunique() > 40
    assert not {"ward", "physician"} & set(frame.columns)
    bad = replace(dated, frame=dated.frame.assign(date="31.3.2019"))
    with pytest.raises(InputError, match="not a date"):
        swap(bad, Writing(), tmp_path / "b", settings())
    swap(dated, Writing(), tmp_path / "c", settings(candidates=1, dates="none"))
    assert "date" not in read(tmp_path / "c")


@pytest.mark.parametrize(
    ("columns", "changes", "message"),
    [
        ({"race": "Martian"}, {}, "does not know the condition 'race'.*--drop race"),
        ({"source": "elsewhere"}, {}, "does not know the source; found 'elsewhere'.*--drop source"),
        ({"view": "AP"}, {}, "does not know the view; found 'AP'.*--view-as 'AP=PA'"),
        ({"labels": "Hernia"}, {}, "does not know the finding; found 'Hernia'.*--drop 'Hernia'"),
        ({}, {"drop": ("Hernia",)}, "--drop names nothing that is there"),
        ({}, {"view_as": {"AP": "PA"}}, "--view-as; found 'AP=PA'"),
        ({}, {"strength": 0.5}, "cannot start from an image"),
        ({}, {"strength": "report"}, "takes no report as a condition"),
        ({}, {"splits": ("val",)}, "no row to swap"),
        ({}, {"dates": "when"}, "--dates names no column"),
        ({"split": "train", "synthetic": True}, {}, "only real studies are swapped"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(tmp_path, columns, changes, message) -> None:
    odd = read_manifest(write_real(tmp_path / "clinic", 6, **columns))
    with pytest.raises(InputError, match=message):
        swap(odd, ToyCore(), tmp_path / "a", settings(**changes))
    assert not (tmp_path / "a").exists()


def test_what_is_dropped_is_neither_asked_nor_published(tmp_path) -> None:
    odd = read_manifest(write_real(tmp_path / "clinic", race="Martian", view="AP", source="elsewhere"))
    core = Writing()
    drop = settings(drop=("race", "source", "age", "report"), view_as={"AP": "PA"}, candidates=1)
    facts = swap(odd, core, tmp_path / "a", drop)
    frame = read(tmp_path / "a")
    assert set(frame["view"]) == {"PA"}
    assert frame[["race", "age", "age_band", "report"]].isna().all().all()
    assert set(frame["source"]) == {""}
    assert all(prompt.age is None and prompt.source is None and not prompt.wants_report for prompt in core.given)
    assert facts["k"] >= 3


def test_a_leak_is_not_given_out(real, tmp_path, monkeypatch) -> None:
    write = module.write_lines

    def leaking(path, lines):
        write(path, [{**line, "note": "from secret-010"} for line in lines])

    monkeypatch.setattr(module, "write_lines", leaking)
    with pytest.raises(WorkError, match=r"read-back found.*'secret-010'"):
        swap(real, Writing(), tmp_path / "a", settings(candidates=1))
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "a-private" / "staging").exists()


def test_a_report_of_the_swap_is_read_back_as_well(real, tmp_path) -> None:
    def telling(swapped, folder: Path) -> None:
        folder.mkdir()
        (folder / "swap.html").write_text(f"<p>{swapped.links['patient_id'].iloc[0]}</p>")

    with pytest.raises(WorkError, match=r"report/swap\.html"):
        swap(real, Writing(), tmp_path / "a", settings(candidates=1), reporter=telling)


def test_a_core_that_has_seen_test_rows_is_refused(real, tmp_path) -> None:
    patient = real.frame.loc[real.frame["split"] == "test", "patient_id"].iloc[0]
    core = Writing(seen=Seen.of([patient], []))
    with pytest.raises(HiddenDataError, match="has seen 1 patients"):
        swap(real, core, tmp_path / "a", settings(candidates=1))
    assert swap(real, core, tmp_path / "a", settings(candidates=1), hidden=False)["swapped"]


def test_rows_of_another_split_may_be_swapped_and_the_gate_knows_them(tmp_path) -> None:
    manifest = read_manifest(write_real(tmp_path / "clinic"))
    moved = manifest.frame["split"].map({"train": "val", "test": "test"})
    all_val = replace(manifest, frame=manifest.frame.assign(split=moved))
    facts = swap(all_val, Writing(), tmp_path / "a", settings(splits=("val",), candidates=1))
    assert facts["gate"]["n"] == 60
    assert facts["rows_never_written"] == 10
    assert set(read(tmp_path / "a")["split"]) == {"train"}


def test_a_fresh_swap_that_was_interrupted_goes_on_without_being_told_again(real, tmp_path) -> None:
    swap(real, Writing(), tmp_path / "a", settings(candidates=1))

    class Killed(Writing):
        def _generate(self, prompts, seeds):
            if self.batches >= 5:
                raise KeyboardInterrupt
            return super()._generate(prompts, seeds)

    before = read(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        swap(real, Killed(), tmp_path / "a", settings(candidates=2), fresh=True)
    pd.testing.assert_frame_equal(read(tmp_path / "a"), before)  # the old one stays until the new one is whole
    swap(real, Writing(), tmp_path / "a", settings(candidates=2))
    assert not set(before["prompt_id"]) & set(read(tmp_path / "a")["prompt_id"])


def test_folders_of_other_work_are_not_touched(real, tmp_path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something that is no swapped set"):
        swap(real, Writing(), tmp_path / "a", settings(), fresh=True)
    (tmp_path / "b-private").mkdir()
    (tmp_path / "b-private" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="the private folder holds something else"):
        swap(real, Writing(), tmp_path / "b", settings(), fresh=True)
    with pytest.raises(InputError, match="must not lie in each other"):
        swap(real, Writing(), tmp_path / "c", settings(), private=tmp_path / "c" / "inside")
    swap(real, Writing(), tmp_path / "d", settings(candidates=1))
    with pytest.raises(InputError, match="holds a finished swap"):
        swap(real, Writing(), tmp_path / "d", settings(candidates=1))
    before = read(tmp_path / "d")
    swap(real, Writing(), tmp_path / "d", settings(candidates=1), fresh=True)
    assert not set(before["prompt_id"]) & set(read(tmp_path / "d")["prompt_id"])


def test_a_killed_swap_goes_on_with_its_key_and_ends_the_same(real, tmp_path) -> None:
    core, limit = Writing(), 7

    class Killed(Writing):
        def _generate(self, prompts, seeds):
            if self.batches >= limit:
                raise KeyboardInterrupt
            return super()._generate(prompts, seeds)

    with pytest.raises(KeyboardInterrupt):
        swap(real, Killed(), tmp_path / "a", settings(), keep_key=tmp_path / "key")
    assert (tmp_path / "a-private" / "README.txt").read_text().startswith("PRIVATE")
    assert (tmp_path / "a-private").stat().st_mode & 0o077 == 0
    with pytest.raises(InputError, match="unfinished swap of other rows, core or settings"):
        swap(real, core, tmp_path / "a", settings(k=4))
    swap(real, core, tmp_path / "a", settings(), keep_key=tmp_path / "key")
    assert core.batches < 2 * (60 // 4 + 8)
    swap(real, Writing(), tmp_path / "b", settings(), key=tmp_path / "key")
    pd.testing.assert_frame_equal(read(tmp_path / "a"), read(tmp_path / "b"))


def test_a_swap_killed_by_signal_again_and_again_ends_like_one_that_was_not(real, tmp_path) -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[3:]\n"
        "from pathlib import Path\n"
        "from test_swap import Writing, settings, swap, read_manifest\n"
        "swap(read_manifest(sys.argv[1]), Writing(pause=0.05), Path(sys.argv[2]), settings(), key=Path('key'))\n"
    )
    (tmp_path / "key").write_text("ab" * 32)
    here = Path(__file__).parent
    command = [sys.executable, "-c", code, str(real.file), str(tmp_path / "a"), str(here), str(here.parent)]
    for _ in range(2):
        process = subprocess.Popen(command, cwd=tmp_path, env=dict(os.environ), stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        units = tmp_path / "a-private" / "set" / "units"
        before = len(list(units.glob("*.jsonl")))
        while len(list(units.glob("*.jsonl"))) == before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "a").exists()
    core = Writing()
    swap(real, core, tmp_path / "a", settings(), key=tmp_path / "key")
    swap(real, Writing(), tmp_path / "b", settings(), key=tmp_path / "key")
    pd.testing.assert_frame_equal(read(tmp_path / "a"), read(tmp_path / "b"))


def test_hostile_ids_and_labels_do_no_harm(tmp_path) -> None:
    write_real(tmp_path / "clinic")
    frame = pd.read_csv(tmp_path / "clinic" / "manifest.csv", dtype=str)
    frame["patient_id"] = "<script>alert(1)</script>" + frame["patient_id"]
    frame["study_id"] = "../../" + frame["study_id"]
    frame.loc[0, "patient_id"] = "train"
    frame.loc[1, "study_id"] = 'a"b,c\nd'
    frame.to_csv(tmp_path / "clinic" / "manifest.csv", index=False)
    facts = swap(read_manifest(tmp_path / "clinic" / "manifest.csv"), Writing(), tmp_path / "a", settings(candidates=1))
    assert facts["swapped"] > 40
    assert b"script" not in b"".join(p.read_bytes() for p in (tmp_path / "a").rglob("*") if p.is_file())


def test_strengths_are_read_or_refused() -> None:
    assert parse_strength("0.6") == 0.6
    assert parse_strength("variation") == "variation"
    for bad in ("0", "1", "1.5", "nan", "strong"):
        with pytest.raises(InputError, match="--strength"):
            parse_strength(bad)


def test_findings_of_the_toy_core_are_the_ones_assumed_here() -> None:
    assert FINDINGS == ["Effusion", "Mass"]
