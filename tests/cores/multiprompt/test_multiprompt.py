"""The parts of the multi-prompt core against known answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from toystudies import toy_settings, toy_studies, train_toy

from cxraug.cores.conditions import Conditions, Vocabulary
from cxraug.cores.core import Prompt
from cxraug.cores.multiprompt import sampling
from cxraug.cores.multiprompt.core import MultipromptCore
from cxraug.cores.multiprompt.denoiser import Asked
from cxraug.cores.multiprompt.growth import grow
from cxraug.cores.multiprompt.network import FRONTAL, LATERAL_SLOT, REPORT, attention
from cxraug.cores.multiprompt.sampling import guided, noise_levels, sample
from cxraug.cores.multiprompt.settings import MultipromptSettings
from cxraug.cores.multiprompt.spatial import Layout, SpatialEmbedding
from cxraug.cores.multiprompt.spectrum import cosine_matrix, fit_spectral
from cxraug.cores.multiprompt.training import StepDraw, start
from cxraug.cores.registry import open_core, read_card
from cxraug.errors import InputError


def test_cosines_are_those_of_scipy() -> None:
    image = torch.randn(2, 1, 12, 12)
    matrix = cosine_matrix(12)
    assert torch.allclose(matrix @ matrix.T, torch.eye(12), atol=1e-5)
    ours = (matrix @ image @ matrix.T).numpy()
    assert np.allclose(ours, dctn(image.numpy(), axes=(2, 3), norm="ortho"), atol=1e-4)


def test_spectral_wiener_is_the_posterior_of_a_dense_gaussian() -> None:
    """Against mean and covariance written out in full, and solved."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(60, 1, 6, 6, generator=rng).cumsum(2).cumsum(3)
    model = fit_spectral(x, torch.zeros(60, 1), torch.zeros(60, 1), band=3, components=4)
    c = model.cosines
    turn = torch.kron(c, c)  # row-major pixels to coefficients
    covariance = torch.diag(model.rest.flatten())
    inside = torch.zeros(6, 6, dtype=torch.bool)
    inside[:3, :3] = True
    rows = inside.flatten().nonzero()[:, 0]
    basis = model.low.basis
    low = basis @ torch.diag(model.low.variance) @ basis.T
    low += model.low.remainder * (torch.eye(9) - basis @ basis.T)
    covariance[rows[:, None], rows] = low
    mean = model.rest_mean.flatten().clone()
    mean[rows] = model.low.mean
    pixels = turn.T @ covariance @ turn
    t = 0.3
    noisy = (1 - t) * x[:5] + t * torch.randn(5, 1, 6, 6, generator=rng)
    gain = (1 - t) * pixels @ torch.linalg.inv((1 - t) ** 2 * pixels + t**2 * torch.eye(36))
    middle = turn.T @ mean
    expected = middle + (noisy.flatten(1) - (1 - t) * middle) @ gain.T
    left = torch.trace(pixels - (1 - t) * gain @ pixels) / 36
    found, variance = model.wiener(noisy, torch.full((5, 1), t), torch.zeros(5, 1), torch.zeros(5, 1))
    assert torch.allclose(found.flatten(1), expected, atol=1e-3)
    assert variance[0, 0].item() == pytest.approx(left.item(), rel=1e-3)


def test_attention_is_that_of_torch() -> None:
    q, k, v = (torch.randn(2, 3, 5, 8) for _ in range(3))
    assert torch.allclose(attention(q, k, v), torch.nn.functional.scaled_dot_product_attention(q, k, v), atol=1e-6)


def test_boxes_cover_cells_by_their_share() -> None:
    layout = Layout.nothing(2, 4)
    layout.boxes[0, 0] = torch.tensor([1.0, 0.25, 0.5, 0.375, 0.25])  # cells 1 and half of 2, row 2
    layout.boxes_known[0] = 1
    embedding = SpatialEmbedding(2, 4)
    with torch.no_grad():
        drawn = embedding(layout)
        vector = embedding.finding[1]
    assert torch.allclose(drawn[0, :16, 2, 1], vector)
    assert torch.allclose(drawn[0, :16, 2, 2], vector / 2)
    assert drawn[0, :16].abs().sum(0).count_nonzero() == 2
    assert (drawn[1] == 0).all(), "nothing known is nothing drawn"


def denoiser_and_asked(slots: tuple[int, ...] = (FRONTAL, LATERAL_SLOT)):
    studies = toy_studies(40)
    vocabulary = Vocabulary.of(studies.conditions)
    studies = replace(studies.encode(vocabulary), latents=torch.randn(40, 2, 8))
    torch.manual_seed(0)
    denoiser = start(studies, vocabulary, toy_settings(), 0)
    return denoiser, studies, studies.asked(np.arange(6), slots)


def test_untrained_it_is_the_wiener_filter_and_leaves_what_is_given() -> None:
    denoiser, studies, asked = denoiser_and_asked()
    clean = {s: torch.from_numpy(studies.maps[studies.views[:6, s]]).float() / 127.5 - 1 for s in (0, 1)}
    noisy = {0: clean[0], 1: 0.5 * clean[1] + 0.5 * torch.randn(clean[1].shape)}
    times = {0: torch.zeros(6, 1), 1: torch.full((6, 1), 0.5), REPORT: torch.zeros(6, 1)}
    with torch.no_grad():
        found = denoiser(noisy, times, asked)
        expected, _ = denoiser._wiener(1, noisy[1], times[1], asked)
    assert torch.equal(found.clean[0], clean[0])
    assert torch.allclose(found.clean[1], expected)


def perturbed(denoiser) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for p in denoiser.network.parameters():
            p.add_(0.05 * torch.randn(p.shape))


def test_guidance_is_the_written_combination() -> None:
    denoiser, studies, asked = denoiser_and_asked((FRONTAL,))
    perturbed(denoiser)
    settings = toy_settings(guidance=2.0, text_guidance=3.0)
    told = torch.ones(6, 1)
    given = {REPORT: studies.latents[:6]}
    noisy = {0: torch.randn(6, 1, 16, 16)}

    def alone(condition: Asked) -> torch.Tensor:
        times = {0: torch.full((6, 1), 0.6), REPORT: torch.zeros(6, 1)}
        return denoiser({**noisy, **given}, times, condition).clean[0]

    with torch.no_grad():
        found = guided(denoiser, asked, given, settings, attributes=True, text=True, report_given=told)(noisy, 0.6)[0]
        full, some = alone(asked), alone(asked.without(text=True, report_given=told))
        none = alone(asked.without(text=True, report_given=told).without(attributes=True))
        assert torch.allclose(found, none + 2 * (some - none) + 3 * (full - some), atol=1e-4)
        only = guided(denoiser, asked, given, settings, attributes=True)(noisy, 0.6)[0]
        bare = alone(asked.without(attributes=True))
        assert torch.allclose(only, bare + 2 * (full - bare), atol=1e-4)
        plain = guided(denoiser, asked, given, toy_settings(guidance=1.0), attributes=True)(noisy, 0.6)[0]
        assert torch.allclose(plain, full, atol=1e-5)
        late = guided(denoiser, asked, given, toy_settings(guidance=2.0, guidance_until=0.5), attributes=True)
        assert torch.allclose(late(noisy, 0.6)[0], full, atol=1e-5)
        assert not torch.allclose(late(noisy, 0.4)[0], full, atol=1e-3)


def test_a_report_is_guided_by_a_scale_of_its_own() -> None:
    denoiser, studies, asked = denoiser_and_asked((FRONTAL,))
    perturbed(denoiser)
    asked = replace(asked, report_known=torch.ones(6, 1))
    noisy = {0: torch.randn(6, 1, 16, 16), REPORT: torch.randn_like(studies.latents[:6])}
    times = dict.fromkeys(noisy, torch.full((6, 1), 0.6))
    model = guided(denoiser, asked, {}, toy_settings(guidance=1.0, report_guidance=4.0), attributes=True)
    with torch.no_grad():
        found = model(noisy, 0.6)
        full, bare = (denoiser(noisy, times, c).clean for c in (asked, asked.without(attributes=True)))
    assert torch.allclose(found[0], full[0], atol=1e-5)
    assert torch.allclose(found[REPORT], bare[REPORT] + 4 * (full[REPORT] - bare[REPORT]), atol=1e-4)
    assert not torch.allclose(found[REPORT], full[REPORT], atol=1e-2)


def drawn_from_gaussian(deviation: float) -> torch.Tensor:
    """8,000 draws in 12 steps with the exact denoiser of a Gaussian of mean 0.2."""

    def exact(noisy, t):
        gain = (1 - t) * deviation**2 / ((1 - t) ** 2 * deviation**2 + t**2)
        return {s: 0.2 + gain * (x - (1 - t) * 0.2) for s, x in noisy.items()}

    streams = {0: [torch.Generator().manual_seed(i) for i in range(4000)]}
    return sample(exact, toy_settings(sampler_steps=12), {0: (1, 1, 2)}, streams)[0]


@pytest.mark.parametrize(("deviation", "short"), [(0.03, 0.25), (0.3, 0.1), (3.0, 0.1), (20.0, 0.17)])
def test_the_solver_reaches_a_known_distribution(deviation: float, short: float) -> None:
    """With the exact denoiser of a Gaussian in place of the network, samples have its mean and variance.

    Deviations are those that directions of images have: texture, pixels, exposure, size of the body.
    """

    drawn = drawn_from_gaussian(deviation)
    assert drawn.mean().item() == pytest.approx(0.2, abs=0.04 * deviation)
    assert drawn.std().item() == pytest.approx(deviation, rel=short)


def test_even_levels_lose_the_largest_and_the_smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why the levels are what they are: the same solver and steps, evenly spaced."""
    even = 0.999 * torch.arange(12, 0, -1) / 12
    monkeypatch.setattr(sampling, "noise_levels", lambda steps, shift: even)
    for deviation, kept in ((0.03, 0.31), (20.0, 0.50)):
        assert drawn_from_gaussian(deviation).std().item() == pytest.approx(kept * deviation, rel=0.1)


def test_noise_levels_fall_and_are_dense_at_both_ends() -> None:
    levels = noise_levels(12)
    assert levels[0].item() == pytest.approx(0.999)
    assert (levels.diff() < 0).all()
    assert torch.allclose(levels[1:] + levels[1:].flip(0), torch.ones(11))
    gaps = -levels.diff()
    assert gaps[0] < gaps[4] / 3
    assert levels[-1] < 0.02
    assert (noise_levels(12, 3.0) >= levels).all()


def test_a_step_hides_gives_and_wants_as_the_settings_say() -> None:
    _, studies, _ = denoiser_and_asked()
    draw = StepDraw(studies, toy_settings(batch_size=400, boxes_share=0.3, mask_share=0.0, dropout=0.2, joint=0.5,
                                          given_alone=0.0))  # fmt: skip
    counts: dict[str, list[float]] = {"wanted": [], "boxes": [], "sex": [], "slots": []}
    for step in range(30):
        _, times, asked = draw(torch.Generator().manual_seed(step))
        views = [s for s in times if s != REPORT]
        wanted = torch.cat([(times[s] > 0).float() for s in views], 1)
        report = (times[REPORT] > 0).float() * asked.report_known
        assert ((wanted.sum(1, keepdim=True) + report) >= 1).all(), "every study is asked for something"
        counts["slots"].append(len(views))
        if FRONTAL in views:
            counts["boxes"].append(asked.layouts[FRONTAL].boxes_known.mean().item())
            assert asked.layouts[FRONTAL].masks_known.sum() == 0
        counts["sex"].append(asked.known[REPORT][:, 2].mean().item())
    assert np.mean(counts["boxes"]) == pytest.approx(0.3 * 0.8, abs=0.02)
    assert np.mean(counts["sex"]) == pytest.approx(0.9 * 0.8, abs=0.02)
    assert set(counts["slots"]) == {1, 2}


def test_attributes_may_be_hidden_beside_what_is_given() -> None:
    studies = toy_studies(200)
    latents = torch.randn(200, 2, 8)
    studies = replace(studies.encode(Vocabulary.of(studies.conditions)), latents=latents)
    draw = StepDraw(studies, toy_settings(batch_size=400, dropout=0.0, joint=0.5, boxes_share=1.0, given_alone=1.0))
    for step in range(6):
        _, times, asked = draw(torch.Generator().manual_seed(step))
        views = [s for s in times if s != REPORT]
        given = (
            torch.cat([times[s] == 0 for s in views], 1).any(1)
            | ((times[REPORT] == 0) & (asked.report_known > 0))[:, 0]
        )
        assert 0.1 < given.float().mean() < 0.9
        for s in views:
            assert not asked.known[s][given].any()
            assert not asked.layouts[s].boxes_known[given].any()
            assert asked.known[s][~given].any(1).float().mean() > 0.95


@pytest.mark.parametrize("after", [3, 6])
def test_interrupted_and_resumed_is_bit_identical(after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cxraug.cores.multiprompt.training as training

    studies = toy_studies(40)
    whole = train_toy(studies, tmp_path / "whole", toy_settings())
    real, calls = training.slot_losses, []

    def dies(*arguments, **named):
        calls.append(1)
        if len(calls) > after + 1:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(training, "slot_losses", dies)
    with pytest.raises(KeyboardInterrupt):
        train_toy(studies, tmp_path / "cut", toy_settings())
    assert (tmp_path / "cut" / "checkpoint.pt").is_file()
    monkeypatch.setattr(training, "slot_losses", real)
    train_toy(studies, tmp_path / "cut", toy_settings())
    assert read_card(tmp_path / "cut").sha256 == read_card(whole).sha256
    assert not (tmp_path / "cut" / "checkpoint.pt").exists()
    with pytest.raises(InputError, match="another core"):
        train_toy(studies, tmp_path / "cut", toy_settings(steps=9))


def test_a_grown_core_draws_what_the_old_one_drew(toy_folder: Path) -> None:
    old = open_core(toy_folder)
    assert isinstance(old, MultipromptCore)
    wider = old.vocabulary.union(Vocabulary(("Mass",), ("AP",), ("elsewhere",)))
    grown = grow(toy_folder, wider, old.settings).eval()
    assert grown.entries == len(old.vocabulary) + 3
    conditions = Conditions.of(("Effusion",), np.ones((3, 1)), sex=["F", "M", ""], view=["PA"] * 3)
    noisy = {FRONTAL: torch.randn(3, 1, 16, 16)}
    times = {FRONTAL: torch.full((3, 1), 0.4), REPORT: torch.zeros(3, 1)}

    def clean(denoiser, vocabulary):
        values, known = (torch.from_numpy(a) for a in vocabulary.encode(conditions))
        pad = torch.zeros(3, 4)
        v, k = torch.cat([values, pad], 1), torch.cat([known, pad], 1)
        asked = Asked({0: v, REPORT: v}, {0: k, REPORT: k}, {0: Layout.nothing(3, 8)}, torch.zeros(3, 1),
                      torch.zeros(3, 8), torch.zeros(3, 1))  # fmt: skip
        report = {REPORT: torch.zeros(3, 2, 8)}
        with torch.no_grad():
            return denoiser({**noisy, **report}, times, asked).clean[0]

    assert torch.allclose(clean(old.denoiser, old.vocabulary), clean(grown, wider), atol=0.02)


def test_fine_tuning_with_a_new_finding(toy_folder: Path, tmp_path: Path) -> None:
    studies = toy_studies(30, seed=5)
    named = replace(studies.conditions, findings=("Effusion", "Mass"))
    folder = train_toy(replace(studies, conditions=named), tmp_path / "tuned", toy_settings(steps=4), init=toy_folder)
    card = read_card(folder)
    assert card.findings == ["Effusion", "Nodule", "Mass"]
    assert card.settings["codec"] == read_card(toy_folder).settings["codec"]
    studies_drawn = open_core(folder).generate([Prompt("p", {"Mass": 1, "Nodule": 0})], [1])
    assert studies_drawn[0].images["PA"].std() > 0
    with pytest.raises(InputError, match="depth differs"):
        train_toy(studies, tmp_path / "deeper", toy_settings(steps=4, depth=2), init=toy_folder)


def test_bytes_do_not_depend_on_neighbours_or_order(toy_folder: Path) -> None:
    core = open_core(toy_folder)
    prompts = [
        Prompt("a", {"Effusion": 1}, "F", views=("PA", "Lateral")), Prompt("b", views=("PA",)),
        Prompt("c", views=("Lateral",), report="No pleural effusion."), Prompt("d", {"Nodule": 1}, views=()),
        Prompt("e", {"Effusion": 0}, "M", views=("PA", "Lateral")),
    ]  # fmt: skip
    together = core.generate(prompts, [1, 2, 3, 4, 5])
    backwards = core.generate(prompts[::-1], [5, 4, 3, 2, 1])[::-1]
    for one, two, prompt, seed in zip(together, backwards, prompts, [1, 2, 3, 4, 5], strict=True):
        alone = core.generate([prompt], [seed])[0]
        assert one.report == two.report == alone.report
        for view in prompt.views:
            assert np.array_equal(one.images[view], two.images[view])
            assert np.array_equal(one.images[view], alone.images[view])


def test_refusals_and_settings(toy_folder: Path) -> None:
    core = open_core(toy_folder)
    card = core.card.model_copy(update={"views": ["PA", "AP", "Lateral"]})
    wider = MultipromptCore(card, core.denoiser, core.settings, codec=core.codec)
    with pytest.raises(InputError, match="two views of one projection"):
        wider.refuse(Prompt("p", views=("PA", "AP")))
    with pytest.raises(InputError, match="not a sampler setting"):
        core.configure(depth=3)
    core.configure(steps=2, text_guidance=4.0, guidance_until=0.5)
    assert core.sampler["steps"] == 2
    assert core.sampler["text_guidance"] == 4.0
    with pytest.raises(InputError, match="guidance_from must be below"):
        core.configure(guidance_from=0.9)
    assert "race" not in core.card.conditions
    with pytest.raises(InputError, match="race"):
        core.refuse(Prompt("p", race="White"))


def test_shared_space_finds_the_own_report(learned) -> None:
    studies = toy_studies(60, seed=77)
    images = learned.embed(studies.maps[studies.views[:, 0], 0], "PA")
    texts = learned.embed([str(r) for r in studies.reports])
    assert np.allclose(np.linalg.norm(images, axis=1), 1, atol=1e-5)
    best = (images @ texts.T).argmax(1)
    effusion = np.array(["There is" in r for r in studies.reports])
    assert np.mean(effusion[best] == effusion) > 0.95, "the nearest report says what the image shows"


def test_settings_of_the_sizes() -> None:
    assert MultipromptSettings().grid == 32
    assert MultipromptSettings(size="base").depth == 16
    assert MultipromptSettings(size="small", depth=3).depth == 3
    for bad in ({"channels": (16, 40)}, {"grid": 5}, {"guidance_from": 0.6, "guidance_until": 0.5}):
        with pytest.raises(ValueError):  # noqa: PT011 - the message names the key
            MultipromptSettings(**bad)
