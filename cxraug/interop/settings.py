"""What an export is told."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Format = Literal["hf", "folders", "webdataset", "coco"]


class ExportSettings(BaseModel):
    """The settings of an export.

    Attributes
    ----------
    to : ``hf`` (Hugging Face image folder), ``folders`` (torchvision's class folders), ``webdataset`` (tar shards),
        ``coco`` (boxes).
    copy_images : files of their own in place of hard links.
    finding : of ``folders``: the one finding whose presence is the class; None: the class is the finding of a row,
        which may have only one.
    leave_out_several : of ``folders`` without ``finding``: leave out rows with several findings.
    shard : of ``webdataset``: studies' images per tar file. seed : of ``webdataset``: of the order of rows.
    """

    model_config = ConfigDict(extra="forbid")
    to: Format
    copy_images: bool = False
    finding: str | None = None
    leave_out_several: bool = False
    shard: int = Field(1000, ge=1, le=1_000_000)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _together(self) -> ExportSettings:
        if self.to != "folders" and (self.finding is not None or self.leave_out_several):
            raise ValueError("a finding, or leaving out rows with several, is for class folders")
        if self.finding is not None and self.leave_out_several:
            raise ValueError("with one finding named no row has several: leave out one of the two")
        return self
