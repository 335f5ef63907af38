"""Every notebook runs, and what is committed of it can be read on the web."""

import re
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
ABSOLUTE_PATH = re.compile(r"(?<![\w.~/])/(home|root|usr|tmp|work|opt|Users|var|mnt)/|\b[A-Z]:\\")


class ThisInterpreter(AsyncKernelManager):
    """Starts kernels of the Python that runs the tests, whatever kernels are installed."""

    @property
    def kernel_spec(self):
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, language="python")


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def texts(output):
    """What an output says in words, pictures left out."""
    yield "".join(output.get("text", ""))
    yield from output.get("traceback", [])
    yield from (str(x) for kind, x in output.get("data", {}).items() if "image" not in kind)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_runs(self, path, tmp_path):
        notebook = nbformat.read(path, as_version=4)
        client = NotebookClient(notebook, timeout=300, kernel_manager_class=ThisInterpreter)
        client.resources = {"metadata": {"path": str(tmp_path)}}
        client.execute()
        drawn = [output for output in outputs(notebook) if "image/png" in output.get("data", {})]
        assert drawn

    def test_has_one_idea_s_worth_of_cells(self, path):
        cells = nbformat.read(path, as_version=4).cells
        assert 7 <= len(cells) <= 15
        assert cells[0].cell_type == "markdown"
        assert cells[0].source.startswith(f"# {int(path.stem[:2])}. ")

    def test_is_committed_with_outputs_in_order(self, path):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
        assert any("image/png" in output.get("data", {}) for output in outputs(notebook))
        assert notebook.metadata.kernelspec.name == "python3"

    def test_is_small_and_names_no_place_of_this_machine(self, path):
        assert path.stat().st_size < 700_000
        for output in outputs(nbformat.read(path, as_version=4)):
            assert output.get("name") != "stderr"
            for text in texts(output):
                assert not ABSOLUTE_PATH.search(text), text
                assert "WARNING" not in text, text


def test_they_are_numbered_without_a_gap():
    numbers = [int(path.stem[:2]) for path in NOTEBOOKS]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 5
