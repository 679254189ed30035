"""The audit of a synthetic set, from manifests to table, record and page: planted leaks are found, and refusals."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from cxraug.cli.main import app, run
from cxraug.cores.core import Card
from cxraug.errors import InputError
from cxraug.pages.privacy import PAGE, write_privacy_page
from cxraug.privacy import attacks, reidentification
from cxraug.privacy.attacks import COLUMNS, AttackSettings, attack_set, attack_swap, link_rows, members_of
from cxraug.privacy.reidentification import Gallery, Identification
from cxraug.privacy.verification import Embedder
from cxraug.storage import write_json
from cxraug.studies.cache import build_cache
from cxraug.studies.images import Encoding
from cxraug.studies.manifest import Manifest, read_manifest
from cxraug.studies.seen import Seen

SIDE = 32
QUICK = AttackSettings(size=SIDE, steps=3, replicates=50, impostors=20, copies=False)
WITH_COPIES = replace(QUICK, copies=True)


def chest(person: np.random.Generator, study: np.random.Generator) -> np.ndarray:
    """A smooth picture that is a person's own, with noise of the study."""
    coarse = np.kron(person.normal(0, 22, (8, 8)), np.ones((4, 4)))
    return np.clip(120 + coarse + study.normal(0, 14, (SIDE, SIDE)), 0, 255).astype(np.uint8)


def write(folder: Path, images: list[np.ndarray], **columns: object) -> Manifest:
    (folder / "images").mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"images/{i}.png")
    frame = pd.DataFrame({"image": [f"images/{i}.png" for i in range(len(images))], "view": "PA", **columns})
    frame.to_csv(folder / "manifest.csv", index=False)
    return read_manifest(folder / "manifest.csv")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifest]:
    """90 real patients with 2 images each; a swap that copies the person, one that keeps attributes alone."""
    root = tmp_path_factory.mktemp("attacked")
    people = [np.random.default_rng([1, p]) for p in range(90)]
    coarse = [p.bit_generator.state for p in people]
    rng = np.random.default_rng(2)

    def again(p: int) -> np.ndarray:
        people[p].bit_generator.state = coarse[p]
        return chest(people[p], rng)

    who = np.repeat(np.arange(90), 2)
    about = {
        "sex": np.where(who % 2, "F", "M"), "age": 40.0 + who % 3, "labels": np.where(who % 4 < 2, "Mass", "Edema"),
        "source": "here",
    }  # fmt: skip
    real = write(root / "real", [again(p) for p in who], patient_id=[f"r{p:03d}" for p in who], **about)
    prompts = [f"q{i:03d}" for i in range(90)]
    same = {name: np.asarray(value)[::2] if name != "source" else value for name, value in about.items()}
    facts = {"patient_id": [f"syn-{q}" for q in prompts], "prompt_id": prompts, "synthetic": True, "split": "train"}
    stranger = [chest(np.random.default_rng([9, p]), rng) for p in range(90)]
    return {
        "real": real,
        "leaking": write(root / "leaking", [again(p) for p in range(90)], **facts, **same),
        "clean": write(root / "clean", stranger, **facts, **same),
    }


@pytest.fixture(scope="module")
def links(sets: dict[str, Manifest]) -> pd.DataFrame:
    first = sets["real"].frame.iloc[::2]
    return pd.DataFrame(
        {"prompt_id": [f"q{i:03d}" for i in range(90)], "image": first["image"].to_numpy(),
         "patient_id": first["patient_id"].to_numpy()}
    )  # fmt: skip


@pytest.fixture(autouse=True)
def few_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network: 90 people of noise teach none in seconds, and pixels are enough to know them."""
    monkeypatch.setattr(reidentification, "LEAST_PATIENTS", 10**6)


def find(found: dict, **wanted: object) -> dict:
    rows = [row for row in found["rows"] if all(row[k] == v for k, v in wanted.items())]
    assert len(rows) == 1, (wanted, rows)
    return rows[0]


def test_real_pairs_come_first_and_a_leaking_swap_is_told_from_a_clean_one(sets, links, tmp_path: Path) -> None:
    leaking = attack_swap(sets["real"], sets["leaking"], links, tmp_path / "a", QUICK, networks=tmp_path / "n")
    clean = attack_swap(sets["real"], sets["clean"], links, tmp_path / "b", QUICK, networks=tmp_path / "n")
    for found in (leaking, clean):
        assert found["rows"][0]["target"] == "real pairs"
        assert find(found, target="real pairs", attack="re-identification", measure="auc")["ci_low"] > 0.9
        assert found["sentences"][0].startswith("On two real images of one patient")
        assert "recognises" in found["sentences"][0]
    wanted = {"attack": "re-identification", "target": "synthetic to original", "measure": "auc"}
    assert find(leaking, **wanted)["ci_low"] > 0.9
    assert "re-identification" in leaking["alarms"], "a set in which patients are found is never called quiet"
    assert "re-identification" not in clean["alarms"]
    row = find(clean, **wanted)
    assert row["ci_low"] < 0.5 < row["ci_high"]
    assert f"upper 95 % limit {row['ci_high']:.3f}" in " ".join(clean["sentences"])
    table = pd.read_csv(tmp_path / "b" / "attacks.csv")
    assert tuple(table.columns) == COLUMNS
    assert len(table) == len(clean["rows"])
    np.testing.assert_allclose(
        table["value"].to_numpy(float), [np.nan if r["value"] is None else r["value"] for r in clean["rows"]]
    )


def test_without_links_resemblance_is_counted_and_no_auc_is_claimed(sets, tmp_path: Path) -> None:
    leaking = attack_set(sets["real"], sets["leaking"], tmp_path / "a", QUICK)
    clean = attack_set(sets["real"], sets["clean"], tmp_path / "b", QUICK)
    near = [find(found, measure="resemble a patient") for found in (leaking, clean)]
    assert near[0]["value"] > 0.25  # a patient is in one fold of three
    assert near[1]["value"] < 0.1
    assert not [row for row in clean["rows"] if row["target"] == "synthetic to nearest patient" and row["ci_low"]]
    assert "no links were given" in " ".join(clean["sentences"])


def test_membership_by_the_cards_hashes_finds_a_copying_core_and_leaves_a_sound_one(sets, tmp_path: Path) -> None:
    real = sets["real"]
    frame = real.frame
    real = replace(real, frame=frame.assign(split=np.where(frame.index < 90, "test", "train")))  # the card knows better
    _, cache = build_cache(real, tmp_path / "cache", Encoding(SIDE))
    seen = Seen.of(frame["patient_id"][:90], cache.sha[:90])
    card = Card(name="copying", version="1", kind="toy", sha256="0", resolution=SIDE, views=["PA"], findings=[],
                conditions=[], licence="", training_data={}, seen=seen.to_json())  # fmt: skip
    member, how = members_of(real, cache.sha, card)
    assert member.tolist() == [True] * 90 + [False] * 90
    assert "copying" in how
    rng = np.random.default_rng(3)
    pixels = np.asarray(cache.pixels[:90]).astype(int) + rng.integers(-3, 4, (90, SIDE, SIDE))
    near = list(np.clip(pixels, 0, 255).astype(np.uint8))
    copies = write(tmp_path / "copies", near, patient_id=[str(i) for i in range(90)], synthetic=True)
    found = attack_set(real, copies, tmp_path / "a", WITH_COPIES, card=card)
    assert {"membership", "closest record", "memorisation"} <= set(found["alarms"])
    assert find(found, measure="share of copies")["value"] > 0.9
    assert found["counts"]["members"] == 90
    sound = attack_set(real, sets["clean"], tmp_path / "b", WITH_COPIES, card=card)
    assert not sound["alarms"]
    assert any(line.startswith("Memorisation: ") and line.endswith(": no alarm.") for line in sound["sentences"])
    assert any("no alarm" in line for line in sound["sentences"])


def card_of(seen: Seen) -> Card:
    return Card(name="other", version="1", kind="toy", sha256="0" * 64, resolution=SIDE, views=["PA"], findings=[],
                conditions=[], licence="", training_data={}, seen=seen.to_json())  # fmt: skip


def test_what_is_not_judged_is_said_and_why(sets, tmp_path: Path) -> None:
    found = attack_set(sets["real"], sets["clean"], tmp_path / "a", WITH_COPIES, card=card_of(Seen.of(["x"], ["y"])))
    last = found["sentences"][-1]
    assert last.startswith("Membership, closest record and memorisation: not judged, none of these real images")
    assert not any("0 that are not" in line for line in found["sentences"])
    real = sets["real"].take((sets["real"].frame["split"] == "train").to_numpy())
    alone = attack_set(real, sets["clean"], tmp_path / "b", WITH_COPIES)
    for attack in ("Closest record: not judged, ", "Memorisation: not judged, "):
        assert sum(line.startswith(attack) for line in alone["sentences"]) == 1


def test_a_card_that_tells_nothing_leaves_the_split_to_say_who_is_a_member(sets, tmp_path: Path) -> None:
    real = sets["real"]
    _, cache = build_cache(real, tmp_path / "cache", Encoding(SIDE))
    member, how = members_of(real, cache.sha, card_of(Seen.of([], [])))
    assert member.tolist() == (real.frame["split"] == "train").tolist()
    assert "the card of other does not say" in how


def test_the_same_input_is_not_attacked_again_and_fresh_gives_the_same(sets, links, tmp_path, monkeypatch) -> None:
    one = attack_swap(sets["real"], sets["clean"], links, tmp_path, QUICK)
    first = (tmp_path / "attacks.csv").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(attacks, "Identification", None)
        assert attack_swap(sets["real"], sets["clean"], links, tmp_path, QUICK) == one
    again = attack_swap(sets["real"], sets["clean"], links, tmp_path, QUICK, fresh=True)
    assert again == one
    assert (tmp_path / "attacks.csv").read_bytes() == first


def test_links_take_the_same_view_and_refuse_strangers(sets, links) -> None:
    real, made = sets["real"], sets["clean"]
    rows, original = link_rows(real, made, links)
    assert rows.tolist() == list(range(90))
    assert original.tolist() == list(range(0, 180, 2))
    both = pd.concat([links.assign(image=real.frame["image"][1::2].to_numpy()), links])
    turned = replace(real, frame=real.frame.assign(view=["PA", "AP"] * 90))
    assert link_rows(turned, made, both)[1].tolist() == list(range(0, 180, 2))
    with pytest.raises(InputError, match=r"row 2.*'image'.*no such image.*nowhere"):
        link_rows(real, made, links.assign(image="nowhere.png"))
    with pytest.raises(InputError, match=r"row 3.*another patient's"):
        link_rows(real, made, links.assign(patient_id=["r000", "r000", *links["patient_id"][2:]]))
    with pytest.raises(InputError, match="missing column"):
        link_rows(real, made, links.drop(columns="image"))
    with pytest.raises(InputError, match="no synthetic image is linked"):
        link_rows(real, made, links.assign(prompt_id="other"))


def test_each_patient_is_attacked_by_a_network_of_the_other_folds(sets, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(reidentification, "LEAST_PATIENTS", 20)
    real, cache = build_cache(sets["real"], tmp_path / "cache", Encoding(SIDE))
    gallery = Gallery.of(real, cache, QUICK.identification)
    seen = {}

    def train(lessons, *, steps, seed, device):
        seen[seed] = {image.tobytes() for image in lessons.pixels}
        return Embedder()

    monkeypatch.setattr(reidentification, "train_embedder", train)
    attack = Identification(gallery, tmp_path, QUICK.identification)
    assert len(seen) == QUICK.folds
    for fold, taught in enumerate(seen.values()):
        own = {np.asarray(image).tobytes() for image in cache.pixels[gallery.fold == fold]}
        assert own
        assert not own & taught
    folds = pd.Series(gallery.fold).groupby(gallery.patient).nunique()
    assert (folds == 1).all()
    rows = attack.attack_real().rows
    assert rows[0]["value"] > 0.9  # pixels still know them: an untrained network is not chosen
    monkeypatch.setattr(reidentification, "train_embedder", None)
    Identification(gallery, tmp_path, QUICK.identification)  # kept
    with pytest.raises(InputError, match="probe of other data"):
        Identification(gallery, tmp_path, replace(QUICK, steps=4).identification)


def test_the_page_names_no_real_image_and_loads_nothing(sets, links, tmp_path: Path) -> None:
    attack_swap(sets["real"], sets["clean"], links, tmp_path, QUICK)
    html = write_privacy_page(tmp_path).read_text()
    record = (tmp_path / "privacy.json").read_text()
    for text in (html, record, (tmp_path / "attacks.csv").read_text()):
        assert "images/" not in text
        assert "r001" not in text
    assert "<img" not in html
    assert "differential privacy" in html
    assert html.index("The attack on real pairs</h2>") < html.index("The attack on synthetic images</h2>")
    assert write_privacy_page(tmp_path).read_text() == html


def test_the_command_writes_everything_and_says_what_is_wrong(sets, links, tmp_path: Path, capsys) -> None:
    links.to_csv(tmp_path / "links.csv", index=False)
    real, made = str(sets["real"].file), str(sets["clean"].file)
    options = ["--size", "32", "--impostors", "20", "--no-copies"]
    command = ["privacy", made, "--real", real, "--links", str(tmp_path / "links.csv"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*command, *options, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["counts"]["linked_images"] == 90
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {"attacks.csv", "privacy.json", PAGE}
    shown = CliRunner().invoke(app, [*command, *options])
    assert "From a synthetic image to the patient it stands in for" in " ".join(shown.output.split())
    blank = sum(row["value"] is None for row in found["rows"])
    assert f"{blank} numbers that these patients are too few for" in " ".join(shown.output.split())
    assert blank
    assert "suppressed" not in shown.output
    (tmp_path / "bad.csv").write_text("prompt_id,image\nq000,images/0.png\n")
    start = ["privacy", made, "--real", real, "--out", str(tmp_path / "other")]
    assert run([*start, "--links", str(tmp_path / "bad.csv")]) == 2
    assert "column 'patient_id': missing column" in capsys.readouterr().err
    assert run([*start, "--folds", "1"]) == 2
    assert "folds is out of range; found 1" in capsys.readouterr().err
    assert run([*start, "--device", "tpu"]) == 2
    assert "--device is not known; found 'tpu'; expected one of cpu, cuda" in capsys.readouterr().err


def test_a_core_that_did_not_make_the_set_is_refused(sets, tmp_path: Path, capsys) -> None:
    made = tmp_path / "set"
    shutil.copytree(sets["clean"].file.parent, made)
    card = card_of(Seen.of([], []))
    write_json(made / "core_card.json", card.model_dump(mode="json"))
    name = next(p for p in made.iterdir() if p.suffix in (".csv", ".parquet")).name
    command = ["privacy", str(made / name), "--real", str(sets["real"].file), "--core", "phantom-nano"]
    assert run([*command, "--out", str(tmp_path / "out")]) == 2
    assert "--core is not the core that made the set; found 'phantom-nano" in capsys.readouterr().err


def test_rows_that_are_synthetic_are_no_real_patients(sets, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no real rows"):
        attack_set(sets["clean"], sets["leaking"], tmp_path, QUICK)


def test_a_number_shared_by_two_patients_is_two_patients_where_it_is_said(sets, tmp_path: Path) -> None:
    real, cache = build_cache(sets["real"], tmp_path / "cache", Encoding(SIDE))
    frame = real.frame.assign(labels=["Mass", "Edema"] * 90)  # the two images of each number have two labels
    shared = replace(real, frame=frame)
    plain, apart = (Gallery.of(shared, cache, replace(QUICK, same_labels=v).identification) for v in (False, True))
    assert len(np.unique(plain.patient)) == 90
    assert len(np.unique(apart.patient)) == 180
    assert Identification(apart, tmp_path, QUICK.identification).attack_real().facts["pairs"] == 0
    assert Identification(plain, tmp_path, QUICK.identification).attack_real().facts["pairs"] == 90
