"""What stands between layers: measured tables, functions by name, another one at each stage."""

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator

from meshes import NONLINEARITIES, ElectroOptic, Kerr, Modulus, Table
from meshes._tensorflow import tf
from meshes.nonlinearities import spec_of_element, with_parameters
from photonic_ffzero import (
    Config,
    DataError,
    configure,
    evaluate,
    explore,
    fit,
    load_model,
    predict,
    save_model,
)
from photonic_ffzero.cli.train import main
from photonic_ffzero.config import read_config
from photonic_ffzero.elements import built, listed
from photonic_ffzero.power import beyond_tables
from photonic_ffzero.training.warnings import ResultWarning

POWER = np.linspace(0.1, 8, 25)
RNG = np.random.default_rng(0)
X = RNG.uniform(0, 1, (40, 4)).astype(np.float32)
Y = np.arange(40) % 2
BRIEF = {"epochs": 1, "batch_size": 20, "meshes": 2}


def table(amplitude=np.sqrt, phase=np.zeros_like, power=POWER, name="lab.csv"):
    return Table(name, tuple(power), tuple(amplitude(power)), tuple(phase(power)))


def written(path, rows, header="power,amplitude,phase"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def fields(scale=1.5, dtype=np.complex128):
    real, imag = RNG.normal(scale=scale, size=(2, 5, 6))
    return (real + 1j * imag).astype(dtype)


class TestTable:
    def test_of_a_linear_element_is_linear_down_to_the_dark(self):
        E = np.append(fields(scale=0.8).ravel(), [0, 1e-30, 1e-6j])
        np.testing.assert_allclose(table()(E), E, rtol=1e-9, atol=1e-18)

    def test_passes_through_its_rows_in_amplitude_and_phase(self):
        measured = table(lambda p: np.tanh(p) / 2, lambda p: -0.3 * p)
        out = measured(np.sqrt(POWER) * np.exp(0.4j))
        np.testing.assert_allclose(np.abs(out), measured.amplitude, rtol=1e-9)
        np.testing.assert_allclose(np.angle(out * np.exp(-0.4j)), measured.phase, atol=1e-9)

    def test_is_monotone_between_them_where_the_rows_are(self):
        steps = table(lambda p: np.floor(p) + 1)
        r = np.linspace(0, np.sqrt(8), 3001)
        out = np.abs(steps(r + 0j))
        assert np.all(np.diff(out) >= -1e-12)
        knots = np.append(0, np.sqrt(POWER))
        np.testing.assert_allclose(
            out, PchipInterpolator(knots, np.append(0, steps.amplitude))(r), atol=1e-12
        )

    @pytest.mark.compiled
    def test_arrays_tensors_and_compiled_functions_agree(self):
        measured = table(np.tanh, np.sin)
        E = fields(dtype=np.complex64)
        for f in (measured, tf.function(measured, jit_compile=True)):
            out = f(tf.constant(E)).numpy()
            assert out.dtype == measured(E).dtype == E.dtype
            np.testing.assert_allclose(out, measured(E), rtol=2e-5, atol=1e-6)

    def test_has_the_slopes_of_its_curve_everywhere(self):
        measured, step = table(np.tanh, np.sin), 1e-6
        E = np.append(fields().ravel(), [0, 1e-25, 5.0])

        def loss(E):
            return np.abs(measured(E) + (0.6 - 0.3j)) ** 2

        variable = tf.constant(E)
        with tf.GradientTape() as tape:
            tape.watch(variable)
            total = tf.reduce_sum(tf.abs(measured(variable) + (0.6 - 0.3j)) ** 2)
        slope = loss(E + step) - loss(E - step) + 1j * (loss(E + 1j * step) - loss(E - 1j * step))
        np.testing.assert_allclose(
            tape.gradient(total, variable), slope / (2 * step), rtol=1e-4, atol=1e-5
        )

    def test_above_its_last_row_it_stays_at_it(self):
        measured = table(np.tanh, np.sin)
        np.testing.assert_allclose(np.abs(measured(np.array([9.0, 30j]))), np.tanh(8), rtol=1e-12)

    def test_says_whether_it_has_gain(self):
        assert table().passive
        assert not table(lambda p: 1.1 * np.sqrt(p)).passive

    @pytest.mark.parametrize(
        ("rows", "words"),
        [
            (["1,1,0", "1,1,0"], "row 2: power must increase, got 1 after 1"),
            (["1,-1,0", "2,1,0"], "row 1: amplitude must be at least 0"),
            (["0,1,0", "2,1,0"], "row 1: amplitude must be 0 at power 0"),
            (["1,1,0"], "must have 2 to 10000 rows"),
            ([], "must have rows"),
            (["1,1", "2,1,0"], "line 2: must have 3 cells"),
            (["1,1,0", "2,x,0"], "row 2: cells must be finite numbers, found '2,x,0'"),
            (["1,1,0", "2,nan,0"], "row 2: cells must be finite"),
        ],
    )
    def test_a_file_with_an_error_says_where(self, rows, words, tmp_path):
        with pytest.raises(DataError, match=words):
            Table.read(written(tmp_path / "bad.csv", rows))

    def test_needs_its_header(self, tmp_path):
        path = written(tmp_path / "bad.csv", ["1,1,0"], "power,phase,amplitude")
        with pytest.raises(DataError, match="power,amplitude,phase, found 'power,phase,ampl"):
            Table.read(path)


class TestFit:
    def test_trains_by_every_method_and_loads_without_the_file(self, tmp_path):
        path = written(tmp_path / "lab.csv", [f"{p},{np.tanh(p)},{-p / 9}" for p in POWER])
        models = [
            fit(X, Y, nonlinearity=f"table:{path}", method=method, **BRIEF)
            for method in ("ff-dd", "bp-ad")
        ]
        save_model(models[1], tmp_path / "model.npz")
        path.unlink()
        loaded = load_model(tmp_path / "model.npz")
        assert loaded.config == models[1].config
        assert str(loaded.config.nonlinearity) == "table:lab.csv"
        np.testing.assert_array_equal(predict(loaded, X), predict(models[1], X))

    def test_light_beyond_the_table_stops_it_before_training_and_warns_later(self):
        dim = table(power=np.linspace(0, 0.2, 5))
        with pytest.raises(ValueError, match=r"nonlinearity table:lab.csv ends at .* 0.2, .* mesh"):
            fit(X, Y, nonlinearity=dim, **BRIEF)
        model = fit(0.1 * X, Y, nonlinearity=dim, **BRIEF)
        with pytest.warns(ResultWarning, match=r"table:lab.csv ends at .*taken for the brightest"):
            evaluate(model, 2 * X, Y)
        assert beyond_tables(model, 0.1 * X) == []

    def test_another_one_at_each_stage(self):
        settings = BRIEF | {"meshes": 3}
        model = fit(X, Y, nonlinearity=["kerr:phi_nl=0.3", table()], **settings)
        first, second, _ = (layer.nonlinearity for layer, _ in model.layers)
        assert (first, second) == (Kerr(0.3), table())
        alike = [fit(X, Y, nonlinearity=n, **settings) for n in ("kerr", ["kerr", "kerr"])]
        np.testing.assert_array_equal(*(model.scores(X) for model in alike))

    def test_functions_come_back_one_by_one(self, tmp_path):
        model = fit(X, Y, nonlinearity=[np.conj, "kerr", np.copy], **(BRIEF | {"meshes": 4}))
        save_model(model, tmp_path / "model.npz")
        loaded = load_model(tmp_path / "model.npz", nonlinearity=[np.conj, np.copy])
        np.testing.assert_array_equal(loaded.scores(X), model.scores(X))
        with pytest.raises(DataError, match="2 functions, got 1"):
            load_model(tmp_path / "model.npz", nonlinearity=[np.conj])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (["kerr", "kerr", "kerr"], "one for each of the 1 stages between 2 meshes, got 3"),
        ([], "nonlinearity must name an element"),
        ("mylab:soft", "nonlinearity mylab:soft: a function is named on the command line alone"),
        ("mylab", "linear, table:FILE.csv, MODULE:FUNCTION; got 'mylab'"),
        ("kerrr:soft", "did you mean kerr?"),
        ("table:no.csv", "nonlinearity table:no.csv: no.csv: No such file"),
        ({"table": "a", "power": [1, 2], "amplitude": [1, 2]}, "a table holds table, power"),
    ],
)
def test_what_is_no_nonlinearity(setting, words):
    with pytest.raises(ValueError, match=words):
        configure(nonlinearity=setting)


def test_a_table_is_not_for_numbers():
    with pytest.raises(ValueError, match=r"table:lab.csv is for meshes"):
        configure("digital", nonlinearity=table())


@pytest.mark.parametrize("text", ["table:lab.csv", "os:getcwd", "black box os.getcwd"])
def test_no_file_names_a_file_or_a_function(text):
    content = configure().as_json() | {"nonlinearity": text}
    with pytest.raises(ValueError, match="nonlinearity"):
        read_config(content)


def test_a_table_survives_json():
    config = configure(nonlinearity=[table(np.tanh), "kerr"], meshes=3)
    assert read_config(json.loads(json.dumps(config.as_json()))) == config
    assert isinstance(config, Config)


FAST = ["--dataset", "digits", "--epochs", "1", "--limit", "200", "--quiet", "--size", "4"]


def test_a_function_of_the_command_line(tmp_path, monkeypatch, capsys):
    """It is imported from the working directory; a resume names it again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "elements_lab.py").write_text("import numpy\nsoft = numpy.tanh\nnumber = 3\n")
    flags = ["--nonlinearity", "elements_lab:soft"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", np.exceptions.ComplexWarning)
        assert main([*FAST, *flags, "--output", "run"]) == 0
    written = json.loads((tmp_path / "run/config.json").read_text())
    assert written["nonlinearity"] == "black box elements_lab:soft"
    (tmp_path / "run/results.json").unlink()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["--resume", "run", "--quiet"])
    told = capsys.readouterr().err
    assert "--nonlinearity must be named again, as no file holds a function" in told
    assert told.endswith("--resume run --nonlinearity elements_lab:soft\n")
    again = "nonlinearity=elements_lab.soft, on a command line --nonlinearity elements_lab:soft"
    for load in (load_model, explore):
        with pytest.raises(ValueError, match=again):
            load("run")
    assert main(["--resume", "run", "--quiet", *flags]) == 0
    for text in ("elements_lab:hard", "elements_lab:number", "no_lab:soft"):
        with pytest.raises(SystemExit):
            main([*FAST, "--nonlinearity", text])
        assert f"argument --nonlinearity {text}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("element", "spec"),
    [(Kerr(phi_nl=0.5), "kerr:phi_nl=0.5"), (Modulus(), "modulus")],
)
def test_an_element_is_what_its_name_and_numbers_say(element, spec):
    assert configure(nonlinearity=element) == configure(nonlinearity=spec)
    assert configure(nonlinearity=[element] * 2, meshes=3).as_json()["nonlinearity"] == [spec] * 2


def test_an_element_can_be_differentiated_trained_and_saved(tmp_path):
    fit(X, Y, nonlinearity=Kerr(), method="bp-ad", progress=False, **BRIEF)
    given = {"nonlinearity": ElectroOptic(), "train_nonlinearity": True, "directions": 2}
    model = fit(X, Y, progress=False, **given, **BRIEF)
    save_model(model, tmp_path / "model.npz")
    np.testing.assert_array_equal(load_model(tmp_path / "model.npz").scores(X), model.scores(X))


def test_a_class_is_no_element():
    with pytest.raises(TypeError, match="nonlinearity must be an element, got the class Kerr"):
        configure(nonlinearity=Kerr)


@pytest.mark.parametrize("later", [False, True])
def test_errors_of_a_function_reach_the_caller(later):
    calls = []

    def fails(fields):
        calls.append(fields)
        if not later or len(calls) > 3:
            raise ZeroDivisionError("my laser is off")
        return fields

    with pytest.raises(ZeroDivisionError, match="my laser is off"):
        fit(X, Y, nonlinearity=fails, directions=2, progress=False, **BRIEF)


def test_the_defaults_that_are_listed_are_those_of_the_elements():
    """A rounded phi_b = 3.142 lets through many times the dim light of pi."""
    entries = re.split(r", (?=[a-z-]+(?::|,|$))", listed(NONLINEARITIES))
    assert [entry.partition(":")[0] for entry in entries] == [*NONLINEARITIES]
    for spec in entries:
        name = spec.partition(":")[0]
        assert built("nonlinearity", spec, NONLINEARITIES) == NONLINEARITIES[name](), spec


def test_numbers_of_numpy_are_written_as_numbers():
    element = with_parameters(Kerr(), {"phi_nl": np.float64(0.5)})
    assert spec_of_element(element, NONLINEARITIES) == "kerr:phi_nl=0.5"


def test_the_name_of_a_table_is_a_text():
    with pytest.raises(TypeError, match=r"name must be a text, got .*Path"):
        Table(Path("a.csv"), (0.0, 1.0), (0.0, 1.0), (0.0, 0.0))
