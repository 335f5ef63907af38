"""Every notebook runs, and its committed outputs are complete and name no local path."""

import json
import re
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
ABSOLUTE_PATH = re.compile(r"(?<![\w.~/])/(home|root|usr|tmp|work|opt|Users|var|mnt)/|\b[A-Z]:\\")


def has_picture(notebook):
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    import nbformat  # takes seconds, for which the quick tests need not wait
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec
    from nbclient import NotebookClient

    class ThisInterpreter(AsyncKernelManager):
        """Starts kernels of the Python that runs the tests, whatever kernels are installed."""

        @property
        def kernel_spec(self):
            command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=command, language="python")

    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    client = NotebookClient(notebook, timeout=300, kernel_manager_class=ThisInterpreter)
    client.resources = {"metadata": {"path": str(tmp_path)}}
    client.execute()
    assert has_picture(notebook)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs_can_be_read(path):
    notebook = json.loads(path.read_text())
    assert notebook["nbformat"] == 4
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert has_picture(notebook)
    assert path.stat().st_size < 700_000
    for output in (output for cell in code for output in cell["outputs"]):
        data = {kind: text for kind, text in output.get("data", {}).items() if "image" not in kind}
        assert output.get("name") != "stderr"
        assert not ABSOLUTE_PATH.search(f"{output.get('text', '')} {data}")
