"""README and documentation: examples run, flags and links exist, every public name is listed."""

import re
import runpy
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import pytest
from distributed.cli import dask_scheduler, dask_worker

import meshes
import photonic_ffzero
from photonic_ffzero import encode, fit, load_dataset
from photonic_ffzero.__main__ import COMMANDS as COMMANDS_INSTALLED
from photonic_ffzero.__main__ import overview
from photonic_ffzero.cli import (
    calibrate,
    certificates,
    compare,
    completion,
    export,
    predict,
    report,
    runs,
    search,
    serve,
    train,
)
from photonic_ffzero.data import DATASETS
from photonic_ffzero.goodness import LOSSES
from photonic_ffzero.gradients import ESTIMATORS

ROOT = Path(__file__).parents[1]
PAGES = {path.name: path.read_text() for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))}
EXAMPLES = {
    page: found
    for page, text in PAGES.items()
    if (found := re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
}
FIRST = "README.md", "quickstart.md"
COMPILED = "README.md", "keras.md"  # Keras must compile, as users of the first page do
COMMANDS = {
    command
    for text in PAGES.values()
    for command in re.findall(r'make (mnist|digital) +ARGS="(--[^"]*)"', text)
}


def links(page):
    """The relative links of a page: file and anchor, either of which may be empty."""
    return re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", PAGES[page])


def run_examples(examples, page):
    names: dict = {}
    with ExitStack() as stack:
        for registry in (meshes.NONLINEARITIES, LOSSES, ESTIMATORS, DATASETS):
            stack.enter_context(patch.dict(registry))  # what an example adds is gone after it
        for example in examples:
            exec(compile(example, page, "exec"), names)


def shorter(example):
    """The same example with fewer images and one epoch."""
    return re.sub(r"\bepochs=\d+", "epochs=1", example.replace("[:600]", "[:96]"))


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(p, marks=[pytest.mark.compiled] * (p in COMPILED))
        for p in EXAMPLES
        if p != "keras.md"  # compiles for seconds; test_keras_layer runs an example like it
    ],
)
def test_examples_run_one_after_another(page, tmp_path, monkeypatch, capsys):
    """Those of the first pages as they are written, all others in less time."""
    monkeypatch.chdir(tmp_path)
    examples = EXAMPLES[page]
    run_examples(examples if page in FIRST else map(shorter, examples), page)
    assert capsys.readouterr().out


@pytest.mark.long
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(p, marks=[pytest.mark.compiled] * (p in COMPILED))
        for p in EXAMPLES
        if p not in FIRST
    ],
)
def test_examples_run_as_they_are_written(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_examples(EXAMPLES[page], page)
    printed = capsys.readouterr().out
    assert printed
    assert all(float(value) > 0.3 for value in re.findall(r"R\^2 (-?[\d.]+)", printed)), printed


@pytest.mark.parametrize(("target", "flags"), sorted(COMMANDS))
def test_training_commands_parse(target, flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("results/RUN").mkdir(parents=True)  # the finished run that some commands name
    Path("leaves").mkdir()
    for file in ("wide.json", "mine.npz"):
        Path(file).touch()
    if flags != "--help":
        train.build_parser("digital" if target == "digital" else "balanced").parse_args(
            shlex.split(flags)
        )


def test_every_flag_exists(capsys, monkeypatch):
    ours = (train, predict, export, serve, report, certificates, calibrate, completion)
    ours += (runs, compare, search)
    for main in (*(module.main for module in ours), dask_scheduler.main, dask_worker.main):
        with pytest.raises(SystemExit):
            main(["--help"])
    for script in ("ablation.py", "engines.py", "same_figures.py", "scaling.py", "keep.py"):
        [path] = ROOT.glob(f"*/{script}")
        monkeypatch.syspath_prepend(path.parent)
        monkeypatch.setattr(sys, "argv", [script, "--help"])
        with pytest.raises(SystemExit):
            runpy.run_path(str(path), run_name="__main__")
    known = set(re.findall(r"--[a-z][\w-]*", capsys.readouterr().out))
    for page, text in PAGES.items():
        foreign_left_out = re.sub(r"(pip install|bin/tensorboard)[^\n`]*", "", text)
        named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", foreign_left_out))
        assert not named - known, page


def test_installed_commands_parse(tmp_path, monkeypatch):
    """The lines with them, and what the overview shows."""
    monkeypatch.chdir(tmp_path)
    Path("results/RUN").mkdir(parents=True)
    for name in ("config.json", "model.npz"):  # a finished run, which is also the last one
        Path("results/RUN", name).touch()
    text = "\n".join([*PAGES.values(), overview()])
    lines = re.findall(r"^(?:    |  )photonic-ffzero (\w+) ?(.*?)(?: [>|].*)?$", text, re.MULTILINE)
    assert lines
    for name, words in lines:
        COMMANDS_INSTALLED[name].part("build_parser")().parse_args(shlex.split(words))


@pytest.mark.parametrize("page", PAGES)
def test_links_and_scripts_exist(page):
    folder = ROOT if page == "README.md" else ROOT / "docs"
    for name, anchor in links(page):
        target = folder / name if name else folder / page
        assert target.exists(), name
        if anchor:
            headings = re.findall(r"^#+ (.*)", target.read_text(), re.MULTILINE)
            slugs = {
                re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings
            }
            assert anchor in slugs
    for name in re.findall(r"`(?:experiments/)?([a-z_]+\.py)`", PAGES[page]):
        assert list(ROOT.glob(f"*/{name}")) or list(ROOT.glob(f"photonic_ffzero/*/{name}")), name


@pytest.mark.parametrize("package", [meshes, photonic_ffzero], ids=lambda package: package.__name__)
def test_the_reference_lists_every_public_name(package):
    listed = set(re.findall(r"\w+", PAGES[f"reference_{package.__name__}.md"]))
    assert not set(package.__all__) - listed


@pytest.mark.long
def test_it_builds_without_a_warning_and_needs_no_network(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", tmp_path]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    for page in tmp_path.glob("*.html"):
        links = re.findall(
            r'<(?:script|link|img)[^>]*(?:src|href)="(?:https?:)?//', page.read_text()
        )
        assert not links, page.name


def test_the_script_of_the_picture_draws():
    """With one network of one epoch."""
    draw = runpy.run_path(str(ROOT / "docs" / "picture.py"))["draw"]
    data = load_dataset("digits")
    fields = encode(data.train_images)[:300]
    settings = {"validation": 100, "meshes": 1, "epochs": 1, "directions": 2}
    model = fit(fields, data.train_labels[:300], **settings)
    assert sum(bool(axes.get_title()) for axes in draw(data, [model]).axes) == 4
