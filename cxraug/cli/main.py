"""The ``cxraug`` command: one Typer application, one exit code per kind of failure."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import typer

from cxraug import __version__
from cxraug.errors import CxraugError

# typer may carry its own copy of click, so the base of its usage errors is taken from typer itself
UsageProblem: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

INTERRUPTED = 130
PARTS = (
    "run",
    "recipe",
    "phantom",
    "import_source",
    "audit",
    "plan",
    "core",
    "generate",
    "gate",
    "train",
    "evaluate",
    "fidelity",
    "privacy",
    "anonymize",
    "report",
    "card",
    "export",
    "annotate",
)

app = typer.Typer(
    name="cxraug",
    help="Balance, augment, anonymise and audit chest X-ray data sets, with evidence that holds.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"cxraug {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Print the version."),
) -> None:
    pass


for part in PARTS:
    importlib.import_module(f"cxraug.cli.{part}").register(app)


def main() -> None:
    """Run the command line; map every failure to one line on standard error and its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run ``arguments`` and return the exit code: 0 done, 1 failed, 2 bad input or usage, 130 interrupted."""
    try:
        result = app(arguments, standalone_mode=False)
        if result == INTERRUPTED:  # typer turns Ctrl-C into an exit code and says nothing
            raise KeyboardInterrupt
        return result if isinstance(result, int) else 0
    except CxraugError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except UsageProblem as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted; what was finished stays, run again to go on", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except MemoryError:
        print("error: out of memory; what was finished stays, run again to go on", file=sys.stderr)
        return 1


if __name__ == "__main__":
    main()
