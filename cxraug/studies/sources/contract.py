"""What every source is and gives: the contract that all files of this folder keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from cxraug.studies.table import Table

if TYPE_CHECKING:
    from cxraug.studies.sources.folder import Folder

Policy = Literal["keep", "zeros", "ones", "ignore"]
TRAINVAL = "trainval"  # a split of which validation is still to be taken, by patient


class ImportSettings(BaseModel):
    """What any import can be told.

    Attributes
    ----------
    uncertain : what becomes of an uncertain label. ``keep``: ``?A``; ``zeros``: absent; ``ones``: present (U-Zeros and
        U-Ones of Irvin et al. 2019); ``ignore``: ``?A`` as well, and an image of which nothing else is said gets no
        label at all, so that its unnamed findings are unknown too. ``?A`` is left out of losses and metrics.
    split : ``official`` asks for the official split and refuses where its file is missing, ``patients`` splits by a
        hash of the patient, ``auto`` takes the official one where it is there.
    val_share : the share of the patients that goes to validation, where the official split has one part for both.
    table_only : the tables without any image: no file is looked for, and paths are where the official layout has them.
    mapping : an edited table ``label, finding`` that replaces entries of the source's own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    uncertain: Policy = "keep"
    split: Literal["auto", "official", "patients"] = "auto"
    val_share: float = Field(0.125, ge=0, lt=1)
    table_only: bool = False
    mapping: Path | None = None


@dataclass(eq=False)
class Extract:
    """What a source reads from its official files, before policies, splits and files on the disk.

    Attributes
    ----------
    table : one row per image with the row numbers of the official table, for messages. Its frame has ``image`` (where
        the official layout puts the file, below the root), ``patient_id``, ``study_id``, ``view``, ``sex`` (M, F,
        missing), ``age`` (years, float64, NaN), ``labels`` (in the grammar, ``?`` where uncertain, missing where
        nothing is known); where the source has them ``race, report, boxes, source_labels`` and columns of its own.
    vocabulary : ``label, finding, images``: each label of the source, what it becomes, how many images have it.
    annotated : the findings that the source annotates.
    by_source : where the rows have a ``source`` (and ``license``) of their own already, what each of these annotates.
    split : (n,) ``train``, ``val``, ``test`` or ``trainval``; None where the source publishes no split, or its file is
        not there (``split_missing`` says which).
    parts : how many parts of ``image``, from its end and without suffix, name the file wherever it lies.
    counts : what was odd, each with its number of images (rows for repeated ones).
    notes : sentences the user should read.
    finish : called last with the kept rows and the root, which is None where no file may be opened (tables only): may
        fill columns from the files and returns counts and notes.
    bare : names (n,) to what is the same in all releases, where these call the same file differently.
    """

    table: Table
    vocabulary: pd.DataFrame
    annotated: tuple[str, ...]
    split: pd.Series | None = None
    split_missing: str = ""
    parts: int = 1
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    finish: Callable[[pd.DataFrame, Path | None], tuple[dict[str, int], list[str]]] | None = None
    by_source: dict[str, tuple[str, ...]] | None = None
    bare: Callable[[pd.Series], pd.Series] | None = None

    @property
    def frame(self) -> pd.DataFrame:
        """One row per image."""
        return self.table.frame


@dataclass(frozen=True)
class Source:
    """A public archive.

    Attributes
    ----------
    key : the word on the command line, and what its patients' names begin with.
    name : the manifest's ``source``.
    title, licence, card : for people; ``card`` is a file of ``data_cards/``.
    layout : the official files, each with what it is for; the first is required.
    labels : each label of the source and what it becomes in the common vocabulary
        (:mod:`cxraug.studies.sources.vocabulary`).
    closed : whether a label outside ``labels`` is an error; otherwise it is a finding outside the vocabulary.
    settings : the model of its settings.
    read : the files of a folder to an :class:`Extract`; raises :class:`cxraug.errors.InputError`.
    """

    key: str
    name: str
    title: str
    licence: str
    card: str
    layout: Mapping[str, str]
    labels: Mapping[str, str]
    closed: bool
    read: Callable[[Folder, Any], Extract]
    settings: type[ImportSettings] = ImportSettings
