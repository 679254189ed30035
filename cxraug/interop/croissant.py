"""A synthetic set in Croissant (MLCommons, specification 1.1): files with hashes, columns, and what is not promised."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from cxraug import __version__
from cxraug.interop.counts import one_row_per_study, present_by_level
from cxraug.interop.licences import hub_licence
from cxraug.interop.setfacts import SetFacts
from cxraug.synthesis.assembly import MANIFEST, PROVENANCE

CONFORMS = ("http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0")
IMAGES = "images"
TEXT, NUMBER, WHOLE, TRUTH = "sc:Text", "sc:Float", "sc:Integer", "sc:Boolean"
COLUMNS = {
    "image": (TEXT, "path of the image in the folder of the set"),
    "patient_id": (TEXT, "a made-up patient; no real one has this name"),
    "study_id": (TEXT, "the study that the image belongs to"),
    "view": (TEXT, "PA, AP, AP Supine, Lateral or unknown"),
    "sex": (TEXT, "M or F, as asked of the core; blank where nothing was asked"),
    "age": (NUMBER, "years, as asked of the core; blank where nothing was asked"),
    "age_band": (TEXT, "ages in years that share a row's attributes"),
    "race": (TEXT, "as asked of the core; blank where nothing was asked"),
    "labels": (TEXT, "A|-B|?C: A present, B absent, C uncertain, as asked of the core"),
    "report": (TEXT, "the synthetic report"),
    "boxes": (TEXT, "JSON list of {label,x,y,w,h} in pixels of the image"),
    "mask": (TEXT, "path of a mask: bit 1 lung, 2 heart, 4 lesion"),
    "source": (TEXT, "the source whose look was asked of the core"),
    "date": (TEXT, "a shifted date"),
    "split": (TEXT, "train, for every synthetic image"),
    "synthetic": (TRUTH, "true for every image"),
    "prompt_id": (TEXT, "the prompt, as in provenance.jsonl"),
    "core": (TEXT, "the generative core"),
    "core_sha256": (TEXT, "SHA-256 of the core's weights"),
    "seed": (WHOLE, "the seed of the drawing"),
    "gate": (TEXT, "accept or reject; blank where there was no gate"),
    "gate_reasons": (TEXT, "why the gate rejected the image"),
}
CONTEXT = {
    "@language": "en", "@vocab": "https://schema.org/", "arrayShape": "cr:arrayShape", "citeAs": "cr:citeAs",
    "column": "cr:column", "conformsTo": "dct:conformsTo", "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/", "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"}, "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty", "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract", "field": "cr:field", "fileObject": "cr:fileObject", "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet", "format": "cr:format", "includes": "cr:includes", "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset", "jsonPath": "cr:jsonPath", "key": "cr:key", "md5": "cr:md5",
    "parentField": "cr:parentField", "path": "cr:path", "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet", "references": "cr:references", "regex": "cr:regex", "repeated": "cr:repeated",
    "replace": "cr:replace", "samplingRate": "cr:samplingRate", "sc": "https://schema.org/",
    "separator": "cr:separator", "source": "cr:source", "subField": "cr:subField", "transform": "cr:transform",
}  # fmt: skip


def croissant(
    facts: SetFacts, *, title: str, licence: str | None = None, limits: Sequence[str] = ()
) -> dict[str, Any]:  # fmt: skip
    """The JSON-LD of a set, JSON-ready. Columns beside those of the contract are not described.

    Parameters
    ----------
    title : what the set is called. licence : of the set, as told. limits : what is not promised.
    """
    core = facts.core
    address = hub_licence(licence)[1]
    described = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": list(CONFORMS),
        "name": re.sub(r"[^A-Za-z0-9_-]+", "-", title).strip("-") or "set",
        "description": f"Synthetic chest X-rays: {len(facts.manifest):,} images drawn by the generative core "
        f"{core['name']} {core['version']} (weights {core['sha256'][:12]}). No image shows a patient.",
        "version": f"1.0.0+{facts.hashes[MANIFEST][:12]}",
        "keywords": ["chest X-ray", "synthetic", "medical imaging"],
        "creator": {"@type": "sc:Organization", "name": f"cxraug {__version__}"},
        "distribution": _files(facts),
        "recordSet": [_rows(facts), _images()],
        "rai:dataCollection": "Drawn from prompts by a generative core, whose licence is "
        f"{core['licence'] or 'not recorded'} and whose weights have the SHA-256 {core['sha256']}; nothing was "
        "collected from a person for it.",
        "rai:dataPreprocessingProtocol": [_gate(facts)],
        "rai:dataBiases": _counts(facts),
        "rai:dataLimitations": list(limits),
        "rai:personalSensitiveInformation": _privacy(facts),
    }
    told = address or licence
    return {**described, "license": told} if told else described


def _files(facts: SetFacts) -> list[dict[str, Any]]:
    table = {"manifest": (MANIFEST, "application/x-parquet"), "provenance": (PROVENANCE, "application/jsonlines")}
    files: list[dict[str, Any]] = [
        {"@type": "cr:FileObject", "@id": key, "name": name, "contentUrl": name, "encodingFormat": kind,
         "sha256": facts.hashes[name]}
        for key, (name, kind) in table.items()
    ]  # fmt: skip
    return [
        *files,
        {"@type": "cr:FileSet", "@id": IMAGES, "name": IMAGES, "encodingFormat": "image/png",
         "includes": "images/*.png", "description": "Rejected images are among them; the table says which."},
    ]  # fmt: skip


def _gate(facts: SetFacts) -> str:
    gate = facts.gate
    if gate is None:
        return "Every image was chosen by a gate." if facts.swap is not None else "Not gated: no image was checked."
    counted = sorted(dict(gate.get("reasons") or {}).items())
    reasons = "; ".join(f"{reason}: {count:,}" for reason, count in counted)
    told = f"A gate accepted {gate['accepted']:,} of {gate['total']:,} images."
    return told + (f" Rejected: {reasons}." if reasons else "")


def _counts(facts: SetFacts) -> list[str]:
    """Studies with each finding, by sex and age."""
    studies = one_row_per_study(facts.manifest)
    tables = [present_by_level(studies, group) for group in ("sex", "age")]
    return [
        f"{name}: {tables[0].loc[name].sum():,} studies ("
        + "; ".join(", ".join(f"{level} {count:,}" for level, count in table.loc[name].items()) for table in tables)
        + ")"
        for name in tables[0].index
    ]


def _privacy(facts: SetFacts) -> list[str]:
    told = ["Sex, age, race and findings are those asked of the core. They are attributes of nobody."]
    swap = facts.swap or {}
    if swap:
        told.append(f"At least {swap['k']:,} patients of the private set share every combination of attributes.")
    attacks = facts.privacy or swap.get("attacks")
    if not attacks:
        return [*told, "Not attacked: nobody has tried to find a patient in this set.", *facts.notes]
    alarms = ", ".join(str(name) for name in attacks.get("alarms") or []) or "none"
    sentences = [str(sentence) for sentence in attacks.get("sentences") or []]
    return [*told, f"Attacked with cxraug privacy; alarms: {alarms}.", *sentences, *facts.notes]


def _rows(facts: SetFacts) -> dict[str, Any]:
    there = [name for name in COLUMNS if name in facts.manifest.frame and name in _stored(facts)]
    return {
        "@type": "cr:RecordSet", "@id": "rows", "name": "rows", "description": "One row per image.",
        "key": {"@id": "rows/image"},
        "field": [
            {"@type": "cr:Field", "@id": f"rows/{name}", "name": name, "dataType": COLUMNS[name][0],
             "description": COLUMNS[name][1],
             "source": {"fileObject": {"@id": "manifest"}, "extract": {"column": name}}}
            for name in there
        ],
    }  # fmt: skip


def _stored(facts: SetFacts) -> set[str]:
    """The columns in the file itself: reading a manifest adds some that a set may not have."""
    import pyarrow.parquet

    assert facts.manifest.file is not None
    return set(pyarrow.parquet.read_schema(facts.manifest.file).names)


def _images() -> dict[str, Any]:
    kinds = {"path": (TEXT, "fullpath"), "content": ("sc:ImageObject", "content")}
    return {
        "@type": "cr:RecordSet", "@id": "files", "name": "files",
        "description": "The images themselves; path is the column image of the rows.",
        "field": [
            {"@type": "cr:Field", "@id": f"files/{name}", "name": name, "dataType": kind,
             "source": {"fileSet": {"@id": IMAGES}, "extract": {"fileProperty": what}}}
            for name, (kind, what) in kinds.items()
        ],
    }  # fmt: skip
