"""Every check names the argument, the rule and the value found."""

import math
import re
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshes.validation import (
    choice,
    closest,
    counted,
    from_spec,
    integer,
    number,
    one_line,
    with_values,
)

NO_NUMBERS = [None, "3", [1], 1j, True]


@dataclass(frozen=True)
class Lens:
    focus: float = 1.0
    width: float = 2.0

    def __post_init__(self):
        number("width", self.width, above=0)


LENSES = {"lens": Lens, "mirror": Lens}


def test_whole_numbers_from_the_minimum_on_become_python_s():
    assert type(integer("ports", np.int64(3), minimum=3)) is int
    with pytest.raises(ValueError, match=r"ports .* 4, got 3"):
        integer("ports", 3, minimum=4)


def test_every_kind_of_number_becomes_a_float():
    for value in (2, np.float32(2), np.int64(2), np.float64(2)):
        assert type(number("gain", value)) is float
        assert number("gain", value) == 2.0


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(-1e9, 1e9))
@settings(derandomize=True, max_examples=40)
def test_every_bound_is_the_inequality_it_is_named_for(value, bound):
    rules = {
        "minimum": value >= bound,
        "maximum": value <= bound,
        "above": value > bound,
        "below": value < bound,
    }
    for rule, holds in rules.items():
        if holds:
            assert number("gain", value, **{rule: bound}) == value
            continue
        with pytest.raises(ValueError) as error:
            number("gain", value, **{rule: bound})
        assert all(word in str(error.value) for word in ("gain", repr(bound), repr(value)))


@pytest.mark.parametrize(
    ("check", "value", "error"),
    [
        *((check, value, TypeError) for check in (integer, number) for value in NO_NUMBERS),
        (integer, 2.0, TypeError),
        *((number, value, ValueError) for value in (math.nan, -math.inf, np.float32("nan"))),
    ],
)
def test_refuses_what_is_no_number_or_not_finite(check, value, error):
    with pytest.raises(error) as caught:
        check("gain", value)
    assert str(caught.value).startswith("gain must be ")
    assert str(caught.value).endswith(f", got {value!r}")


@pytest.mark.parametrize("wrong", ["Lens", "", None, 3, ["lens"]])
def test_choice_passes_an_option_and_lists_them_otherwise(wrong):
    assert choice("optics", "mirror", iter(LENSES)) == "mirror"
    with pytest.raises(ValueError) as error:
        choice("optics", wrong, iter(LENSES))
    assert f"optics must be one of lens, mirror; got {wrong!r}" in str(error.value)


def test_counts_of_one_are_singular():
    assert [counted(n, "epoch") for n in (0, 1, 2)] == ["0 epochs", "1 epoch", "2 epochs"]
    assert [counted(n, "patch") for n in (1, 2)] == ["1 patch", "2 patches"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lens", Lens()),
        (" lens : focus = -3 , width = 5e-1 ", Lens(-3.0, 0.5)),
        (f"lens:focus={1 / 3!r}", Lens(1 / 3)),
        ("lens:focus=pi,width=pi/4", Lens(math.pi, math.pi / 4)),
        ("lens:focus=-2*pi,width=0.5*pi/3", Lens(-2 * math.pi, 0.5 * math.pi / 3)),
    ],
)
def test_from_spec_builds_what_is_written(text, expected):
    assert from_spec("optics", text, LENSES) == expected


NOT_IN_PI = ["pie", "pi/0", "pi*2", "2pi", "pi/pi", "1..2*pi", "pi**2", "*pi", "pi/", "e*pi"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prism", "optics .* lens, mirror; got 'prism'"),
        ("lens:depth=1", "optics .* focus, width; got 'depth'"),
        ("lens:3", "optics .*key=value.* got '3'"),
        ("lens:focus=far", "optics .*focus .* got 'far'"),
        ("lens:focus=inf", "optics .*focus .* got 'inf'"),
        ("lens:width=0", "width .* 0, got 0.0"),
        (3, "optics .* got 3"),
        ("lens:", "optics .* got 'lens:'"),
        ("lens: ", "optics .* got ' '"),
        ("lens:focus=1,,width=1", "optics .* got 'focus=1,,width=1'"),
        ("lens:focus=1,", "optics .* got 'focus=1,'"),
        ("lens:focus=1, focus=2", "optics .*focus .*once, got 'focus=1, focus=2'"),
        ("lens:focus=", "optics .*focus .* got ''"),
        ("lens:width=0", "^optics lens: width .* got 0.0"),
        ("lens:focus=1e400", "optics .*focus .* got '1e400'"),
        *((f"lens:focus={x}", f"focus .* got '{re.escape(x)}'") for x in NOT_IN_PI),
    ],
)
def test_from_spec_names_what_is_wrong(text, message):
    with pytest.raises((ValueError, TypeError), match=message):
        from_spec("optics", text, LENSES)


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("LENS", "lens"),
        ("big_lens", "big-lens"),
        ("--big", "big-lens"),
        ("mirorr", "mirror"),
        ("glass", "lens"),
        ("xyzzy", None),
        ("", None),
        (None, None),
        ("m" * 10**6, None),
    ],
)
def test_suggests_what_was_probably_meant(value, meant):
    hint = closest(value, ["lens", "big-lens", "mirror"], {"glass": "lens"})
    assert hint == (f", did you mean {meant}?" if meant else "")


HUGE = [10**400, 10**5000, "9" * 10**4, np.zeros((50, 50)), "a\nb\x1b[31m\udcff\u2028"]
CHECKS = [partial(integer, "size", maximum=9), partial(number, "size", below=9)]
TEXT_CHECKS = [partial(choice, "size", options=["small"])]
TEXT_CHECKS += [lambda text: with_values("size", "", text, Lens)]
SHOWN = [*product(CHECKS, HUGE), *product(TEXT_CHECKS, (v for v in HUGE if isinstance(v, str)))]


@pytest.mark.parametrize(("check", "value"), SHOWN, ids=range(len(SHOWN)))
def test_every_value_is_shown_in_one_short_line(check, value):
    with pytest.raises((TypeError, ValueError)) as error:
        check(value)
    message = one_line(str(error.value))
    assert message.startswith("size ")
    assert len(message) < 300
    assert message.isprintable()


def test_a_line_stays_a_line_whatever_is_in_it():
    assert one_line("a\nb\x1b[31m\udcff") == r"a\nb\x1b[31m\udcff"
    assert one_line("é 3 µm") == "é 3 µm"
    assert len(one_line("x" * 10**6)) < 1100
