"""A notebook as a typed program: its parameters, its contract, its publication.

A page is a pair of files in one folder under `notebooks/`: `slug.py`, the side that a person edits,
and `slug.ipynb`, the same page executed at its default parameters, which only `publish` writes. The
metadata of the published side hold a digest of what it was made from, so that a page whose source
or data changed is known without running it.
"""

from __future__ import annotations

import ast
import base64
import difflib
import hashlib
import io
import os
import platform
import re
import tempfile
import time
import tokenize
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from utils.checkpoints import write_file
from utils.settings import Setting, SettingError, check_settings, config_settings

if TYPE_CHECKING:
    from nbformat import NotebookNode

PROJECT = Path(__file__).resolve().parents[1]
NOTEBOOKS = PROJECT / "notebooks"
RECORDS = PROJECT / "book" / "records"
PICTURE = PROJECT / "book" / "_static" / "practice.png"  # the README's picture of a result
PICTURE_PAGE, PICTURE_ALT = "04_practice/sentiment", "Accuracy on the test rows"
TAGS = {
    "parameters",
    "hide-input",
    "remove-cell",
    "raises-exception",
    "nbval-check-output",
    "solution",
    "nbval-skip",
    "skip-execution",
}
TYPES = re.compile(r"(list\[)?(str|int|float|bool)\]?")
LIMITS = re.compile(r"(?:^|[,;]\s*)((?:[\[(][^\[\](){}]*,[^\[\](){}]*[\])])|\{[^{}]+\})\s*$")


class PageError(ValueError):
    """A page that does not exist or does not keep the contract."""


# ------------------------------------------------------------------------------------------- pages


def pages() -> list[str]:
    """The names of all pages, such as `04_practice/sentiment`."""
    found = NOTEBOOKS.glob("[0-9]*/*.py")
    return sorted(file.relative_to(NOTEBOOKS).with_suffix("").as_posix() for file in found)


def source_path(page: str) -> Path:
    """The `.py` side of a page, named as `pages` has it or by the path of either side.

    Raises:
        PageError: there is no such page; the nearest name is offered.
    """
    name = re.sub(r"^(.*/)?notebooks/", "", page)
    name = re.sub(r"\.(py|ipynb)$", "", name)
    path = NOTEBOOKS / f"{name}.py"
    if not path.exists():
        known = pages()
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise PageError(f"there is no page {page!r}{hint} The pages are: {', '.join(known)}.")
    return path


def page_name(page: str) -> str:
    """The name of a page as `pages` has it."""
    return source_path(page).relative_to(NOTEBOOKS).with_suffix("").as_posix()


def read_source(page: str) -> NotebookNode:
    """The `.py` side as a notebook without outputs, its cells numbered in their ids."""
    import jupytext

    notebook = jupytext.read(source_path(page))
    stem = source_path(page).stem.replace("_", "-")
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"{stem}-{number:03d}"
    return notebook


def tags(cell: NotebookNode) -> list[str]:
    """The tags of a cell."""
    return cell.metadata.get("tags", [])


# -------------------------------------------------------------------------------------- parameters


def read_parameters(page: str) -> list[Setting]:
    """The parameters of a page, read from the text of its first code cell; nothing is run.

    Raises:
        PageError: a line that is not `name: type = literal  # meaning`.
    """
    # Read as text: a wrong value is refused well within the time that importing jupytext takes.
    text = source_path(page).read_text(encoding="utf-8")
    cells = re.split(r"^# %%(.*)$", text, flags=re.MULTILINE)
    for header, source in zip(cells[1::2], cells[2::2], strict=True):
        if "[markdown]" in header or "[raw]" in header:
            continue
        if '"parameters"' not in header:
            break
        return parse_parameters(source.strip(), where=page)
    raise PageError(f"{page}: the first code cell must have the tag 'parameters'.")


def parse_parameters(source: str, *, where: str = "parameters") -> list[Setting]:
    """Settings from lines of the form `name: type = literal  # meaning, limits`.

    Limits are an interval or choices at the end of the comment. A parameter that is also a field
    of `FinetuneConfig` takes its limits and meaning from there.

    >>> found, = parse_parameters("rows: int = 8  # rows to use, [1, )")
    >>> found.type, found.default, found.meaning, found.limits
    ('int', 8, 'rows to use', '[1, )')
    """
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise PageError(
            f"{where}, line {error.lineno} of the parameters cell: expected "
            f"'name: type = literal  # meaning', got {(error.text or '').strip()!r}"
        ) from None
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    shared = {setting.name: setting for setting in config_settings()}
    settings = []
    for statement in statements:
        place = f"{where}, line {statement.lineno} of the parameters cell"
        form = (
            f"{place}: expected 'name: type = literal  # meaning', got {ast.unparse(statement)!r}"
        )
        if not isinstance(statement, ast.AnnAssign) or statement.value is None:
            raise PageError(form)
        name, kind = ast.unparse(statement.target), ast.unparse(statement.annotation)
        comment = comments.get(statement.lineno, "")
        if not TYPES.fullmatch(kind) or not comment:
            raise PageError(f"{form}; types are str, int, float, bool and lists of one of them.")
        try:
            default = ast.literal_eval(statement.value)
        except ValueError:
            raise PageError(f"{place}: {name} must be a plain literal.") from None
        limits = LIMITS.search(comment)
        meaning = comment[: limits.start()].strip() if limits else comment
        setting = Setting(name, kind, default, meaning, limits[1] if limits else "")
        if name in shared:
            setting = Setting(name, kind, default, meaning, shared[name].limits)
        try:
            if setting.check(default) != default:
                raise PageError(f"{place}: the default {default!r} of {name} is no {kind}.")
        except SettingError as error:
            raise PageError(f"{place}: the default is refused: {error}") from None
        settings.append(setting)
    return settings


def check_parameters(page: str, given: dict[str, object]) -> dict[str, object]:
    """Check parameters for a page before anything is started; return them typed.

    Raises:
        SettingError: unknown names, wrong types and values out of their limits, all at once.
    """
    return check_settings(read_parameters(page), given)


def parse_assignments(words: Iterable[str]) -> dict[str, str]:
    """`["epochs=2", "data=my.csv"]` from a command line to a dict.

    Raises:
        SettingError: a word without `=`.
    """
    given = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise SettingError(f"-p {word!r} is not understood; write name=value.")
        given[name.strip()] = value
    return given


# ------------------------------------------------------------------------------------- publication


def sources_of(page: str) -> list[Path]:
    """The files that a published page is made from: its source, its data, its records.

    A page names its embedded data by the keyword `embedded="…"` of `load_data`.
    """
    source = source_path(page)
    text = source.read_text(encoding="utf-8")
    names = sorted(set(re.findall(r"""embedded=["'](\w+)["']""", text)))
    files = [source]
    for folder in [*(NOTEBOOKS / "data" / name for name in names), RECORDS / page_name(page)]:
        files += sorted(file for file in folder.glob("*.json*") if file.is_file())
    return files


def page_digest(page: str) -> str:
    """sha256 over the names and contents of `sources_of(page)`; hex."""
    digest = hashlib.sha256()
    for file in sources_of(page):
        digest.update(file.relative_to(PROJECT).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def published_path(page: str) -> Path:
    """The `.ipynb` side of a page."""
    return source_path(page).with_suffix(".ipynb")


def cells_digest(notebook: NotebookNode) -> str:
    """sha256 over the kinds and texts of the cells: what ties outputs to the code above them."""
    digest = hashlib.sha256()
    for cell in notebook.cells:
        digest.update(f"{cell.cell_type}\0{cell.source}\0".encode())
    return digest.hexdigest()


def is_published(page: str) -> bool:
    """Whether the `.ipynb` side exists and was made from the present source and data."""
    import nbformat

    path = published_path(page)
    if not path.exists():
        return False
    stored = nbformat.read(path, as_version=4)
    facts = stored.metadata.get("book", {})
    fresh = facts.get("digest") == page_digest(page)
    return fresh and facts.get("cells") == cells_digest(stored) == cells_digest(read_source(page))


def publish(
    names: Iterable[str] = (), *, force: bool = False, report: Callable[[str], None] = print
) -> list[str]:
    """Execute the pages that changed at their default parameters and write their `.ipynb` sides.

    Args:
        names: pages to look at; none means all.
        force: execute also what has not changed.

    Returns:
        The pages that were executed.
    """
    done = []
    for page in [page_name(name) for name in names] or pages():
        if is_published(page) and not force:
            report(f"{page}: unchanged")
            continue
        report(f"{page}: executing …")
        digest, started = page_digest(page), time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            executed = execute(
                page, {}, Path(folder) / "output.ipynb", cwd=source_path(page).parent
            )
        seconds = time.perf_counter() - started
        clean_notebook(executed)
        executed.metadata["book"] = {
            "digest": digest,
            "cells": cells_digest(executed),
            "seconds": round(seconds),
            "device": device_name(),
        }
        write_notebook(executed, published_path(page))
        if page == PICTURE_PAGE:
            PICTURE.parent.mkdir(parents=True, exist_ok=True)
            PICTURE.write_bytes(picture(executed))
        report(f"{page}: published after {seconds:.0f} s")
        done.append(page)
    return done


def picture(notebook: NotebookNode) -> bytes:
    """The figure of a published practice page that the README shows, as PNG."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            alt = output.get("metadata", {}).get("image/png", {}).get("alt", "")
            if alt.startswith(PICTURE_ALT):
                return base64.b64decode(output["data"]["image/png"])
    raise PageError(f"{PICTURE_PAGE}: no figure whose alt text begins with {PICTURE_ALT!r}.")


def execute(
    page: str, parameters: dict[str, object], output: Path, *, cwd: Path | None = None
) -> NotebookNode:
    """Run a page's source through papermill; the output file is there also when a cell fails.

    Args:
        page: its name.
        parameters: typed values, as `check_parameters` returns them.
        output: the executed notebook.
        cwd: working folder of the kernel; the caller's if not given.
    """
    import nbformat
    import papermill

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"{source_path(page).stem}.ipynb"
        nbformat.write(read_source(page), source)
        return papermill.execute_notebook(
            source,
            output,
            parameters=parameters,
            cwd=cwd or Path.cwd(),
            progress_bar={"desc": page, "unit": " cells", "ncols": 96, "bar_format": BAR},
            kernel_name="python3",
            engine_name=_engine(),
        )


BAR = "{desc:<42.42} {bar} {n_fmt}/{total_fmt}{unit}, {elapsed}"


def _engine() -> str:
    """Papermill's engine with one thing added: the progress bar names the section that runs."""
    from papermill.engines import NBClientEngine, papermill_engines

    class SectionEngine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, **options):
            start = nb_man.cell_start

            def cell_start(cell, cell_index=None, **rest):
                heading = re.match(r"#+ (.+)", cell.source)
                if cell.cell_type == "markdown" and heading and nb_man.pbar is not None:
                    nb_man.pbar.set_description_str(heading[1])
                return start(cell, cell_index=cell_index, **rest)

            nb_man.cell_start = cell_start
            return super().execute_managed_notebook(nb_man, kernel_name, **options)

    papermill_engines.register("sections", SectionEngine)
    return "sections"


def clean_notebook(notebook: NotebookNode) -> None:
    """Take out what differs from run to run and put alt texts where the website reads them."""
    notebook.metadata = {
        key: value for key, value in notebook.metadata.items() if key in {"kernelspec", "jupytext"}
    }
    notebook.metadata["language_info"] = {"name": "python"}
    count = 0
    for cell in notebook.cells:
        cell.metadata = {
            key: value for key, value in cell.metadata.items() if key in {"tags", "mystnb"}
        }
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
        if cell.cell_type == "code":
            count += 1  # in order, as one whole run has them; nbval wants a number
            cell.execution_count = count
            cell.outputs = merge_streams(cell.outputs)
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output["execution_count"] = count
    move_alt_texts(notebook)


def merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join what a cell printed in pieces, which differ from run to run, into one piece a stream."""
    merged: list[NotebookNode] = []
    for output in outputs:
        last = merged[-1] if merged else {}
        if output.output_type == "stream" and output.name == last.get("name"):
            last["text"] += output.text
        else:
            merged.append(output)
    return merged


def move_alt_texts(notebook: NotebookNode) -> None:
    """Copy the alt text of a figure, which `plots.show` puts beside it, to where MyST-NB looks."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            alt = output.get("metadata", {}).get("image/png", {}).get("alt")
            if alt:
                cell.metadata["mystnb"] = {"image": {"alt": alt}}


def write_notebook(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook file at once."""
    import nbformat

    write_file(path, nbformat.writes(notebook) + "\n")


def device_name() -> str:
    """What this machine trains on, in words."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    if torch.backends.mps.is_available():
        return "Apple GPU"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"CPU, {cores} cores, {_processor()}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = re.findall(r"model name\s*:\s*(.+)", info.read_text(encoding="utf-8"))
        if names:
            return names[0].strip()
    return platform.processor() or platform.machine()


# ---------------------------------------------------------------------------------------- contract


def problems(page: str) -> list[str]:
    """Where a page breaks the contract, a sentence each; empty when it keeps it."""
    notebook = read_source(page)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found = []
    try:
        settings = read_parameters(page)
    except PageError as error:
        return [str(error)]
    defaults = {setting.name: setting.default for setting in config_settings()}
    for setting in settings:
        if setting.name in defaults and setting.default != defaults[setting.name]:
            found.append(
                f"parameter {setting.name} has the default {setting.default!r}, "
                f"FinetuneConfig has {defaults[setting.name]!r}."
            )
    for number, cell in enumerate(code, start=1):
        unknown = sorted(set(tags(cell)) - TAGS)
        if unknown:
            found.append(f"code cell {number} has the tags {unknown}; allowed: {sorted(TAGS)}.")
        if ("nbval-skip" in tags(cell)) != ("skip-execution" in tags(cell)):
            found.append(f"code cell {number}: nbval-skip and skip-execution go together.")
        lines = [line for line in cell.source.splitlines() if line.strip()]
        if len(lines) > 25:
            found.append(f"code cell {number} has {len(lines)} lines; at most 25.")
    lengths = sorted(len(cell.source.splitlines()) for cell in code)
    if lengths and lengths[len(lengths) // 2] > 8:
        found.append(f"the median code cell has {lengths[len(lengths) // 2]} lines; at most 8.")
    if not 15 <= len(code) <= 30:
        found.append(f"{len(code)} code cells; 15 to 30.")
    if not re.search(r"^\w*\s*=?\s*record\(", code[-1].source, re.MULTILINE):
        found.append("the last code cell must call record(…).")
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("the header must name the kernel python3.")
    if not notebook.cells[0].source.startswith("# "):
        found.append("the page must begin with '# Title'.")
    return found
