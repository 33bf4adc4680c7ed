"""Every published notebook runs with small parameters, and its cells pass under nbval."""

import json
import subprocess
import sys
import tomllib

import pytest

from utils import notebooks

SMOKE = tomllib.loads((notebooks.PROJECT / "tests" / "smoke.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", notebooks.pages())
def test_published_notebook_runs_with_small_parameters(page, tmp_path):
    """As a reader would: papermill fills in the parameters, then the cells run one by one."""
    import papermill

    prepared = tmp_path / "notebook.ipynb"
    parameters = notebooks.check_parameters(page, SMOKE[page]) | {"output_dir": str(tmp_path)}
    papermill.execute_notebook(
        notebooks.published_path(page), prepared, parameters=parameters, prepare_only=True
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--nbval-lax", "-p", "no:cacheprovider",
         "--nbval-cell-timeout=300", "-c", "/dev/null", "--rootdir", tmp_path, prepared],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert result["page"] == page
    assert result["data"]["rows"]["train"] > 0
    assert 0 <= result["metrics"]["accuracy"]["low"] <= result["metrics"]["accuracy"]["high"] <= 1


@pytest.mark.parametrize("page", notebooks.pages())
def test_page_runs_by_plain_papermill_with_the_network_blocked(page, tmp_path):
    """The command of the README, in a process that cannot open a connection to the outside."""
    words = [
        word
        for name, value in (SMOKE[page] | {"output_dir": str(tmp_path)}).items()
        for word in ("-p", name, json.dumps(value) if isinstance(value, list) else str(value))
        if not isinstance(value, list)
    ]
    (tmp_path / "sitecustomize.py").write_text(BLOCK, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "papermill", notebooks.published_path(page),
         tmp_path / "out.ipynb", *words, "--no-progress-bar"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=blocked_environment(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "result.json").exists()
    assert (tmp_path / "blocked.log").read_text(encoding="utf-8") == ""


BLOCK = """
import os, socket

_connect, _lookup = socket.socket.connect, socket.getaddrinfo
_log = os.environ["BLOCKED_LOG"]

def check(host):
    if host and not str(host).startswith(("127.", "::1", "localhost", "0.0.0.0")):
        with open(_log, "a") as log:
            log.write(f"{host}\\n")
        raise OSError(f"network blocked: {host}")

def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        check(address[0])
    return _connect(self, address)

def getaddrinfo(host, *rest, **options):
    check(host.decode() if isinstance(host, bytes) else host)
    return _lookup(host, *rest, **options)

socket.socket.connect = connect
socket.getaddrinfo = getaddrinfo
"""


def blocked_environment(folder):
    import os

    log = folder / "blocked.log"
    log.touch()
    return os.environ | {"PYTHONPATH": str(folder), "BLOCKED_LOG": str(log)}


def test_the_block_blocks(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BLOCK, encoding="utf-8")
    code = "import socket; socket.socket().connect(('192.0.2.1', 80))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=blocked_environment(tmp_path),
    )
    assert "network blocked" in done.stderr
    assert "192.0.2.1" in (tmp_path / "blocked.log").read_text(encoding="utf-8")


def test_a_readers_own_file_runs_unchanged(tmp_path):
    """Three classes, numbers as labels, columns of other names, no test file, no groups."""
    from utils import runs

    opinions = {"1": "dreadful, never again", "3": "middling, nothing special", "5": "a real joy"}
    places = ["the bakery", "our hotel", "this kettle", "the museum", "that ferry", "her novel"]
    rows = [
        f'"{place} on day {day}: {opinion}",{stars}'
        for day in range(4)
        for place in places
        for stars, opinion in opinions.items()
    ]
    file = tmp_path / "mine.csv"
    file.write_text("\n".join(["review,stars", *rows]) + "\n", encoding="utf-8")
    given = {"data": str(file), "text_column": "review", "label_column": "stars"}
    page = "04_practice/sentiment"
    folder = runs.run_page(page, SMOKE[page] | given, folder=tmp_path / "run")
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert result["data"]["name"] == "mine.csv"
    assert result["data"]["labels"] == ["1", "3", "5"]
    assert result["command"].startswith(f"python -m utils run {page} -p ")
