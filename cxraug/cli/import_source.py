"""``cxraug import SOURCE ROOT``: a public archive, or any table, to a manifest."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxraug.cli.answer import print_json
from cxraug.errors import InputError, first_problem

if TYPE_CHECKING:
    from cxraug.studies.sources.assembly import Imported
    from cxraug.studies.sources.columnmap import ColumnMap
    from cxraug.studies.sources.contract import ImportSettings

LABELS_SHOWN = 20
MOST_ASKED = 20  # values of one column
WORDS = {
    "view": ("PA", "AP", "AP Supine", "Lateral", "unknown"),
    "sex": ("M", "F"),
    "split": ("train", "val", "test"),
}

Root = Annotated[Path, typer.Argument(help="Folder with the archive's official files.")]
Out = Annotated[Path, typer.Option("--out", help="The manifest to write (.parquet or .csv).")]
Uncertain = Annotated[str, typer.Option("--uncertain", help="Uncertain labels: keep (?A), zeros, ones or ignore.")]
Split = Annotated[str, typer.Option("--split", help="official, patients, or auto: official where its files are there.")]
ValShare = Annotated[
    float, typer.Option("--val-share", help="Of an official training part, the patients to validate on.")
]
TableOnly = Annotated[bool, typer.Option("--table-only", help="Import the tables; look for no image.")]
Mapping = Annotated[Path | None, typer.Option("--mapping", help="An edited NAME.mapping.csv (label, finding).")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Replace an existing manifest.")]
Json = Annotated[bool, typer.Option("--json", help="Print the record of the import as JSON.")]
Maps = Annotated[
    list[str],
    typer.Option(
        "--map", help="KEY=COLUMN (image=File, label_columns.Edema=Edema, sexes.1=M), or a kept mapping. Repeatable."
    ),
]
OUT = Path("manifest.parquet")


def register(app: typer.Typer) -> None:
    """Add the command group to ``app``."""
    group = typer.Typer(help="Turn a public archive, or any table, into a manifest.", no_args_is_help=True)
    app.add_typer(group, name="import")
    for key, words in (
        ("nih", "NIH ChestX-ray14: Data_Entry_2017_v2020.csv, the two lists, BBox_List_2017.csv."),
        ("padchest", "PadChest: PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv."),
        ("rsna", "RSNA pneumonia: stage_2_train_labels.csv, stage_2_detailed_class_info.csv."),
        ("openi", "Indiana University (OpenI): the XML reports."),
    ):
        group.command(key, help=words)(_plain_command(key))
    group.command("chexpert")(chexpert)
    group.command("mimic")(mimic)
    group.command("vindr")(vindr)
    group.command("siim")(siim)
    group.command("csv")(any_table)
    group.command("hf")(image_folder)
    group.command("webdataset")(shards)


def _plain_command(key: str) -> Any:
    """A command of a source that has only the settings of all."""

    def command(
        root: Root, out: Out = OUT, uncertain: Uncertain = "keep", split: Split = "auto", val_share: ValShare = 0.125,
        table_only: TableOnly = False, mapping: Mapping = None, fresh: Fresh = False, as_json: Json = False,
    ) -> None:  # fmt: skip
        _import(key, root, out, fresh, as_json, uncertain=uncertain, split=split, val_share=val_share,
                table_only=table_only, mapping=mapping)  # fmt: skip

    return command


def chexpert(
    root: Root,
    out: Out = OUT,
    uncertain: Uncertain = "keep",
    split: Split = "auto",
    val_share: ValShare = 0.125,
    table_only: TableOnly = False,
    mapping: Mapping = None,
    demographics: Path | None = typer.Option(None, help="Stanford's table of race (PATIENT, PRIMARY_RACE), as CSV."),
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """CheXpert: train.csv, valid.csv and, where you have it, test.csv."""
    _import("chexpert", root, out, fresh, as_json, uncertain=uncertain, split=split, val_share=val_share,
            table_only=table_only, mapping=mapping, demographics=demographics)  # fmt: skip


def mimic(
    root: Root,
    out: Out = OUT,
    uncertain: Uncertain = "keep",
    split: Split = "auto",
    val_share: ValShare = 0.125,
    table_only: TableOnly = False,
    mapping: Mapping = None,
    mimic_iv: Path | None = typer.Option(None, "--mimic-iv", help="Folder of MIMIC-IV: sex, age and race."),
    reports: Path | None = typer.Option(None, help="Folder of the reports (p10, ...), or mimic_cxr_sectioned.csv."),
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """MIMIC-CXR-JPG: mimic-cxr-2.0.0-metadata.csv.gz, -chexpert.csv.gz and -split.csv.gz."""
    _import("mimic", root, out, fresh, as_json, uncertain=uncertain, split=split, val_share=val_share,
            table_only=table_only, mapping=mapping, mimic_iv=mimic_iv, reports=reports)  # fmt: skip


def vindr(
    root: Root,
    out: Out = OUT,
    uncertain: Uncertain = "keep",
    split: Split = "auto",
    val_share: ValShare = 0.125,
    table_only: TableOnly = False,
    mapping: Mapping = None,
    least: int = typer.Option(2, help="How many of an image's readers make a finding or a box."),
    overlap: float = typer.Option(0.4, help="Intersection over union at which two readers' boxes are one."),
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """VinDr-CXR: annotations_train.csv (Kaggle: train.csv), image_labels_train.csv, and those of the test set."""
    _import("vindr", root, out, fresh, as_json, uncertain=uncertain, split=split, val_share=val_share,
            table_only=table_only, mapping=mapping, least=least, overlap=overlap)  # fmt: skip


def siim(
    root: Root,
    out: Out = OUT,
    uncertain: Uncertain = "keep",
    split: Split = "auto",
    val_share: ValShare = 0.125,
    table_only: TableOnly = False,
    mapping: Mapping = None,
    masks: Path | None = typer.Option(None, help="Write masks as PNG to this folder, ROOT/masks."),
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """SIIM-ACR pneumothorax: train-rle.csv."""
    _import("siim", root, out, fresh, as_json, uncertain=uncertain, split=split, val_share=val_share,
            table_only=table_only, mapping=mapping, masks=masks)  # fmt: skip


def any_table(
    table: Path = typer.Argument(..., help="A table with one row per image (.csv, .csv.gz or .parquet)."),
    map_: Maps = [],  # noqa: B006
    root: Path | None = typer.Option(None, "--root", help="Folder that image paths start from; default: the table's."),
    out: Out = OUT,
    uncertain: Uncertain = "keep",
    split: Split = "auto",
    table_only: TableOnly = False,
    mapping: Mapping = None,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Any other table. On a terminal it asks which column holds what; the answers are kept as NAME.map.yaml.

    The same import again, without questions: cxraug import csv TABLE --map NAME.map.yaml
    """
    from cxraug.studies.sources.assembly import beside, check_out, import_source
    from cxraug.studies.sources.columnmap import CsvSettings, column_map, csv_source, guess_map, parse_map, write_map
    from cxraug.studies.table import read_table

    check_out(out, fresh)
    asked, kept = parse_map(map_), beside(out, "map.yaml")
    if not asked and _on_terminal():
        asked = _ask(read_table(table, unnamed=True), guess_map)
        _keep_answers(column_map(asked), kept, as_json)
    elif not asked:
        read = read_table(table, unnamed=True)
        words = _as_options(guess_map(read))
        raise InputError("which column holds what?", file=table, found=", ".join(map(str, read.frame.columns)),
                         expected=f"--map image=COLUMN --map patient_id=COLUMN ...; by their names: "
                         f"{words or 'none is known'}")  # fmt: skip
    columns = column_map(asked)
    given = _settings(CsvSettings, table=table, columns=columns, uncertain=uncertain, split=split,
                      table_only=table_only, mapping=mapping)  # fmt: skip
    done = import_source(csv_source(columns), root or table.parent, out, given, fresh=fresh)
    write_map(columns, kept)
    _say(done, out, as_json)
    if not as_json:
        if unused := _unused(read_table(table, unnamed=True), asked):
            typer.echo(f"note: columns that no --map names, left out: {', '.join(unused)}")
        if not columns.labels and not columns.label_columns:
            typer.echo("note: no column of findings is named: no image has a label (--map labels=COLUMN, or "
                       "--map label_columns.COLUMN=FINDING for every finding)")  # fmt: skip
        _say_again(["csv", table, "--map", kept, "--out", out, *(["--root", root] if root else [])],
                   uncertain, split, mapping, table_only)  # fmt: skip


def image_folder(
    folder: Path = typer.Argument(..., help="The image folder."),
    map_: Maps = [],  # noqa: B006
    out: Out = OUT,
    uncertain: Uncertain = "keep",
    split: Split = "auto",
    table_only: TableOnly = False,
    mapping: Mapping = None,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """A Hugging Face image folder: metadata.csv, .jsonl or .parquet with file_name; or one folder per class.

    What cxraug exported comes back as it was. Of others the columns patient_id, labels, sex, age, view, race, report,
    study_id and split are taken where they have these names, and by --map where they have others; splits are also
    folders. A patient is needed: --map patient_id=file_name where no patient has two images.
    """
    from cxraug.interop.incoming import folder_map, incoming
    from cxraug.interop.metadata import read_metadata
    from cxraug.studies.sources.assembly import beside, check_out, import_source
    from cxraug.studies.sources.columnmap import MapSettings, column_map, guess_map, parse_map, write_map
    from cxraug.studies.sources.folder import Folder

    check_out(out, fresh)
    table, notes = read_metadata(Folder(folder).root)
    asked, kept = parse_map(map_), beside(out, "map.yaml")
    if not asked and "patient_id" not in table.frame and _on_terminal():
        asked = _ask(table, guess_map)
        _keep_answers(column_map(folder_map(table, asked)), kept, as_json)
    columns = column_map(folder_map(table, asked))
    given = _settings(MapSettings, columns=columns, uncertain=uncertain, split=split, table_only=table_only,
                      mapping=mapping)  # fmt: skip
    source = incoming("hf", "Hugging Face image folder", table, notes, columns)
    done = import_source(source, folder, out, given, fresh=fresh)
    if not table.metadata:
        write_map(columns, kept)
    _say(done, out, as_json)
    if not as_json and not table.metadata:
        _say_again(["hf", folder, "--map", kept, "--out", out], uncertain, split, mapping, table_only)


def shards(
    folder: Path = typer.Argument(..., help="The folder of an export: shards.json and the tar files it lists."),
    out: Out = OUT,
    uncertain: Uncertain = "keep",
    split: Split = "auto",
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """WebDataset shards that cxraug exported; images and masks go to NAME-images beside the manifest."""
    from cxraug.interop.unpacking import import_shards
    from cxraug.studies.sources.contract import ImportSettings

    _settings(ImportSettings, uncertain=uncertain, split=split)
    _say(import_shards(folder, out, uncertain=uncertain, split=split, fresh=fresh), out, as_json)


def _on_terminal() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin.isatty()


def _keep_answers(columns: ColumnMap, kept: Path, as_json: bool) -> None:
    """Write answers down before the import, which may refuse the table: nobody answers twice."""
    from cxraug.studies.sources.columnmap import write_map

    write_map(columns, kept)
    if not as_json:
        typer.echo(f"answers: {kept} (--map {shlex.quote(str(kept))} takes them, edited or not)")


def _say_again(words: list[Any], uncertain: str, split: str, mapping: Path | None, table_only: bool) -> None:
    """The same import once more, without questions, as a line for a shell."""
    given = (("--uncertain", uncertain, "keep"), ("--split", split, "auto"), ("--mapping", mapping, None))
    again = ["cxraug", "import", *words]
    again += [word for option, value, default in given if value != default for word in (option, value)]
    again += [*(["--table-only"] if table_only else []), "--fresh"]
    typer.echo(f"again: {shlex.join(str(word) for word in again)}")


def _as_options(guess: dict[str, Any]) -> str:
    """A guess as ``--map`` options for a shell."""
    flat = [f"{key}={value}" for key, value in guess.items() if isinstance(value, str)]
    flat += [f"label_columns.{column}={finding}" for column, finding in guess.get("label_columns", {}).items()]
    return " ".join(f"--map {shlex.quote(text)}" for text in flat)


def _unused(table: Any, asked: dict[str, Any]) -> list[str]:
    """Columns of ``table`` that nothing names."""
    from cxraug.studies.sources.columnmap import FIELDS

    named = {asked.get(field) for field in FIELDS} | set(asked.get("label_columns", {})) | set(asked.get("keep", []))
    return [str(c) for c in table.frame.columns if str(c) not in named]


def _ask(table: Any, guess_map: Any) -> dict[str, Any]:
    """Ask for the column of every field; an empty answer takes the guess, a dash leaves the field out."""
    from cxraug.studies.sources.columnmap import FIELDS

    guess = guess_map(table)
    have = [str(c) for c in table.frame.columns]
    typer.echo(f"{table.file}: {len(table.frame)} rows, columns: {', '.join(have)}")
    typer.echo("Which column holds ... (- for none)")
    asked: dict[str, Any] = {k: v for k, v in guess.items() if k == "label_columns" and v}
    for field, words in FIELDS.items():
        if field == "labels" and asked.get("label_columns"):
            listed = ", ".join(asked["label_columns"])
            if typer.confirm(f"  findings, one column each: {listed}", default=True):
                continue
            del asked["label_columns"]
        while True:
            answer = typer.prompt(f"  {field} ({words})", default=guess.get(field, "-")).strip()
            if answer in have or (answer == "-" and field not in ("image", "patient_id")):
                break
            typer.echo(f"    no column {answer!r}" if answer != "-" else f"    {field} is needed")
        if answer != "-":
            asked[field] = answer
            if field in WORDS and (meant := _ask_words(table, field, answer)):
                asked[{"sex": "sexes"}.get(field, f"{field}s")] = meant
    if "labels" in asked:
        asked["separator"] = typer.prompt("  separator between findings", default="|")
    return asked


def _ask_words(table: Any, field: str, column: str) -> dict[str, str]:
    """Ask what those values of a column mean that no manifest takes; a dash leaves one blank."""
    from cxraug.studies import columns

    strange = columns.strange_values(table.text(column), field)
    meant: dict[str, str] = {}
    if strange:
        typer.echo(f"    {column} has values that are none of {', '.join(WORDS[field])}:")
    for value in strange[:MOST_ASKED]:
        while True:
            answer = typer.prompt(f"    {value} means (- for not known)", default="-").strip()
            if answer == "-" or answer in WORDS[field]:
                break
            typer.echo(f"    {answer!r} is none of {', '.join(WORDS[field])}")
        meant[value] = "" if answer == "-" else answer
    return meant


def _settings(model: type[ImportSettings], **values: Any) -> Any:
    from pydantic import ValidationError

    try:
        return model(**values)
    except ValidationError as error:
        key, message = first_problem(error)
        raise InputError(f"--{key.replace('_', '-')}: {message}", found=values.get(key)) from None


def _import(key: str, root: Path, out: Path, fresh: bool, as_json: bool, **values: Any) -> None:
    from cxraug.studies.sources.assembly import import_source
    from cxraug.studies.sources.registry import find_source

    source = find_source(key)
    _say(import_source(source, root, out, _settings(source.settings, **values), fresh=fresh), out, as_json)


def _say(done: Imported, out: Path, as_json: bool) -> None:
    """The mapping, what was odd, and the command that comes next."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from cxraug.studies.sources.assembly import beside

    record = done.record
    if as_json:
        print_json({"manifest": out, **record, "mapping": done.vocabulary.to_dict("records")})
        return
    console = Console()
    table = Table(title="Labels of the source and what they became", title_justify="left")
    for name in ("label", "finding", "images"):
        table.add_column(name, justify="right" if name == "images" else "left")
    for row in done.vocabulary.head(LABELS_SHOWN).to_dict("records"):
        table.add_row(Text(str(row["label"])), Text(str(row["finding"])), f"{row['images']:,}")
    console.print(table)
    if len(done.vocabulary) > LABELS_SHOWN:
        typer.echo(f"and {len(done.vocabulary) - LABELS_SHOWN} more in {beside(out, 'mapping.csv')}")
    if record["uncertain"]:
        counts = ", ".join(f"{k} {n:,}" for k, n in record["uncertain"].items())
        typer.echo(f"uncertain ({record['settings']['uncertain']}): {counts}")
    for what, n in record["odd"].items():
        typer.echo(f"{what}: {n:,}")
    if record["missing_files"]:
        typer.echo(f"image files that are not there: {record['missing_files']:,} ({beside(out, 'missing.csv')})")
    for note in record["notes"]:
        typer.echo(f"note: {note}")
    rows = ", ".join(f"{s} {record['rows'].get(s, 0):,}" for s in ("train", "val", "test"))
    typer.echo(f"split ({record['split']}): {rows}")
    typer.echo(f"{out}: {record['images']:,} images, {record['patients']:,} patients")
    root = f" --root {record['data_root']}" if record["data_root"] else ""
    pixels = " --no-pixels" if record["settings"]["table_only"] else ""
    typer.echo(f"next: cxraug audit {out}{root}{pixels}")
