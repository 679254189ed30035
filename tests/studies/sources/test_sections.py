"""Sections of MIMIC's reports."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from cxraug.errors import InputError
from cxraug.studies.sources.folder import Folder
from cxraug.studies.sources.sections import read_reports, report_of, sections

TEXT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with new onset ascites  // eval for infection

 FINDINGS:

 There is no focal consolidation. Heart size: normal.
 No effusion.

 IMPRESSION:

 No acute cardiopulmonary process.
"""


def test_headings_are_capitals_with_a_colon_at_the_beginning_of_a_line() -> None:
    assert list(sections(TEXT)) == ["", "EXAMINATION", "INDICATION", "FINDINGS", "IMPRESSION"]
    assert report_of(TEXT) == ("FINDINGS: There is no focal consolidation. Heart size: normal. No effusion. "
                               "IMPRESSION: No acute cardiopulmonary process.")  # fmt: skip
    assert report_of(" CONCLUSION: Clear.") == "IMPRESSION: Clear."
    assert report_of("Nothing is divided here.") is None
    assert sections("FINDINGS: a\n IMPRESSION: b\n FINDINGS: c")["FINDINGS"] == "a c"


def test_the_table_of_sections_and_the_texts_agree(tmp_path: Path) -> None:
    patient, study = pd.Series(["10000032"] * 2), pd.Series(["50414267", "50414268"])
    text = tmp_path / "p10" / "p10000032" / "s50414267.txt"
    text.parent.mkdir(parents=True)
    text.write_text(TEXT)
    table = tmp_path / "mimic_cxr_sectioned.csv"
    table.write_text('study,findings,impression\ns50414267,"There is no focal consolidation. Heart size: normal.\n'
                     ' No effusion.",No acute  cardiopulmonary process.\ns50414268,,\n')  # fmt: skip
    from_text = read_reports(Folder(tmp_path), tmp_path / "p10" / "..", patient, study)
    from_table = read_reports(Folder(tmp_path), table, patient, study)
    found_here = read_reports(Folder(tmp_path), None, patient, study)
    assert from_text is not None
    pd.testing.assert_series_equal(from_text, from_table)
    pd.testing.assert_series_equal(from_text, found_here)
    assert from_text.notna().tolist() == [True, False]
    with pytest.raises(InputError, match="no report of these studies"):
        read_reports(Folder(tmp_path), text.parent, patient, study)
    with pytest.raises(InputError, match="no such file"):
        read_reports(Folder(tmp_path), tmp_path / "nowhere", patient, study)
    table.write_text("study,findings\ns1,x\n")
    with pytest.raises(InputError, match="row 1, column 'impression': missing column"):
        read_reports(Folder(tmp_path), table, patient, study)
