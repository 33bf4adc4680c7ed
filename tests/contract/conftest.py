"""What the contract tests share."""

import json

import nbformat
import pytest

from utils import notebooks


@pytest.fixture(scope="session")
def glued_values():
    """`glued_values(page)`: the numbers that a published page glues, by key."""

    def read(page: str) -> dict[str, float]:
        stored = nbformat.read(notebooks.published_path(page), as_version=4)
        return {
            output.metadata["scrapbook"]["name"]: json.loads(value)
            for cell in stored.cells
            for output in cell.get("outputs", [])
            if "scrapbook" in output.get("metadata", {})
            for value in output["data"].values()
        }

    return read
