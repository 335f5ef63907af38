"""What to train on what: all of a job that can be written down."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from meshes.files import DataError
from meshes.validation import choice, closest, quoted
from photonic_ffzero.config import (
    SIMULATED,
    Config,
    changes,
    configure,
    describe,
    facts,
    read_config,
)
from photonic_ffzero.data.datasets import DATASETS, IMAGE_SIZE, SHAPES, default_validation
from photonic_ffzero.data.encoding import ENCODINGS, NORMALISATIONS, form_of
from photonic_ffzero.data.functions import FUNCTIONS
from photonic_ffzero.elements import as_text, each
from photonic_ffzero.power import UNIT_POWER, ChipRates, in_units
from photonic_ffzero.recipes import recipe_inputs
from photonic_ffzero.runs.names import RUN, find_run, is_trained
from photonic_ffzero.settings import (
    NOT_NEGATIVE,
    POSITIVE,
    TEXT,
    ValueKind,
    check_scope,
    completed,
    defaults_of,
    keep_checked,
    one_of,
    setting,
    settings_of,
    synonyms_of,
    whole,
)
from photonic_ffzero.storage import read_json

MOST_SEEDS = 10_000  # the folder of each is held in memory
TEST, HELD_OUT = "test", "held-out"  # what a run is tested on
UNENCODED = "none"  # the encoding of a data set that has no images
_UNENCODED_INPUTS = {"encoding": UNENCODED, "size": None, "normalisation": None}


def _check_encoding(name: str, value: Any) -> str:
    return choice(name, value, (UNENCODED, *ENCODINGS))


def _existing(text: str) -> str:
    """The whole path of a file or folder."""
    path = os.path.abspath(os.path.expanduser(text))
    if not text or not os.path.exists(path):
        raise ValueError
    return path


_DATASET = ValueKind(
    TEXT.check,
    f"one of {', '.join(DATASETS)}, or an existing folder of images or .npz file",
    lambda text: text if text in DATASETS else _existing(text),
    DATASETS,
    "NAME|PATH",
    opens=lambda name: name not in DATASETS,
)
_ENCODING = ValueKind(_check_encoding, "", options=ENCODINGS)
_TRAINED = replace(RUN, parse=lambda text: os.path.abspath(find_run(text, is_trained)), opens=bool)

_FILE = ValueKind(TEXT.check, "an existing .npz file", _existing, metavar="FILE.npz", opens=bool)

_data = partial(setting, group="data")
_light = partial(setting, POSITIVE, group="light", metavar="W", unit="W", default=None)
_rate = partial(
    setting,
    group="time and energy",
    applies={"network": "photonic"},
    default=None,
    default_in_words="unknown",
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to train on what, as config.json holds it: a configuration, data and what to report."""

    config: Config
    dataset: str = _data(
        _DATASET,
        f"{', '.join(DATASETS)}, or images of your own, see below. auto: MNIST, or "
        "scikit-learn's 8 x 8 digits where it cannot be had; f1, f2: functions to learn, with "
        "--task regression",
        default="auto",
        also=("data", "images"),
    )
    image_size: int | None = _data(
        whole(1),
        "make a folder's images P x P pixels by averaging over areas",
        metavar="P",
        default=None,
        default_in_words=str(IMAGE_SIZE),
    )
    encoding: str = _data(
        _ENCODING,
        "image to port amplitudes: areas, the central pixels, a square of the lowest frequencies, "
        "or the lowest bins without 0 Hz and conjugates",
    )
    size: int | None = _data(
        whole(1),
        "pixels a side after encoding, so that there are S x S ports; for fourier-bins the bins, a "
        "port each; of colours three times as many",
        metavar="S",
        default=None,
        default_in_words="8 (64 bins); recipe wide: 28; digital: all",
        also=("pixels", "ports", "units"),
    )
    normalisation: str | None = _data(
        one_of(NORMALISATIONS),
        "each image's brightest port to 1, or each colour to mean 0 and deviation 1 over the "
        "training images",
        default=None,
        default_in_words="peak; mixer: standard",
    )
    validation: int | None = _data(
        whole(0),
        "training images held out",
        default=None,
        default_in_words="a tenth, at most 5000",
        also=("val", "validation_split", "held_out"),
    )
    limit: int | None = _data(
        whole(1),
        "train on the first N images",
        default=None,
        default_in_words="all",
        also=("subset", "num_train", "max_samples"),
    )
    seeds: int = setting(
        whole(1, MOST_SEEDS),
        "run N seeds from --seed on; report mean and spread",
        "run",
        default=1,
        also=("repeats", "runs", "num_seeds"),
    )
    test_on: str | None = _data(
        one_of((TEST, HELD_OUT)),
        "what tells at the end how good the network is: test images, or, to choose settings by, "
        "held-out images, which leaves the test images alone",
        default=None,
        default_in_words=TEST,
    )
    start_from: str | None = setting(
        _TRAINED,
        "run or model.npz to start from, for instance one trained in silico, instead of random "
        "parameters; its prototypes are taken, too",
        "learning",
        default=None,
        also=("load", "checkpoint", "pretrained"),
    )
    frozen_phases: str | None = setting(
        _FILE,
        "which phases do not move: booleans mesh1_theta, mesh1_phi, mesh1_gamma, ..., true for "
        "those that keep their first values",
        "learning",
        applies={"network": "photonic"},
        default=None,
        default_in_words="none",
    )
    chip_estimate: str | None = setting(
        replace(_FILE, rule="an existing .npz or .csv file", metavar="FILE"),
        "what is known of the chip, from which the twin starts: a chip_estimate.npz of another "
        "run or of calibrate.py, or a table (CSV) of measured values",
        "learning",
        applies={"estimator": "twin"},
        default=None,
        default_in_words="nothing is known",
    )
    unit_power: float | None = _light(
        "watts of one unit of |E|^2, which the brightest port of an image has",
        applies={"network": "photonic", "device": ("none", SIMULATED)},
        default_in_words=f"{UNIT_POWER:g}",
    )
    detector_floor: float | None = _light(
        "watts a port that detectors need; warn where they see less",
        applies={"network": "photonic", "device": "none"},
        default_in_words="unknown",
    )
    symbol_rate: float | None = _rate(
        POSITIVE, "samples a second through a mesh", metavar="HZ", unit="Hz"
    )
    write_time: float | None = _rate(
        NOT_NEGATIVE,
        "seconds in which the phases of a mesh are written and settle",
        metavar="S",
        unit="s",
    )
    chip_power: float | None = _rate(
        NOT_NEGATIVE, "watts of laser, heaters and electronics together", metavar="W", unit="W"
    )

    def __post_init__(self) -> None:
        values = vars(self.config)
        keep_checked(self)
        check_scope(self, facts(values), describe(values))
        if form_of(self.encoding).complex and self.config.network != "photonic":
            real = " or ".join(name for name in ENCODINGS if not form_of(name).complex)
            network = f"network {self.config.network}, whose inputs are real"
            raise ValueError(f"encoding must be {real} for {network}, got {self.encoding}")
        _ = self.rates

    @property
    def rates(self) -> ChipRates | None:
        """What the chip's time and energy follow from; None if they are not asked for."""
        names = ("symbol_rate", "write_time", "chip_power")
        rates = {name: value for name in names if (value := getattr(self, name)) is not None}
        for name in names[:2] if rates else ():
            if name not in rates:
                raise ValueError(f"{name} must be set with {', '.join(rates)}")
        return ChipRates(**rates) if rates else None

    @classmethod
    def from_json(
        cls, content: dict[str, Any], where: Path | str = "config.json", functions: Any = None
    ) -> Plan:
        """Rebuild a plan from a config.json; a DataError names what is missing or out of range.

        ``functions`` are those of its nonlinearities, which no file holds.
        """
        try:
            config = read_config(_present(content, Config), functions)
            return cls(config=config, **_present(content, cls))
        except KeyError as error:
            raise DataError(f"{where} must name {error}, which is missing") from None
        except (TypeError, ValueError) as error:
            raise DataError(f"{where}: {error}") from None

    def as_json(self) -> dict[str, Any]:
        """The plan as a flat JSON object."""
        return self.config.as_json() | {name: getattr(self, name) for name in settings_of(Plan)}


def _present(content: Mapping[str, Any], cls: type) -> dict[str, Any]:
    """The settings of a class, of a file that may be older than the optional ones."""
    known = completed(cls, content)
    return {name: known[name] for name in settings_of(cls)}


def changes_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run's settings, as config.json holds them, those that do not follow from the others.

    They follow from its recipe, its method, its data set and each other: with these,
    ``configure`` and `plan_for` give the run's plan again. The data set is not among them.
    """
    inputs = _inputs(*(content[name] for name in ("dataset", "recipe", "network", "encoding")))
    written = map(content.get, ("training_samples", "pixels"))
    own = tuple(number if type(number) is int else 0 for number in written)
    count, side = SHAPES.get(content["dataset"], own)  # a run keeps what its data decided
    standard = defaults_of(Plan) | inputs | {"size": inputs["size"] or side}
    standard |= {"dataset": content["dataset"], "validation": default_validation(count)}
    changed = {n: v for n in settings_of(Plan) if (v := content.get(n)) not in (None, standard[n])}
    chosen = changes(content)
    if content["network"] == "mixer" and chosen.get("colour") == "rgb":  # as its images have them
        del chosen["colour"]
    return chosen | changed


_NOT_IN_NAMES = ("network", "seeds", "device")
_LONGEST_NAME, _LONGEST_DATA = 55, 40  # characters of a directory's name before the date
# In config.json, and no settings.
_OF_RUN = ("source", "training_samples", "pixels", "training_data_crc32", "test_data_crc32")


def read_settings(file: Path, named: Collection[str] = ()) -> dict[str, Any]:
    """The settings in a JSON file, checked one by one, for ``configure`` and `plan_for`.

    Of a run's config.json they are those that do not follow from its recipe, so that another
    method, say, still gets its own optimizer.

    Args:
        file: The file.
        named: Settings that the user named elsewhere, which the file then does not decide.

    Raises:
        ValueError: a name or a value is wrong, or using it would open a file or a connection.
    """
    content = read_json(file)
    if content is None:
        raise DataError(f"{file}: no such file")
    known = settings_of(Config) | settings_of(Plan)
    for name in content.keys() - known.keys() - {*_OF_RUN}:
        hint = closest(name, known, synonyms_of(Config) | synonyms_of(Plan))
        raise DataError(f"{file}: unknown setting {quoted(name)}{hint}")
    if whole := "source" in content:
        content = completed(Config, completed(Plan, content))
    chosen = {n: v for n, v in content.items() if v is not None and n in known}
    for name, value in chosen.items():
        _check_from_file(file, name, value, known[name].kind, name in named)
    chosen = {n: v for n, v in chosen.items() if n not in named}
    if not whole:
        return chosen
    for name in ("recipe", "network", "dataset", "encoding", "estimator"):
        if name not in content:
            raise DataError(f"{file} must name {name!r}, which is missing")
    changed = {"recipe", "method", "dataset", *changes_of(content)}
    return {name: value for name, value in chosen.items() if name in changed}


def _check_from_file(file: Path, name: str, value: Any, kind: ValueKind, named: bool) -> None:
    if kind.opens(value) and not named:
        raise DataError(
            f"{file}: {name} must be named on the command line, as a file must open no file or "
            f"connection and start no program, found {quoted(value)}{closest(value, kind.options)}"
        )
    try:
        kind.check(name, value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: {error}") from None


def in_words(settings: Mapping[str, Any]) -> str:
    """Settings as a list: ``directions 8, learning_rate 0.05``; of a path the last part."""
    return ", ".join(f"{name} {value_in_words(value)}" for name, value in settings.items())


def value_in_words(value: Any) -> str:
    """The value of a setting of config.json; of an element its name, of a path the last part."""
    value = as_text(value)
    if isinstance(value, str) and os.path.isabs(value):
        return os.path.basename(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(value_in_words, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def dated_name(content: Mapping[str, Any], data: str) -> str:
    """The name of a new run's directory: data, network, method, what differs, and the time.

    Args:
        content: What its config.json will hold.
        data: The name of the data set.
    """
    different = changes_of(content)
    words = (in_words({name: v}) for name, v in different.items() if name not in _NOT_IN_NAMES)
    parts = (_slug(data)[:_LONGEST_DATA], content["network"], content["method"])
    name = "-".join(filter(None, parts))
    for slug in map(_slug, words):
        if len(name) + len(slug) >= _LONGEST_NAME:
            break
        name += f"-{slug}"
    return f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def _slug(text: str) -> str:
    # A measured table's file always ends so; a directory's name that did would look like a file's.
    return re.sub(r"[^\w.]+|_+", "-", text.replace(".csv", "")).strip("-.")


def plan_for(dataset: str, config: Config, **settings: Any) -> Plan:
    """A plan with defaults, the encoding and size of the recipe where there are images.

    Args:
        dataset: Name of the data set, or path of the user's own.
        config: The configuration, with the first seed.
        **settings: Other fields of `Plan`; None means the default.
    """
    images = dataset not in FUNCTIONS
    chosen = {name: value for name, value in settings.items() if value is not None}
    inputs = _inputs(dataset, config.recipe, config.network, chosen.get("encoding"))
    for name in () if images else chosen.keys() & inputs.keys():
        raise ValueError(f"{name} does not apply to data set {dataset}, which has no images")
    return Plan(config=config, **(defaults_of(Plan) | inputs | chosen | {"dataset": dataset}))


def plan_of(chosen: Mapping[str, Any]) -> Plan:
    """The plan of settings by name, the data set and the recipe among them.

    Nonlinearities may be written by the parts of a modulator, see `photonic_ffzero.power.in_units`.
    """
    values = dict(chosen)
    if "nonlinearity" in values:
        unit = values.get("unit_power") or UNIT_POWER
        values["nonlinearity"] = [in_units(x, unit) for x in each(values["nonlinearity"])]
    config, inputs = (
        {name: values[name] for name in settings_of(cls) if name in values}
        for cls in (Config, Plan)
    )
    return plan_for(config=configure(**config), **inputs)


def _inputs(dataset: str, recipe: str, network: str, encoding: str | None) -> dict[str, Any]:
    """How a recipe encodes a data set; with another encoding, into as many ports."""
    if dataset in FUNCTIONS:
        return dict(_UNENCODED_INPUTS)
    inputs = {"normalisation": None} | recipe_inputs(recipe, network)
    if inputs["size"] and not form_of(encoding or "").square:
        inputs["size"] **= 2
    return inputs
