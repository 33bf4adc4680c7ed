"""One run of a page, and its record.

`run_page` checks the parameters before anything starts, executes the page through papermill and
leaves a folder with the parameters, the executed notebook and `result.json`. `record`, which every
page calls in its last cell, writes that `result.json`: what was done, on what, how well, how long,
on which machine. Nothing else is the source of a number in the book.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from utils import notebooks
from utils.checkpoints import write_file

if TYPE_CHECKING:
    import pandas as pd

    from utils.data import Data
    from utils.training import Finetuned

RUNS = notebooks.PROJECT / "runs"
COMMAND = "BOOK_COMMAND"  # environment variable through which a run tells its record its command
PACKAGES = ("torch", "transformers", "accelerate", "peft", "datasets", "scikit-learn", "pandas")
RESULT = "result.json"


class RunError(RuntimeError):
    """A run that failed; the message names the cell and the error."""


def run_page(page: str, given: Mapping[str, object], *, folder: Path | None = None) -> Path:
    """Run a page with other parameters; return the folder that holds everything about the run.

    Args:
        page: its name, such as `04_practice/sentiment`.
        given: parameters that differ from the defaults; strings are read as their type.
        folder: where to write; by default `runs/<page>/<digest of source and parameters>`.

    Raises:
        PageError, SettingError: before a kernel starts, for what does not exist or does not fit.
        RunError: a cell failed; the executed notebook is in the folder all the same.
    """
    page = notebooks.page_name(page)
    parameters = notebooks.check_parameters(page, dict(given))
    from papermill.exceptions import PapermillExecutionError  # slow; only after the check

    wanted = parameters.pop("output_dir", "")  # the folder is where everything of a run goes
    folder = Path(folder or wanted or RUNS / page / run_digest(page, parameters)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT).unlink(missing_ok=True)
    text = json.dumps(parameters, indent=1, ensure_ascii=False) + "\n"
    write_file(folder / "parameters.json", text)
    words = [f"-p {shlex.quote(f'{name}={value}')}" for name, value in parameters.items()]
    os.environ[COMMAND] = " ".join(["python -m utils run", page, *words])
    try:
        notebooks.execute(page, {**parameters, "output_dir": str(folder)}, folder / "output.ipynb")
    except PapermillExecutionError as error:
        raise RunError(
            f"{page} failed in code cell {error.exec_count}: {error.ename}: {error.evalue}\n"
            f"The notebook up to there, with its traceback: {folder / 'output.ipynb'}"
        ) from None
    finally:
        del os.environ[COMMAND]
    if not (folder / RESULT).exists():
        raise RunError(f"{page} ended without {RESULT}; its last cell must call record(…).")
    return folder


def run_digest(page: str, parameters: Mapping[str, object]) -> str:
    """Twelve hex digits that name a run: of the page's sources and its parameters."""
    text = notebooks.page_digest(page) + json.dumps(dict(parameters), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def record(
    page: str,
    *,
    data: Data,
    tuned: Finetuned,
    metrics: Mapping[str, Mapping[str, float]],
    baselines: Mapping[str, Mapping[str, Mapping[str, float]]],
    transfer: Mapping[str, object] | None = None,
    output_dir: str | Path = "",
) -> Path:
    """Write `result.json`, the record of a run.

    Args:
        page: name of the page, `04_practice/sentiment`.
        data: what it was trained and measured on.
        tuned: the fine-tuned model.
        metrics: name to `{"value", "low", "high"}` on the test rows, a 95 % interval.
        baselines: the same for each baseline.
        transfer: the same on rows of another source: `{"name", "rows", "metrics"}`.
        output_dir: folder to write to; by default `runs/<page>/interactive`.

    Returns:
        The path of the file.

    Raises:
        ValueError: a metric without an interval, or one that is not a finite number.
    """
    import torch

    moved = transfer["metrics"] if transfer else {}
    for name, values in {**baselines, "metrics": metrics, "transfer": moved}.items():
        for metric, interval in values.items():
            numbers = [interval.get(key, math.nan) for key in ("value", "low", "high")]
            if not all(math.isfinite(number) for number in numbers):
                raise ValueError(
                    f"{name}, {metric}: {interval} is not a record of a metric; "
                    "give finite value, low and high (metrics.bootstrap does)."
                )
    result = {
        "schema": 1,
        "page": page,
        "task": tuned.task.kind,
        "data": {
            "name": data.name,
            "digest": data.digest,
            "rows": data.rows,
            "labels": list(data.labels),
        },
        "model": {"name": tuned.base.name, "digest": tuned.base.digest},
        "method": tuned.config.method,
        "seed": tuned.config.seed,
        "config": asdict(tuned.config),
        "metrics": metrics,
        "baselines": baselines,
        "transfer": transfer,
        "seconds": tuned.seconds,
        "peak_bytes": tuned.peak_bytes,
        "device": notebooks.device_name(),
        "threads": torch.get_num_threads(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": commit(),
        "command": os.environ.get(COMMAND, ""),
    }
    path = Path(output_dir or RUNS / page / "interactive") / RESULT
    write_file(path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return path


def commit() -> str:
    """The commit of the project, `+` after it where files differ from it; empty outside git."""
    answer = subprocess.run(
        ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
        cwd=notebooks.PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip()


def read_records(page: str) -> list[dict]:
    """The committed records of a page, by file name.

    Raises:
        ValueError: a file that is not a record.
    """
    found = []
    for file in sorted((notebooks.RECORDS / page).glob("*.json")):
        try:
            entry = json.loads(file.read_text(encoding="utf-8"))
            if entry["schema"] != 1 or entry["page"] != page:
                raise ValueError(f"schema {entry['schema']} of page {entry['page']}")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}: not a record of {page} ({error}).") from None
        found.append(entry)
    return found


def result_table(result: Mapping) -> pd.DataFrame:
    """One row for each way of solving the task in a result, baselines first, then the model."""
    import pandas as pd

    from utils.metrics import in_words

    rows = {**result["baselines"], result["method"]: result["metrics"]}
    names = list(result["metrics"])
    cells = {way: [in_words(values[name]) for name in names] for way, values in rows.items()}
    return pd.DataFrame.from_dict(cells, orient="index", columns=names)
