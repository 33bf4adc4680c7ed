"""Runs: refused before anything starts, failing with their place, and recorded in full."""

import json
import math

import nbformat
import pytest

from utils import notebooks, runs
from utils.__main__ import main
from utils.settings import FinetuneConfig, SettingError
from utils.tasks import make_task
from utils.training import Finetuned

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
fail: bool = False  # whether the page breaks
silent: bool = False  # whether the page writes no record
output_dir: str = ""  # where to write

# %%
print("before")

# %%
if fail:
    raise KeyError("the missing thing")

# %%
import json, os, pathlib
interval = {"value": rows / 10, "low": 0.1, "high": 0.9}
result = {
    "data": {"name": "toys", "rows": {"train": rows, "test": 2}},
    "method": "full",
    "metrics": {"accuracy": interval},
    "baselines": {"majority": {"accuracy": interval}},
    "command": os.environ["BOOK_COMMAND"],
}
if not silent:
    pathlib.Path(output_dir, "result.json").write_text(json.dumps(result))
"""
GOOD = {"accuracy": {"value": 0.75, "low": 0.5, "high": 0.9}}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A temporary project with one page, which needs no torch; the modules look there."""
    folder = tmp_path / "project"
    path = folder / "notebooks" / f"{PAGE}.py"
    path.parent.mkdir(parents=True)
    path.write_text(SOURCE)
    monkeypatch.setattr(notebooks, "PROJECT", folder)
    monkeypatch.setattr(notebooks, "NOTEBOOKS", folder / "notebooks")
    monkeypatch.setattr(notebooks, "RECORDS", folder / "book" / "records")
    monkeypatch.setattr(runs, "RUNS", folder / "runs")
    monkeypatch.chdir(folder)
    return folder


# --------------------------------------------------------------------------------------- run_page


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"row": 3}, "there is no parameter 'row'; did you mean 'rows'"),
        ({"rows": "three"}, "rows = 'three' is not accepted; expected a whole number"),
        ({"rows": 10}, r"rows = 10 is not accepted; expected a whole number in \[1, 9\]"),
        ({"fail": "perhaps"}, "fail = 'perhaps' is not accepted; expected true or false"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_is_written(project, given, message):
    with pytest.raises(SettingError, match=message):
        runs.run_page(PAGE, given, folder=project / "out")
    assert not (project / "out").exists()
    assert not (project / "runs").exists()


def test_unknown_page_is_refused(project):
    with pytest.raises(notebooks.PageError, match="did you mean '01_concepts/tiny'"):
        runs.run_page("01_concepts/tinny", {})
    assert not (project / "runs").exists()


def test_run_leaves_parameters_notebook_and_result(project):
    folder = runs.run_page(PAGE, {"rows": "7"})
    assert folder.parent == project / "runs" / PAGE
    assert sorted(file.name for file in folder.iterdir()) == [
        "output.ipynb",
        "parameters.json",
        "result.json",
    ]
    assert json.loads((folder / "parameters.json").read_text()) == {"rows": 7}
    result = json.loads((folder / "result.json").read_text())
    assert result["metrics"]["accuracy"]["value"] == 0.7
    assert result["command"] == f"python -m utils run {PAGE} -p rows=7"
    notebook = nbformat.read(folder / "output.ipynb", as_version=4)
    texts = [out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", [])]
    assert "before\n" in texts


def test_failing_cell_is_named_and_the_notebook_kept(project):
    with pytest.raises(runs.RunError) as failure:
        runs.run_page(PAGE, {"fail": True}, folder=project / "out")
    message = str(failure.value)
    # Cells of the output: parameters, those given, before, the one that fails.
    assert message.startswith(f"{PAGE} failed in code cell 4: KeyError: 'the missing thing'")
    assert str(project / "out" / "output.ipynb") in message
    notebook = nbformat.read(project / "out" / "output.ipynb", as_version=4)
    errors = [out for cell in notebook.cells for out in cell.get("outputs", []) if "ename" in out]
    assert [error["ename"] for error in errors] == ["KeyError"]
    assert not (project / "out" / "result.json").exists()


def test_page_that_writes_no_record_has_failed_and_an_old_record_does_not_count(project):
    folder = project / "out"
    folder.mkdir()
    (folder / "result.json").write_text("{}")
    with pytest.raises(runs.RunError, match=r"ended without result\.json; .*call record"):
        runs.run_page(PAGE, {"silent": True}, folder=folder)


def test_name_of_a_run_depends_on_page_and_parameters(project):
    first = runs.run_digest(PAGE, {"rows": 3, "fail": False})
    assert runs.run_digest(PAGE, {"fail": False, "rows": 3}) == first
    assert len(first) == 12
    others = {first, runs.run_digest(PAGE, {"rows": 4, "fail": False})}
    (project / "notebooks" / f"{PAGE}.py").write_text(SOURCE + "# more\n")
    others.add(runs.run_digest(PAGE, {"rows": 3, "fail": False}))
    assert len(others) == 3


# ------------------------------------------------------------------------------------ command line


def test_command_line_refuses_with_2(project, capsys):
    assert main(["run", PAGE, "-p", "row=3", "-p", "rows=ten"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "did you mean 'rows'?" in lines[0]
    assert lines[1].startswith("rows = 'ten' is not accepted")
    assert main(["run", "01_concepts/tinny"]) == 2
    assert main(["run", PAGE, "-p", "rows"]) == 2
    assert main(["params", "nowhere"]) == 2
    assert "there is no page 'nowhere'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main(["ruin"])
    assert end.value.code == 2


def test_command_line_fails_with_1(project, capsys):
    assert main(["run", PAGE, "-p", "fail=true", "--folder", "out"]) == 1
    assert "failed in code cell 4: KeyError" in capsys.readouterr().err


def test_command_line_succeeds_with_0_and_shows_the_result(project, capsys):
    assert main(["run", f"notebooks/{PAGE}.py", "-p", "rows=5", "--folder", "out"]) == 0
    shown = capsys.readouterr().out
    assert "toys: 5 train, 2 test rows" in shown
    assert "0.500 [0.100, 0.900]" in shown
    assert f"run:     {project / 'out'}" in shown
    assert main(["params", PAGE]) == 0
    assert "rows: int = 3" in capsys.readouterr().out


# -------------------------------------------------------------------------------------- record


@pytest.fixture
def tuned(tiny_bert):
    from utils import models

    return Finetuned(
        task=make_task("sequence", ["negative", "positive"]),
        config=FinetuneConfig(seed=5, method="lora"),
        base=models.resolve(str(tiny_bert)),
        model=None,
        tokenizer=None,
        seconds=1.5,
        peak_bytes=1000,
    )


def write_record(tuned, data, folder, **changes):
    given = {"metrics": GOOD, "baselines": {"majority": GOOD}, **changes}
    return runs.record(PAGE, data=data, tuned=tuned, output_dir=folder, **given)


def test_record_holds_what_is_documented(project, tuned, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_COMMAND", "python -m utils run x")
    transfer = {"name": "other", "rows": 9, "metrics": GOOD}
    path = write_record(tuned, tiny_data, tmp_path, transfer=transfer)
    assert path == tmp_path / "result.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    versions = result.pop("versions")
    assert set(versions) == set(runs.PACKAGES)
    assert result.pop("device")
    assert result.pop("threads") >= 1
    assert result.pop("config")["lora_rank"] == 8
    assert result == {
        "schema": 1,
        "page": PAGE,
        "task": "sequence",
        "data": {
            "name": "tiny",
            "digest": tiny_data.digest,
            "rows": {"train": 96, "validation": 32, "test": 160},
            "labels": ["negative", "positive"],
        },
        "model": {"name": tuned.base.name, "digest": tuned.base.digest},
        "method": "lora",
        "seed": 5,
        "metrics": GOOD,
        "baselines": {"majority": GOOD},
        "transfer": transfer,
        "seconds": 1.5,
        "peak_bytes": 1000,
        "commit": "",  # the temporary project is in no repository
        "command": "python -m utils run x",
    }


def test_record_without_a_folder_goes_to_the_interactive_one(project, tuned, tiny_data):
    path = write_record(tuned, tiny_data, "")
    assert path == project / "runs" / PAGE / "interactive" / "result.json"


@pytest.mark.parametrize(
    "bad",
    [
        {"value": math.nan, "low": 0.5, "high": 0.9},
        {"value": 0.7, "low": 0.5, "high": math.inf},
        {"value": 0.7, "low": 0.5},
        {"value": 0.7},
    ],
)
@pytest.mark.parametrize("place", ["metrics", "baselines", "transfer"])
def test_metric_without_a_finite_interval_is_refused(tuned, tiny_data, tmp_path, bad, place):
    changes = {
        "metrics": {"metrics": {"accuracy": bad}},
        "baselines": {"baselines": {"majority": {"accuracy": bad}}},
        "transfer": {"transfer": {"name": "x", "rows": 1, "metrics": {"accuracy": bad}}},
    }[place]
    with pytest.raises(ValueError, match=r"accuracy: .* give finite value, low and high"):
        write_record(tuned, tiny_data, tmp_path, **changes)
    assert not (tmp_path / "result.json").exists()


def test_commit_of_the_project_is_named():
    import re

    assert re.fullmatch(r"[0-9a-f]{12}\+?|", runs.commit())


@pytest.fixture
def records(project):
    folder = project / "book" / "records" / PAGE
    folder.mkdir(parents=True)
    return folder


def test_records_are_read_by_file_name(records):
    for name in ("b", "a"):
        (records / f"{name}.json").write_text(json.dumps({"schema": 1, "page": PAGE, "seed": name}))
    (records / "notes.txt").write_text("not read")
    assert [entry["seed"] for entry in runs.read_records(PAGE)] == ["a", "b"]
    assert runs.read_records("01_concepts/none") == []


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[1]",
        '{"page": "01_concepts/tiny"}',
        '{"schema": 2, "page": "01_concepts/tiny"}',
        '{"schema": 1, "page": "other"}',
    ],
)
def test_file_that_is_no_record_is_refused_by_name(records, content):
    (records / "bad.json").write_text(content)
    with pytest.raises(ValueError, match=r"bad\.json: not a record of 01_concepts/tiny"):
        runs.read_records(PAGE)


def test_result_table_has_baselines_first():
    better = {"accuracy": {"value": 0.9, "low": 0.85, "high": 0.95}}
    result = {"baselines": {"majority": GOOD}, "method": "full", "metrics": better}
    table = runs.result_table(result)
    assert table.to_dict("index") == {
        "majority": {"accuracy": "0.750 [0.500, 0.900]"},
        "full": {"accuracy": "0.900 [0.850, 0.950]"},
    }
    assert list(table.index) == ["majority", "full"]
