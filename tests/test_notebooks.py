"""Every notebook runs, and is committed with its outputs. What a notebook claims, its own cells assert."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
for package in ("matplotlib", "sklearn", "tqdm"):
    pytest.importorskip(package)

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CLAIMS = {
    "digits.ipynb": ["assert accuracy.min() >= 0.97", "assert difference <= 1e-5"],
    "characters.ipynb": ["assert difference <= 1e-4", "assert same == generated", "assert final < 2.1"],
}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.name)
def notebook(request):
    read = nbformat.read(request.param, as_version=4)
    read.metadata.name = request.param.name
    return read


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source]


def pictures(notebook):
    return [output for cell in code(notebook) for output in cell.outputs if "image/png" in output.get("data", {})]


def errors(notebook):
    return [output for cell in code(notebook) for output in cell.outputs if output.output_type == "error"]


def test_there_is_one():
    assert NOTEBOOKS


def test_it_is_committed_as_run_from_top_to_bottom(notebook):
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    assert not errors(notebook)
    assert pictures(notebook)


def test_its_outputs_name_no_place_on_a_machine(notebook):
    texts = [str(output) for cell in code(notebook) for output in cell.outputs]
    for place in ("/home/", "/root/", "/tmp/", "/Users/", "/work/", "site-packages", "C:\\"):
        assert not [text for text in texts if place in text]


def test_it_runs(notebook, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    expected = len(pictures(notebook))
    lines = [line.strip() for cell in code(notebook) for line in cell.source.splitlines()]
    assert set(CLAIMS[notebook.metadata.name]) <= set(lines)
    for cell in code(notebook):
        cell.outputs, cell.execution_count = [], None
    resources = {"metadata": {"path": tmp_path}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    assert all(cell.execution_count for cell in code(notebook))
    assert not errors(notebook)
    assert len(pictures(notebook)) == expected
