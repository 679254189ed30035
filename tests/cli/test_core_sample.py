"""``cxraug core sample`` and ``generate``: what a prompt gives reaches the core, and what must not stay stays away."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given as any_of
from hypothesis import strategies as st
from paintingcore import BOX, LUNG, SIZE, PaintingCore
from PIL import Image

from cxraug.cli.main import run
from cxraug.cli.sample import parse_findings, parse_views
from cxraug.cores import registry
from cxraug.errors import InputError
from cxraug.storage import file_sha256
from cxraug.studies.labels import parse_labels
from cxraug.studies.manifest import read_manifest
from cxraug.synthesis.generate import redraw

VIEWS = ["PA", "AP", "Lateral"]
A_BOX = [{"label": "Mass", "x": 4, "y": 8, "w": 6, "h": 5}]


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> list[PaintingCore]:
    """Every core that a command opens from here on."""
    opened: list[PaintingCore] = []

    def open_core(name, **_) -> PaintingCore:
        opened.append(PaintingCore())
        return opened[-1]

    monkeypatch.setattr(registry, "open_core", open_core)
    return opened


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: list[PaintingCore]) -> Path:
    """A folder to work in, with lungs (the left half), a noisy reference patient and a report."""
    monkeypatch.chdir(tmp_path)
    lungs = np.zeros((64, 64), np.uint8)
    lungs[:, :32] = 255
    Image.fromarray(lungs).save("lungs.png")
    rng = np.random.default_rng(3)
    Image.fromarray(rng.integers(60, 100, (SIZE, SIZE), dtype=np.uint8)).save("smith_john.png")
    Path("report.txt").write_text("Clear lungs. No effusion.\n")
    return tmp_path


def sample(*options: str, out: str = "set", n: int = 3) -> int:
    return run(["core", "sample", "painting", "--out", out, "--n", str(n), *options])


def image(name: str) -> np.ndarray:
    return np.asarray(Image.open(name))


def contents(folder: str) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    told = capsys.readouterr()
    (line,) = told.err.splitlines()
    assert line.startswith("error: ")
    assert told.out == ""
    return line


def test_a_sample_is_a_generated_set_with_a_sheet_and_reports(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sample("--findings", "Mass,-Effusion", "--sex", "F", "--age", "64", "--views", "frontal,lateral",
                  "--source", "here", "--seed", "5", "--report") == 0  # fmt: skip
    assert (
        "3 studies (6 images) of painting in set: manifest.parquet, sheet.png, reports.csv" in capsys.readouterr().out
    )
    frame = pd.read_parquet("set/manifest.parquet")
    assert list(frame["prompt_id"]) == ["s00000", "s00000", "s00001", "s00001", "s00002", "s00002"]
    assert list(frame["view"]) == ["PA", "Lateral"] * 3
    assert list(frame["seed"][::2]) == [5, 6, 7]
    assert set(frame["labels"]) == {"-Effusion|Mass"}
    assert set(frame["sex"]) == {"F"}
    assert set(frame["age"]) == {64.0}
    assert {"boxes", "mask"}.isdisjoint(frame)
    for name, seed in zip(frame["image"], frame["seed"], strict=True):
        assert (image(f"set/{name}") == 10 + seed).all()
    assert len(read_manifest("set/manifest.parquet")) == 6
    reports = pd.read_csv("set/reports.csv")
    assert list(reports["prompt_id"]) == ["s00000", "s00001", "s00002"]
    assert reports["report"][1] == "Effusion 0, Mass 1; F 64.0 here; seed 6"
    sheet = image("set/sheet.png")
    assert sheet.shape == (2 * (SIZE + 2), 4 * (SIZE + 2))  # a study's views stand side by side
    assert sheet[0, 0] == sheet[0, SIZE + 2] == 15
    assert sheet[SIZE + 2, 0] == 17


def test_boxes_masks_and_references_reach_the_core(home: Path) -> None:
    assert sample("--boxes", json.dumps(A_BOX), "--mask", "lungs.png", "--from-image", "Lateral=smith_john.png",
                  "--views", "AP", n=2) == 0  # fmt: skip
    expected = np.full((SIZE, SIZE), int(image("smith_john.png").mean()), np.uint8)
    expected[:, : SIZE // 2] += LUNG
    expected[8:13, 4:10] = BOX
    for i in range(2):
        assert np.array_equal(image(f"set/images/s0000{i}-AP.png"), expected)
    frame = pd.read_parquet("set/manifest.parquet")
    assert [json.loads(boxes) for boxes in frame["boxes"]] == [A_BOX] * 2
    assert json.loads(read_manifest("set/manifest.parquet").frame["boxes"][0]) == A_BOX


def test_a_box_belongs_to_the_row_of_its_view(home: Path) -> None:
    side = [{**A_BOX[0], "view": "Lateral"}]
    Path("boxes.json").write_text(json.dumps(side))
    assert sample("--boxes", "boxes.json", "--views", "frontal,lateral", n=1) == 0
    frame = pd.read_parquet("set/manifest.parquet").set_index("view")
    assert pd.isna(frame.loc["PA", "boxes"])
    assert json.loads(str(frame.loc["Lateral", "boxes"])) == A_BOX
    assert (image("set/images/s00000-Lateral.png") == BOX).sum() == 30
    assert not (image("set/images/s00000-PA.png") == BOX).any()


def test_neither_a_mask_nor_a_reference_nor_their_names_stay_in_a_set(home: Path) -> None:
    Image.fromarray(image("lungs.png")).save("doe_jane.png")
    assert sample("--mask", "doe_jane.png", "--from-image", "smith_john.png") == 0
    kept = contents("set")
    assert not Path("set/masks").exists()
    assert "mask" not in pd.read_parquet("set/manifest.parquet")
    reference = image("smith_john.png")
    assert not any(np.array_equal(image(name), reference) for name in kept if name.endswith(".png"))
    for name in ("set/manifest.parquet", "set/provenance.jsonl", "set/reports.csv", "set/set.json"):
        assert b"smith" not in kept[name]
        assert b"doe" not in kept[name]
    prompt = json.loads(kept["set/provenance.jsonl"].splitlines()[0])["prompt"]
    assert prompt["mask"] == {"PA": file_sha256("doe_jane.png")}
    assert prompt["reference_image"] == {"PA": file_sha256("smith_john.png")}


def test_masks_are_kept_where_asked(home: Path) -> None:
    assert sample("--mask", "lungs.png", "--keep-masks", n=2) == 0
    frame = read_manifest("set/manifest.parquet").frame
    assert list(frame["mask"]) == ["masks/s00000-PA.png", "masks/s00001-PA.png"]
    expected = np.zeros((SIZE, SIZE), np.uint8)
    expected[:, : SIZE // 2] = 1
    assert np.array_equal(image("set/masks/s00001-PA.png"), expected)
    assert sample("--mask", "lungs.png", n=2) == 2  # the same folder without them is other work
    assert sample("--mask", "lungs.png", "--fresh", n=2) == 0
    assert not Path("set/masks").exists()


def test_the_same_prompt_resumes_and_another_is_refused(home: Path, cores: list, capsys) -> None:
    asked = ("--mask", "lungs.png", "--boxes", json.dumps(A_BOX))
    assert sample(*asked) == 0
    before = contents("set")
    assert sample(*asked) == 0
    assert [core.batches for core in cores] == [2, 0]
    assert contents("set") == before
    capsys.readouterr()
    for other in (("--mask", "lungs.png"), (*asked, "--seed", "1"), (*asked, "--steps", "9"), (*asked, "--sex", "M")):
        assert sample(*other) == 2
        assert "--fresh" in one_line(capsys)
        assert contents("set") == before
    assert sample("--sex", "M", "--fresh") == 0
    assert set(pd.read_parquet("set/manifest.parquet")["sex"]) == {"M"}


def test_a_changed_file_is_other_work(home: Path, capsys) -> None:
    assert sample("--mask", "lungs.png") == 0
    capsys.readouterr()
    Image.fromarray(255 - image("lungs.png")).save("lungs.png")
    assert sample("--mask", "lungs.png") == 2
    assert "plan_sha256 changed" in one_line(capsys)


def test_a_given_report_reaches_the_core_and_none_is_written(home: Path) -> None:
    assert sample("--from-report", "report.txt", "--report") == 2
    assert sample("--from-report", "report.txt") == 0
    assert (image("set/images/s00000-PA.png") == len("Clear lungs. No effusion.")).all()
    assert not Path("set/reports.csv").exists()
    assert pd.read_parquet("set/manifest.parquet")["report"].isna().all()


def test_no_report_leaves_it_out(home: Path) -> None:
    assert sample("--no-report") == 0
    assert not Path("set/reports.csv").exists()


def test_reports_alone(home: Path, cores: list, capsys) -> None:
    asked = ("--views", "none", "--report", "--from-image", "smith_john.png", "--findings", "Mass,?Effusion")
    assert sample(*asked, out="reports") == 0
    told = capsys.readouterr()
    assert told.out == "3 reports of painting in reports: reports.csv\n"
    assert told.err == "left to the core: Effusion\n"
    reports = pd.read_csv("reports/reports.csv")
    assert list(reports["report"]) == [f"Mass 1; None None None; seed {i}" for i in range(3)]
    assert sorted(p.name for p in Path("reports").iterdir()) == ["reports.csv", "reports.json"]
    assert sample(*asked, out="reports") == 0
    assert cores[-1].batches == 0
    assert sample("--views", "none", "--seed", "4", out="reports") == 2
    assert sample("--views", "none", "--seed", "4", "--fresh", out="reports") == 0
    assert sample(out="reports") == 2
    assert sample("--fresh", out="reports") == 0
    assert sample("--views", "none", out="reports") == 2


def test_the_answer_for_machines(home: Path, capsys) -> None:
    assert sample("--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == {
        "core": "painting", "studies": 3, "images": 3, "folder": "set", "manifest": "set/manifest.parquet",
        "sheet": "set/sheet.png", "reports": "set/reports.csv",
    }  # fmt: skip


BAD = {
    "sex": (["--sex", "female"], "--sex; found 'female'"),
    "age": (["--age", "140"], "0 to 120"),
    "unknown finding": (["--findings", "Scurvy"], "'Scurvy'; expected one of Effusion, Mass, No Finding"),
    "unknown uncertain finding": (["--findings", "?Scurvy"], "'Scurvy'"),
    "empty finding": (["--findings", "Mass,,Effusion"], "empty finding name"),
    "finding twice": (["--findings", "Mass|-Mass"], "named twice"),
    "healthy and ill": (["--findings", "No Finding,Mass"], "'No Finding' together with 'Mass'"),
    "unknown view": (["--views", "frontal,oblique"], "'oblique'; expected one of PA, AP, Lateral, frontal"),
    "view twice": (["--views", "frontal,PA"], "the same view twice"),
    "none beside another": (["--views", "none,PA"], "'none'"),
    "empty views": (["--views", ""], "--views"),
    "nothing wanted": (["--views", "none", "--no-report"], "nothing is wanted"),
    "given and wanted": (["--from-report", "report.txt", "--report"], "either given or wanted"),
    "only a given report": (["--views", "none", "--from-report", "report.txt"], "nothing is wanted"),
    "race": (["--race", "any"], "does not know the condition 'race'"),
    "source": (["--source", "there"], "does not know the source 'there'"),
    "no report file": (["--from-report", "none.txt"], "none.txt: --from-report: no such file"),
    "empty report": (["--from-report", "empty"], "no text"),
    "binary report": (["--from-report", "smith_john.png"], "--from-report"),
    "no image": (["--from-image", "none.png"], "none.png: no such image"),
    "text as image": (["--from-image", "report.txt"], "not an image; found 'text'"),
    "folder as image": (["--from-image", "."], "not a regular file"),
    "image of an unknown view": (["--from-image", "Oblique=smith_john.png"], "--from-image: the core does not know"),
    "no name of an image": (["--from-image", "PA="], "names no file"),
    "two of one view": (["--mask", "lungs.png", "--mask", "frontal=lungs.png"], "two files of the view PA"),
    "two frontal references": (["--from-image", "smith_john.png", "--from-image", "AP=lungs.png"], "two reference"),
    "picture as mask": (["--mask", "smith_john.png"], "not a mask; found 'the value "),
    "boxes of nothing": (["--boxes", '[{"label": "Scurvy", "x": 1, "y": 1, "w": 1, "h": 1}]'], "'Scurvy'"),
    "box outside": (["--boxes", '[{"label": "Mass", "x": 30, "y": 1, "w": 9, "h": 1}]'], "not inside the image"),
    "box denied": (["--findings", "-Mass", "--boxes", json.dumps(A_BOX)], "which the labels deny"),
    "broken boxes": (["--boxes", "[{]"], "boxes is not JSON"),
    "boxes as object": (["--boxes", "{}"], "not a list"),
    "no boxes file": (["--boxes", "boxes.json"], "--boxes: no such file"),
    "out is a file": (["--out", "report.txt"], "not a folder"),
    "out is somebody's": (["--out", "mine"], "other work"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(home: Path, cores: list, capsys: pytest.CaptureFixture[str], name: str) -> None:
    Path("empty").touch()
    Path("mine").mkdir()
    Path("mine/reports.csv").write_text("precious")
    options, words = BAD[name]
    before = contents(".")
    assert sample(*options) == 2
    assert words in one_line(capsys)
    assert contents(".") == before
    assert sum(core.batches for core in cores) == 0


NAMES = st.sampled_from([*VIEWS, "frontal", "lateral", "pa", "none", "AP Supine", "x", ""])


@any_of(st.lists(NAMES, min_size=1, max_size=4), st.sampled_from([",", "|", " , "]))
def test_views_are_distinct_known_ones_in_the_order_asked_or_refused(names: list[str], between: str) -> None:
    meant = [{"frontal": "PA", "lateral": "Lateral", "pa": "PA"}.get(name, name) for name in names]
    if names == ["none"]:
        assert parse_views("none", VIEWS) == ()
    elif set(meant) <= set(VIEWS) and len(set(meant)) == len(meant):
        assert parse_views(between.join(names), VIEWS) == tuple(meant)
    else:
        with pytest.raises(InputError, match="--views"):
            parse_views(between.join(names), VIEWS)


def test_projections_go_by_the_cores_own_views() -> None:
    assert parse_views(None, ["AP", "PA"]) == ("AP",)
    assert parse_views("frontal", ["Lateral", "AP", "PA"]) == ("AP",)
    for text in ("frontal", "none,Lateral"):
        with pytest.raises(InputError, match=r"expected one of Lateral$"):
            parse_views(text, ["Lateral"])


@any_of(
    st.lists(st.sampled_from(["Mass", "-Mass", "?Mass", "Effusion", "-Effusion"]), max_size=3), st.sampled_from(",|")
)
def test_findings_are_the_label_grammar_with_either_sign_between(names: list[str], between: str) -> None:
    card = PaintingCore().card
    try:
        expected = parse_labels("|".join(names))
    except ValueError:
        with pytest.raises(InputError, match="twice"):
            parse_findings(between.join(names), card)
    else:
        assert parse_labels(parse_findings(between.join(names), card)) == expected


@pytest.fixture
def plan(home: Path) -> Path:
    (home / "plan").mkdir()
    shutil.copy("lungs.png", "plan/lungs.png")
    rows = [{"prompt_id": f"p{i}", "labels": "Mass", "seed": i, "mask": "lungs.png", "boxes": json.dumps(A_BOX)}
            for i in range(3)]  # fmt: skip
    pd.DataFrame(rows).to_csv("plan/plan.csv", index=False)
    return home / "plan" / "plan.csv"


def generate(plan: Path, *options: str) -> int:
    return run(["generate", str(plan), "--core", "painting", "--out", "set", *options])


def change(plan: Path, column: str, value: object) -> None:
    frame = pd.read_csv(plan)
    frame[column] = frame[column].astype(object) if column in frame else None
    frame.loc[1, column] = value
    frame.to_csv(plan, index=False)


def test_a_plans_files_start_from_its_folder(plan: Path, monkeypatch, home: Path) -> None:
    assert generate(plan, "--keep-masks") == 0
    for i in range(3):
        expected = np.full((SIZE, SIZE), 10 + i, np.uint8)
        expected[:, : SIZE // 2] += LUNG
        expected[8:13, 4:10] = BOX
        assert np.array_equal(image(f"set/images/p{i}-PA.png"), expected)
    monkeypatch.chdir("/")
    (line,) = redraw(home / "set", PaintingCore(), ["p1"], 1)  # found from elsewhere, too
    assert (image(str(home / "set" / line["image"])) == BOX).sum() == 30
    shutil.copy(home / "smith_john.png", home / "plan" / "lungs.png")
    with pytest.raises(InputError, match="not a mask"):
        redraw(home / "set", PaintingCore(), ["p1"], 2)
    Image.fromarray(np.ones((8, 8), np.uint8)).save(home / "plan" / "lungs.png")
    with pytest.raises(InputError, match="not what the set was made from"):
        redraw(home / "set", PaintingCore(), ["p1"], 2)


@pytest.mark.parametrize("column", ["mask", "reference_image"])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("../lungs.png", "leads out of the data folder; found '../lungs.png'"),
        ('{"Lateral": "../lungs.png"}', "leads out of the data folder"),
        ("/etc/hostname", "leads out of the data folder"),
        ("http://x/y.png", "leads out of the data folder"),
        ("none.png", "none.png: no such image"),
        ("plan.csv", "not an image"),
        ('{"Oblique": "lungs.png"}', "'Oblique'"),
        ("{]", "is not JSON"),
    ],
)  # fmt: skip
def test_every_file_of_a_plan_is_checked_first(
    plan: Path, cores: list, capsys, column: str, value: str, words: str
) -> None:
    change(plan, column, value)
    assert generate(plan) == 2
    line = one_line(capsys)
    assert words in line
    assert "row 3" in line
    assert not Path("set").exists()
    assert cores[0].batches == 0


def test_with_a_named_root_files_may_lie_beside_the_plan(plan: Path, home: Path, capsys) -> None:
    change(plan, "mask", "../right.png")
    Image.fromarray(255 - image("lungs.png")).save("right.png")
    assert generate(plan) == 2
    assert "--root" in one_line(capsys)
    assert generate(plan, "--root", str(home)) == 0
    assert image("set/images/p0-PA.png")[0].tolist() == [10 + LUNG] * 16 + [10] * 16
    assert image("set/images/p1-PA.png")[0].tolist() == [11] * 16 + [11 + LUNG] * 16


def test_a_plan_without_views_or_with_a_report_both_ways_is_refused(plan: Path, capsys) -> None:
    change(plan, "views", "none")
    assert generate(plan) == 2
    assert "row 3, column 'views': no view asked for" in one_line(capsys)
    change(plan, "views", "PA")
    change(plan, "report", "Clear.")
    change(plan, "wants_report", "yes")
    assert generate(plan) == 2
    assert "a report is given and one is wanted" in one_line(capsys)
