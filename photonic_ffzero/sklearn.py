"""Networks as scikit-learn estimators, for pipelines, cross-validation and grid search. ::

    from sklearn.datasets import load_wine
    from sklearn.model_selection import cross_val_score

    from photonic_ffzero.sklearn import PhotonicClassifier

    x, y = load_wine(return_X_y=True)
    print(cross_val_score(PhotonicClassifier(), x, y))

Their parameters are settings of `photonic_ffzero.fit`; None stands for the recipe's value.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import numpy as np
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Tags, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from meshes.validation import closest, described, from_spec, integer
from photonic_ffzero.config import Config
from photonic_ffzero.data.tasks import TASKS, Task
from photonic_ffzero.goodness import LOSSES, CrossEntropy, decide
from photonic_ffzero.settings import MOST, ValueKind, settings_of, synonyms_of
from photonic_ffzero.training import fit

_DECIDED = ("task", "network", "seed", "colour")  # by the class, by random_state, or for images
# Tables have fewer samples than the images that the recipes were made for.
_DEFAULTS = {"method": "ff-dd", "epochs": 50, "batch_size": 32, "random_state": 0}


def _parameters(network: str, **defaults: Any) -> dict[str, Any]:
    """The settings of a kind of network, with the defaults of an estimator."""
    names = (
        name
        for name, entry in settings_of(Config).items()
        if network in entry.applies.get("network", network) and name not in _DECIDED
    )
    return dict.fromkeys(names) | _DEFAULTS | defaults


def _initializer(defaults: Mapping[str, Any]) -> Callable[..., None]:
    """An ``__init__`` that keeps the parameters, and whose signature lists them."""

    def __init__(self: Any, **parameters: Any) -> None:  # noqa: N807
        for name in parameters.keys() - defaults.keys():
            meant = closest(name, defaults, synonyms_of(Config) | {"seed": "random_state"})
            raise TypeError(f"{type(self).__name__} has no parameter {name}{meant}")
        vars(self).update({**defaults, **parameters})

    keyword = inspect.Parameter.KEYWORD_ONLY
    listed = [inspect.Parameter(name, keyword, default=v) for name, v in defaults.items()]
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    __init__.__signature__ = inspect.Signature([itself, *listed])  # type: ignore[attr-defined]
    return __init__


def _whole(fit: Callable[..., Any]) -> Any:
    """A ``fit`` that is tried on a copy: where it fails, the estimator stays as it was."""

    @functools.wraps(fit)
    def on_a_copy(self: Any, X: Any, y: Any) -> Any:
        self.__dict__ = vars(fit(copy.copy(self), X, y))
        return self

    return on_a_copy


class _Network(BaseEstimator):
    """What all estimators share: features as a network's inputs, training, and scores."""

    network: ClassVar[str] = "mlp"
    task: ClassVar[str]
    random_state: Any

    def _train(self, x: np.ndarray, y: np.ndarray) -> Self:
        settings = self.get_params() | {"seed": _seed(self.random_state)}
        for name in ("random_state", "ports"):
            settings.pop(name, None)
        self.scaler_ = StandardScaler().fit(x)
        self.width_ = self._width(x.shape[1], TASKS[self.task].of(y))
        self.model_ = fit(self._inputs(x), y, task=self.task, network=self.network, **settings)
        return self

    def _width(self, features: int, task: Task) -> int:
        """Values of one input."""
        return features

    def _inputs(self, x: np.ndarray) -> np.ndarray:
        return self.scaler_.transform(x)

    def _scores(self, x: np.ndarray) -> np.ndarray:
        """Scores [n, C] of the classes, or [n, T] of the labels of a regression, by the rule."""
        x = validate_data(self, x, reset=False)
        return decide(self.model_.scores(self._inputs(x)), self.model_.config.rule)


def _seed(random_state: Any) -> int:
    """A whole number as it is; one that a generator draws, or NumPy's own if None."""
    if isinstance(random_state, (int, np.integer)):
        return int(_setting("seed").check("random_state", random_state))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(MOST))
    with described("random_state"):
        return int(check_random_state(random_state).randint(MOST))


def _setting(name: str) -> ValueKind:
    """The values of a setting of `Config`."""
    return settings_of(Config)[name].kind


class _Photonic(_Network):
    """Features as light: one at each port, a constant at the next, and none at those left.

    The constant has the power of all features together: it is the local oscillator of a homodyne
    receiver, which makes what interferes with it stand out of |E|^2 linear in the features.
    """

    network = "photonic"
    groups: int | None
    ports: int | None

    def _width(self, features: int, task: Task) -> int:
        groups = 1 if self.groups is None else _setting("groups").check("groups", self.groups)
        groups *= task.labels
        least = max(features + 1, groups * (task.corners + 1))
        least += -least % groups
        return least if self.ports is None else integer("ports", self.ports, minimum=least)

    def _inputs(self, x: np.ndarray) -> np.ndarray:
        features = super()._inputs(x)
        constant = np.full((len(x), 1), x.shape[1] ** 0.5, features.dtype)
        dark = np.zeros((len(x), self.width_ - x.shape[1] - 1), features.dtype)
        return np.hstack([features, constant, dark])


class _Classifier(ClassifierMixin, _Network):
    task = "classification"

    @_whole
    def fit(self, X: Any, y: Any) -> Self:
        """Train on samples [n, features] of classes [n], which may be numbers or texts."""
        X, y = validate_data(self, X, y, ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must have at least two classes, got {self.classes_.tolist()}")
        return self._train(X, numbers)

    def predict(self, X: Any) -> np.ndarray:
        """The class [n] of each sample [n, features], which has the highest probability."""
        check_is_fitted(self)
        return self.classes_[self._scores(X).argmax(axis=1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        r"""The softmax [n, C] of the scaled goodness, which nobody has calibrated.

        .. math:: p_c = \frac{e^{s G_c}}{\sum_k e^{s G_k}}, \qquad G_c = \sum_l G_c^{(l)}

        The goodness is that of the rule, ``sum`` by default; s is the scale of the loss, or
        that of ``cross-entropy`` where the loss has none. A sample without light has equal ones.
        """
        check_is_fitted(self)
        loss = from_spec("loss", self.model_.config.loss, LOSSES)
        scale = getattr(loss, "scale", CrossEntropy.scale)
        return softmax(scale * self._scores(X).astype(np.float64), axis=1)


class _Regressor(RegressorMixin, _Network):
    task = "regression"

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    @_whole
    def fit(self, X: Any, y: Any) -> Self:
        """Train on samples [n, features] with labels [n] or [n, T]."""
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, ensure_min_samples=2)
        return self._train(X, y)

    def predict(self, X: Any) -> np.ndarray:
        """The labels [n] or [n, T] of samples [n, features]."""
        check_is_fitted(self)
        return self.model_.task.predictions(self._scores(X))


class PhotonicClassifier(_Classifier, _Photonic):
    """Meshes that tell classes apart, trained by FFzero.

    Features are standardised, to mean 0 and deviation 1 in training; each is the amplitude at one
    port. The next port is constant, with the power of all features together: without it, x and -x
    would give the same intensities. More ports stay dark; there are at least C + 1 for C classes.

    Args:
        ports: Ports of a mesh; None: as few as possible.
        random_state: Seed of everything random, or a generator that draws it.
        **settings: Those of `photonic_ffzero.fit` for meshes; None: as ``recipe`` has it.

    Attributes:
        classes_: The classes [C], sorted.
        model_: The trained `photonic_ffzero.Model`, for `save_model` and `power_budget`.
        scaler_: The `StandardScaler` of the features.
        n_features_in_: The number of features.
    """

    __init__ = _initializer(_parameters("photonic", recipe="balanced", ports=None))


class PhotonicRegressor(_Regressor, _Photonic):
    """A mesh that learns numbers; parameters and attributes are those of `PhotonicClassifier`.

    The last mesh alone predicts, and by default there is one: its intensities are linear in the
    features where the constant is strong, and those of a second mesh are not.
    """

    __init__ = _initializer(
        _parameters("photonic", recipe="balanced", meshes=1, learning_rate=0.5, ports=None)
    )


class DigitalClassifier(_Classifier):
    """Dense layers that tell classes apart, trained by FFzero on standardised features.

    Args:
        random_state: Seed of everything random, or a generator that draws it.
        **settings: Those of `photonic_ffzero.fit` for ``mlp``; None: as ``recipe`` has it.
    """

    __init__ = _initializer(_parameters("mlp", recipe="digital"))


class DigitalRegressor(_Regressor):
    """Dense layers that learn numbers; parameters are those of `DigitalClassifier`."""

    __init__ = _initializer(_parameters("mlp", recipe="digital"))
