"""``cxraug annotate``: boxes and masks of other tools into a manifest."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cxraug.cli.answer import print_json
from cxraug.cli.selection import LABEL_COLUMNS_HELP, parse_label_columns, say_label_columns
from cxraug.errors import InputError

if TYPE_CHECKING:
    from cxraug.interop.coco import BoxedImage


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def annotate(
        manifest: Path = typer.Argument(..., help="The manifest that boxes and masks are added to."),
        out: Path = typer.Option(..., "--out", help="The new manifest (.csv or .parquet)."),
        coco: list[Path] = typer.Option([], "--coco", help="Boxes: a COCO JSON file. Repeatable."),
        voc: Path | None = typer.Option(None, "--voc", help="Boxes: a folder of PASCAL VOC XML files."),
        masks: list[str] = typer.Option(
            [], "--masks", help="Folder of PNG masks, or lung=DIR, heart=DIR, lesion=DIR. Repeatable."
        ),
        mask_suffix: str = typer.Option("", "--mask-suffix", help="Between an image's name and .png, e.g. _mask."),
        classes: list[str] = typer.Option([], "--class", help="OLD=NEW: the finding that a label means. Repeatable."),
        rescale: bool = typer.Option(False, "--rescale", help="Bring boxes of another image size to the image's."),
        clip: bool = typer.Option(False, "--clip", help="Cut boxes at the edge of the image."),
        one_based: bool = typer.Option(False, "--one-based", help="VOC: pixels count from 1, both ends inside."),
        over: bool = typer.Option(False, "--replace", help="Replace boxes and masks that a row has already."),
        root: Path | None = typer.Option(None, "--root", help="Data folder of the images, if not the manifest's."),
        label_columns: str | None = typer.Option(None, "--label-columns", help=LABEL_COLUMNS_HELP),
        fresh: bool = typer.Option(False, "--fresh", help="Replace the file that --out names."),
        as_json: bool = typer.Option(False, "--json", help="Print the counts as JSON."),
    ) -> None:
        """Add boxes (COCO, VOC) and masks (PNG) to a manifest; each is checked against its image."""
        from cxraug.interop.annotation import annotate_boxes
        from cxraug.interop.coco import read_coco
        from cxraug.interop.masks import annotate_masks
        from cxraug.interop.voc import read_voc
        from cxraug.studies.manifest import read_manifest

        if not (coco or voc or masks):
            raise InputError("nothing to annotate with", expected="--coco FILE, --voc DIR or --masks DIR")
        if out.suffix not in (".csv", ".parquet"):
            raise InputError("--out is a table", file=out, found=out.suffix, expected=".csv or .parquet")
        if out.exists() and not fresh:
            raise InputError("the file is there already", file=out, expected="another --out, or --fresh to replace it")
        data = read_manifest(manifest, root=root, label_columns=parse_label_columns(label_columns))
        say_label_columns(data.label_columns)
        files: list[tuple[Path, list[BoxedImage]]] = [(path, read_coco(path)) for path in coco]
        if voc is not None:
            files.append((voc, read_voc(voc, one_based=one_based)))
        renamed = _classes(classes)
        boxes: dict[str, int] = {}
        for path, images in files:
            data, counts = annotate_boxes(
                data, images, path, classes=_of(images, renamed), rescale=rescale, clip=clip, over=over
            )
            boxes = {name: boxes.get(name, 0) + count for name, count in counts.items()}
        _refuse_unused(files, renamed)
        answer: dict[str, Any] = {"manifest": out, "boxes": boxes or None, "masks": None}
        if masks:
            folder = out.parent / f"{out.stem}-masks"
            data, answer["masks"] = annotate_masks(data, _parts(masks), folder, suffix=mask_suffix, over=over)
        data.save(out)
        answer["root"] = None if os.path.realpath(out.parent) == os.path.realpath(data.root) else str(data.root)
        print_json(answer) if as_json else _show(answer)


def _classes(items: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for item in items:
        old, equals, new = (part.strip() for part in item.partition("="))
        if not (old and equals and new) or old in pairs:
            raise InputError("--class", found=item, expected="OLD=NEW once per label, e.g. opacity='Lung Opacity'")
        pairs[old] = new
    return pairs


def _of(images: list[BoxedImage], classes: dict[str, str]) -> dict[str, str]:
    """Of several files not each has every label."""
    labels = {box["label"] for image in images for box in image.boxes}
    return {old: new for old, new in classes.items() if old in labels}


def _refuse_unused(files: list[tuple[Path, list[BoxedImage]]], classes: dict[str, str]) -> None:
    labels = {box["label"] for _, images in files for image in images for box in image.boxes}
    unused = [old for old in classes if old not in labels]
    if unused:
        raise InputError("--class names a label that no box has", found=unused[0],
                         expected=f"one of {', '.join(sorted(labels)[:20])}")  # fmt: skip


def _parts(items: list[str]) -> dict[str, Path]:
    """``PART=DIR`` or ``DIR`` as part -> folder."""
    from cxraug.interop.masks import BITS
    from cxraug.studies.images import MASK_BITS

    parts: dict[str, Path] = {}
    for item in items:
        part, equals, folder = item.partition("=")
        name, path = (part, Path(folder)) if equals and part in MASK_BITS else (BITS, Path(item))
        if name in parts:
            raise InputError("--masks: a part twice", found=item, expected="one folder per part")
        parts[name] = path
    return parts


def _show(answer: dict[str, Any]) -> None:
    for what in ("boxes", "masks"):
        if answer[what] is not None:
            told = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in answer[what].items())
            typer.echo(f"{what}: {told}")
    hint = (
        ""
        if answer["root"] is None
        else f"; its images start from another folder: read it with --root {answer['root']}"
    )
    typer.echo(f"{answer['manifest']}{hint}")
