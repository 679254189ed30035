"""`cxraug generate` and `cxraug gate` from the command line: exit codes and one-line errors."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pandas as pd
import pytest
from cohort import read_cohort, write_cohort
from toycore import FINDINGS, ToyCore, toy_plan

from cxraug.cli.main import run
from cxraug.cores import registry
from cxraug.gate import crossfit
from cxraug.gate.crossfit import fit_folds
from cxraug.gate.gate import real_images
from cxraug.gate.settings import GateSettings
from cxraug.studies.seen import Seen

TRAIN = ["--model", "test_resnet", "--steps", "4", "--size", "32"]


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> list[ToyCore]:
    """What `open_core` returns; tests may replace the only entry."""
    cores = [ToyCore()]
    monkeypatch.setattr(registry, "open_core", lambda name, **_: cores[0])
    return cores


def command(*arguments: object) -> int:
    return run([str(a) for a in arguments])


def errors(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]


def test_generate(tmp_path: Path, core: list[ToyCore], capsys: pytest.CaptureFixture[str]) -> None:
    plan, out = tmp_path / "plan.parquet", tmp_path / "set"
    toy_plan().to_parquet(plan)
    base = ("generate", plan, "--core", "toy", "--out", out)
    assert command(*base, "--unit", 8, "--shard", "1/2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["units_done"] == 1
    assert command(*base, "--unit", 8) == 0
    assert "22 images" in capsys.readouterr().out
    toy_plan().assign(seed=1).to_parquet(plan)
    assert command(*base, "--unit", 8) == 2
    assert len(lines := errors(capsys)) == 1
    assert "plan_sha256 changed" in lines[0]
    assert command(*base, "--unit", 8, "--fresh") == 0
    assert command(*base, "--shard", "x") == 2
    assert command("generate", tmp_path / "none.csv", "--core", "toy", "--out", out) == 2


def test_generate_on_a_full_disk_is_exit_code_1_and_resumes(tmp_path, core, capsys, monkeypatch) -> None:
    plan, out = tmp_path / "plan.csv", tmp_path / "set"
    toy_plan().to_csv(plan, index=False)
    written, write = [], Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        written.append(self)
        if len(written) == 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    base = ("generate", plan, "--core", "toy", "--out", out, "--unit", 4)
    assert command(*base) == 1
    assert "disk full" in errors(capsys)[0]
    assert command(*base) == 0
    assert len(pd.read_parquet(out / "manifest.parquet")) == 22


def test_gate(tmp_path: Path, core: list[ToyCore], capsys: pytest.CaptureFixture[str]) -> None:
    real = write_cohort(tmp_path / "real", 60)
    plan, out = tmp_path / "plan.parquet", tmp_path / "set"
    toy_plan().to_parquet(plan)
    assert command("gate", out, "--real", real) == 2
    assert command("generate", plan, "--core", "toy", "--out", out) == 0
    capsys.readouterr()
    base = ("gate", out, "--real", real, "--core", "toy", *TRAIN)
    assert command(*base, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["total"] == 22
    assert summary["real"]["n"] == 60  # the training rows only
    assert command(*base) == 0
    assert f"{summary['accepted']} of 22 images accepted" in capsys.readouterr().out
    assert command(*base, "--findings", "Fracture") == 2
    assert "unknown finding" in errors(capsys)[0]
    assert command(*base, "--false-reject", 0.9) == 2
    assert errors(capsys)[-1].startswith("error: --false-reject: Input should be less than 0.5")
    assert command("gate", out, "--real", tmp_path / "none.csv") == 2
    frame = pd.read_csv(real)
    present = {
        name: frame["labels"].str.split("|").map(lambda parts, name=name: int(name in parts)) for name in FINDINGS
    }
    columns = real.with_name("columns.csv")
    frame.drop(columns="labels").assign(**present).to_csv(columns, index=False)
    capsys.readouterr()
    assert command("gate", out, "--real", columns, *TRAIN) == 2
    assert "--label-columns" in errors(capsys)[0]
    assert command("gate", out, "--real", columns, "--core", "toy", *TRAIN, "--label-columns", "auto", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["real"]["n"], list(told["studies"]["findings"])) == (60, FINDINGS)


@pytest.mark.parametrize("role", ["val", "test"])
def test_a_core_or_gate_that_has_seen_hidden_rows_is_refused(tmp_path, core, capsys, role: str) -> None:
    real = write_cohort(tmp_path / "real", 60)
    manifest, cache = read_cohort(real)
    hidden = (manifest.frame["split"] == role).to_numpy()
    core[0] = ToyCore(seen=Seen.of([], cache.sha[hidden][:1]))
    toy_plan(4).to_parquet(tmp_path / "plan.parquet")
    base = ("generate", tmp_path / "plan.parquet", "--core", "toy", "--out")
    assert command(*base, tmp_path / "leaky") == 0
    assert command("gate", tmp_path / "leaky", "--real", real, *TRAIN) == 2
    assert "core toy" in (line := errors(capsys)[0])
    assert "has seen 0 patients and 1 images of the" in line

    core[0] = ToyCore()
    assert command(*base, tmp_path / "clean") == 0
    leaky = manifest.take(hidden)
    leaky.frame["split"] = "train"  # a gate trained on what should have been hidden
    settings = GateSettings(model="test_resnet", steps=1)
    images = real_images(leaky, cache.take(hidden), manifest.findings)
    fit_folds(images, images.y, manifest.findings, settings, 0, tmp_path)
    weights = next(tmp_path.glob("classifier-*"))
    assert command("gate", tmp_path / "clean", "--real", real, "--weights", weights, *TRAIN) == 2
    assert "has seen 10 patients and 10 images of the" in errors(capsys)[0]
    assert not (tmp_path / "clean" / "gate.json").exists()


def test_checks_are_turned_off_and_shares_and_groups_are_taken(tmp_path: Path, core, capsys) -> None:
    real = write_cohort(tmp_path / "real", 60)
    out = tmp_path / "set"
    toy_plan(6).to_parquet(tmp_path / "plan.parquet")
    assert command("generate", tmp_path / "plan.parquet", "--core", "toy", "--out", out) == 0
    off = ["--no-agreement", "--no-demographics"]
    base = ("gate", out, "--real", real, "--size", "32", *off)
    capsys.readouterr()
    asked = ("--no-reports", "--per-group", "sex", "--shares", "realism=2", "--copy-rate", "0.02", "--json")
    assert command(*base, *asked) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told["checks"]) == ["duplicates", "realism"]
    assert told["settings"]["copy_rate"] == 0.02
    assert told["settings"]["shares"]["realism"] == 2
    assert told["fairness"]["calibrated_within"] == "sex"
    assert not list((out / "gate").glob("classifier-*"))  # nothing was trained for checks that are off
    assert "label agreement was not checked" in told["notes"]
    assert "reports were not checked" in told["notes"]
    assert (out / "gate.html").is_file()
    assert {row["level"] for row in told["fairness"]["real"] if row["group"] == "sex"} == {"F", "M"}
    assert command(*base, "--shares", "realism=x") == 2
    assert "--shares is not CHECK=NUMBER" in errors(capsys)[-1]
    assert command(*base, "--shares", "beauty=1") == 2
    assert "expected positive numbers for some of agreement" in errors(capsys)[-1]
    assert command(*base, "--per-group", "colour") == 2
    assert "no such group column" in errors(capsys)[-1]
    assert command(*base, "--xrv-sex", tmp_path / "none.pt") == 2
    assert "nothing is downloaded here" in errors(capsys)[-1]


def test_another_core_or_device_is_refused_before_anything_is_trained(tmp_path, core, capsys, monkeypatch) -> None:
    real, out = write_cohort(tmp_path / "real", 60), tmp_path / "set"
    toy_plan(4).to_parquet(tmp_path / "plan.parquet")
    assert command("generate", tmp_path / "plan.parquet", "--core", "toy", "--out", out) == 0
    core[0] = ToyCore(seen=Seen.of(["somebody"], []))
    core[0].card = core[0].card.model_copy(update={"sha256": "f" * 64})
    base = ("gate", out, "--real", real, *TRAIN)
    assert command(*base, "--core", "toy") == 2
    assert "re-draws need the core that made the set" in errors(capsys)[0]
    assert command(*base, "--device", "tpu") == 2
    assert "--device is not known; found 'tpu'" in errors(capsys)[0]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert command(*base, "--device", "cuda") == 2
    assert "torch sees no CUDA device; expected auto or cpu" in errors(capsys)[0]
    assert command(*base, "--seed", -1) == 2
    assert not (out / "gate").exists()


def test_findings_are_separated_by_commas_too_and_a_named_device_is_kept(tmp_path, core, capsys, monkeypatch) -> None:
    real, out = write_cohort(tmp_path / "real", 60), tmp_path / "set"
    toy_plan(4).to_parquet(tmp_path / "plan.parquet")
    assert command("generate", tmp_path / "plan.parquet", "--core", "toy", "--out", out) == 0
    capsys.readouterr()
    seen = []
    real_fit = crossfit.train_arm
    monkeypatch.setattr(crossfit, "train_arm", lambda *a, **k: (seen.append(a[3].device), real_fit(*a, **k))[1])
    off = ("--no-realism", "--no-reports", "--no-duplicates", "--no-demographics")
    base = ("gate", out, "--real", real, *TRAIN, *off, "--json")
    answers = []
    for text in (",".join(FINDINGS), "|".join(FINDINGS)):
        assert command(*base, "--findings", text, "--device", "cpu") == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1]
    assert list(answers[0]["checks"]["agreement"]["findings"]) == FINDINGS
    assert set(seen) == {"cpu"}
