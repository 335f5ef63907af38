"""The scikit-learn estimators."""

import inspect
import pickle

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.base import clone
from sklearn.datasets import load_iris, load_wine
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

from photonic_ffzero import Model, SimulatedChip, configure
from photonic_ffzero.settings import settings_of
from photonic_ffzero.sklearn import (
    DigitalClassifier,
    DigitalRegressor,
    PhotonicClassifier,
    PhotonicRegressor,
)

CLASSIFIERS = PhotonicClassifier, DigitalClassifier
REGRESSORS = PhotonicRegressor, DigitalRegressor
ESTIMATORS = (*CLASSIFIERS, *REGRESSORS)
QUICK = {"epochs": 2, "directions": 4}


class OneChip(SimulatedChip):
    """As `docs/scikit_learn.md` has it."""

    def __deepcopy__(self, memo):
        return self


every = pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda cls: cls.__name__)


@pytest.fixture(scope="module")
def wine():
    x, y = load_wine(return_X_y=True)
    return x, np.array(["Barolo", "Grignolino", "Barbera"])[y]


@parametrize_with_checks([PhotonicClassifier(epochs=2, directions=8, meshes=1)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.long
@every
def test_all_of_scikit_learns_checks(estimator):
    """With the default settings and without any failure that is expected."""
    check_estimator(estimator(), on_skip=None)


@every
def test_tags_excuse_nothing(estimator):
    tags = estimator().__sklearn_tags__()
    assert not tags.non_deterministic
    assert not tags.no_validation
    special = tags.classifier_tags or tags.regressor_tags
    assert not special.poor_score


class TestParameters:
    @every
    def test_are_settings(self, estimator):
        listed = set(inspect.signature(estimator).parameters)
        assert listed == set(estimator().get_params())
        assert listed - {"ports", "random_state"} <= set(settings_of(type(configure())))
        assert {"method", "recipe", "directions", "learning_rate"} <= listed

    def test_are_those_of_the_network(self):
        photonic, digital = (set(cls().get_params()) for cls in CLASSIFIERS)
        assert {"meshes", "columns", "imperfections", "device", "ports"} <= photonic - digital
        assert {"depth", "width", "scaling", "weight_decay"} <= digital - photonic
        assert not {"kernel_size", "patches", "seed", "task", "network"} & (photonic | digital)

    @pytest.mark.parametrize(
        ("name", "meant"), [("lr", "learning_rate"), ("epoch", "epochs"), ("seed", "random_state")]
    )
    def test_misspelt_are_refused(self, name, meant):
        with pytest.raises(TypeError, match=rf"{name}.*{meant}\?"):
            PhotonicClassifier(**{name: 1})

    def test_reach_the_network(self, wine):
        x, y = wine
        trained = PhotonicClassifier(
            **QUICK, meshes=1, nonlinearity="kerr:phi_nl=0.5", ports=20, random_state=3
        ).fit(x, y)
        config = trained.model_.config
        assert (config.meshes, config.nonlinearity, config.seed) == (1, "kerr:phi_nl=0.5", 3)
        assert trained.model_.units == 20

    def test_seeds_may_be_generators(self, wine):
        first, second = (
            PhotonicClassifier(**QUICK, random_state=np.random.RandomState(seed)).fit(*wine)
            for seed in (1, 1)
        )
        assert first.model_.config.seed == second.model_.config.seed > 0

    def test_bad_values_are_refused_at_fit(self, wine):
        with pytest.raises(ValueError, match=r"ports .*at least 14, got 8"):
            PhotonicClassifier(ports=8).fit(*wine)
        with pytest.raises(ValueError, match=r"nonlinearity .*kerr"):
            PhotonicClassifier(nonlinearity="ker").fit(*wine)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("groups", "2"),
            ("groups", -2),
            ("groups", 2.0),
            ("random_state", -1),
            ("random_state", "x"),
            ("ports", "8"),
        ],
    )
    def test_errors_begin_with_the_parameter(self, wine, name, value):
        with pytest.raises((TypeError, ValueError), match=rf"^{name}.*{value}"):
            PhotonicClassifier(**{name: value}).fit(*wine)

    @every
    def test_a_refused_fit_leaves_the_former_one(self, wine, estimator):
        x, y = wine[0], np.arange(len(wine[0])) % 3
        trained = estimator(epochs=0).fit(x, y)
        before = vars(trained) | {}
        predicted = trained.predict(x)
        trained.set_params(recipe="none such")
        with pytest.raises(ValueError, match="recipe"):
            trained.fit(x[:, :5] * 2, np.arange(len(x)) % 4)
        assert vars(trained) == before | {"recipe": "none such"}
        np.testing.assert_array_equal(trained.predict(x), predicted)


class TestPorts:
    """Each feature, a constant, and one more than classes or corners, in every group."""

    @pytest.mark.parametrize(
        ("features", "classes", "groups", "ports"),
        [(1, 2, None, 3), (2, 6, None, 7), (4, 3, None, 5), (4, 3, 2, 8), (6, 2, 3, 9)],
    )
    def test_of_classes(self, features, classes, groups, ports):
        x, y = np.random.default_rng(0).normal(size=(30, features)), np.arange(30) % classes
        trained = PhotonicClassifier(epochs=0, groups=groups).fit(x, y)
        assert trained.model_.units == ports

    @pytest.mark.parametrize(
        ("features", "labels", "ports"), [(1, 1, 3), (5, 1, 6), (1, 2, 6), (5, 4, 12)]
    )
    def test_of_numbers(self, features, labels, ports):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(30, features)), rng.normal(size=(30, labels))
        assert PhotonicRegressor(epochs=0).fit(x, y).model_.units == ports

    def test_carry_standardised_features_and_a_constant(self, wine):
        x, y = wine
        trained = PhotonicClassifier(epochs=0, ports=20).fit(x, y)
        light = trained._inputs(x)
        np.testing.assert_allclose(light[:, :13], StandardScaler().fit_transform(x))
        np.testing.assert_allclose(light[:, 13], np.sqrt(13))
        assert not light[:, 14:].any()

    def test_tell_the_sign(self):
        """Without the constant, x and -x would be the same to detectors."""
        x = np.random.default_rng(0).normal(size=(200, 1))
        y = (x[:, 0] > 0).astype(int)
        assert PhotonicClassifier(epochs=10, meshes=1).fit(x, y).score(x, y) > 0.9


class TestClassifiers:
    @pytest.mark.parametrize(
        "estimator",
        [PhotonicClassifier(epochs=10), DigitalClassifier(epochs=10, depth=2, width=30)],
        ids=lambda estimator: type(estimator).__name__,
    )
    def test_learn_texts(self, wine, estimator):
        x, y = wine
        trained = clone(estimator).fit(x, y)
        assert set(trained.predict(x)) == set(y) == set(trained.classes_)
        assert trained.score(x, y) > 0.8

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"rule": "vote"},
            {"rule": "last"},
            {"recipe": "paper"},
            {"method": "bp-ad", "batch_size": 89},
            {"loss": "margin:margin=0.2"},
        ],
        ids=str,
    )
    def test_probabilities_agree_with_predictions(self, wine, settings):
        x, y = wine
        trained = PhotonicClassifier(**{"epochs": 1} | settings).fit(x, y)
        chances = trained.predict_proba(x)
        np.testing.assert_allclose(chances.sum(axis=1), 1)
        assert (trained.classes_[chances.argmax(axis=1)] == trained.predict(x)).all()

    def test_probabilities_are_the_softmax_of_scaled_goodness(self, wine):
        x, y = wine
        trained = PhotonicClassifier(**QUICK, loss="cross-entropy:scale=4").fit(x, y)
        goodness = trained.model_.scores(trained._inputs(x)).sum(axis=0)
        expected = softmax(4.0 * goodness.astype(np.float64), axis=1)
        np.testing.assert_allclose(trained.predict_proba(x), expected, rtol=1e-6)

    def test_one_class_is_refused(self):
        with pytest.raises(ValueError, match=r"y .*two classes, got \['a'\]"):
            PhotonicClassifier().fit(np.ones((4, 2)), ["a"] * 4)


@pytest.mark.parametrize("estimator", REGRESSORS)
@pytest.mark.parametrize("shape", [(-1,), (-1, 1), (-1, 2)], ids=str)
def test_regressors_keep_the_shape_of_labels(estimator, shape):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    y = (5 + 3 * x[:, :2]).reshape(-1, 2) if shape == (-1, 2) else (x[:, 0] + 5).reshape(shape)
    trained = estimator(**QUICK).fit(x, y)
    assert trained.predict(x).shape == (y[:, 0] if shape == (-1, 1) else y).shape
    assert np.isfinite(trained.score(x, y))


class TestTools:
    @every
    def test_copies_and_pickles_predict_the_same(self, wine, estimator):
        x, labels = wine
        y = labels if estimator in CLASSIFIERS else x[:, 0]
        trained = estimator(epochs=1, directions=2, batch_size=89).fit(x, y)
        predicted = trained.predict(x)
        restored = pickle.loads(pickle.dumps(trained))
        np.testing.assert_array_equal(restored.predict(x), predicted)
        np.testing.assert_array_equal(clone(trained).fit(x, y).predict(x), predicted)
        assert isinstance(restored.model_, Model)

    def test_a_device_that_is_its_own_copy_serves_clones_by_turns(self, wine):
        first = PhotonicClassifier(device=OneChip(14, meshes=1), meshes=1, epochs=1).fit(*wine)
        before = first.predict_proba(wine[0])
        other = clone(first).set_params(random_state=1).fit(*wine)
        assert other.device is first.device
        np.testing.assert_array_equal(first.predict_proba(wine[0]), before)

    def test_pipelines_and_grid_search(self, wine):
        x, y = wine
        pipeline = make_pipeline(StandardScaler(), PhotonicClassifier(**QUICK))
        grid = {"photonicclassifier__meshes": [1, 2]}
        search = GridSearchCV(pipeline, grid, cv=2).fit(x, y)
        assert search.best_params_["photonicclassifier__meshes"] in (1, 2)
        assert search.predict_proba(x).shape == (len(x), 3)

    def test_the_documented_example_runs(self, capsys):
        import photonic_ffzero.sklearn

        code = inspect.getdoc(photonic_ffzero.sklearn).partition("::")[2].rpartition("\n\n")[0]
        code = inspect.cleandoc(code).replace("Classifier()", "Classifier(epochs=1)")
        exec(code, {})
        assert capsys.readouterr().out


def test_names_of_columns_are_kept():
    x, y = load_iris(return_X_y=True, as_frame=True)
    trained = PhotonicClassifier(**QUICK).fit(x, y)
    assert trained.feature_names_in_.tolist() == x.columns.tolist()


def test_numpys_generators_draw_the_seed():
    x, y = load_iris(return_X_y=True)
    given = {"epochs": 1, "directions": 2}
    first, again, other = (
        PhotonicClassifier(random_state=np.random.default_rng(seed), **given).fit(x, y)
        for seed in (0, 0, 1)
    )
    assert first.model_.config.seed == again.model_.config.seed != other.model_.config.seed
