"""The report codec: text in, latent, the same text out; resumed trainings, refusals and measures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cxraug.cores.multiprompt.report_codec import ReportCodec
from cxraug.cores.multiprompt.report_codec_training import (
    CARD,
    CHECKPOINT,
    WEIGHTS,
    _recombined,
    load_report_codec,
    reconstruction,
    train_report_codec,
)  # fmt: skip
from cxraug.cores.multiprompt.settings_codec import ReportCodecSettings
from cxraug.cores.multiprompt.tokenizer import BOS, EOS, ReportTokenizer, sentences
from cxraug.errors import InputError
from cxraug.storage import read_json

BASE = [
    "Large mass. Sharp angles.", "No effusion. Clear lungs.", "Small left nodule. Normal heart.", "Mild cardiomegaly.",
    "Right pneumothorax. Chest tube.", "Severe edema.", "Patchy consolidation. Fever.", "Old rib fracture.",
]  # fmt: skip
REPORTS = BASE * 2  # the tokenizer merges what it sees at least twice
OTHER = ["Left effusion. Normal heart.", "No cardiomegaly."]


def tiny(**changes) -> ReportCodecSettings:
    base = {
        "tokens": 2, "channels": 8, "vocabulary": 700, "max_tokens": 40, "width": 48, "heads": 2, "encoder_layers": 1,
        "decoder_layers": 1, "steps": 6, "batch_size": 8, "warmup": 2, "precision": "float32", "checkpoint_every": 2,
    }  # fmt: skip
    return ReportCodecSettings(**{**base, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ReportCodec]:
    folder = tmp_path_factory.mktemp("codec")
    settings = tiny(steps=200, batch_size=16, lr=3e-3, noise=0.3, checkpoint_every=1000)
    return folder, train_report_codec(REPORTS, folder, settings, seed=0, held_out=REPORTS[:8])


def test_reports_come_back_letter_by_letter_also_from_noisy_latents(trained) -> None:
    _, codec = trained
    latents = codec.encode(REPORTS)
    assert latents.shape == (len(REPORTS), 2, 8)
    assert codec.decode(latents) == REPORTS
    noisy = latents + 0.2 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    assert np.mean([a == b for a, b in zip(codec.decode(noisy), REPORTS, strict=True)]) >= 0.9


def test_latents_have_mean_0_and_variance_1_over_the_training_reports(trained) -> None:
    latents = trained[1].encode(REPORTS)
    assert latents.mean(0).abs().max() < 0.02
    assert (latents.std(0, unbiased=False) - 1).abs().max() < 0.02


def test_what_one_report_decodes_to_does_not_depend_on_its_batch(trained) -> None:
    _, codec = trained
    latents = codec.encode(REPORTS)
    assert [codec.decode(latents[i : i + 1])[0] for i in range(0, 16, 5)] == codec.decode(latents)[::5]
    torch.testing.assert_close(codec.encode(REPORTS[3:4]), latents[3:4], atol=1e-4, rtol=0)
    assert codec.decode(latents[:0]) == []
    assert codec.decode(latents[:1], max_tokens=2)[0] in REPORTS[0]


def test_decoding_with_a_cache_is_the_likeliest_token_by_the_whole_prefix(trained) -> None:
    _, codec = trained
    latents = torch.randn(1, 2, 8, generator=torch.Generator().manual_seed(3))
    tokens = [BOS]
    with torch.inference_mode():
        while tokens[-1] != EOS and len(tokens) <= 40:
            tokens.append(int(codec._written(latents, torch.tensor([tokens]))[0, -1].argmax()))
    assert codec.decode(latents) == codec.tokenizer.decode([tokens])


def test_card_and_weights_are_the_whole_codec(trained) -> None:
    folder, codec = trained
    card = read_json(folder / CARD)
    again = ReportCodec.from_parts(load_file(folder / WEIGHTS), card["settings"], card["tokenizer"])
    torch.testing.assert_close(again.encode(REPORTS), codec.encode(REPORTS), atol=0, rtol=0)
    assert [row["noise"] for row in card["held_out"]] == [0.0, 0.2, 0.4]
    assert card["held_out"][0]["exact"] == card["held_out"][0]["label_f1"] == 1
    assert card["held_out"][0]["n"] == 8
    assert not (folder / CHECKPOINT).exists()


def test_a_finished_folder_is_read_and_another_training_refused(trained) -> None:
    folder, codec = trained
    before = (folder / WEIGHTS).stat().st_mtime_ns
    same = train_report_codec(REPORTS, folder, codec.settings, seed=0)
    assert (folder / WEIGHTS).stat().st_mtime_ns == before
    torch.testing.assert_close(same.encode(OTHER), load_report_codec(folder).encode(OTHER), atol=0, rtol=0)
    with pytest.raises(InputError, match="another report codec"):
        train_report_codec(REPORTS, folder, codec.settings, seed=1)


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_an_interrupted_training_ends_in_the_same_bytes(tmp_path: Path, monkeypatch, stop: int) -> None:
    settings = tiny(recombine=0.5)
    train_report_codec(REPORTS, tmp_path / "whole", settings, seed=4)
    plain, calls = ReportCodec.token_loss, []

    def interrupted(self, ids, generator):
        calls.append(1)
        if len(calls) > stop:
            raise KeyboardInterrupt
        return plain(self, ids, generator)

    with monkeypatch.context() as patch:
        patch.setattr(ReportCodec, "token_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_report_codec(REPORTS, tmp_path / "cut", settings, seed=4)
    assert (tmp_path / "cut" / CHECKPOINT).exists() == (stop >= 2)
    train_report_codec(REPORTS, tmp_path / "cut", settings, seed=4)
    for name in (WEIGHTS, CARD):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    torch.save({"key": "other", "step": 2}, tmp_path / CHECKPOINT)
    with pytest.raises(InputError, match="checkpoint of another training"):
        train_report_codec(REPORTS, tmp_path, tiny(), seed=0)


def test_loss_follows_the_generator_and_falls_with_training(trained) -> None:
    _, codec = trained
    torch.manual_seed(0)
    fresh = ReportCodec(codec.settings, codec.tokenizer)
    first, second = (float(fresh.loss(REPORTS, torch.Generator().manual_seed(5)).detach()) for _ in range(2))
    assert first == second
    assert float(codec.loss(REPORTS, torch.Generator().manual_seed(5)).detach()) < 0.2 * first


def test_bad_reports_are_refused_by_row(tmp_path: Path, trained) -> None:
    with pytest.raises(InputError, match=r"row 3, column 'report': empty report"):
        train_report_codec(["Nodule.", " "], tmp_path, tiny(), seed=0)
    with pytest.raises(InputError, match="too few"):
        train_report_codec(["Nodule."], tmp_path, tiny(), seed=0)
    with pytest.raises(InputError, match=r"row 3.*too long.*at most 40"):
        trained[1].encode(["Nodule.", "There is a nodule. " * 30])


def test_tokenizer_gives_back_any_text_and_is_its_json() -> None:
    tokenizer = ReportTokenizer.train(REPORTS, 700)
    texts = ["Größe 3,5 cm — «unknown» words: 肺 🫁", "Small left nodule. Clear heart.", "", "a\tb\n c"]
    ids = tokenizer.encode(texts)
    assert tokenizer.decode(ids) == [" ".join(t.split()) for t in texts]
    assert len(ids[1]) == 7  # a token for each word and each full stop
    assert ReportTokenizer(tokenizer.json).encode(texts) == ids
    assert tokenizer.decode([[BOS, *ids[1], EOS]]) == [texts[1]]
    with pytest.raises(InputError, match="not a tokenizer"):
        ReportTokenizer("{}")


def test_sentences_joined_are_the_report_and_recombined_reports_are_made_of_sentences() -> None:
    report = "FINDINGS: No mass. 1.5 cm nodule? Heart: normal."
    assert " ".join(sentences(report)) == report
    tokenizer = ReportTokenizer.train(REPORTS, 700)
    texts = [tokenizer.encode(sentences(r)) for r in REPORTS]
    whole = tokenizer.encode(REPORTS)
    assert [[i for s in t for i in s] for t in texts] == whole
    random = torch.Generator().manual_seed(0)
    assert _recombined(3, whole, texts, tiny(recombine=0), random) == whole[3]
    known = {s for r in REPORTS for s in sentences(r)}
    mixed = tokenizer.decode([_recombined(i % 16, whole, texts, tiny(recombine=1), random) for i in range(60)])
    assert all(set(sentences(m)) <= known for m in mixed)
    assert sum(m in REPORTS for m in mixed) < 50


def test_reconstruction_counts_what_survives(trained) -> None:
    class Forgetful:
        """Says "mass" for everything."""

        def encode(self, reports):
            return torch.zeros(len(reports), 2, 8)

        def decode(self, latents):
            return ["There is a mass."] * len(latents)

        def token_accuracy(self, reports, latents):
            return 0.5

    found = reconstruction(
        Forgetful(), ["There is a mass.", "There is a nodule.", "No mass."], findings=["Mass", "Nodule"]
    )
    assert found["exact"] == pytest.approx(1 / 3)
    assert found["label_f1"] == pytest.approx(2 * 1 / (2 + 3))  # one hit; two present, three said
    assert found["token_accuracy"] == 0.5


def test_settings_are_read_without_torch() -> None:
    code = "import sys, cxraug.cores.multiprompt.settings_codec; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(ValueError, match="multiple of 6 heads"):
        ReportCodecSettings(width=100)
