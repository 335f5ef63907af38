"""What to train on what: all of a job that can be written down."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from meshes.validation import number
from photonic_ffzero.config import Config
from photonic_ffzero.data.readers import DataError
from photonic_ffzero.power import ChipRates

UNENCODED = "none"  # the encoding of a data set that has no images


@dataclass(frozen=True, kw_only=True)
class Plan:
    r"""What to train on what: all of a job that can be written down, as it is in config.json.

    Attributes:
        config: The configuration, with the first seed.
        dataset: Name of the data set, or path of the user's own; ``auto`` becomes what was found.
        encoding: Name of the encoding, see `encode`.
        size: Pixels a side after encoding; None for as many as the images have, if they are any.
        validation: Training images held out; None for a tenth, at most 5000.
        limit: Training images used at most; None for all that are left.
        seeds: How many seeds, from the configuration's on.
        symbol_rate: See `ChipRates`, as for the next two; None if no time is asked for.
        write_time: With a symbol rate.
        chip_power: With both, or None.
        image_size: Pixels a side to which the images of a folder are brought, see `load_dataset`.
        start_from: Run directory or model whose parameters and prototypes the training starts
            from; relative to the run's own directory.
        unit_power: Power of a field with \|E\|^2 = 1, W; None for `UNIT_POWER`, or no light.
        detector_floor: Least power of a port that detectors need, W; None if it is unknown.

    Raises:
        TypeError, ValueError: a chip's rate or power is out of range, without the others, or of a
            network that is on no chip.
    """

    config: Config
    dataset: str
    encoding: str
    size: int | None
    validation: int | None
    limit: int | None
    seeds: int
    symbol_rate: float | None = None
    write_time: float | None = None
    chip_power: float | None = None
    image_size: int | None = None
    start_from: str | None = None
    unit_power: float | None = None
    detector_floor: float | None = None

    def __post_init__(self) -> None:
        _ = self.rates
        for name in ("unit_power", "detector_floor"):
            if (value := getattr(self, name)) is None:
                continue
            number(name, value, above=0)
            if self.config.network != "photonic":
                raise ValueError(f"{name} does not apply to {self.config.network}: it has no light")
            hidden = name == "detector_floor" or not self.config.simulates_device
            if self.config.device and hidden:
                raise ValueError(f"{name} does not apply to a device: it hides what is inside")

    @property
    def rates(self) -> ChipRates | None:
        """What the chip's time and energy follow from."""
        every = {name: getattr(self, name) for name in RATES}
        given = {name: value for name, value in every.items() if value is not None}
        for name in given if self.config.network != "photonic" else ():
            raise ValueError(f"{name} does not apply to {self.config.network}: it is on no chip")
        for name in ("symbol_rate", "write_time") if given else ():
            if name not in given:
                raise ValueError(f"{name} must be set with {', '.join(given)}")
        return ChipRates(**given) if given else None

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Plan:
        """Rebuild a plan from a config.json.

        Raises:
            DataError: something is missing or out of range.
        """
        own = {field.name for field in fields(cls)} - {"config"}
        try:
            config = Config(**{field.name: content[field.name] for field in fields(Config)})
            return cls(config=config, **{name: content[name] for name in own})
        except KeyError as error:
            raise DataError(f"config.json must name {error}, which is missing") from None
        except (TypeError, ValueError) as error:
            raise DataError(f"config.json: {error}") from None

    def as_json(self) -> dict[str, Any]:
        """The plan as a flat JSON object."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return own.pop("config").as_json() | own


RATES = tuple(field.name for field in fields(ChipRates))
"""The names of a chip's rates, each a field of `Plan`."""
