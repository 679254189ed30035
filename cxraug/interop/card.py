"""The card of a synthetic set: a Hugging Face dataset card (Markdown behind YAML) and Croissant JSON-LD beside it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from cxraug import __version__
from cxraug.errors import InputError
from cxraug.interop.counts import finding_counts, one_row_per_study, present_by_level
from cxraug.interop.croissant import croissant
from cxraug.interop.layouts import CROISSANT, README, Layout, image_folder_layout, set_layout
from cxraug.interop.licences import OTHER, hub_licence
from cxraug.interop.setfacts import SetFacts, accepted_rows
from cxraug.pages.markdown import table
from cxraug.privacy.attacks import NOT_PROMISED as OF_ATTACKS
from cxraug.privacy.swap_report import NOT_PROMISED as OF_SWAPS
from cxraug.storage import atomic, write_json
from cxraug.studies.labels import NO_FINDING
from cxraug.studies.manifest import read_manifest
from cxraug.synthesis.assembly import MANIFEST, PROVENANCE

MARK = "<!-- written by cxraug card -->"
SHOWN = 60  # findings in a table
NOT_PROMISED = (
    "No image shows a patient, and nothing diagnostic may be read from any of them.",
    "A label says what was asked of the core, not what a radiologist saw. Images may lack a finding that they are "
    "labelled with, or show one that they are not.",
    "The mix of findings, sexes and ages was chosen. It is the prevalence of no population.",
    "That a classifier gets better with these images is not promised: cxraug run measures it on your own data.",
    "The core may have memorised what it was trained on. Checks and attacks look for that in these images, and find "
    "what they are able to find.",
)
_ESCAPED = str.maketrans(
    {**{mark: f"\\{mark}" for mark in "\\`*_[]#|~$"}, "&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
)
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def write_card(
    folder: str | Path, facts: SetFacts, *, name: str | None = None, licence: str | None = None, fresh: bool = False
) -> tuple[Path, Path]:
    """Write ``README.md`` and ``croissant.json`` into a set's folder; returns both paths.

    Parameters
    ----------
    facts : from :func:`cxraug.interop.setfacts.read_set_facts`.
    name : what the set is called; default its folder's name.
    licence : of the set; default that of the core, which the card then says.
    fresh : replace a ``README.md`` that is nobody's card.

    Raises
    ------
    InputError : a ``README.md`` that this did not write.
    """
    folder = Path(folder)
    readme, path = folder / README, folder / CROISSANT
    if readme.is_file() and not fresh and MARK not in readme.read_text(encoding="utf-8", errors="replace"):
        raise InputError("this README.md is not a card that cxraug wrote", file=readme,
                         expected="no such file, or --fresh to replace it")  # fmt: skip
    title = one_line(name if name is not None else folder.resolve().name)
    text = card_text(facts, title=title, licence=licence)
    write_json(path, croissant(facts, title=title, licence=licence or facts.core["licence"], limits=limits(facts)))
    escaped = path.read_text().replace("<", "\\u003c")  # a page that embeds it must not find the end of a script in it
    with atomic(path) as temporary:
        temporary.write_text(escaped)
    with atomic(readme) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return readme, path


def write_export_card(out: str | Path, folder: str | Path, facts: SetFacts, *, title: str) -> Path:
    """Write the card of the set in ``folder`` beside its image folder ``out``, about the rows that were exported.

    ``provenance.jsonl`` is copied. There is no Croissant: that of the set is about other files.
    """
    out = Path(out)
    with atomic(out / PROVENANCE) as temporary:
        shutil.copyfile(Path(folder) / PROVENANCE, temporary)
    exported = replace(facts, manifest=read_manifest(out / MANIFEST))
    layout = image_folder_layout(out, facts, left=len(facts.manifest) - len(exported.manifest))
    with atomic(out / README) as temporary:
        temporary.write_text(card_text(exported, title=one_line(title), layout=layout), encoding="utf-8")
    return out / README


def card_text(facts: SetFacts, *, title: str, licence: str | None = None, layout: Layout | None = None) -> str:
    """The whole ``README.md``, where text from the set stays text. ``layout`` : default the set's own folder."""
    layout = layout or set_layout(facts)
    studies = one_row_per_study(facts.manifest)
    blocks = [
        f"# {plain(title)}",
        "**Every image and report in this set is synthetic.** " + _made_for(facts),
        table(("", ""), _facts(facts, studies, licence)),
        "## Counts", *_counts(studies),
        "## Provenance", *_provenance(facts),
        "## Gate", *_gate(facts, layout.rejected),
        "## Privacy", *_privacy(facts),
        "## What is not promised", bullets(limits(facts)),
        "## Files", table(("file", "what", "SHA-256"), layout.files), layout.note,
        "## Loading", layout.loading,
        MARK,
    ]  # fmt: skip
    front = front_matter(facts, title=title, licence=licence, configs=layout.configs)
    return front + "\n\n".join(block for block in blocks if block) + "\n"


def front_matter(
    facts: SetFacts, *, title: str, licence: str | None = None, configs: Sequence[dict[str, Any]] = ()
) -> str:  # fmt: skip
    """The YAML in front of a card, as the Hugging Face hub reads it; plain values, so that no text is markup in it."""
    told = licence or facts.core["licence"]
    name, address = hub_licence(told)
    values: dict[str, Any] = {"pretty_name": title, "license": name}
    if name == OTHER:
        values["license_name"] = re.sub(r"[^a-z0-9]+", "-", (told or "not-stated").lower()).strip("-")[:60] or "other"
    if address is not None:
        values["license_link"] = address
    values |= {
        "annotations_creators": ["machine-generated"],
        "size_categories": [next((label for most, label in SIZES if len(facts.manifest) < most), "1M<n<10M")],
        "task_categories": ["image-classification"],
        "tags": ["medical", "chest-x-ray", "synthetic", "cxraug"],
        **({"configs": list(configs)} if configs else {}),
    }
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=False, width=1000)}---\n\n"


def limits(facts: SetFacts) -> list[str]:
    """What is not promised about a set, those of the reports that came with it among them."""
    known = [NOT_PROMISED, *([OF_SWAPS] if facts.swapped else []), *([OF_ATTACKS] if facts.privacy is not None else [])]
    return list(dict.fromkeys(text for part in known for text in part))


def plain(text: object) -> str:
    """``text`` on one line, in which Markdown, HTML, formulas and addresses stay text."""
    line = one_line(text).translate(_ESCAPED)
    line = line.replace("://", ":&#47;/").replace("www.", "www&#46;")
    line = re.sub(r"^(\d+)([.)])", r"\1\\\2", line)  # at its start a list, a heading or a rule
    return re.sub(r"^([-+=:])", r"\\\1", line)


def bullets(lines: Iterable[str]) -> str:
    """A list of plain lines."""
    return "\n".join(f"- {plain(line)}" for line in lines)


def one_line(text: object) -> str:
    """``text`` without line ends and without characters that show nothing or act on what shows them."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(str(text).split()))


def _made_for(facts: SetFacts) -> str:
    if facts.swapped:
        return "Its studies stand in for those of a private set, none of which is in here."
    return "Its studies were drawn by a generative core from prompts."


def _facts(facts: SetFacts, studies: pd.DataFrame, licence: str | None) -> list[tuple[str, str]]:
    manifest, core = facts.manifest, facts.core
    accepted = int(accepted_rows(manifest).sum())
    gated = "gate" in manifest.frame and manifest.frame["gate"].notna().any()
    views = manifest.frame["view"].value_counts()
    reports = int(studies["report"].notna().sum()) if "report" in studies else 0
    rows = [
        ("Images", f"{len(manifest):,}" + (f", {accepted:,} of them accepted by a gate" if gated else ", no gate")),
        ("Studies", f"{len(studies):,}, {reports:,} with a report"),
        ("Views", ", ".join(f"{view} {count:,}" for view, count in views.items())),
        ("Findings", ", ".join(manifest.findings) or "none"),
        ("Core", f"{core['name']} {core['version']}"),
        ("Weights (SHA-256)", core["sha256"]),
        ("Licence of the core", core["licence"] or "not recorded"),
        ("Licence of the set", licence or ("as the core's; whoever publishes the set decides" if core["licence"]
                                           else "not stated")),
        ("Made by", f"cxraug {core['versions'].get('cxraug', 'of an unknown version')}; card by cxraug {__version__}"),
    ]  # fmt: skip
    return [(name, plain(text)) for name, text in rows]


def _counts(studies: pd.DataFrame) -> list[str]:
    counted = finding_counts(studies)
    blocks = ["Studies, by what their label texts say.", _frame_table("finding", counted)]
    for group, title in (("sex", "Studies with the finding, by sex."), ("age", "The same by age in years.")):
        blocks += [title, _frame_table("finding", present_by_level(studies, group))]
    if len(counted) > SHOWN:
        blocks.append(f"{len(counted) - SHOWN} further findings are counted in `{MANIFEST}` alone.")
    return blocks


def _frame_table(head: str, frame: pd.DataFrame) -> str:
    shown = frame if len(frame) <= SHOWN + 1 else pd.concat([frame.iloc[:SHOWN], frame.iloc[-1:]])
    rows = [
        (plain(name), *(f"{value:,}" for value in values))
        for name, values in zip(shown.index, shown.to_numpy().tolist(), strict=True)
    ]
    return table((head, *(plain(column) for column in shown.columns)), rows)


def _provenance(facts: SetFacts) -> list[str]:
    core = facts.core
    sampler = ", ".join(f"{name} {value}" for name, value in core["sampler"].items())
    lines = [
        f"`{PROVENANCE}` has a line for every image: prompt, core, hash of its weights, sampler, versions, and the "
        "SHA-256 of the file, which was checked for every image when this card was written.",
        bullets(
            [
                f"sampler: {sampler or 'as the core has it'}",
                f"computed on: {', '.join(core['device'])}, {', '.join(core['dtype'])}",
                "bytes: "
                + ("the same on one kind of machine, however the work is cut" if core["deterministic"] == ["True"]
                   else "not promised to be the same when drawn again"),
                "versions: " + ", ".join(f"{name} {version}" for name, version in core["versions"].items()),
            ]
        ),
    ]  # fmt: skip
    if facts.given:
        told = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in facts.given.items())
        lines.append(
            f"**Something was given to the core beside attributes** (studies: {plain(told)}). If it came from "
            f"patients, so may what is in the images, and `{PROVENANCE}` quotes given reports and boxes: judge that "
            "before publishing."
        )
    return lines


def _gate(facts: SetFacts, rejected: str) -> list[str]:
    gate, swap = facts.gate, facts.swap
    if gate is None and swap is not None:
        real = swap.get("gate") or {}
        text = f"Each stand-in was chosen among {int(swap.get('candidates_tried') or 0):,} candidates by the gate"
        return [text + (f", which rejects {_share(real.get('rate'))} of real images." if real else ".")]
    if gate is None and facts.swapped:
        return ["Every stand-in was accepted by the gate of the swap. **What that gate checked is not known here**: "
                "the set has no report of its swap."]  # fmt: skip
    if gate is None:
        return ["**Not gated**: no image was checked for its labels, its realism or copies (`cxraug gate`)."]
    counted = gate.get("studies") or {}
    rows = [
        (plain(name), str(part.get("n")), str(part.get("accepted_first")), str(part.get("accepted")))
        for name, part in [*dict(counted.get("findings") or {}).items(), ("all studies", counted.get("all") or {})]
        if part
    ]
    unchecked = _not_checked(facts, gate)
    blocks = [
        f"{gate['accepted']:,} of {gate['total']:,} images accepted. {rejected}".rstrip(),
        *([f"**Accepted without a check of** {unchecked}. The reasons are below."] if unchecked else []),
        table(("finding", "studies", "accepted at first", "accepted"), rows),
    ]
    reasons = sorted(dict(gate.get("reasons") or {}).items(), key=lambda item: (-item[1], item[0]))
    blocks.append(bullets(f"rejected: {reason}: {count:,}" for reason, count in reasons))
    blocks.append(bullets(str(note) for note in gate.get("notes") or []))
    return blocks


def _not_checked(facts: SetFacts, gate: dict[str, Any]) -> str:
    """What the gate let pass unseen, in words; empty where it judged everything that the set claims."""
    checks, frame = dict(gate.get("checks") or {}), facts.manifest.frame
    claimed = [f for f in (gate.get("studies") or {}).get("findings") or {} if f != NO_FINDING]
    judged = (checks.get("agreement") or {}).get("findings") or {}
    blind = [f for f in claimed if (judged.get(f) or {}).get("present_cutoff") is None]
    parts = []
    if blind:
        parts.append("the labels" if blind == claimed else "the labels " + ", ".join(plain(f) for f in blind[:SHOWN])
                     + (f" and {len(blind) - SHOWN} more" if len(blind) > SHOWN else ""))  # fmt: skip
    read = (checks.get("demographics") or {}).get("attributes") or {}
    for name in ("sex", "age", "race"):
        if name in frame and frame[name].notna().any() and (read.get(name) or {}).get("level") is None:
            parts.append(name)
    parts += [words for name, words in (("realism", "realism"), ("duplicates", "copies")) if name not in checks]
    if "report" in frame and frame["report"].notna().any() and "reports" not in checks:
        parts.append("reports")
    return "; ".join(parts)


def _privacy(facts: SetFacts) -> list[str]:
    swap = facts.swap or {}
    blocks = [plain(note) for note in facts.notes]
    if swap:
        blocks.append(
            f"At least {swap['k']:,} patients of the private set share every published combination of attributes "
            f"(asked: {swap['k_asked']:,}). {swap['swapped']:,} of {swap['studies']:,} studies were swapped; strength: "
            f"{plain(swap['settings']['strength'])}."
        )
    attacks: Mapping[str, Any] | None = facts.privacy or swap.get("attacks")
    if not attacks:
        return [*blocks, "**Not attacked**: nobody has tried to find a patient in this set (`cxraug privacy`)."]
    alarms = ", ".join(str(name) for name in attacks.get("alarms") or []) or "none"
    return [
        *blocks,
        "Attacked with `cxraug privacy`, the attack on real pairs first. Alarms: " + f"**{plain(alarms)}**.",
        bullets(str(sentence) for sentence in attacks.get("sentences") or []),
        plain(attacks.get("rule", "")),
    ]


def _share(rate: object) -> str:
    return f"{100 * float(rate):.1f} %" if isinstance(rate, (int, float)) else "an unknown share"
