"""Naming: which facts of an audit are worth a sentence, by stated rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cxraug.balance.association import share_interval
from cxraug.balance.census import NO_FINDING

RARE_PATIENTS = 50
RARE_SHARE = 0.25
GROUP_SHARE = 0.8
LEVEL_SHARE = 0.25
CELL_RATIO = 0.8
STRONG_V = 0.3
STRONG_ODDS = 3.0
MISSING_SHARE = 0.2
MIN_TEST = 10
ALPHA = 0.05
TOLD = 0.65  # AUROC from view or source alone whose lower limit is a sentence

RULES = {
    "rare finding": f"fewer than {RARE_PATIENTS} positive train patients, or a prevalence under {RARE_SHARE:g} of the "
    "median finding's; never No Finding, which is nothing to raise",
    "under-represented group": f"the 95 % interval of a level's share of train patients lies below {GROUP_SHARE:g} of "
    "what is expected: even shares for sex, the product of the margins for an intersection; for other columns below "
    f"{LEVEL_SHARE:g} of an even share",
    "under-represented cell": f"a finding's prevalence in a level is at most {CELL_RATIO:g} of that in the other "
    "levels and the 95 % interval of the ratio (train patients) excludes 1; in columns of the image, such as view or "
    "source, the odds among images, all else equal, have to be lower too",
    "confounded": f"a level whose odds ratio's 95 % interval lies beyond {STRONG_ODDS:g} (or its inverse), and "
    f"p < {ALPHA:g} after Holm's correction. View, source and other columns of the image: among train images, at the "
    "same age, sex, view and source, clustered by patient. Columns of the patient: among train patients, where "
    f"Cramer's V of at least {STRONG_V:g} is enough too",
    "shortcut": f"view, source or both alone tell a finding with an AUROC whose 95 % interval lies above {TOLD:g}",
    "gaps out of reach": "a level has too few positive or negative test patients for the power that was asked for",
    "faulty pictures": "a small classifier, taught on faults planted in these images, gives a fault more than even "
    "odds; or an image is flat, or one grey level from an edge inwards",
    "near copies": "images of two patients that agree, once laid on each other, more than 0.05 pairs of different "
    "pictures in a set of this size would",
    "doubtful labels": "among the 2 % of the labels of a finding that speak most against their image, and the other "
    "label is as likely as where it is given",
    "annotated in one source": "other sources do not say whether the finding is there",
    "duplicates": "images with the same pixels",
    "burned-in text": "writing in the pixels: several characters in a row, or a DICOM header that says so (one that "
    "says there is none is not believed); a lead marker of a letter or two is not counted. What is small, faint, "
    "slanted or handwritten is missed",
    "missing": f"a value that is missing in more than {MISSING_SHARE:.0%} of the images",
    "too few to evaluate": f"fewer than {MIN_TEST} positive or negative test patients",
    "patients in two splits": "a patient in more than one of train, val and test",
}
ORDER = (
    "patients in two splits", "near copies", "rare finding", "under-represented group", "under-represented cell",
    "gaps out of reach", "confounded", "shortcut", "faulty pictures", "doubtful labels", "burned-in text",
    "annotated in one source", "duplicates", "missing", "too few to evaluate",
)  # fmt: skip

Named = dict[str, Any]


def name_all(audit: dict[str, Any]) -> list[Named]:
    """Every fact of ``audit`` that a rule names, the most pressing first.

    Each is a dictionary with ``kind`` (a key of :data:`RULES`), ``finding, group, level`` (None where they do not
    apply), ``n`` (patients, or images where the sentence says so), ``expected``, ``holds`` (False: a hint that does not
    survive the correction for many looks), ``sentence``, and ``brief``, the same in a few words.
    """
    rows = audit["naming_rows"]
    named = [
        *_leaks(audit),
        *_rare(audit["findings"], rows),
        *_groups(audit["groups"], rows),
        *_cells(audit["cells"], rows),
        *_out_of_reach(audit["measurable"]),
        *_confounded(audit["confounded"], rows),
        *_shortcuts(audit["shortcuts"], rows),
        *_images(audit["images_looked_at"]),
        *_single_sources(audit["single_source"]),
        *_duplicates(audit["duplicates"]),
        *_burned_text(audit["burned_text"]),
        *_missing(audit["missing"]),
        *_too_few(audit["findings"]),
    ]
    return sorted(named, key=lambda item: (not item["holds"], ORDER.index(item["kind"])))


def headlines(named: Sequence[Named], limit: int = 12) -> list[Named]:
    """At most ``limit`` of ``named`` in their order, but every kind before the second of any kind is dropped."""
    rank: dict[str, int] = {}
    place = []
    for item in named:
        rank[item["kind"]] = rank.get(item["kind"], -1) + 1
        place.append(rank[item["kind"]])
    chosen = sorted(range(len(named)), key=lambda i: (not named[i]["holds"], place[i], i))[:limit]
    return [named[i] for i in sorted(chosen)]


def summary(named: Sequence[Named], lines: int = 12, width: int = 90) -> list[tuple[str, str]]:
    """One line per kind, the most pressing first: the kind, and as many of its facts in brief as ``width`` holds.

    Hints count only where a kind has nothing better.
    """
    kinds: dict[str, list[Named]] = {}
    for item in named:
        kinds.setdefault(item["kind"], []).append(item)
    out = []
    for kind, items in list(kinds.items())[:lines]:
        firm = [item for item in items if item["holds"]]
        briefs = [item["brief"] for item in firm or items]
        out.append((kind if firm else f"{kind} (hint)", _fitting(briefs, width)))
    return out


def _fitting(briefs: Sequence[str], width: int) -> str:
    """The first of ``briefs`` that fit into ``width``, at least one, and how many are left."""
    text = briefs[0]
    for k in range(len(briefs), 0, -1):
        rest = len(briefs) - k
        text = "; ".join(briefs[:k]) + (f"; and {rest} more" if rest else "")
        if len(text) <= width:
            break
    return text if len(text) <= width else text[: width - 1] + "…"


def _name(kind: str, sentence: str, brief: str, *, holds: bool = True, **facts: Any) -> Named:
    empty = {"finding": None, "group": None, "level": None, "n": None, "expected": None}
    return {"kind": kind, **empty, **facts, "holds": holds, "sentence": sentence, "brief": brief}


def _leaks(audit: dict[str, Any]) -> list[Named]:
    split, across = audit["patients_in_two_splits"], audit["duplicates"]["across_splits"]
    found = []
    if split:
        example = split[0]["patient_id"]
        text = f"{len(split)} patients are in more than one split, e.g. {example}: results on them are too good."
        found.append(_name("patients in two splits", text, f"{len(split):,} patients", n=len(split), expected=0))
    if across:
        text = f"{across} images of one split have the same pixels as an image of another: the splits leak."
        found.append(_name("patients in two splits", text, f"{across:,} copied images", n=across, expected=0))
    return found


def _rare(findings: Sequence[dict[str, Any]], rows: str) -> list[Named]:
    findings = [f for f in findings if f["finding"] != NO_FINDING]
    rates = sorted(f["prevalence"] for f in findings if f["prevalence"] is not None)
    middle = (rates[(len(rates) - 1) // 2] + rates[len(rates) // 2]) / 2 if rates else 0.0
    found = []
    for f in findings:
        n, known = f["patients_positive"], f["patients_known"]
        if known == 0:
            text = f"{f['finding']} is not annotated in any patient of {rows}."
            found.append(_name("rare finding", text, f"{f['finding']} is not annotated", finding=f["finding"], n=0))
            continue
        if n == 0:
            text = f"{f['finding']} does not occur in {rows} (0 of {known:,} patients): nothing can be learnt about it."
            brief = f"{f['finding']} does not occur"
            found.append(_name("rare finding", text, brief, finding=f["finding"], n=0, expected=RARE_PATIENTS))
            continue
        low = len(rates) > 1 and f["prevalence"] < RARE_SHARE * middle
        if n >= RARE_PATIENTS and not low:
            continue
        why = [f"fewer than {RARE_PATIENTS}"] if n < RARE_PATIENTS else []
        why += [f"under a quarter of the median finding's {middle:.1%}"] if low else []
        text = (
            f"{f['finding']} is rare: {_count(n, 'positive patient')} ({_count(f['images_positive'], 'image')}) of "
            f"{known:,} in {rows}, {f['prevalence']:.1%}; {' and '.join(why)}."
        )
        brief = f"{f['finding']} {_count(n, 'patient')} ({f['prevalence']:.1%})"
        found.append(_name("rare finding", text, brief, finding=f["finding"], n=n, expected=RARE_PATIENTS))
    return sorted(found, key=lambda item: item["n"])


def _groups(groups: Sequence[dict[str, Any]], rows: str) -> list[Named]:
    found = []
    for g in groups:
        if g["expected_share"] is None or g["patients_known"] == 0:
            continue
        factor = GROUP_SHARE if g["expectation"] != "even" or g["group"] == "sex" else LEVEL_SHARE
        low, high = share_interval(g["patients"], g["patients_known"])
        if high >= factor * g["expected_share"]:
            continue
        expected = g["expected_share"] * g["patients_known"]
        of = {"even": "even shares", "margins": "the shares of its parts"}[g["expectation"]]
        text = (
            f"{_level(g['group'], g['level'])} is under-represented: {_count(g['patients'], 'patient')} of "
            f"{g['patients_known']:,} in {rows}, {g['share']:.1%} [{low:.1%}, {high:.1%}]; {of} would give "
            f"{expected:,.0f} ({g['expected_share']:.1%})."
        )
        facts = {"group": g["group"], "level": g["level"], "n": g["patients"], "expected": expected}
        brief = f"{_level(g['group'], g['level'])} {g['share']:.1%} of {g['patients_known']:,} patients"
        found.append(_name("under-represented group", text, brief, **facts))
    return sorted(found, key=lambda item: item["n"] / item["expected"])


def _cells(cells: Sequence[dict[str, Any]], rows: str) -> list[Named]:
    found = []
    for c in cells:
        if c["finding"] == NO_FINDING or c["ratio"] is None or c["ratio"] > CELL_RATIO or c["ci_high"] >= 1:
            continue
        if c["of_image"] and not _rarer_all_else_equal(c):
            continue
        holds = c["p_adjusted"] < ALPHA
        expected = c["rest_prevalence"] * c["patients"]
        text = (
            f"{c['finding']} is rarer in {_level(c['group'], c['level'])}: {_count(c['patients_positive'], 'patient')} "
            f"of {c['patients']:,} in {rows} ({c['prevalence']:.1%}) against {c['rest_prevalence']:.1%} elsewhere, "
            f"ratio {c['ratio']:.2f} [{c['ci_low']:.2f}, {c['ci_high']:.2f}], {_p(c['p_adjusted'])} after correction"
            + ("" if holds else ": a hint, not more")
            + f"{_all_else_equal(c)}."
        )
        keys = {k: c[k] for k in ("finding", "group", "level", "ratio")}
        found.append(
            _name(
                "under-represented cell",
                text,
                f"{c['finding']} in {c['group']} {c['level']} x{c['ratio']:.2f}",
                holds=holds,
                n=c["patients_positive"],
                expected=expected,
                **keys,
            )
        )
    return sorted(found, key=lambda item: item["ratio"])


def _confounded(rows_of: Sequence[dict[str, Any]], rows: str) -> list[Named]:
    found = []
    for c in rows_of:
        strong = sure_odds(c) > STRONG_ODDS or (c["unit"] == "patients" and (c["cramers_v"] or 0) >= STRONG_V)
        if c["p_adjusted"] >= ALPHA or not strong:
            continue
        there = "the other images" if c["unit"] == "images" else "elsewhere"
        text = (
            f"{c['finding']} goes with {c['variable']} in {rows}: {c['positive']:,} of {c['n']:,} {c['unit']} "
            f"({c['prevalence']:.1%}) in {_level(c['variable'], c['level'])} against {c['rest_prevalence']:.1%} "
            f"{'of ' if c['unit'] == 'images' else ''}{there}, odds ratio {_odds_between(c)}{_same(c)}, "
            f"{_p(c['p_adjusted'])} after correction{_inseparable(c)}; a classifier can read {c['variable']} instead."
        )
        facts = {"finding": c["finding"], "group": c["variable"], "level": c["level"], "n": c["positive"]}
        expected = c["rest_prevalence"] * c["n"]
        how = "adjusted odds ratio" if c["adjusted_for"] not in ("", "nothing") else "odds ratio"
        brief = f"{c['finding']} with {_level(c['variable'], c['level'])} ({how} {_odds(c['odds_ratio'])})"
        facts |= {"v": c["cramers_v"], "sure": sure_odds(c)}
        found.append(_name("confounded", text, brief, expected=expected, **facts))
    first = {"source": 0, "view": 1}
    return sorted(found, key=lambda item: (first.get(item["group"], 2), -item["sure"]))


def sure_odds(row: dict[str, Any]) -> float:
    """How far from 1 the odds ratio is at least, up or down: the nearer end of its interval; 1 where it holds 1."""
    if row["ci_low"] is None or row["ci_high"] is None:
        return 1.0
    return float(max(row["ci_low"], 1 / row["ci_high"] if row["ci_high"] > 0 else 1.0, 1.0))


def _odds_between(row: dict[str, Any]) -> str:
    return f"{_odds(row['odds_ratio'])} [{_odds(row['ci_low'])}, {_odds(row['ci_high'])}]"


def _same(row: dict[str, Any]) -> str:
    """What an odds ratio is adjusted for, or what is left of it all else equal."""
    if row["unit"] == "images":
        if not row["adjusted_for"]:
            return " (crude: too few patients to compare like with like)"
        return "" if row["adjusted_for"] == "nothing" else f" at the same {row['adjusted_for']}"
    same = row["all_else_equal"]
    if same is None:
        return ""
    holds = same["ci_low"] <= 1 <= same["ci_high"]
    left = "none is left of it" if holds else f"{_odds_between(same)}"
    return f" ({left} among images at the same {same['adjusted_for']})"


def _inseparable(row: dict[str, Any]) -> str:
    if not row["inseparable_from"]:
        return ""
    return f", not to be told apart from {row['inseparable_from']}, which goes with it almost one to one"


def _rarer_all_else_equal(cell: dict[str, Any]) -> bool:
    adjusted = cell["adjusted"]
    return bool(adjusted) and adjusted["odds_ratio"] is not None and adjusted["ci_high"] < 1


def _all_else_equal(cell: dict[str, Any]) -> str:
    """What is left of a difference at the same age, sex, view and source."""
    adjusted = cell.get("adjusted")
    if not adjusted or adjusted["odds_ratio"] is None:
        return ""
    odds = f"odds ratio {adjusted['odds_ratio']:.2f} [{adjusted['ci_low']:.2f}, {adjusted['ci_high']:.2f}]"
    same = adjusted["adjusted_for"]
    if adjusted["ci_low"] > 1:
        return f"; among images at the same {same} it is not rarer but more frequent ({odds})"
    if adjusted["ci_high"] >= 1:
        return f"; at the same {same} no difference is left to see ({odds})"
    return f"; {odds} at the same {same}"


def _out_of_reach(measurable: dict[str, Any]) -> list[Named]:
    found = []
    question, rows = measurable["question"], measurable["rows"]
    for group in dict.fromkeys(c["group"] for c in measurable["cells"]):
        cells = [c for c in measurable["cells"] if c["group"] == group]
        small = [c for c in cells if c["power"] < question["power"]]
        if not small:
            continue
        worst = min(small, key=lambda c: (c["positive"], c["power"]))
        need = worst["positives_needed"]
        takes = _takes(need, worst["growth"])
        text = (
            f"An AUROC gap of {question['gap']:g} by {group} can be seen with {question['power']:.0%} power in "
            f"{len(cells) - len(small)} of {len(cells)} cells of {rows} (AUROC {question['auroc']:g}, one look); the "
            f"smallest is {worst['finding']} in {_level(group, worst['level'])} with "
            f"{_count(worst['positive'], 'positive patient')}{takes}."
        )
        brief = f"gap {question['gap']:g} by {group} measurable in {len(cells) - len(small)} of {len(cells)} cells"
        found.append(_name("gaps out of reach", text, brief, group=group, n=len(small), expected=0))
    return found


def _takes(positives: float | None, growth: float | None) -> str:
    if positives is not None:
        return f", it takes {positives:,.0f}"
    if growth is None:
        return ": none to measure it in"
    return f"; no number there is enough, all test patients have to grow {growth:,.0f}-fold"


def _shortcuts(shortcuts: Sequence[dict[str, Any]], rows: str) -> list[Named]:
    best: dict[str, dict[str, Any]] = {}
    for s in shortcuts:
        if s["ci_low"] > TOLD and s["auroc"] > best.get(s["finding"], {"auroc": 0.0})["auroc"] + 0.005:
            best[s["finding"]] = s
    found = []
    for s in sorted(best.values(), key=lambda s: -s["auroc"]):
        text = (
            f"{s['finding']} can be told from {s['from']} alone with AUROC {s['auroc']:.2f} [{s['ci_low']:.2f}, "
            f"{s['ci_high']:.2f}] in {rows}: an AUROC on these data owes that much to how the images were taken."
        )
        brief = f"{s['finding']} AUROC {s['auroc']:.2f} from {s['from']} alone"
        found.append(_name("shortcut", text, brief, finding=s["finding"], group=s["from"], n=s["patients_positive"]))
    return found


def _images(looked: dict[str, Any]) -> list[Named]:
    """Faulty pictures, near copies and doubtful labels."""
    found = []
    faults, copies, noise = looked.get("faults"), looked.get("near_copies"), looked.get("label_noise")
    if faults and faults["counts"]:
        number = sum(faults["counts"].values())
        listed = ", ".join(f"{n:,} {kind}" for kind, n in sorted(faults["counts"].items(), key=lambda item: -item[1]))
        text = f"{_count(number, 'image')} of {looked['images']:,} look faulty: {listed} (faulty_images.csv)."
        found.append(_name("faulty pictures", text, listed, n=number, expected=0))
    if copies and copies["pairs"]:
        text = (
            f"{_count(copies['pairs'], 'pair')} of images of two patients are nearly one picture, "
            f"{copies['across_splits']:,} across splits, {copies['different_labels']:,} with different labels "
            f"(near_copies.csv); by chance {copies['expected_by_chance']:g} were expected."
        )
        brief = f"{_count(copies['pairs'], 'pair')} across patients, {copies['across_splits']:,} across splits"
        found.append(_name("near copies", text, brief, n=copies["pairs"], expected=copies["expected_by_chance"]))
    if noise and noise["candidates"]:
        judged = [f for f in noise["findings"] if f["judged"]]
        text = (
            f"{_count(noise['candidates'], 'label')} of {_count(len(judged), 'finding')} speak against their image "
            f"(doubtful_labels.csv, the most doubtful first); at most {noise['false_alarms']:.0%} of the right labels "
            f"of a kind are among them. {_first(noise)}{len(noise['findings']) - len(judged)} findings could not be "
            "judged."
        )
        brief = f"{noise['candidates']:,} in {_count(len(judged), 'finding')}"
        found.append(_name("doubtful labels", text, brief, n=noise["candidates"]))
    return found


def _first(noise: dict[str, Any]) -> str:
    """What heads the list when labels were turned on purpose."""
    if not noise["first"]:
        return ""
    return (
        f"With {noise['planted']:.0%} turned on purpose, {noise['first_turned']} of the first {noise['first']} were "
        "turned ones: read them before you correct them. "
    )


def _single_sources(single: dict[str, list[str]]) -> list[Named]:
    return [
        _name(
            "annotated in one source",
            f"Only source {source} says anything about {', '.join(findings)}: no claim across sources is possible.",
            f"{_count(len(findings), 'finding')} in {source} only",
            group="source",
            level=source,
            n=len(findings),
            finding=findings[0] if len(findings) == 1 else None,
        )
        for source, findings in single.items()
    ]


def _duplicates(duplicates: dict[str, Any]) -> list[Named]:
    if not duplicates["images"]:
        return []
    copies, pictures = _count(duplicates["images"], "image"), _count(duplicates["sets"], "picture")
    text = (
        f"{copies} copied from another: {pictures} found more than once, {duplicates['across_patients']:,} under "
        f"different patients, {duplicates['different_labels']:,} with different labels."
    )
    return [_name("duplicates", text, f"{copies} with equal pixels", n=duplicates["images"], expected=0)]


def _burned_text(found: dict[str, Any]) -> list[Named]:
    if not found["images"]:
        return []
    tagged = f", {found['tagged']:,} by their DICOM header" if found["tagged"] else ""
    text = (
        f"{_count(found['images'], 'image')} with text burned into the pixels{tagged}, {found['train']:,} in train: it "
        "may name a patient, and a core may learn to write it. Training a core leaves such images out."
    )
    return [_name("burned-in text", text, _count(found["images"], "image"), n=found["images"], expected=0)]


def _missing(missing: Sequence[dict[str, Any]]) -> list[Named]:
    consequence = {
        "sex": "no statement by sex covers them",
        "age": "no statement by age covers them",
        "view": "frontal and lateral cannot be told apart",
        "labels": "they train nothing",
        "source": "confounding with the source cannot be seen",
    }
    found = []
    for m in missing:
        if m["named"] and m["share"] > MISSING_SHARE:
            rest = consequence.get(m["column"], "no statement by it covers them")
            text = f"{m['column']} is missing in {m['missing']:,} of {m['images']:,} images ({m['share']:.0%}): {rest}."
            found.append(
                _name("missing", text, f"{m['column']} {m['share']:.0%}", group=m["column"], n=m["missing"], expected=0)
            )
    return sorted(found, key=lambda item: -item["n"])


def _too_few(findings: Sequence[dict[str, Any]]) -> list[Named]:
    few = []
    for f in findings:
        test = f["by_split"].get("test")
        if test is None:
            continue
        positive, negative = test["patients_positive"], test["patients_known"] - test["patients_positive"]
        if min(positive, negative) < MIN_TEST:
            few.append((f["finding"], positive, negative))
    if not few:
        return []
    few.sort(key=lambda item: item[1])
    listed = ", ".join(f"{f} ({p} positive)" if p < MIN_TEST else f"{f} ({n} negative)" for f, p, n in few)
    text = f"Test patients are too few to measure {listed}: under {MIN_TEST}, no claim can rest on them."
    single = few[0][0] if len(few) == 1 else None
    return [
        _name(
            "too few to evaluate",
            text,
            f"under {MIN_TEST} test patients: {listed}",
            finding=single,
            n=len(few),
            expected=0,
        )
    ]


def _level(group: str, level: str) -> str:
    return f"{group} {level}"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _odds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"
