"""Every check names the argument, the rule and the value found."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshes.validation import choice, from_spec, integer, number

NO_NUMBERS = [None, "many", [1], {}, object(), 1j]


@dataclass(frozen=True)
class Lens:
    focus: float = 1.0
    width: float = 2.0

    def __post_init__(self):
        number("width", self.width, above=0)


LENSES = {"lens": Lens, "mirror": Lens}


class TestInteger:
    @given(st.integers(), st.integers())
    @settings(deadline=None, derandomize=True, max_examples=40)
    def test_passes_what_is_not_below_the_minimum_and_nothing_else(self, value, minimum):
        if value >= minimum:
            assert integer("ports", value, minimum=minimum) == value
        else:
            with pytest.raises(ValueError, match=f"ports must be at least {minimum}, got {value}$"):
                integer("ports", value, minimum=minimum)

    def test_turns_numpy_s_integers_into_python_s(self):
        assert type(integer("ports", np.int64(3))) is int

    @pytest.mark.parametrize("value", [*NO_NUMBERS, True, False, 2.0, math.nan, "3"])
    def test_refuses_all_but_whole_numbers(self, value):
        with pytest.raises(TypeError) as error:
            integer("ports", value)
        assert str(error.value) == f"ports must be a whole number, got {value!r}"


class TestNumber:
    @given(st.floats(allow_nan=False, allow_infinity=False), st.floats(-1e9, 1e9))
    @settings(deadline=None, derandomize=True, max_examples=40)
    def test_every_bound_is_the_inequality_it_is_named_for(self, value, bound):
        rules = {
            "minimum": (value >= bound, f"at least {bound}"),
            "maximum": (value <= bound, f"at most {bound}"),
            "above": (value > bound, f"greater than {bound}"),
            "below": (value < bound, f"less than {bound}"),
        }
        for rule, (holds, words) in rules.items():
            if holds:
                assert number("gain", value, **{rule: bound}) == value
                continue
            with pytest.raises(ValueError) as error:
                number("gain", value, **{rule: bound})
            assert str(error.value) == f"gain must be {words}, got {value!r}"

    @pytest.mark.parametrize("value", [2, np.float32(2), np.int64(2), np.float64(2)])
    def test_turns_every_kind_of_number_into_a_float(self, value):
        assert type(number("gain", value)) is float
        assert number("gain", value) == 2.0

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
    def test_refuses_what_is_not_finite(self, value):
        with pytest.raises(ValueError, match="gain must be finite, got"):
            number("gain", value)

    @pytest.mark.parametrize("value", [*NO_NUMBERS, True, False])
    def test_refuses_what_is_no_number(self, value):
        with pytest.raises(TypeError) as error:
            number("gain", value)
        assert str(error.value) == f"gain must be a number, got {value!r}"


class TestChoice:
    def test_passes_an_option_and_lists_them_otherwise(self):
        assert choice("lens", "mirror", LENSES) == "mirror"
        for wrong in ("Lens", "", None, 3, ["lens"]):
            with pytest.raises(ValueError) as error:
                choice("lens", wrong, LENSES)
            assert str(error.value) == f"lens must be one of lens, mirror; got {wrong!r}"

    def test_takes_options_that_can_be_read_only_once(self):
        with pytest.raises(ValueError, match="one of a, b; got 'c'"):
            choice("letter", "c", iter("ab"))


class TestFromSpec:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("lens", Lens()),
            ("lens:", Lens()),
            ("lens:focus=3", Lens(3.0)),
            ("lens:width=5e-1,focus=-3", Lens(-3.0, 0.5)),
            (" lens : focus = 3 , width = 4 ", Lens(3.0, 4.0)),
        ],
    )
    def test_builds_what_is_written(self, text, expected):
        assert from_spec("optics", text, LENSES) == expected

    @given(focus=st.floats(-1e300, 1e300), width=st.floats(1e-300, 1e300))
    @settings(deadline=None, derandomize=True, max_examples=40)
    def test_values_survive_the_way_through_text(self, focus, width):
        text = f"lens:focus={focus!r},width={width!r}"
        assert from_spec("optics", text, LENSES) == Lens(focus, width)

    @pytest.mark.parametrize(
        ("text", "error", "message"),
        [
            ("prism", ValueError, "optics must be one of lens, mirror; got 'prism'"),
            ("", ValueError, "optics must be one of lens, mirror; got ''"),
            ("lens:depth=1", ValueError, "must be one of focus, width; got 'depth'"),
            ("lens:3", ValueError, "optics is written NAME:key=value,...; got '3'"),
            ("lens:focus=far", ValueError, "optics lens: focus must be a finite number, got 'far'"),
            ("lens:focus=", ValueError, "optics lens: focus must be a finite number, got ''"),
            ("lens:focus=nan", ValueError, "optics lens: focus must be a finite number, got 'nan'"),
            ("lens:focus=inf", ValueError, "optics lens: focus must be a finite number, got 'inf'"),
            ("lens:width=0", ValueError, "width must be greater than 0, got 0.0"),
        ],
    )
    def test_names_what_is_wrong(self, text, error, message):
        with pytest.raises(error) as caught:
            from_spec("optics", text, LENSES)
        assert message in str(caught.value)
