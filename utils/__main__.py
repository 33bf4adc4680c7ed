"""The command line: `python -m utils …`, thin over `notebooks`, `runs` and `site`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def main(words: list[str] | None = None) -> int:
    """Do what the command line says; return the exit status: 0 done, 1 failed, 2 refused."""
    options = parser().parse_args(words)
    from utils import notebooks, runs, site
    from utils.settings import SettingError

    try:
        return options.command(options)
    except (notebooks.PageError, SettingError) as error:
        print(error, file=sys.stderr)
        return 2
    except (runs.RunError, site.SiteError) as error:
        print(error, file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(prog="python -m utils", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run a page with other parameters")
    run.add_argument("page", help="such as 04_practice/sentiment")
    run.add_argument("-p", action="append", default=[], metavar="NAME=VALUE", dest="parameters")
    run.add_argument("--folder", type=Path, help="where to write (default: under runs/)")
    run.add_argument("--book", action="store_true", help="then build the website with this run")
    run.set_defaults(command=command_run)

    params = commands.add_parser("params", help="the parameters of a page")
    params.add_argument("page")
    params.set_defaults(command=command_params)

    publish = commands.add_parser("publish", help="execute and store the pages that changed")
    publish.add_argument("pages", nargs="*")
    publish.add_argument("--force", action="store_true", help="also those that did not change")
    publish.set_defaults(command=command_publish)

    book = commands.add_parser("book", help="build the website")
    book.set_defaults(command=command_book)
    return top


def command_run(options: argparse.Namespace) -> int:
    """Run a page; print its results and where everything is."""
    from utils import notebooks, runs

    given = notebooks.parse_assignments(options.parameters)
    folder = runs.run_page(options.page, given, folder=options.folder)
    result = json.loads((folder / runs.RESULT).read_text(encoding="utf-8"))
    rows = ", ".join(f"{count} {split}" for split, count in result["data"]["rows"].items())
    print(f"\n{result['data']['name']}: {rows} rows; value [95 % interval] on the test rows\n")
    print(runs.result_table(result).to_string())
    print(f"\nrun:     {folder}")
    if options.book:
        from utils import site

        page = notebooks.page_name(options.page)
        print(f"website: {site.build({page: folder / 'output.ipynb'})}")
    return 0


def command_params(options: argparse.Namespace) -> int:
    """Print a page's parameters: name, type, default, what is accepted, meaning."""
    from utils import notebooks

    for setting in notebooks.read_parameters(options.page):
        print(f"{setting.name}: {setting.type} = {setting.default!r}")
        print(f"    {setting.meaning}; {setting.accepted}")
    return 0


def command_publish(options: argparse.Namespace) -> int:
    """Publish what changed."""
    from utils import notebooks

    notebooks.publish(options.pages, force=options.force)
    return 0


def command_book(options: argparse.Namespace) -> int:
    """Build the website from the published pages."""
    from utils import site

    print(f"website: {site.build()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
