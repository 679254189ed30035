"""Train the report codec on phantom or IU reports and print what survives a round trip on reports of other patients.

python benchmarks/report_codec.py phantom --out runs/codec-phantom
python benchmarks/report_codec.py iu --out runs/codec-iu
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cxraug.cores.multiprompt.report_codec_training import CARD, reconstruction, train_report_codec
from cxraug.cores.multiprompt.settings_codec import ReportCodecSettings
from cxraug.storage import read_json
from cxraug.studies.iu import iu_reports
from cxraug.studies.phantom.cohort import PhantomSettings, sample_cohort

VIEWS: tuple[tuple[str, ...], ...] = (("PA",), ("PA", "Lateral"), ("PA", "AP", "Lateral"))
SETTINGS = {
    "phantom": ReportCodecSettings(width=128, heads=4, lr=2e-3, steps=4000, batch_size=32),
    "iu": ReportCodecSettings(
        tokens=16,
        vocabulary=2000,
        max_tokens=400,
        width=128,
        heads=4,
        lr=2e-3,
        steps=1500,
        batch_size=32,
        recombine=0.5,
    ),
}


def phantom_reports(n: int, seed: int) -> list[str]:
    """``n`` reports for each of the sets of views in VIEWS; every seed is a cohort of its own."""
    cohorts = [sample_cohort(PhantomSettings(n=n, seed=seed + i, views=views)) for i, views in enumerate(VIEWS)]
    return [report for cohort in cohorts for report in cohort["report"]]


def main() -> None:
    """Parse, train (or resume) and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", choices=list(SETTINGS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, help="training steps (default: as set in this file)")
    asked = parser.parse_args()
    settings = SETTINGS[asked.source]
    if asked.steps:
        settings = settings.model_copy(update={"steps": asked.steps})
    if asked.source == "phantom":
        reports, held_out = phantom_reports(10_000, 100), phantom_reports(200, 900)
        seen = None
    else:
        table = iu_reports()
        reports = table.loc[table["split"] == "train", "report"].tolist()
        held_out = table.loc[table["split"] == "val", "report"].tolist()
        seen = reports[: len(held_out)]
    codec = train_report_codec(reports, asked.out, settings, seed=0, held_out=held_out)
    card = read_json(asked.out / CARD)
    print(f"{card['parameters']:,} parameters, {len(codec.tokenizer)} tokens, {card['reports']:,} training reports\n")
    print("| reports | n | latent noise sd | exact | token accuracy | label micro-F1 |\n|---|---|---|---|---|---|")
    rows = [("held out", row) for row in card["held_out"]]
    if seen:
        rows.append(("trained on", reconstruction(codec, seen)))
    for name, row in rows:
        f1 = "" if row["label_f1"] is None else f"{row['label_f1']:.4f}"
        print(f"| {name} | {row['n']} | {row['noise']} | {row['exact']:.3f} | {row['token_accuracy']:.4f} | {f1} |")


if __name__ == "__main__":
    main()
