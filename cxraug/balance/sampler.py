"""Synthetic over-sampling for imbalanced-learn: what a class or finding is short of is drawn from a generative core."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from imblearn.over_sampling.base import BaseOverSampler
from imblearn.utils._validation import ArraysTransformer
from sklearn.base import _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_consistent_length, validate_data

from cxraug.balance import drawing
from cxraug.balance.attributes import asked_attributes, real_attributes, resampled_attributes, sensitive_frame
from cxraug.balance.image_rows import (
    ImageRows,
    check_files,
    checked_range,
    from_bytes,
    image_rows,
    read_images,
    to_bytes,
    value_range,
)
from cxraug.balance.refusal import SamplingError, as_value_error
from cxraug.balance.sampling_gate import SamplingGate, gate_settings
from cxraug.balance.sampling_target import Target, read_target
from cxraug.gate.settings import GateSettings
from cxraug.seeds import derive_seed
from cxraug.studies.images import Encoding, encode, pixel_sha256, read_pixels

if TYPE_CHECKING:
    from cxraug.cores.core import GenerativeCore

GAUSSIAN = "gaussian"


class SyntheticOverSampler(BaseOverSampler):
    """Over-sample by images of a generative core in place of copies.

    Each synthetic row repeats the label set of a real row that is drawn at random as ``RandomOverSampler`` draws it
    (its donor), and of ``sensitive_features`` what the core takes; the image is new. Real rows come first and keep
    their values.

    Parameters
    ----------
    core : str, path or GenerativeCore, default="gaussian"
        ``"gaussian"`` fits the closed-form core on the rows given, and on nothing else. A shipped core's name, the
        folder of a trained one, ``KIND:PATH`` (:mod:`cxraug.cores.spec`) or an open core are asked through prompts;
        what they were trained on before is then outside data.

    sampling_strategy : float, str, dict or callable, default="auto"
        For one label per row as in imbalanced-learn: about each class's number of rows. For an indicator matrix about
        each finding's positives: ``"auto"`` (``"not majority"``, ``"all"``) raises every finding to the positives of
        the most frequent one, ``"minority"`` only the rarest, ``"not minority"`` all but the rarest; a float a raises
        every finding to a times the most frequent one; a dict maps findings to positives afterwards; a callable takes
        y (n, F) and returns such a dict. Whole label sets are repeated, so a finding may end above its target.

    random_state : int, RandomState instance or None, default=None
        Donors and seeds. Equal ones give equal bytes on one kind of machine at one number of threads.

    findings : list or dict, default=None
        What y means: the names of its columns; or one finding, which the larger of two classes shows; or a finding
        per class; or a dict of class to label text (``{0: "No Finding", 1: "Mass|-Effusion"}``). By default the
        columns of a DataFrame, the name of a binary Series, or classes that are label text. Findings that y does not
        annotate are left to the core.

    out : str or path, default=None
        Needed where X holds paths: the folder of the generated set, whose images are the new paths. ``{work}`` in it
        becomes a digest of plan and core, for cross-validation, where every fold makes a set of its own.

    view : str, default=None
        The view to ask for where ``sensitive_features`` has no column ``view``: PA, or else the core's first.

    image_size : int, default=64
        Where X holds paths: side of the images on which ``"gaussian"`` is fitted, and of those it then draws.

    value_range : tuple of (black, white), default=None
        What black and white are in X. By default 0 and 255 for uint8, else (0, 1), (-1, 1), (0, 255), (-1024, 1024)
        or (0, 65535), the first that holds all values and that they span by half, else minimum and maximum.

    components : int, default=256
        Principal components of ``"gaussian"``.

    gate : None, bool, "default" or GateSettings, default=None
        Judge what the core draws as ``cxraug gate`` does: copies of X and of each other, labels that independent
        classifiers do not see, strangers to X. True and ``"default"`` are the gate's default settings with up to 10
        re-draws. A rejected image is asked for again with the same prompt and another seed, ``max_redraws`` times at
        most; what then is still missing is an error. The gate is fitted on X, y and ``sensitive_features`` alone,
        whose column ``patient_id`` says which rows share a patient (without it none do); settings that name networks
        trained elsewhere are refused. It trains small networks in each call and abstains, with a warning, where too
        few rows can tell it something: by default there is none. Paths are judged at ``image_size``.

    Attributes
    ----------
    sampling_strategy_ : dict
        Class to number of synthetic rows; for an indicator matrix, finding to number of positives it was short of.

    sample_indices_ : ndarray of shape (n_samples,)
        Rows of X that the first rows of the result are: all of them. The rows behind are synthetic and have none.

    provenance_ : DataFrame of shape (n_synthetic, ...)
        Where each synthetic row comes from, by its row in the result: prompt, seed, core with its SHA-256, the
        SHA-256 of the pixels (of the file, where there is a set or a gate), what it was drawn for, the donor's row,
        and which draw it is (0 is the first; later ones replace what the gate rejected).

    sensitive_features_ : DataFrame of shape (n_samples_new, ...)
        ``sensitive_features`` of the result. Synthetic rows have what their prompt asked for and are blank elsewhere:
        of what no prompt asks for nothing is known of a synthetic image.

    counts_ : DataFrame
        ``before``, ``synthetic`` and ``after`` of every class or finding.

    core_ : GenerativeCore
        The core that drew; absent where nothing was missing.

    set_folder_ : Path
        The generated set, where X holds paths and something was missing.

    gate_ : dict
        What the gate was fitted on and did, with a gate: the content of ``gate.json``. Also there after a refusal.

    rejected_ : DataFrame of shape (n_rejected, ...)
        Images that the gate rejected, in any draw, by the row of the result each was drawn for: ``draw``, ``seed``,
        ``sha256``, ``reasons`` (joined by ``|``), ``prompt_id``, ``drawn_for``, ``donor``. Also there after a refusal.

    value_range_ : tuple of float
        The range in use, where X holds pixel values.

    n_features_in_ : int
        Number of features in the input dataset, where X is 2-D.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen during `fit`, where X is a DataFrame whose column names are all strings.

    Notes
    -----
    X may be paths (n,), (n, 1) or a Series; images (n, H, W); rows of pixels (n, H*W). Only ``"gaussian"`` takes rows
    that are no square images. Y may be one label per row or an indicator matrix (n, F) of 0 and 1. A matrix with
    exactly one 1 in each row is read as one-vs-all encoded classes, as imbalanced-learn reads it.

    Of the checks in ``imblearn.utils.estimator_checks`` (0.14) all that apply to dense input pass but two: multi-label
    targets are taken, not refused (``check_target_type``), and text is a path and has to exist
    (``check_samplers_string``). Sparse and missing pixel values are refused, so their checks do not apply.
    """

    _parameter_constraints: dict = {  # noqa: RUF012  (scikit-learn's name and form)
        **BaseOverSampler._parameter_constraints,
        "core": [str, os.PathLike, HasMethods(["generate", "refuse"])],
        "findings": ["array-like", Mapping, None],
        "out": [str, os.PathLike, None],
        "view": [str, None],
        "image_size": [Interval(Integral, 8, 2048, closed="both")],
        "value_range": [tuple, list, None],
        "components": [Interval(Integral, 1, None, closed="left")],
        "gate": ["boolean", StrOptions({"default"}), GateSettings, None],
    }

    def __init__(
        self,
        *,
        core: Any = GAUSSIAN,
        sampling_strategy: Any = "auto",
        random_state: Any = None,
        findings: Any = None,
        out: Any = None,
        view: str | None = None,
        image_size: int = 64,
        value_range: tuple[float, float] | None = None,
        components: int = 256,
        gate: Any = None,
    ) -> None:
        super().__init__(sampling_strategy=sampling_strategy)
        self.core = core
        self.random_state = random_state
        self.findings = findings
        self.out = out
        self.view = view
        self.image_size = image_size
        self.value_range = value_range
        self.components = components
        self.gate = gate

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any) -> SyntheticOverSampler:
        """Check X and y and count what is missing; draws nothing.

        Parameters
        ----------
        X, y : as in :meth:`fit_resample`.
        """
        with as_value_error():
            self._read(X, y)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_resample(self, X: Any, y: Any, *, sensitive_features: Any = None) -> tuple[Any, Any]:
        """Resample the data set.

        Parameters
        ----------
        X : array-like of shape (n_samples,), (n_samples, H, W) or (n_samples, n_features)
            Image paths, images or rows of pixels.

        y : array-like of shape (n_samples,) or (n_samples, n_findings)
            Classes, or an indicator matrix of 0 and 1.

        sensitive_features : DataFrame, Series or dict of shape (n_samples, ...), default=None
            Columns ``sex`` (M, F), ``age`` (years), ``race``, ``source`` and ``view`` condition a core that takes them.
            With metadata routing: ``sampler.set_fit_resample_request(sensitive_features=True)``.

        Returns
        -------
        X_resampled, y_resampled : of the types of X and y, the real rows first.

        Raises
        ------
        SamplingError
            A ``ValueError`` and an :class:`cxraug.errors.InputError`: bad X, y or strategy, what the core refuses, and
            a class or finding of which the gate accepts too little.
        """
        arrays = ArraysTransformer(X, y)
        with as_value_error():
            rows, target = self._read(X, y)
            return arrays.transform(*self._fit_resample(rows, target, sensitive_features))

    def _fit_resample(self, X: ImageRows, y: Target, sensitive_features: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """The resampled arrays of checked input; sets the attributes that tell what was done."""
        frame = sensitive_frame(sensitive_features, len(X))
        rng = check_random_state(self.random_state)
        donors, wanted = y.donors(self.sampling_strategy_, rng)
        new, asked = self._draw(X, y, frame, donors, wanted, int(rng.randint(2**31 - 1)))
        self.sample_indices_ = np.arange(len(X))
        self.sensitive_features_ = resampled_attributes(frame, donors, asked)
        self.counts_ = y.counts(donors)
        order = np.concatenate([self.sample_indices_, donors])
        return (X.appended(new) if len(donors) else X.array.copy()), y.y[order]

    def _read(self, X: Any, y: Any) -> tuple[ImageRows, Target]:
        """X and y checked, and ``sampling_strategy_`` set from them."""
        rows = image_rows(X)
        check_consistent_length(rows.array, y)
        target = read_target(y, self.findings)
        validate_data(self, X=X, y="no_validation", reset=True, skip_check_array=True)
        if rows.paths:
            if self.out is None:
                raise SamplingError("X holds paths: name a folder for the new images", expected="out=FOLDER")
            check_files(rows)
        if not rows.paths:
            self.value_range_ = value_range(rows.array) if self.value_range is None else checked_range(self.value_range)
        gate_settings(self.gate)
        self.sampling_strategy_ = target.missing(self.sampling_strategy)
        return rows, target

    def _draw(
        self, rows: ImageRows, target: Target, frame: pd.DataFrame, donors: np.ndarray, wanted: np.ndarray, seed: int
    ) -> tuple[np.ndarray, pd.DataFrame]:
        """The new rows of X, and what was asked for beside their labels; sets ``provenance_``."""
        for name in ("core_", "set_folder_", "gate_", "rejected_"):  # of an earlier call
            self.__dict__.pop(name, None)
        if not len(donors):
            self.provenance_ = pd.DataFrame(columns=list(drawing.PROVENANCE))
            return np.zeros(0), pd.DataFrame(columns=["sex", "age", "race", "source", "view"])
        gate = self._gate(rows, target, frame, seed)
        core = self._open(rows, target, frame)
        asked, left_out = asked_attributes(frame.iloc[donors].reset_index(drop=True), core.card, self.view)
        if left_out:
            warnings.warn(
                f"core {core.card.name} does not take {', '.join(left_out)}: blank in synthetic rows", stacklevel=4
            )
        texts = target.meaning.asked(core.card.findings)[donors]
        plan = drawing.sampling_plan(texts, asked, wanted, seed)
        if rows.paths:
            made = drawing.write_images(core, plan, os.fspath(self.out), gate)
            self.set_folder_ = made.folder
            self._tell(core, plan, made, wanted, donors, len(rows))
            kind = str if isinstance(rows.array.flat[0], str) else type(rows.array.flat[0])
            new = np.array([kind(file) for file in made.files], dtype=None if kind is str else object)
        else:
            side = None if self.core == GAUSSIAN else rows.side()
            if gate is None:
                images, digests, prompts = drawing.draw_images(core, plan, side)
                self.provenance_ = drawing.provenance_frame(core, plan, prompts, digests, wanted, donors, len(rows))
            else:
                with tempfile.TemporaryDirectory() as folder:
                    made = drawing.write_images(core, plan, os.path.join(folder, "set"), gate)
                    self._tell(core, plan, made, wanted, donors, len(rows))
                    images = made.pixels(side or core.card.resolution)
            pixels = images.reshape(len(images), -1)[:, : rows.flat.shape[1]]
            new = from_bytes(pixels, self.value_range_, rows.array.dtype)
        self.core_ = core
        return new, asked

    def _tell(
        self, core: GenerativeCore, plan: pd.DataFrame, made: drawing.WrittenImages, wanted: np.ndarray,
        donors: np.ndarray, n: int,
    ) -> None:  # fmt: skip
        """Say where the images of a set come from and what its gate did; raises where it left a class unfilled."""
        told = drawing.provenance_frame(
            core, plan.assign(seed=made.seeds), made.prompts, made.digests, wanted, donors, n, made.draws
        )
        if made.judged is not None:
            self.gate_, self.rejected_ = made.judged.summary, made.judged.rejected_frame(told)
            if cannot := made.judged.cannot():
                warnings.warn(f"the gate could not check everything: {'; '.join(cannot)}", stacklevel=6)
            if refusal := made.judged.refusal(core.card.name, wanted):
                raise refusal
        self.provenance_ = told

    def _gate(self, rows: ImageRows, target: Target, frame: pd.DataFrame, seed: int) -> SamplingGate | None:
        """The gate of the rows, which it is fitted on where something is judged."""
        settings = gate_settings(self.gate)
        if settings is None:
            return None
        if rows.paths:
            encoding = Encoding(size=self.image_size)
            native = [read_pixels(path) for path in rows.flat.tolist()]
            pixels = np.stack([encode(image, encoding) for image in native])
        else:
            side = rows.side()
            if side is None:
                raise SamplingError("X holds no square images", found=f"shape {rows.array.shape}",
                                    expected="square images; gate=None takes others")  # fmt: skip
            encoding = Encoding(size=side, fit="stretch")
            pixels = to_bytes(rows.flat, self.value_range_).reshape(-1, side, side)
            native = list(pixels)
        meaning = target.meaning
        return SamplingGate(
            settings, meaning.findings, np.array(meaning.texts, dtype=object)[meaning.codes], frame, pixels,
            [pixel_sha256(image) for image in native], encoding, self.view, derive_seed("gate of a sampler", seed),
        )  # fmt: skip

    def _open(self, rows: ImageRows, target: Target, frame: pd.DataFrame) -> GenerativeCore:
        """The core to ask: fitted on the rows, opened by name, or as it was given."""
        from cxraug.cores.registry import open_core

        if self.core == GAUSSIAN:
            pixels = (
                read_images(rows.flat.tolist(), self.image_size)
                if rows.paths
                else to_bytes(rows.flat, self.value_range_)
            )
            meaning = target.meaning
            columns = real_attributes(frame, self.view)
            return drawing.fit_on_the_spot(
                pixels, meaning.findings, meaning.matrix(), columns, components=self.components
            )
        core = open_core(os.fspath(self.core)) if isinstance(self.core, (str, os.PathLike)) else self.core
        unknown = [finding for finding in target.meaning.findings if finding not in core.card.findings]
        if unknown:
            expected = f"findings= in the core's words: {', '.join(core.card.findings)}"
            raise SamplingError(
                f"core {core.card.name} does not know a finding of y", found=unknown[0], expected=expected
            )
        if not rows.paths:
            side = rows.side()
            if side is None:
                expected = f"square images; core={GAUSSIAN!r} takes others"
                raise SamplingError("X holds no square images", found=f"shape {rows.array.shape}", expected=expected)
            if side > core.card.resolution:
                warnings.warn(
                    f"core {core.card.name} draws {core.card.resolution} pixels and X has {side}: synthetic images are "
                    "enlarged, and a classifier can tell them by their blur",
                    stacklevel=5,
                )
        return core

    def __sklearn_tags__(self) -> Any:
        """Dense numbers or paths, in arrays, stacks of images and DataFrames; every real row has its index."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        tags.input_tags.string = True
        tags.input_tags.three_d_array = True
        tags.target_tags.multi_output = True
        tags.sampler_tags.sample_indices = True
        return tags
