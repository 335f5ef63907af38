"""The documentation builds without a warning, needs no network, and its examples run."""

import importlib.util
import re
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import pytest

from meshes import NONLINEARITIES
from photonic_ffzero import encode, fit, load_dataset
from photonic_ffzero.cli.train import build_parser
from photonic_ffzero.goodness.losses import LOSSES
from photonic_ffzero.gradients.estimators import ESTIMATORS

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
EXAMPLES = {
    page.stem: re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    for page in PAGES
}
TOLD = "\n".join(page.read_text() for page in (ROOT / "README.md", *PAGES))
FLAGS = re.findall(r'make (mnist|digital) +ARGS="([^"]*)"', TOLD)
SOURCES = [
    f"{package}.{path.stem}"
    for package in ("meshes", "photonic_ffzero")
    for path in sorted((ROOT / package).glob("[!_]*.py"))
]


@pytest.fixture
def own_registries():
    """What an example registers is gone after it."""
    with ExitStack() as stack:
        for registry in (NONLINEARITIES, LOSSES, ESTIMATORS):
            stack.enter_context(patch.dict(registry))
        yield


@pytest.mark.usefixtures("own_registries")
@pytest.mark.parametrize("page", [page for page, examples in EXAMPLES.items() if examples])
def test_examples_run_one_after_another(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for example in EXAMPLES[page]:
        exec(compile(example, f"docs/{page}.md", "exec"), names)
    assert capsys.readouterr().out


def test_there_are_examples():
    assert {"physics", "method", "extending"} <= {page for page in EXAMPLES if EXAMPLES[page]}


@pytest.mark.parametrize(("target", "flags"), sorted(set(FLAGS)))
def test_flags_exist(target, flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("results/RUN").mkdir(parents=True)  # what examples call a run that is there
    parser = build_parser("digital" if target == "digital" else "balanced")
    if flags != "--help":
        parser.parse_args(shlex.split(flags))


def test_scripts_exist():
    scripts = set(re.findall(r"`(?:experiments/)?(\w+\.py)`", TOLD))
    assert scripts
    assert not {name for name in scripts if not (ROOT / "experiments" / name).is_file()}


def test_every_module_has_its_reference():
    listed = [name for page in PAGES for name in re.findall(r"automodule:: (.*)", page.read_text())]
    assert sorted(listed) == sorted(SOURCES)


def test_it_builds_and_needs_no_network(tmp_path):
    """Warnings are errors: of unknown names, pages in no list, marks that do not close."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", tmp_path]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    pages = {page: (tmp_path / f"{page.stem}.html").read_text() for page in PAGES}
    for page, text in pages.items():
        assert not re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(?:https?:)?//', text), page
    assert sum(text.count("<math") for text in pages.values()) > 50


def test_pictures_are_there_and_small():
    named = set(re.findall(r"!\[[^]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text()))
    assert named
    assert all((ROOT / name).stat().st_size < 300_000 for name in named)


def test_the_picture_s_script_still_draws():
    """With one network of one epoch."""
    path = ROOT / "docs" / "picture.py"
    spec = importlib.util.spec_from_file_location("picture", path)
    picture = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(picture)
    data = load_dataset("digits")
    fields = encode(data.train_images)[:300]
    settings = {"validation": 100, "meshes": 1, "epochs": 1, "directions": 2}
    model = fit(fields, data.train_labels[:300], **settings)
    panels = [axes for axes in picture.draw(data, [model]).axes if axes.get_title()]
    assert len(panels) == 4
    assert all(axes.get_xlabel() for axes in panels)
