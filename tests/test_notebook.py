"""The notebook runs from top to bottom, offline."""

import os
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "tour.ipynb"


@pytest.mark.slow
def test_the_tour_runs(monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setitem(os.environ, name, "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[-2].outputs[-1].data["text/plain"] == "'step-0000004'"
    assert code[-1].outputs[-1].data["text/plain"] == "torch.Size([12, 50])"


def test_it_is_kept_without_outputs():
    import nbformat

    assert all(not cell.get("outputs") for cell in nbformat.read(NOTEBOOK, as_version=4).cells)
