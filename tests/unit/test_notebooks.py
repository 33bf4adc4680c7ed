"""Pages as typed programs: parameters, names of pages, what counts as published, clean outputs."""

import base64
import json
import subprocess
import sys

import nbformat
import pytest

from utils import notebooks
from utils.notebooks import PageError, parse_parameters
from utils.settings import SettingError

PAGE = "01_concepts/tiny"
SOURCE = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A tiny page

# %% tags=["parameters"]
rows: int = 3  # rows to count, [1, 9]
output_dir: str = ""  # where to write

# %% [markdown]
# Some words.

# %%
found = load_data("embedded", embedded="toys") if False else rows
print("rows:", found)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A temporary project with one page, its data and a record; `notebooks` looks there."""
    folder = tmp_path / "project"
    for name, text in {
        f"notebooks/{PAGE}.py": SOURCE,
        "notebooks/data/toys/train.jsonl": '{"text": "good", "label": "a"}\n',
        f"book/records/{PAGE}/one.json": "{}\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.setattr(notebooks, "PROJECT", folder)
    monkeypatch.setattr(notebooks, "NOTEBOOKS", folder / "notebooks")
    monkeypatch.setattr(notebooks, "RECORDS", folder / "book" / "records")
    return folder


# -------------------------------------------------------------------------------------- parameters


def test_parameters_of_each_type():
    found = parse_parameters(
        'data: str = "embedded"  # where from\n'
        "\n"
        "# a line of its own\n"
        "rows: int = 8  # rows to use, [1, )\n"
        "rate: float = 1e-3  # a rate, (0, 1]\n"
        "fast: bool = False  # skip the slow part\n"
        "sizes: list[int] = [1, 2]  # sizes, [1, )\n"
        'way: str = "up"  # direction; one of {up, down}\n'
        "low: float = -1.5  # a negative literal, (-2, 0)\n"
    )
    assert [(one.name, one.type, one.default, one.meaning, one.limits) for one in found] == [
        ("data", "str", "embedded", "where from", ""),
        ("rows", "int", 8, "rows to use", "[1, )"),
        ("rate", "float", 1e-3, "a rate", "(0, 1]"),
        ("fast", "bool", False, "skip the slow part", ""),
        ("sizes", "list[int]", [1, 2], "sizes", "[1, )"),
        ("way", "str", "up", "direction; one of {up, down}", ""),
        ("low", "float", -1.5, "a negative literal", "(-2, 0)"),
    ]


def test_choices_at_the_end_of_a_comment_are_limits():
    (found,) = parse_parameters('way: str = "up"  # direction, {up, down}')
    assert (found.meaning, found.limits) == ("direction", "{up, down}")


def test_words_in_brackets_are_not_limits():
    (found,) = parse_parameters('data: str = "x"  # a file (CSV, TSV)')
    assert (found.meaning, found.limits) == ("a file (CSV, TSV)", "")


def test_a_parameter_that_finetune_config_has_takes_its_limits():
    (found,) = parse_parameters("epochs: int = 3  # passes over the rows")
    assert found.limits == "[1, 1000]"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a: int = 1  # ok\nrows = 3  # no type", r"page, line 2 .*expected 'name: type = literal"),
        ("rows: int  # no value", r"line 1 .*got 'rows: int'"),
        ("import os  # not a parameter", r"line 1 .*got 'import os'"),
        ("rows: int = 3", r"line 1 .*types are str, int, float, bool and lists"),
        ("rows: dict = {}  # a type that is not taken", r"types are str, int"),
        ("rows: list[list[int]] = []  # too deep", r"types are str, int"),
        ("a: int = 2\nrows: int = 2 * 4  # derived", r"line 1 .*types are"),
        ("rows: int = 2 * 4  # derived", r"line 1 .*rows must be a plain literal"),
        ("rows: int = other  # a name", r"line 1 .*rows must be a plain literal"),
        ("rows: int = 0  # rows, [1, )", r"line 1 .*the default is refused: rows = 0"),
        ("rows: int = 1.5  # rows", r"the default is refused: rows = 1\.5"),
        ("epochs: int = 0  # passes", r"the default is refused: epochs = 0"),
        (
            "a: int = 1  # ok\nrows: int =  # nothing",
            r"page, line 2 .*got 'rows: int =  # nothing'",
        ),
        ("rows: int = (3  # not closed", r"page, line 1 .*got 'rows: int = \(3"),
    ],
)
def test_bad_lines_are_named_and_shown(source, message):
    with pytest.raises(PageError, match=message) as refusal:
        parse_parameters(source, where="page")
    assert str(refusal.value).startswith("page, line ")


def test_parameters_of_a_page(project):
    assert [one.name for one in notebooks.read_parameters(PAGE)] == ["rows", "output_dir"]
    assert notebooks.check_parameters(PAGE, {"rows": "4"}) == {"rows": 4}
    with pytest.raises(SettingError, match=r"rows = 10 is not accepted"):
        notebooks.check_parameters(PAGE, {"rows": 10})


@pytest.mark.parametrize(
    "source",
    [
        SOURCE.replace(' tags=["parameters"]', ""),
        "# %%\nx = 1\n\n" + SOURCE,
        "# %% [markdown]\n# # No code\n",
    ],
)
def test_first_code_cell_must_hold_the_parameters(project, source):
    (project / "notebooks" / f"{PAGE}.py").write_text(source)
    with pytest.raises(PageError, match="first code cell must have the tag 'parameters'"):
        notebooks.read_parameters(PAGE)


def test_the_cell_read_as_text_is_the_cell_of_the_notebook():
    page = "04_practice/sentiment"
    code = [cell for cell in notebooks.read_source(page).cells if cell.cell_type == "code"]
    assert notebooks.read_parameters(page) == parse_parameters(code[0].source, where=page)


def test_wrong_parameters_of_the_practice_page_are_refused_within_a_second():
    code = (
        "import time, sys, json\n"
        "from utils import notebooks\n"
        "from utils.settings import SettingError\n"
        "given = {'epoch': '2', 'learning_rate': 'fast', 'batch_size': '0', 'sizes': '[2]'}\n"
        "try:\n"
        "    notebooks.check_parameters('04_practice/sentiment', given)\n"
        "except SettingError as error:\n"
        "    print(json.dumps([str(error), time.process_time(), sorted(sys.modules)]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    message, seconds, loaded = json.loads(done.stdout)
    lines = message.splitlines()
    assert len(lines) == 4
    assert "did you mean 'epochs'?" in lines[0]
    assert lines[1].startswith("learning_rate = 'fast'")
    assert lines[2].startswith("batch_size = '0'")
    assert lines[3].startswith("sizes = 2")
    assert seconds < 1.0  # of the processor, interpreter included
    assert not {"torch", "transformers", "papermill", "pandas"} & set(loaded)


def test_assignments_of_a_command_line():
    words = ["epochs=2", "data=a=b.csv", "note=", " x =1"]
    expected = {"epochs": "2", "data": "a=b.csv", "note": "", "x": "1"}
    assert notebooks.parse_assignments(words) == expected
    for word in ("epochs", "=2"):
        with pytest.raises(SettingError, match="write name=value"):
            notebooks.parse_assignments([word])


# ------------------------------------------------------------------------------------------- pages


@pytest.mark.parametrize(
    "name", [PAGE, f"{PAGE}.py", f"{PAGE}.ipynb", f"notebooks/{PAGE}.py", f"/x/notebooks/{PAGE}.py"]
)
def test_a_page_may_be_named_by_either_side(project, name):
    assert notebooks.page_name(name) == PAGE
    assert notebooks.source_path(name) == project / "notebooks" / f"{PAGE}.py"


def test_unknown_page_offers_the_nearest():
    with pytest.raises(PageError, match="did you mean '04_practice/sentiment'"):
        notebooks.source_path("04_practice/sentimnt")
    with pytest.raises(PageError, match=r"there is no page 'zzz'\. The pages are: .*sentiment"):
        notebooks.source_path("zzz")


def test_cells_have_fixed_ids(project):
    ids = [cell["id"] for cell in notebooks.read_source(PAGE).cells]
    assert ids == ["tiny-000", "tiny-001", "tiny-002", "tiny-003"]


# ------------------------------------------------------------------------------------- publication


@pytest.fixture
def published(project):
    """The page's `.ipynb`, as `publish` would leave it, made without a kernel."""
    notebook = notebooks.read_source(PAGE)
    output = nbformat.v4.new_output("stream", name="stdout", text="rows: 3\n")
    notebook.cells[-1]["outputs"] = [output]
    notebooks.clean_notebook(notebook)
    notebook.metadata["book"] = {
        "digest": notebooks.page_digest(PAGE),
        "cells": notebooks.cells_digest(notebook),
    }
    path = notebooks.published_path(PAGE)
    notebooks.write_notebook(notebook, path)
    return path


def test_untouched_page_is_published(published):
    assert notebooks.is_published(PAGE)


def test_page_that_was_never_executed_is_not_published(project):
    assert not notebooks.is_published(PAGE)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (f"notebooks/{PAGE}.py", lambda text: text.replace("Some words", "Other words")),
        ("notebooks/data/toys/train.jsonl", lambda text: text.replace("good", "fine")),
        (f"book/records/{PAGE}/one.json", lambda text: "{} \n"),
    ],
    ids=["source", "data", "record"],
)
def test_page_whose_source_data_or_record_changed_is_not_published(
    project, published, name, change
):
    path = project / name
    old = path.read_text()
    path.write_text(change(old))
    assert not notebooks.is_published(PAGE)
    path.write_text(old)
    assert notebooks.is_published(PAGE)


@pytest.mark.parametrize("new", ["notebooks/data/toys/test.jsonl", f"book/records/{PAGE}/two.json"])
def test_new_data_and_new_records_count(project, published, new):
    (project / new).write_text("{}\n")
    assert not notebooks.is_published(PAGE)


def test_data_of_another_set_does_not_count(project, published):
    (project / "notebooks" / "data" / "others").mkdir()
    (project / "notebooks" / "data" / "others" / "train.jsonl").write_text("{}\n")
    assert notebooks.is_published(PAGE)


def test_published_side_edited_by_hand_is_not_published(published):
    notebook = nbformat.read(published, as_version=4)
    notebook.cells[-1]["source"] = "print('rows: 4')"
    nbformat.write(notebook, published)
    assert not notebooks.is_published(PAGE)


def test_edited_cell_with_the_old_output_and_a_forged_digest_is_not_published(published):
    """Both sides edited alike and the digest of the sources renewed, but nothing executed."""
    source = notebooks.source_path(PAGE)
    source.write_text(source.read_text().replace('"rows:"', '"lines:"'))
    notebook = nbformat.read(published, as_version=4)
    notebook.cells[-1]["source"] = notebook.cells[-1]["source"].replace('"rows:"', '"lines:"')
    notebook.metadata["book"]["digest"] = notebooks.page_digest(PAGE)
    nbformat.write(notebook, published)
    assert not notebooks.is_published(PAGE)


def test_publish_leaves_an_unchanged_page_alone(published):
    before, lines = published.read_bytes(), []
    assert notebooks.publish([PAGE], report=lines.append) == []
    assert lines == [f"{PAGE}: unchanged"]
    assert published.read_bytes() == before


def test_publish_executes_a_changed_page_and_keeps_what_a_reader_sees(project):
    lines = []
    assert notebooks.publish([PAGE], report=lines.append) == [PAGE]
    assert lines[0] == f"{PAGE}: executing …"
    assert notebooks.is_published(PAGE)
    stored = nbformat.read(notebooks.published_path(PAGE), as_version=4)
    nbformat.validate(stored)
    assert [cell["id"] for cell in stored.cells] == [f"tiny-{n:03d}" for n in range(4)]
    assert stored.cells[-1]["outputs"][0]["text"] == "rows: 3\n"
    assert set(stored.metadata["book"]) == {"digest", "cells", "seconds", "device"}
    first = notebooks.published_path(PAGE).read_text()
    notebooks.publish([PAGE], force=True, report=lines.append)

    def without_seconds(text):
        notebook = json.loads(text)
        del notebook["metadata"]["book"]["seconds"]
        return notebook

    again = notebooks.published_path(PAGE).read_text()
    assert without_seconds(again) == without_seconds(first)  # nothing in it depends on the moment


# ------------------------------------------------------------------------------------- clean sides


def made_notebook():
    figure = nbformat.v4.new_output(
        "display_data",
        data={"image/png": base64.b64encode(b"picture").decode(), "text/plain": "<Figure>"},
        metadata={"image/png": {"alt": "Loss. Epoch 1: 0.50."}},
    )
    table = nbformat.v4.new_output("execute_result", data={"text/plain": "3"}, execution_count=7)
    cells = [
        nbformat.v4.new_markdown_cell("# Title", metadata={"papermill": {"duration": 1.5}}),
        nbformat.v4.new_code_cell(
            "plot()",
            execution_count=6,
            outputs=[figure],
            metadata={"tags": ["hide-input"], "execution": {"iopub.status.busy": "2025"}},
        ),
        nbformat.v4.new_code_cell("x", execution_count=7, outputs=[table], metadata={"tags": []}),
    ]
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3"},
        "papermill": {"x": 1},
        "widgets": {"y": 2},
    }
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def test_clean_notebook_takes_out_what_differs_from_run_to_run():
    notebook = made_notebook()
    notebooks.clean_notebook(notebook)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    alt = {"image": {"alt": "Loss. Epoch 1: 0.50."}}
    assert [dict(cell.metadata) for cell in notebook.cells] == [
        {},
        {"tags": ["hide-input"], "mystnb": alt},
        {},
    ]
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2]
    assert notebook.cells[2].outputs[0]["execution_count"] == 2
    assert notebook.cells[2].outputs[0]["data"] == {"text/plain": "3"}


def test_text_printed_in_pieces_is_joined_stream_by_stream():
    def piece(name, text):
        return nbformat.v4.new_output("stream", name=name, text=text)

    pieces = [
        piece("stdout", "a"),
        piece("stdout", "b\n"),
        piece("stderr", "c"),
        piece("stdout", "d"),
    ]
    merged = notebooks.merge_streams(pieces)
    assert [(one["name"], one["text"]) for one in merged] == [
        ("stdout", "ab\n"),
        ("stderr", "c"),
        ("stdout", "d"),
    ]


def test_alt_text_moves_to_where_the_website_reads_it_and_only_there():
    notebook = made_notebook()
    notebooks.move_alt_texts(notebook)
    assert notebook.cells[1].metadata["mystnb"] == {"image": {"alt": "Loss. Epoch 1: 0.50."}}
    assert "mystnb" not in notebook.cells[0].metadata
    assert "mystnb" not in notebook.cells[2].metadata


# ---------------------------------------------------------------------------------------- contract


def test_problems_names_what_breaks_the_contract(project):
    found = notebooks.problems(PAGE)
    assert "2 code cells; 15 to 30." in found
    assert "the last code cell must call record(…)." in found
    page = project / "notebooks" / f"{PAGE}.py"
    page.write_text(
        SOURCE.replace("# # A tiny", "# A tiny")
        .replace("rows: int = 3  # rows to count, [1, 9]", "epochs: int = 5  # passes")
        .replace("# %%\nfound", '# %% tags=["nbval-skip", "funny"]\nfound')
    )
    found = "\n".join(notebooks.problems(PAGE))
    assert "parameter epochs has the default 5, FinetuneConfig has 4." in found
    assert "code cell 2 has the tags ['funny']" in found
    assert "code cell 2: nbval-skip and skip-execution go together." in found
    assert "the page must begin with '# Title'." in found
