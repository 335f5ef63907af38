"""Who may import what, and what the packages promise to each other and to other tools."""

import ast
import importlib
import inspect
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import meshes
import photonic_ffzero

PACKAGES = {"meshes": meshes, "photonic_ffzero": photonic_ffzero}
FOLDERS = {name: Path(package.__file__).parent for name, package in PACKAGES.items()}
SOURCES = sorted(path for folder in FOLDERS.values() for path in folder.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}


def label(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def nodes(*kinds: type) -> Iterator[tuple[str, ast.AST]]:
    """Every node of some kinds, with the file it stands in."""
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, kinds):
                yield label(path), node


def imports() -> Iterator[tuple[str, str]]:
    """Pairs of a file and a module that it imports somewhere, also inside of functions."""
    for file, node in nodes(ast.Import, ast.ImportFrom):
        if isinstance(node, ast.Import):
            yield from ((file, alias.name) for alias in node.names)
        elif node.level:  # relative: within the file's own package
            yield file, f"{file.split('/')[0]}.{node.module or ''}"
        else:
            yield file, node.module


def importers(*packages: str) -> set[str]:
    return {file for file, module in imports() if module.split(".")[0] in packages}


def dotted(node: ast.AST) -> str:
    """``np.random.normal`` of a chain of attributes, "" of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := dotted(node.value)):
        return f"{before}.{node.attr}"
    return ""


class TestImports:
    def test_the_checks_see_what_is_there(self):
        assert {"meshes/model.py", "photonic_ffzero/training.py"} <= set(map(label, SOURCES))
        assert "photonic_ffzero/layers.py" in importers("meshes")

    def test_physics_knows_nothing_of_learning(self):
        offenders = importers("photonic_ffzero")
        assert not {file for file in offenders if file.startswith("meshes/")}

    def test_neurophox_has_one_importer(self):
        assert importers("neurophox") == {"meshes/model.py"}

    def test_tensorflow_comes_from_one_place(self):
        found = importers("tensorflow", "keras", "tf_keras")
        assert found <= {"meshes/_tensorflow.py", "meshes/keras.py"}

    def test_torch_is_never_imported(self):
        assert not importers("torch")

    def test_the_command_line_answers_before_the_heavy_libraries_are_loaded(self):
        """In a process of its own: this one has loaded them long ago."""
        code = "import sys, photonic_ffzero.cli; print(*sys.modules)"
        run = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
        )
        loaded = set(run.stdout.split())
        assert "photonic_ffzero.training" in loaded
        heavy = {"tensorflow", "keras", "neurophox", "numba", "matplotlib.pyplot", "sklearn"}
        assert not loaded & heavy
        assert run.stderr == ""


class TestStyle:
    def test_arguments_are_checked_by_errors_not_by_assert(self):
        """``python -O`` leaves every assert out."""
        assert not [(file, node.lineno) for file, node in nodes(ast.Assert)]

    def test_no_star_imports(self):
        found = nodes(ast.Import, ast.ImportFrom)
        assert not [file for file, node in found if any(a.name == "*" for a in node.names)]

    def test_no_generator_that_all_share(self):
        """Draws come from generators that are passed around, so that a seed settles them."""
        own = ("default_rng", "Generator", "SeedSequence", "PCG64", "stateless_")
        names = [(file, dotted(node)) for file, node in nodes(ast.Attribute)]
        drawn = [(file, *name.split(".")) for file, name in names if ".random." in name]
        assert drawn  # the check sees them
        assert not [draw for draw in drawn if not draw[3].startswith(own)]
        assert not importers("random")
        assert not [file for file, module in imports() if module.startswith("numpy.random")]

    def test_nothing_is_unpickled(self):
        assert not importers("pickle", "dill", "joblib", "shelve", "marshal")
        for file, node in nodes(ast.keyword):
            if node.arg == "allow_pickle":
                assert getattr(node.value, "value", None) is False, file

    def test_no_module_for_whatever(self):
        names = {path.stem for path in SOURCES}
        assert not names & {"utils", "util", "helpers", "misc", "common"}


@pytest.mark.parametrize("path", SOURCES, ids=label)
class TestEveryModule:
    def test_what_it_exports_exists_and_is_documented(self, path):
        assert ast.get_docstring(TREES[path]), "a module says what it is for"
        name = f"{path.parent.name}.{path.stem}".removesuffix(".__init__")
        module = importlib.import_module(name)
        assert module.__all__ == list(dict.fromkeys(module.__all__))
        for exported in module.__all__:
            value = getattr(module, exported)
            if inspect.isclass(value) or inspect.isfunction(value):
                text = (value.__doc__ or "").strip()
                # Data classes and tuples without a text get their signature for one.
                assert text, exported
                assert not text.startswith(f"{exported}("), exported

    def test_what_others_take_from_it_is_exported(self, path):
        """A name that another module imports is public: listed, and without an underscore."""
        for file, node in nodes(ast.ImportFrom):
            module = f"{path.parent.name}.{path.stem}".removesuffix(".__init__")
            if node.module != module or file == label(path):
                continue
            exported = importlib.import_module(module).__all__
            submodules = {p.stem for p in path.parent.glob("*.py")} if "." not in module else set()
            for alias in node.names:
                assert alias.name in {*exported, *submodules}, f"{file} imports {alias.name}"


class TestPublicNames:
    """What other tools rely on, with the arguments they pass."""

    def test_the_mesh(self):
        mesh = meshes.RectangularMesh
        assert parameters(mesh)[:4] == ["units", "num_columns=None", "splitter_error=0.0", "seed=0"]
        assert parameters(mesh.initial_phases) == ["self", "seed=0"]
        assert parameters(mesh.propagate) == ["self", "fields", "phases", "engine='auto'"]
        assert parameters(mesh.matrix)[:2] == ["self", "phases"]

    def test_phases_are_a_named_tuple(self):
        assert issubclass(meshes.Phases, tuple)
        assert meshes.Phases._fields == ("theta", "phi", "gamma")

    def test_the_nonlinearities(self):
        assert meshes.NONLINEARITIES["electro-optic"] is meshes.ElectroOptic
        published = meshes.ElectroOptic(alpha=0.1, g=0.05 * math.pi, phi_b=math.pi)
        assert meshes.ElectroOptic() == published

    @pytest.mark.parametrize(
        ("function", "expected"),
        [
            ("load_dataset", ["name", "data_dir=None"]),
            ("encode", ["images", "encoding", "size"]),
            ("fit", ["x", "y"]),
            ("predict", ["model", "x"]),
            ("evaluate", ["model", "x", "y"]),
        ],
    )
    def test_learning(self, function, expected):
        found = parameters(getattr(photonic_ffzero, function))
        for given, promised in zip(found, expected, strict=False):  # it may take more than that
            assert given.startswith(promised)
        assert len(found) >= len(expected)

    def test_the_trainer(self):
        assert parameters(photonic_ffzero.Trainer.run) == ["self"]


def parameters(function: object) -> list[str]:
    """A signature's parameters with their defaults, without annotations."""
    found = inspect.signature(function).parameters.values()
    return [str(p.replace(annotation=p.empty)) for p in found]
