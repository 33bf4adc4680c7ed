"""Every page keeps the contract: its parameters, its pair, its place in the book."""

import re
from pathlib import Path

import nbformat
import pytest
import yaml

from utils import notebooks

PAGES = notebooks.pages()
PROJECT = notebooks.PROJECT


def table_of_contents() -> list[str]:
    """Every file named in `_toc.yml`."""
    toc = yaml.safe_load((PROJECT / "_toc.yml").read_text(encoding="utf-8"))
    found = [toc["root"]]

    def walk(entry):
        if isinstance(entry, dict):
            if "file" in entry:
                found.append(entry["file"])
            for value in entry.values():
                walk(value)
        elif isinstance(entry, list):
            for value in entry:
                walk(value)

    walk(toc)
    return found


def test_there_are_pages():
    assert "04_practice/sentiment" in PAGES


@pytest.mark.parametrize("page", PAGES)
def test_page_keeps_the_contract(page):
    assert notebooks.problems(page) == []


@pytest.mark.parametrize("page", PAGES)
def test_published_side_was_made_from_the_present_source_and_data(page):
    assert notebooks.is_published(page), f"{page} changed since it was executed: make publish"


@pytest.mark.parametrize("page", PAGES)
def test_published_side_is_clean(page):
    stored = nbformat.read(notebooks.published_path(page), as_version=4)
    nbformat.validate(stored)
    assert set(stored.metadata) == {"kernelspec", "language_info", "jupytext", "book"}
    assert set(stored.metadata["book"]) == {"digest", "cells", "seconds", "device"}
    stem = notebooks.source_path(page).stem.replace("_", "-")
    for number, cell in enumerate(stored.cells):
        assert cell["id"] == f"{stem}-{number:03d}"
        for output in cell.get("outputs", []):
            assert output.output_type != "error" or "raises-exception" in notebooks.tags(cell)
            assert output.get("name") != "stderr", f"{cell['id']}: {output.text[:200]}"
            assert not any("widget" in kind for kind in output.get("data", {}))
            if "image/png" in output.get("data", {}):
                alt = cell.metadata["mystnb"]["image"]["alt"]
                assert len(alt) > 40, f"{cell['id']}: a figure needs a telling alt text"


@pytest.mark.parametrize("page", PAGES)
def test_published_outputs_hold_no_path_of_the_machine(page):
    text = notebooks.published_path(page).read_text(encoding="utf-8")
    assert str(PROJECT) not in text
    assert str(Path.home()) + "/" not in text


def test_every_page_and_every_file_of_the_contents_exists_and_is_listed_once():
    listed = table_of_contents()
    assert len(listed) == len(set(listed))
    for name in listed:
        exists = [(PROJECT / f"{name}{suffix}").exists() for suffix in ("", ".md", ".ipynb")]
        assert any(exists), f"_toc.yml names {name}, which does not exist"
    assert {f"notebooks/{page}" for page in PAGES} <= set(listed)


def test_every_page_has_smoke_parameters():
    import tomllib

    smoke = tomllib.loads((PROJECT / "tests" / "smoke.toml").read_text(encoding="utf-8"))
    assert set(smoke) == set(PAGES)
    for page, parameters in smoke.items():
        notebooks.check_parameters(page, parameters)


def test_every_glued_number_on_a_page_comes_from_a_notebook(glued_values):
    used = 0
    for file in sorted((PROJECT / "book").glob("*.md")):
        text = file.read_text(encoding="utf-8")
        for target in re.findall(r"\{glue:?\w*\}`([^`]+)`", text):
            document, _, key = target.partition("::")
            assert key, f"{file.name}: {target} names no document"
            page = (file.parent / document).resolve().relative_to(notebooks.NOTEBOOKS).as_posix()
            name = key.split(":")[0]
            assert name in glued_values(page), f"{file.name}: {page} does not glue {name}"
            used += 1
    assert used > 5


def test_the_picture_of_the_readme_is_the_one_of_the_published_page():
    stored = nbformat.read(notebooks.published_path(notebooks.PICTURE_PAGE), as_version=4)
    assert notebooks.PICTURE.read_bytes() == notebooks.picture(stored)
    name = notebooks.PICTURE.relative_to(PROJECT).as_posix()
    assert name in (PROJECT / "README.md").read_text(encoding="utf-8")


def test_rooms_import_one_way():
    """Nothing imports `runs` or `site` but the command line and `site`; `data` stands alone."""
    imports = {}
    for file in sorted((PROJECT / "utils").glob("*.py")):
        text = file.read_text(encoding="utf-8")
        found = re.findall(
            r"^\s*from utils\.(\w+) import|^\s*from utils import ([\w, ]+)", text, re.M
        )
        names = {name for pair in found for part in pair for name in part.split(", ") if name}
        imports[file.stem] = names
    for room in ("settings", "data", "checkpoints", "metrics", "plots"):
        assert imports[room] <= {"metrics"} - {room}, room
    assert imports["models"] == set()
    assert imports["tasks"] == {"metrics"}
    assert imports["training"] <= {"models", "checkpoints", "data", "settings", "tasks"}
    for room, names in imports.items():
        if room not in {"__main__", "site"}:
            assert not names & {"runs", "site"}, room
