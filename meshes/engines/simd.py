"""A vector of 16 floats as a Numba type, with the operations that the kernels need.

LLVM's optimiser does not turn loops as irregular as a mesh into whole vector registers, so the
kernels name their vectors. One vector is one register with AVX-512, two with AVX2, four elsewhere.
Multiplications and additions may be fused. Offsets count floats and are not checked.

The kernels need two more things from the machine: counters that threads share, and the switch that
makes denormal numbers zero.
"""

from __future__ import annotations

import functools
import math
import operator
import platform
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.extending import lower_builtin, models, register_model, type_callable

LANES = 16

_intrinsic: Any = extending.intrinsic  # its annotations count the context, which kernels omit

_FLOAT = ir.FloatType()
_INT32 = ir.IntType(32)
_INT64 = ir.IntType(64)
_REGISTER = ir.VectorType(_FLOAT, LANES)
_INTEGERS = ir.VectorType(_INT32, LANES)
_UNDEFINED = ir.Constant(_REGISTER, ir.Undefined)
_X86 = platform.machine().lower() in ("x86_64", "amd64", "i386", "i686")
_QUARTER_TURN = (1.5703125, 4.837512969970703125e-4, 7.54978995489188216e-8)  # sum: pi / 2
_SINE = (-1.6666654600e-01, 8.3321601708e-03, -1.9515201109e-04)
_COSINE = (4.1666645667e-02, -1.3887315472e-03, 2.4433065672e-05)
_EXPONENTIAL = (1.0, 1.0, 0.5, 0.16666416, 0.04166635, 0.00837513, 0.00139411)  # of r^0, r, ...
# Their sum is ln 2; the first has so few digits that its products are exact.
_LN2 = (0.693359375, -2.12194440e-4)
_FLUSH_BITS = 0x8040  # MXCSR: denormal results become zero, denormal operands count as zero


class _Vector(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"vector{LANES}")


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, front_end_type: Any) -> None:
        super().__init__(manager, front_end_type, _REGISTER)


_VECTOR = _Vector()


def _define_operator(operation: Any, instruction: str, operands: int) -> None:
    @type_callable(operation)
    def _(_context: Any) -> Any:
        if operands == 1:
            return lambda a: _VECTOR if a == _VECTOR else None
        return lambda a, b: _VECTOR if a == b == _VECTOR else None

    @lower_builtin(operation, *[_VECTOR] * operands)
    def _(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args, flags=("contract",))


_define_operator(operator.neg, "fneg", 1)
_define_operator(operator.add, "fadd", 2)
_define_operator(operator.sub, "fsub", 2)
_define_operator(operator.mul, "fmul", 2)
_define_operator(operator.truediv, "fdiv", 2)


def _instruction(type_of: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Let kernels call a function that writes LLVM code.

    ``type_of`` maps the Numba types of the arguments to a Numba signature. The decorated function
    takes an LLVM builder and the arguments as LLVM values. It returns an LLVM value, a list of them
    for a tuple, or None.
    """

    def decorate(write: Callable[..., Any]) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            result = write(builder, *values)
            if result is None:
                return context.get_dummy_value()
            if isinstance(result, list):
                return context.make_tuple(builder, signature.return_type, result)
            return result

        @functools.wraps(write)  # Numba reads the arguments' names, and drops the first
        def typed(_context: Any, *arguments: Any) -> Any:
            return type_of(*arguments), codegen

        return _intrinsic(typed)

    return decorate


def _address(builder: Any, pointer: Any, offset: Any, to: Any) -> Any:
    return builder.bitcast(builder.gep(pointer, [offset]), to.as_pointer())


def _mask(lanes: list[int]) -> Any:
    return ir.Constant(_INTEGERS, lanes)


def _in_all_lanes(builder: Any, scalar: Any) -> Any:
    first = builder.insert_element(_UNDEFINED, scalar, _INT32(0))
    return builder.shuffle_vector(first, _UNDEFINED, _mask([0] * LANES))


# --- Memory ---------------------------------------------------------------------------------


def _data(context: Any, builder: Any, array_type: Any, array: Any) -> Any:
    position = context.data_model_manager[array_type].get_field_position("data")
    return builder.extract_value(array, position)


@_intrinsic
def pointer(_context: Any, array: Any) -> Any:
    """Where an array's data start. Passing a pointer costs no reference count, an array does.

    The caller must keep the array alive.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _data(context, builder, signature.args[0], args[0])

    return types.CPointer(array.dtype)(array), codegen


@_intrinsic
def pointers(_context: Any, arrays: Any) -> Any:
    """Where the data of every array of a tuple start."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        items = [
            _data(context, builder, kind, builder.extract_value(args[0], index))
            for index, kind in enumerate(signature.args[0])
        ]
        return context.make_tuple(builder, signature.return_type, items)

    return types.Tuple([types.CPointer(array.dtype) for array in arrays])(arrays), codegen


@_instruction(lambda start, distance: start(start, types.intp))
def advance(builder: Any, start: Any, distance: Any) -> Any:
    """A pointer ``distance`` floats further on."""
    return builder.gep(start, [distance])


@_instruction(lambda start: start(start))
def next_cache_line(builder: Any, start: Any) -> Any:
    """The first 64-byte boundary at or after a pointer, where vectors are read fastest."""
    to_go = builder.and_(builder.neg(builder.ptrtoint(start, _INT64)), _INT64(63))
    return builder.gep(start, [builder.lshr(to_go, _INT64(2))])


@_instruction(lambda array: types.void(array))
def keep_alive(_builder: Any, array: Any) -> None:
    """Use an array and do nothing, so that Numba does not release it earlier."""


@_instruction(lambda array, offset: _VECTOR(array, types.intp))
def load(builder: Any, array: Any, offset: Any) -> Any:
    """The 16 floats of ``array`` from ``offset`` on."""
    return builder.load(_address(builder, array, offset, _REGISTER), align=4)


@_instruction(lambda array, offset, value: types.void(array, types.intp, _VECTOR))
def store(builder: Any, array: Any, offset: Any, value: Any) -> None:
    """Write a vector to ``array`` from ``offset`` on."""
    builder.store(value, _address(builder, array, offset, _REGISTER), align=4)


@_instruction(lambda value: _VECTOR(types.float32))
def fill(builder: Any, value: Any) -> Any:
    """A float32 in all 16 lanes."""
    return _in_all_lanes(builder, value)


@_instruction(lambda array, offset: _VECTOR(array, types.intp))
def splat(builder: Any, array: Any, offset: Any) -> Any:
    """One float of ``array`` in all 16 lanes."""
    return _in_all_lanes(builder, builder.load(_address(builder, array, offset, _FLOAT)))


@_instruction(
    lambda source, start, stride, target, to, to_stride: types.void(
        source, types.intp, types.intp, target, types.intp, types.intp
    )
)
def transpose_block(
    builder: Any, source: Any, start: Any, stride: Any, target: Any, to: Any, to_stride: Any
) -> None:
    """Copy 16 rows of 16 floats, ``stride`` apart, to 16 rows ``to_stride`` apart, transposed.

    Four rounds swap the off-diagonal blocks of halves, quarters, eighths and sixteenths.
    """

    def row(array: Any, first: Any, step: Any, number: int) -> Any:
        offset = builder.add(first, builder.mul(step, ir.Constant(step.type, number)))
        return _address(builder, array, offset, _REGISTER)

    rows = [builder.load(row(source, start, stride, n), align=4) for n in range(LANES)]
    step = LANES // 2
    while step:
        upper = _mask([i if not i & step else i - step + LANES for i in range(LANES)])
        lower = _mask([i + step if not i & step else i + LANES for i in range(LANES)])
        for i in (i for i in range(LANES) if not i & step):
            pair = rows[i], rows[i + step]
            rows[i] = builder.shuffle_vector(*pair, upper)
            rows[i + step] = builder.shuffle_vector(*pair, lower)
        step //= 2
    for n, value in enumerate(rows):
        builder.store(value, row(target, to, to_stride, n), align=4)


# --- Arithmetic -----------------------------------------------------------------------------


@_instruction(lambda first, second: types.UniTuple(types.float32, 2)(first, second))
def sums_of_lanes(builder: Any, first: Any, second: Any) -> list[Any]:
    """The sums over the lanes of two vectors, always in the same order.

    The first step adds the halves of each vector and puts both results into one vector.
    """

    def halves(one: Any, two: Any, lower: list[int], distance: int) -> Any:
        upper = [lane + distance for lane in lower]
        low, high = (builder.shuffle_vector(one, two, _mask(m)) for m in (lower, upper))
        return builder.fadd(low, high)

    both = halves(first, second, [*range(8), *range(16, 24)], 8)
    for step in (4, 2, 1):
        lanes = [lane % step + lane // 8 * 8 for lane in range(LANES)]
        both = halves(both, both, lanes, step)
    return [builder.extract_element(both, _INT32(lane)) for lane in (0, 8)]


def _constant(value: float) -> Any:
    return ir.Constant(_REGISTER, [value] * LANES)


def _multiply_add(builder: Any, a: Any, b: Any, addend: Any) -> Any:
    product = builder.fmul(a, b, flags=("contract",))
    return builder.fadd(product, addend, flags=("contract",))


def _of_lanes(builder: Any, function: str, value: Any) -> Any:
    """One of LLVM's functions of a float, in all lanes."""
    kind = ir.FunctionType(_REGISTER, [_REGISTER])
    intrinsic = builder.module.declare_intrinsic(f"llvm.{function}.v{LANES}f32", fnty=kind)
    return builder.call(intrinsic, [value])


@_instruction(lambda value: _VECTOR(_VECTOR))
def absolute(builder: Any, value: Any) -> Any:
    """Absolute values."""
    return _of_lanes(builder, "fabs", value)


@_instruction(lambda value: _VECTOR(_VECTOR))
def square_root(builder: Any, value: Any) -> Any:
    """Square roots."""
    return _of_lanes(builder, "sqrt", value)


@_instruction(lambda value, other: _VECTOR(_VECTOR, _VECTOR))
def larger(builder: Any, value: Any, other: Any) -> Any:
    """The larger of two; a first value that is not a number stays so."""
    return builder.select(builder.fcmp_unordered(">", value, other), value, other)


@_instruction(lambda value, other: _VECTOR(_VECTOR, _VECTOR))
def positive_or(builder: Any, value: Any, other: Any) -> Any:
    """The value where it is above 0, else the other."""
    return builder.select(builder.fcmp_ordered(">", value, _constant(0.0)), value, other)


@_instruction(lambda exponent: _VECTOR(_VECTOR))
def exponential(builder: Any, exponent: Any) -> Any:
    """e^x for x <= 0, within 2e-7 of the result, and 0 below -87.

    With n, the nearest whole number to x / ln 2, it is 2^n e^r of |r| <= ln 2 / 2, a polynomial.
    """
    doublings = _of_lanes(builder, "rint", builder.fmul(exponent, _constant(1 / math.log(2.0))))
    r = exponent
    for part in _LN2:
        r = _multiply_add(builder, doublings, _constant(-part), r)
    result = _constant(_EXPONENTIAL[-1])
    for coefficient in _EXPONENTIAL[-2::-1]:
        result = _multiply_add(builder, result, r, _constant(coefficient))
    bits = builder.add(builder.fptosi(doublings, _INTEGERS), _mask([127] * LANES))
    power = builder.bitcast(builder.shl(bits, _mask([23] * LANES)), _REGISTER)
    vanishes = builder.fcmp_ordered("<", exponent, _constant(-87.0))
    return builder.select(vanishes, _constant(0.0), builder.fmul(result, power))


@_instruction(lambda angle: types.UniTuple(_VECTOR, 2)(_VECTOR))
def sine_cosine(builder: Any, angle: Any) -> list[Any]:
    """Sine and cosine within 1e-7 for angles of up to 8000 rad; far beyond, any number.

    First subtract the nearest multiple of pi/2, in three parts: the first two have so few digits
    that their products are exact. Then evaluate the polynomials with the smallest relative error on
    [-pi/4, pi/4]. Last, exchange the two and set signs by quadrant (Cody and Waite's method).
    """

    c = _constant
    multiply_add = functools.partial(_multiply_add, builder)
    quarters = _of_lanes(builder, "rint", builder.fmul(angle, c(2.0 / math.pi)))
    x = angle
    for part in _QUARTER_TURN:
        x = multiply_add(quarters, c(-part), x)
    square = builder.fmul(x, x)
    sine, cosine = c(_SINE[2]), c(_COSINE[2])
    for lower_sine, lower_cosine in ((_SINE[1], _COSINE[1]), (_SINE[0], _COSINE[0])):
        sine = multiply_add(sine, square, c(lower_sine))
        cosine = multiply_add(cosine, square, c(lower_cosine))
    sine = multiply_add(builder.fmul(sine, square), x, x)
    cosine = multiply_add(cosine, square, c(-0.5))
    cosine = multiply_add(cosine, square, c(1.0))

    quadrant = builder.fptosi(quarters, _INTEGERS)
    one, two, sign = _mask([1] * LANES), _mask([2] * LANES), _mask([30] * LANES)
    odd = builder.icmp_signed("!=", builder.and_(quadrant, one), _mask([0] * LANES))
    results = []
    for value, other, quarter in (
        (sine, cosine, quadrant),
        (cosine, sine, builder.add(quadrant, one)),
    ):
        bits = builder.bitcast(builder.select(odd, other, value), _INTEGERS)
        minus = builder.shl(builder.and_(quarter, two), sign)
        results.append(builder.bitcast(builder.xor(bits, minus), _REGISTER))
    return results


@_instruction(lambda value, limit: types.boolean(_VECTOR, types.float32))
def any_beyond(builder: Any, value: Any, limit: Any) -> Any:
    """Whether the absolute value in any lane exceeds the limit or is not a number."""
    sizes = _of_lanes(builder, "fabs", value)
    beyond = builder.fcmp_unordered(">", sizes, _in_all_lanes(builder, limit))
    flags = builder.bitcast(beyond, ir.IntType(LANES))
    return builder.icmp_unsigned("!=", flags, ir.Constant(flags.type, 0))


# --- Threads and denormal numbers -----------------------------------------------------------


@_instruction(lambda counters, index: types.int64(counters, types.intp))
def add_to_counter(builder: Any, counters: Any, index: Any) -> Any:
    """Add 1 to a counter that threads share; return its value before."""
    address = _address(builder, counters, index, _INT64)
    return builder.atomic_rmw("add", address, _INT64(1), "acq_rel")


@_instruction(lambda counters, index: types.int64(counters, types.intp))
def read_counter(builder: Any, counters: Any, index: Any) -> Any:
    """The value of a counter that other threads may be writing."""
    return builder.load_atomic(_address(builder, counters, index, _INT64), "acquire", 8)


def _control_register(builder: Any, action: str, slot: Any) -> None:
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte])
    function = builder.module.declare_intrinsic(f"llvm.x86.sse.{action}mxcsr", fnty=kind)
    builder.call(function, [builder.bitcast(slot, byte)])


@_instruction(lambda: types.int32())
def flush_denormals(builder: Any) -> Any:
    """Make this thread treat denormal numbers as zero; return the setting before.

    They slow a processor down up to a hundredfold, and dim light is full of them. Only x86 needs
    the switch; elsewhere this does nothing.
    """
    if not _X86:
        return _INT32(0)
    slot = builder.alloca(_INT32)
    _control_register(builder, "st", slot)
    before = builder.load(slot)
    builder.store(builder.or_(before, _INT32(_FLUSH_BITS)), slot)
    _control_register(builder, "ld", slot)
    return before


@_instruction(lambda before: types.void(types.int32))
def restore_denormals(builder: Any, before: Any) -> None:
    """Undo :func:`flush_denormals`."""
    if _X86:
        slot = builder.alloca(_INT32)
        builder.store(before, slot)
        _control_register(builder, "ld", slot)
