"""A vector of 16 floats as a Numba value: one register with AVX-512, two with AVX2, four else.

Numba leaves vectors to LLVM's optimiser, which takes half registers here and none around loops as
irregular as a mesh. These few operations put them into kernels by hand. Multiplications and
additions may be contracted to fused ones. Offsets count floats and are not checked.

Also here is what else the kernels need from the machine: counters that threads share and the
switch that flushes denormal numbers to zero.

Numba's cache of a kernel does not notice a change of this file: touch ``kernels.py`` after one.
"""

from __future__ import annotations

import operator
import platform
from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.extending import lower_builtin, models, register_model, type_callable

__all__ = [
    "LANES",
    "add_to_counter",
    "distance_to_cache_line",
    "flush_denormals",
    "load",
    "read_counter",
    "restore_denormals",
    "splat",
    "store",
    "sum_lanes",
    "transpose_block",
]

LANES = 16

intrinsic: Any = extending.intrinsic  # whose annotations hide that kernels omit the context

_FLOAT = ir.FloatType()
_INT32 = ir.IntType(32)
_INT64 = ir.IntType(64)
_REGISTER = ir.VectorType(_FLOAT, LANES)
_UNDEFINED = ir.Constant(_REGISTER, ir.Undefined)
_X86 = platform.machine().lower() in ("x86_64", "amd64", "i386", "i686")
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


def _data(context: Any, builder: Any, array_type: Any, array: Any) -> Any:
    position = context.data_model_manager[array_type].get_field_position("data")
    return builder.extract_value(array, position)


def _address(context: Any, builder: Any, array_type: Any, array: Any, offset: Any, to: Any) -> Any:
    data = _data(context, builder, array_type, array)
    return builder.bitcast(builder.gep(data, [offset]), to.as_pointer())


def _mask(lanes: list[int]) -> Any:
    return ir.Constant(ir.VectorType(_INT32, LANES), lanes)


@intrinsic
def distance_to_cache_line(_context: Any, array: Any) -> Any:
    """Floats from the start of ``array`` to its first 64-byte boundary."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = _data(context, builder, signature.args[0], args[0])
        to_go = builder.neg(builder.ptrtoint(data, _INT64))
        return builder.and_(builder.lshr(to_go, _INT64(2)), _INT64(LANES - 1))

    return types.int64(array), codegen


@intrinsic
def load(_context: Any, array: Any, offset: Any) -> Any:
    """The 16 floats of ``array`` from ``offset`` on."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(context, builder, signature.args[0], args[0], args[1], _REGISTER)
        return builder.load(address, align=4)

    return _VECTOR(array, types.intp), codegen


@intrinsic
def store(_context: Any, array: Any, offset: Any, value: Any) -> Any:
    """Write a vector to ``array`` from ``offset`` on."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(context, builder, signature.args[0], args[0], args[1], _REGISTER)
        builder.store(args[2], address, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, _VECTOR), codegen


@intrinsic
def splat(_context: Any, array: Any, offset: Any) -> Any:
    """One float of ``array`` in all 16 lanes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        scalar = builder.load(
            _address(context, builder, signature.args[0], args[0], args[1], _FLOAT)
        )
        first = builder.insert_element(_UNDEFINED, scalar, _INT32(0))
        return builder.shuffle_vector(first, _UNDEFINED, _mask([0] * LANES))

    return _VECTOR(array, types.intp), codegen


@intrinsic
def sum_lanes(_context: Any, value: Any) -> Any:
    """The sum over a vector's lanes, always in the same order."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        name = f"llvm.vector.reduce.fadd.v{LANES}f32"
        kind = ir.FunctionType(_FLOAT, [_FLOAT, _REGISTER])
        function = builder.module.declare_intrinsic(name, fnty=kind)
        return builder.call(function, [_FLOAT(0.0), args[0]], fastmath=("reassoc",))

    return types.float32(_VECTOR), codegen


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
            return _address(context, builder, signature.args[array], args[array], offset, _REGISTER)

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
        address = _address(context, builder, signature.args[0], args[0], args[1], _INT64)
        return builder.atomic_rmw("add", address, _INT64(1), "acq_rel")

    return types.int64(counters, types.intp), codegen


@intrinsic
def read_counter(_context: Any, counters: Any, index: Any) -> Any:
    """A counter that other threads may be writing."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(context, builder, signature.args[0], args[0], args[1], _INT64)
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
