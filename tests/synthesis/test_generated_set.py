"""Generation: the set's contract, resume, refusals, and bytes that do not depend on how the work was cut."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toycore import FINDINGS, SIZE, ToyCore, draw_chest, toy_plan

from cxraug.errors import InputError, WorkError
from cxraug.storage import file_sha256
from cxraug.studies.images import Encoding
from cxraug.studies.manifest import read_manifest
from cxraug.synthesis.generate import count_done, generate_set, load_set, redraw
from cxraug.synthesis.prompts import check_plan, read_plan


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_manifest_and_provenance_follow_the_contract(tmp_path: Path) -> None:
    plan = toy_plan(6, views="PA|Lateral")
    out = generate_set(plan, ToyCore(), tmp_path / "set")
    frame = pd.read_parquet(out / "manifest.parquet")
    assert list(frame["prompt_id"]) == [p for p in plan["prompt_id"] for _ in range(2)]
    assert list(frame["view"]) == ["PA", "Lateral"] * 6
    assert list(frame["patient_id"]) == [f"syn-{p}" for p in frame["prompt_id"]]
    assert list(frame["study_id"]) == list(frame["prompt_id"])
    assert set(frame["split"]) == {"train"}
    assert frame["synthetic"].all()
    assert list(frame["labels"][:2]) == ["Effusion|-Mass"] * 2
    assert frame["report"][0] == "Report of p000000."
    assert frame["seed"][2] == 1001
    assert np.isnan(frame["age"][0])
    assert frame["age"][2] == 21
    assert frame["gate"].isna().all()
    assert (frame["core"] == "toy").all()
    assert (frame["core_sha256"] == "a" * 64).all()
    lines = [json.loads(line) for line in (out / "provenance.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines] == list(frame["image"])
    for line in lines:
        assert file_sha256(out / line["image"]) == line["sha256"]
        assert line["prompt"]["labels"]
        assert {"versions", "threads", "dtype", "sampler", "seed", "core_sha256"} <= set(line)
    picture = Image.open(out / frame["image"][0])
    assert picture.size == (SIZE, SIZE)
    assert picture.mode == "L"
    assert picture.info == {}
    assert len(read_manifest(out / "manifest.parquet")) == 12


def test_set_loads_for_training(tmp_path: Path) -> None:
    out = generate_set(toy_plan(5), ToyCore(), tmp_path / "set")
    frame, pixels = load_set(out, Encoding(size=16))
    assert list(frame["prompt_id"]) == [f"p{i:06d}" for i in range(5)]
    assert pixels.shape == (5, 16, 16)
    assert pixels.dtype == np.uint8
    frame, pixels = load_set(out, Encoding(size=SIZE))
    assert np.array_equal(pixels[3], np.asarray(Image.open(out / frame["image"][3])))


@settings(max_examples=6, deadline=None)
@given(shards=st.integers(1, 4), unit=st.sampled_from([4, 8]), data=st.data())
def test_bytes_do_not_depend_on_shards_or_their_order(tmp_path_factory, shards: int, unit: int, data) -> None:
    base = tmp_path_factory.mktemp("sets")
    whole = generate_set(toy_plan(35), ToyCore(), base / "whole", unit=unit)
    for i in data.draw(st.permutations(range(shards))):
        assert not (base / "parts" / "manifest.parquet").exists()
        generate_set(toy_plan(35), ToyCore(), base / "parts", unit=unit, shard=(i, shards))
    assert contents(base / "parts") == contents(whole)


def test_images_do_not_depend_on_the_unit(tmp_path: Path) -> None:
    small = generate_set(toy_plan(), ToyCore(), tmp_path / "small", unit=4)
    large = generate_set(toy_plan(), ToyCore(), tmp_path / "large", unit=64)
    for name in ("manifest.parquet", "provenance.jsonl", "images/p000021-PA.png"):
        assert (small / name).read_bytes() == (large / name).read_bytes()


def test_finished_set_is_not_computed_again(tmp_path: Path) -> None:
    out = generate_set(toy_plan(), ToyCore(), tmp_path / "set", unit=8)
    before = contents(out)
    core = ToyCore()
    generate_set(toy_plan(), core, out, unit=8)
    assert core.batches == 0
    assert contents(out) == before


@pytest.mark.parametrize("harm", ["image gone", "image changed", "record cut", "record gone"])
def test_only_the_harmed_unit_is_made_again(tmp_path: Path, harm: str) -> None:
    out = generate_set(toy_plan(), ToyCore(), tmp_path / "set", unit=8)
    before = contents(out)
    image, record = out / "images" / "p000009-PA.png", out / "units" / "draw-0-000001.jsonl"
    if harm == "image gone":
        image.unlink()
    elif harm == "image changed":
        image.write_bytes(b"not a picture")
    elif harm == "record cut":
        record.write_bytes(record.read_bytes()[:-40])
    else:
        record.unlink()
    core = ToyCore()
    generate_set(toy_plan(), core, out, unit=8)
    assert core.batches == 2  # 8 prompts in batches of 4
    assert contents(out) == before


def test_changed_work_on_an_old_folder_is_refused_unless_fresh(tmp_path: Path) -> None:
    out = generate_set(toy_plan(), ToyCore(), tmp_path / "set")
    before = contents(out)
    other_plan = toy_plan().assign(seed=5)
    for plan, core, unit, word in (
        (other_plan, ToyCore(), None, "plan_sha256"),
        (toy_plan(), ToyCore(weights="b" * 64), None, "core_sha256"),
        (toy_plan(), ToyCore(), 4, "unit"),
    ):
        with pytest.raises(InputError, match=word):
            generate_set(plan, core, out, unit=unit)
        assert contents(out) == before
    generate_set(other_plan, ToyCore(), out, fresh=True)
    assert pd.read_parquet(out / "manifest.parquet")["seed"].eq(5).all()
    assert contents(generate_set(other_plan, ToyCore(), tmp_path / "new")) == contents(out)


@pytest.mark.parametrize("at", ["write_json", "_make_folders"])
def test_killed_while_the_folder_is_claimed_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def dies(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(f"cxraug.synthesis.generate.{at}", dies)
        with pytest.raises(KeyboardInterrupt):
            generate_set(toy_plan(), ToyCore(), tmp_path / "set")
    out = generate_set(toy_plan(), ToyCore(), tmp_path / "set")
    assert contents(out) == contents(generate_set(toy_plan(), ToyCore(), tmp_path / "new"))


def test_a_folder_that_is_no_set_is_never_touched(tmp_path: Path) -> None:
    out = tmp_path / "data"
    (out / "images").mkdir(parents=True)
    (out / "images" / "mine.png").write_bytes(b"precious")
    for fresh in (False, True):
        with pytest.raises(InputError, match="no generated set"):
            generate_set(toy_plan(), ToyCore(), out, fresh=fresh)
    assert contents(out) == {"images/mine.png": b"precious"}


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("prompt_id", "../../etc/passwd", "bad prompt id"),
        ("prompt_id", "p000001", "occurs twice"),
        ("prompt_id", None, "bad prompt id"),
        ("seed", -1, "bad seed"),
        ("seed", "x", "bad seed"),
        ("seed", 1.5, "bad seed"),
        ("labels", "Effusion||Mass", "not a prompt"),
        ("labels", "Fracture", "row 4: .* does not know the finding 'Fracture'.*plan again for it: .*--core CORE"),
        ("views", "PA|PA", "bad views"),
        ("views", "../PA", "bad views"),
    ],
)
def test_bad_plan_rows_are_named_before_anything_is_made(
    tmp_path: Path, column: str, value: object, words: str
) -> None:
    plan = toy_plan(3).astype({column: object})
    plan.loc[2, column] = value
    core = ToyCore()
    with pytest.raises(InputError, match=words):
        generate_set(plan, core, tmp_path / "set")
    assert core.batches == 0
    assert not (tmp_path / "set").exists()


def test_bad_plans_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="empty plan"):
        check_plan(toy_plan(0))
    with pytest.raises(InputError, match="missing column"):
        check_plan(toy_plan().drop(columns="seed"))
    with pytest.raises(InputError, match="multiple of the core's batch size 4"):
        generate_set(toy_plan(), ToyCore(), tmp_path / "set", unit=6)
    with pytest.raises(InputError, match="bad shard"):
        generate_set(toy_plan(), ToyCore(), tmp_path / "set", shard=(2, 2))
    (tmp_path / "plan.parquet").write_text("no parquet")
    with pytest.raises(InputError, match="cannot be read"):
        read_plan(tmp_path / "plan.parquet")
    with pytest.raises(InputError, match="no such plan"):
        read_plan(tmp_path / "absent.parquet")


def test_plan_reads_the_same_from_csv(tmp_path: Path) -> None:
    toy_plan().to_csv(tmp_path / "plan.csv", index=False)
    toy_plan().to_parquet(tmp_path / "plan.parquet")
    shas = {check_plan(read_plan(tmp_path / name)).sha256 for name in ("plan.csv", "plan.parquet", "")}
    assert shas == {check_plan(toy_plan()).sha256}


def test_a_core_that_breaks_its_contract_is_named(tmp_path: Path) -> None:
    core = ToyCore(paint=lambda prompt, view, seed: np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(WorkError, match="toy returned PA as uint8 of shape"):
        generate_set(toy_plan(), core, tmp_path / "set")


def test_redraws_have_new_seeds_and_leave_the_first_draw(tmp_path: Path) -> None:
    out = generate_set(toy_plan(), ToyCore(), tmp_path / "set")
    before = contents(out)
    lines = redraw(out, ToyCore(), ["p000003", "p000017"], 1)
    assert [line["prompt_id"] for line in lines] == ["p000003", "p000017"]
    assert all(line["draw"] == 1 and line["seed"] not in (1003, 1017) for line in lines)
    assert redraw(out, ToyCore(), ["p000003", "p000017"], 1) == lines
    assert redraw(out, ToyCore(), ["p000003"], 2)[0]["seed"] != lines[0]["seed"]
    after = contents(out)
    assert all(after[name] == data for name, data in before.items())
    with pytest.raises(InputError, match="core that made the set"):
        redraw(out, ToyCore(weights="c" * 64), ["p000003"], 1)


def test_disk_full_at_an_image_is_exit_code_1_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = generate_set(toy_plan(), ToyCore(), tmp_path / "whole", unit=4)
    out, write, written = tmp_path / "set", Path.write_bytes, []

    def full(self: Path, data: bytes) -> int:
        written.append(self)
        if len(written) > 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(WorkError, match="disk full") as caught:
            generate_set(toy_plan(), ToyCore(), out, unit=4)
    assert caught.value.exit_code == 1
    done, total = count_done(out)
    assert (done, total) == (2, 6)  # plan.parquet and 9 images were written: two whole units
    generate_set(toy_plan(), ToyCore(), out, unit=4)
    assert contents(out) == contents(whole)


def test_disk_really_full(tmp_path: Path) -> None:
    """On a file system of 256 kB that fills up in the middle; skipped where one cannot be mounted."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a tmpfs")
    try:
        plan = toy_plan(100)
        with pytest.raises(WorkError, match="disk full"):
            generate_set(plan, ToyCore(), small / "set", unit=4)
        done, total = count_done(small / "set")
        assert 0 < done < total == 25
        subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
        core = ToyCore()
        generate_set(plan, core, small / "set", unit=4)
        assert core.batches == total - done
        assert contents(small / "set") == contents(generate_set(plan, ToyCore(), tmp_path / "whole", unit=4))
    finally:
        subprocess.run(["umount", str(small)], check=False)


def test_killed_in_the_middle_it_goes_on_with_identical_bytes(tmp_path: Path) -> None:
    out = tmp_path / "set"
    child = os.fork()
    if child == 0:
        try:
            generate_set(toy_plan(60), ToyCore(pause=0.03), out, unit=4)
        finally:
            os._exit(1)  # never reached when the kill comes in time
    deadline = time.monotonic() + 60
    while len(list((out / "units").glob("draw-*.jsonl"))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    done, total = count_done(out)
    assert 3 <= done < total == 15
    assert not (out / "manifest.parquet").exists()
    (out / "images" / ".torn.12345678.png").write_bytes(b"left by the kill")
    core = ToyCore()
    generate_set(toy_plan(60), core, out, unit=4)
    assert core.batches == total - done
    assert contents(out) == contents(generate_set(toy_plan(60), ToyCore(), tmp_path / "whole", unit=4))


def test_the_gaussian_core_gives_the_same_bytes_in_shards(tmp_path: Path) -> None:
    from cxraug.cores.conditions import Conditions
    from cxraug.cores.gaussian import fit_gaussian
    from cxraug.cores.registry import open_core
    from cxraug.studies.seen import Seen

    rng = np.random.default_rng(0)
    y = (rng.random((60, 2)) < 0.5).astype(np.float32)
    pixels = np.stack([draw_chest(dict(zip(FINDINGS, row, strict=True)), rng) for row in y.astype(int).tolist()])
    fit_gaussian(
        pixels, Conditions.of(FINDINGS, y), tmp_path / "core", components=8, seen=Seen.of([], []), training_data={}
    )
    core = open_core(tmp_path / "core")
    plan = toy_plan(3 * core.batch_size + 5).drop(columns=["sex", "age"])
    whole = generate_set(plan, core, tmp_path / "whole", unit=core.batch_size)
    for i in (1, 0):
        generate_set(plan, open_core(tmp_path / "core"), tmp_path / "parts", unit=core.batch_size, shard=(i, 2))
    assert contents(tmp_path / "parts") == contents(whole)
    last = [json.loads(line) for line in (whole / "provenance.jsonl").read_text().splitlines()][-1]
    alone = open_core(tmp_path / "core").generate(check_plan(plan).prompts[-1:], [last["seed"]])[0].images["PA"]
    assert np.array_equal(np.asarray(Image.open(whole / last["image"])), alone)
