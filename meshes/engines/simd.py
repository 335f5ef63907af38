"""A vector of 16 floats as a Numba value: one register with AVX-512, two with AVX2, four else.

Numba leaves vectors to LLVM's optimiser, which takes half registers here and none around loops as
irregular as a mesh. These few operations put them into kernels by hand. Multiplications and
additions may be contracted to fused ones. Offsets count floats and are not checked.

Also here is what else the kernels need from the machine: counters that threads share and the
switch that flushes denormal numbers to zero.

Numba's cache of a kernel does not notice a change of this file: touch ``kernels.py`` after one.
"""

from __future__ import annotations

import math
import operator
import platform
from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.extending import lower_builtin, models, register_model, type_callable

LANES = 16

intrinsic: Any = extending.intrinsic  # whose annotations hide that kernels omit the context

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


def _address(builder: Any, pointer: Any, offset: Any, to: Any) -> Any:
    return builder.bitcast(builder.gep(pointer, [offset]), to.as_pointer())


def _mask(lanes: list[int]) -> Any:
    return ir.Constant(_INTEGERS, lanes)


@intrinsic
def pointer(_context: Any, array: Any) -> Any:
    """Where an array's data start. A pointer is passed on for nothing, an array is counted.

    Whoever takes it must keep the array alive.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        position = context.data_model_manager[signature.args[0]].get_field_position("data")
        return builder.extract_value(args[0], position)

    return types.CPointer(array.dtype)(array), codegen


@intrinsic
def advance(_context: Any, start: Any, distance: Any) -> Any:
    """A pointer, ``distance`` floats further on."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.gep(args[0], [args[1]])

    return start(start, types.intp), codegen


@intrinsic
def next_cache_line(_context: Any, start: Any) -> Any:
    """The first 64-byte boundary from a pointer on, at which vectors are read fastest."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        to_go = builder.and_(builder.neg(builder.ptrtoint(args[0], _INT64)), _INT64(63))
        return builder.gep(args[0], [builder.lshr(to_go, _INT64(2))])

    return start(start), codegen


@intrinsic
def keep_alive(_context: Any, array: Any) -> Any:
    """Nothing, but done with an array, which therefore is not released before."""

    def codegen(context: Any, _builder: Any, _signature: Any, _args: Any) -> Any:
        return context.get_dummy_value()

    return types.void(array), codegen


@intrinsic
def load(_context: Any, array: Any, offset: Any) -> Any:
    """The 16 floats of ``array`` from ``offset`` on."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(builder, args[0], args[1], _REGISTER)
        return builder.load(address, align=4)

    return _VECTOR(array, types.intp), codegen


@intrinsic
def store(_context: Any, array: Any, offset: Any, value: Any) -> Any:
    """Write a vector to ``array`` from ``offset`` on."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(builder, args[0], args[1], _REGISTER)
        builder.store(args[2], address, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, _VECTOR), codegen


def _in_all_lanes(builder: Any, scalar: Any) -> Any:
    first = builder.insert_element(_UNDEFINED, scalar, _INT32(0))
    return builder.shuffle_vector(first, _UNDEFINED, _mask([0] * LANES))


@intrinsic
def fill(_context: Any, value: Any) -> Any:
    """A float32 in all 16 lanes."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return _in_all_lanes(builder, args[0])

    return _VECTOR(types.float32), codegen


@intrinsic
def splat(_context: Any, array: Any, offset: Any) -> Any:
    """One float of ``array`` in all 16 lanes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(builder, args[0], args[1], _FLOAT)
        return _in_all_lanes(builder, builder.load(address))

    return _VECTOR(array, types.intp), codegen


@intrinsic
def sums_of_lanes(_context: Any, first: Any, second: Any) -> Any:
    """The sums over the lanes of two vectors, always in the same order.

    Halves are added to halves: at first of each vector, which leaves both sums in one vector.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def halves(one: Any, two: Any, lower: list[int], distance: int) -> Any:
            upper = [lane + distance for lane in lower]
            low, high = (builder.shuffle_vector(one, two, _mask(m)) for m in (lower, upper))
            return builder.fadd(low, high)

        lanes = list(range(8)) + list(range(16, 24))
        both = halves(args[0], args[1], lanes, 8)
        for step in (4, 2, 1):
            lanes = [lane % step + lane // 8 * 8 for lane in range(LANES)]
            both = halves(both, both, lanes, step)
        sums = [builder.extract_element(both, _INT32(lane)) for lane in (0, 8)]
        return context.make_tuple(builder, signature.return_type, sums)

    return types.UniTuple(types.float32, 2)(first, second), codegen


@intrinsic
def sine_cosine(_context: Any, angle: Any) -> Any:
    """Sine and cosine within 1e-7 for angles of up to 8000 rad.

    The angle less its nearest multiple of pi/2, taken off in three parts of which the first two
    have so few digits that their products are exact; polynomials with the smallest relative error
    on [-pi/4, pi/4]; and exchange and signs by quadrant.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def c(value: float) -> Any:
            return ir.Constant(_REGISTER, [value] * LANES)

        def multiply_add(a: Any, b: Any, addend: Any) -> Any:
            product = builder.fmul(a, b, flags=("contract",))
            return builder.fadd(product, addend, flags=("contract",))

        kind = ir.FunctionType(_REGISTER, [_REGISTER])
        nearest = builder.module.declare_intrinsic(f"llvm.rint.v{LANES}f32", fnty=kind)
        quarters = builder.call(nearest, [builder.fmul(args[0], c(2.0 / math.pi))])
        x = args[0]
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
        return context.make_tuple(builder, signature.return_type, results)

    return types.UniTuple(_VECTOR, 2)(_VECTOR), codegen


@intrinsic
def transpose_block(
    _context: Any, source: Any, start: Any, stride: Any, target: Any, to: Any, to_stride: Any
) -> Any:
    """Copy 16 rows of 16 floats, ``stride`` apart, to 16 rows ``to_stride`` apart, transposed.

    Four rounds swap the off-diagonal blocks of halves, quarters, eighths and sixteenths.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def row(array: int, number: int) -> Any:
            distance = builder.mul(args[array + 2], ir.Constant(args[array + 2].type, number))
            offset = builder.add(args[array + 1], distance)
            return _address(builder, args[array], offset, _REGISTER)

        rows = [builder.load(row(0, number), align=4) for number in range(LANES)]
        step = LANES // 2
        while step:
            upper = _mask([i if not i & step else i - step + LANES for i in range(LANES)])
            lower = _mask([i + step if not i & step else i + LANES for i in range(LANES)])
            for i in (i for i in range(LANES) if not i & step):
                pair = rows[i], rows[i + step]
                rows[i] = builder.shuffle_vector(*pair, upper)
                rows[i + step] = builder.shuffle_vector(*pair, lower)
            step //= 2
        for number, value in enumerate(rows):
            builder.store(value, row(3, number), align=4)
        return context.get_dummy_value()

    sizes = (types.intp, types.intp)
    return types.void(source, *sizes, target, *sizes), codegen


@intrinsic
def add_to_counter(_context: Any, counters: Any, index: Any) -> Any:
    """Add 1 to a counter that threads share and return what it was."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(builder, args[0], args[1], _INT64)
        return builder.atomic_rmw("add", address, _INT64(1), "acq_rel")

    return types.int64(counters, types.intp), codegen


@intrinsic
def read_counter(_context: Any, counters: Any, index: Any) -> Any:
    """A counter that other threads may be writing."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(builder, args[0], args[1], _INT64)
        return builder.load_atomic(address, "acquire", 8)

    return types.int64(counters, types.intp), codegen


def _control_register(builder: Any, action: str, slot: Any) -> None:
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte])
    function = builder.module.declare_intrinsic(f"llvm.x86.sse.{action}mxcsr", fnty=kind)
    builder.call(function, [builder.bitcast(slot, byte)])


@intrinsic
def flush_denormals(_context: Any) -> Any:
    """Let this thread take denormal numbers for zero; return the setting before.

    A processor may need a hundred times as long for them, and light that leaks through bars and
    crosses is full of them. Only x86 needs the switch, and elsewhere this does nothing.
    """

    def codegen(_context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        if not _X86:
            return _INT32(0)
        slot = builder.alloca(_INT32)
        _control_register(builder, "st", slot)
        before = builder.load(slot)
        builder.store(builder.or_(before, _INT32(_FLUSH_BITS)), slot)
        _control_register(builder, "ld", slot)
        return before

    return types.int32(), codegen


@intrinsic
def restore_denormals(_context: Any, before: Any) -> Any:
    """Undo :func:`flush_denormals`."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        if _X86:
            slot = builder.alloca(_INT32)
            builder.store(args[0], slot)
            _control_register(builder, "ld", slot)
        return context.get_dummy_value()

    return types.void(types.int32), codegen
