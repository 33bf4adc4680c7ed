"""The book's shared package: a few plain modules that a notebook calls to fine-tune a model.

Read them in this order: `data` (rows), `models` (base models), `tasks` (what a row means to a
model), `metrics` (how good it is), `training` (the loop), `checkpoints` (safe files), `plots`
(figures); then what runs the book itself: `notebooks` (a page as a typed program), `runs` (one run
and its record), `site` (the website) and the command line, `python -m utils`.

Importing `utils` or `utils.data` does nothing else: no torch, no files, no settings.
"""

__version__ = "0.1.0"
