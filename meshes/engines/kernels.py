"""Compiled loops of the native engine: light through the columns of a mesh, and gradients back.

**Tile.** A thread carries 16 samples at a time through all columns. A tile holds their fields, one
port after the other: 16 real parts, then 16 imaginary parts. One vector is thus one part of one
port for 16 samples, and a field is a pair of vectors. Every operation below is on whole vectors.

**The factor i.** Every interferometer multiplies its fields by i. The tile leaves this factor out
(i^l after l columns), and the input screen contains i^L instead. The rest of an interferometer is
real except for one phase, ::

    t  = sin(theta/2) u + cos(theta/2) v        u' = e^{i phi} t
    v' = cos(theta/2) u - sin(theta/2) v

which takes 18 floating-point operations a sample. Ports that a column does not couple must divide
by i: the idle pair's factor -i becomes -1, and the factor 1 of the unpaired port becomes -i.

**Coefficients** of one column are rows of M floats, padded to whole vectors. An ideal mesh has 4
rows: sin(theta/2), cos(theta/2), cos(phi), sin(phi). A general one, with splitter errors or loss,
has 10: real and imaginary parts of A, B, C, D, where u' = A u + B v and v' = C u + D v, then
cos(phi) and sin(phi).

**Adjoint.** Let g = dl/d(re) + i dl/d(im) of the fields after a column with matrix M. Before the
column the adjoint is M^+ g, and as M is unitary the fields are M^+ (u', v'). Both run backwards
through the same columns, no field is stored, and the gradient of a phase is a product of the two.
A lossy column is not inverted, because dividing by its transmission amplifies rounding errors.
There the fields are stored before every sqrt(L)-th column and recomputed from one stored column to
the next. A fitted mesh is a general one whose couplers and losses have gradients, too; with two
adjoints g, of which the second has gradients of the phases alone, both go back with one field.

**Threads** all run the same kernel and take tasks from shared counters, so that a thread that
starts late delays nobody. The result of a task does not depend on the thread.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from meshes.angles import LARGE
from meshes.engines.cache import kernel
from meshes.engines.simd import (
    LANES,
    add_to_counter,
    advance,
    any_beyond,
    fill,
    flush_denormals,
    keep_alive,
    load,
    next_cache_line,
    pointer,
    pointers,
    read_counter,
    restore_denormals,
    sine_cosine,
    splat,
    store,
    sums_of_lanes,
    transpose_block,
)

IDEAL_ROWS, GENERAL_ROWS = 4, 10

_PORT = 2 * LANES  # floats between the ports of a tile
_COLUMNS_A_TASK = 8
_HALF = np.float32(0.5)
_LARGE = np.float32(LARGE)  # rad; sine_cosine is exact below

_jit: Any = njit
inlined: Any = _jit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)  # LLVM inlines it


def _of_kind(kind):
    """Compile one of several kinds of a function under a name of its own.

    Kernels loaded from the disk cache would share functions of the same name.
    """

    def decorate(function):
        function.__qualname__ = f"{function.__name__}_{kind}"
        return inlined(function)

    return decorate


class Dimensions(NamedTuple):
    """Sizes of a kernel's task, whose arrays are flat, in the order of the axes stated here.

    theta, phi [P, L, M]; gamma [P, N]; fields [1 or P, B, N]; edges [L, 2], the amplitudes that the
    first and the last port pass in each column.
    couplers [8, L, M], empty if ideal: for errors a and b of the two couplers, sin(a + b),
    cos(a - b), cos(a + b), sin(a - b), sin(2b), cos(2b), then the amplitudes passed after the
    upper and the lower port.
    loss [L, N], the amplitudes passed, empty if there is none.
    scratch: coefficients [P, L, rows, M], screens [P, 2, N] and 16 floats more.
    counters, zeros at first: preparations taken, preparations done, chunks taken.
    In couplers and scratch the last axis is padded to whole vectors.
    """

    sets: int  # P
    batches: int  # 1 if all sets share the fields, else P
    samples: int  # B
    ports: int  # N
    columns: int  # L
    rows: int  # of coefficients
    real: int  # 1 if the fields are real
    power: int  # 1 if intensities are detected, 0 if fields
    lossy: int  # 1 if columns have loss
    groups: int  # of chunks of samples; each group has a separate sum of gradients


# --- Coefficients ---------------------------------------------------------------------------


def padded(size):
    """The next multiple of a vector's floats."""
    return (size + LANES - 1) // LANES * LANES


_padded = inlined(padded)


@inlined
def _copy_row(source, start, size, target, to):
    whole = size - size % LANES
    for i in range(0, whole, LANES):
        store(target, to + i, load(source, start + i))
    for i in range(whole, size):
        target[to + i] = source[start + i]


@inlined
def _copy_angles(source, start, size, angles, to):
    """Copy phases; take large ones modulo 4 pi, as theta / 2 enters. Inf and nan become nan."""
    _copy_row(source, start, size, angles, to)
    for i in range(to, to + size, LANES):
        if any_beyond(load(angles, i), _LARGE):
            for lane in range(i, i + LANES):
                if not abs(angles[lane]) <= _LARGE:
                    half = 0.5 * np.float64(angles[lane])
                    angles[lane] = 2.0 * math.atan2(math.sin(half), math.cos(half))


@inlined
def _ideal_coefficients(angles, S, _couplers, _at, _size, out, to):
    half = fill(_HALF)
    for m in range(0, S, LANES):
        sine, cosine = sine_cosine(half * load(angles, m))
        swing, turn = sine_cosine(load(angles, S + m))
        o = to + m
        store(out, o, sine)
        store(out, o + S, cosine)
        store(out, o + 2 * S, turn)
        store(out, o + 3 * S, swing)


@inlined
def _general_coefficients(angles, S, couplers, at, size, out, to):
    """Matrices with coupler errors a, b, followed by the loss.

    Without the factor i and e^{i phi}, A, D = +-sin(theta/2) cos(a - b) - i cos(theta/2) sin(a + b)
    and B, C = cos(theta/2) cos(a + b) -+ i sin(theta/2) sin(a - b).
    """
    half = fill(_HALF)
    for m in range(0, S, LANES):
        sine, cosine = sine_cosine(half * load(angles, m))
        swing, turn = sine_cosine(load(angles, S + m))
        c, o = at + m, to + m
        leak, bar = cosine * load(couplers, c), sine * load(couplers, c + size)
        cross, skew = cosine * load(couplers, c + 2 * size), sine * load(couplers, c + 3 * size)
        upper, lower = load(couplers, c + 6 * size), load(couplers, c + 7 * size)
        store(out, o, upper * (turn * bar + swing * leak))
        store(out, o + S, upper * (swing * bar - turn * leak))
        store(out, o + 2 * S, upper * (turn * cross + swing * skew))
        store(out, o + 3 * S, upper * (swing * cross - turn * skew))
        store(out, o + 4 * S, lower * cross)
        store(out, o + 5 * S, lower * skew)
        store(out, o + 6 * S, -(lower * bar))
        store(out, o + 7 * S, -(lower * leak))
        store(out, o + 8 * S, turn)
        store(out, o + 9 * S, swing)


@inlined
def _screen(angles, S, L, out, to):
    """e^{i gamma} i^L, real parts and then imaginary parts."""
    for n in range(0, S, LANES):
        imaginary, real = sine_cosine(load(angles, n))
        if L % 2:
            imaginary, real = real, -imaginary
        if L % 4 >= 2:
            imaginary, real = -imaginary, -real
        store(out, to + n, real)
        store(out, to + S + n, imaginary)


def _preparation(kind, coefficients_of):
    """Compute the coefficients and screens of all sets, shared among threads; wait for them all."""

    @_of_kind(kind)
    def prepare(counters, dims, theta, phi, gamma, couplers, scratch):
        N, L, M = dims.ports, dims.columns, dims.ports // 2
        S, T = _padded(M), _padded(N)
        coefficients = next_cache_line(scratch)
        screens = advance(coefficients, dims.sets * L * dims.rows * S)
        blocks = (L + _COLUMNS_A_TASK - 1) // _COLUMNS_A_TASK
        tasks = dims.sets * blocks
        rows = np.zeros(2 * T + LANES, np.float32)  # of phases, padded with zeros
        angles = next_cache_line(pointer(rows))
        while True:
            task = add_to_counter(counters, 0)
            if task >= tasks:
                break
            p, first = task // blocks, task % blocks * _COLUMNS_A_TASK
            if first == 0:
                _copy_angles(gamma, p * N, N, angles, 0)
                _screen(angles, T, L, screens, p * 2 * T)
            for column in range(first, min(first + _COLUMNS_A_TASK, L)):
                at = p * L + column
                _copy_angles(theta, at * M, M, angles, 0)
                _copy_angles(phi, at * M, M, angles, S)
                to = at * dims.rows * S
                coefficients_of(angles, S, couplers, column * S, L * S, coefficients, to)
            add_to_counter(counters, 1)
        keep_alive(rows)
        while read_counter(counters, 1) < tasks:
            pass
        return coefficients, screens

    return prepare


_prepare_ideal = _preparation("ideal", _ideal_coefficients)
_prepare_general = _preparation("general", _general_coefficients)


# --- Tiles ----------------------------------------------------------------------------------


@inlined
def read_rows(array, start, length, samples, tile, stride):
    """Rows of ``length`` floats, one a sample, into a tile's parts; missing samples are dark."""
    done = 0
    if samples == LANES:
        while done + LANES <= length:
            transpose_block(array, start + done, length, tile, done * stride, stride)
            done += LANES
    for part in range(done, length):
        for b in range(samples):
            tile[part * stride + b] = array[start + b * length + part]
        for b in range(samples, LANES):
            tile[part * stride + b] = 0.0


@inlined
def _write(tile, length, samples, array, start):
    """The reverse of :func:`read_rows`, from parts that follow each other."""
    done = 0
    if samples == LANES:
        while done + LANES <= length:
            transpose_block(tile, done * LANES, LANES, array, start + done, length)
            done += LANES
    for b in range(samples):
        for part in range(done, length):
            array[start + b * length + part] = tile[part * LANES + b]


@inlined
def _field(tile, b):
    return load(tile, b), load(tile, b + LANES)


@inlined
def _set_field(tile, b, field):
    store(tile, b, field[0])
    store(tile, b + LANES, field[1])


@inlined
def _enter(fields, start, real, samples, N, screens, at, tile):
    """Read fields and pass them through the input screen."""
    read_rows(fields, start, N if real else 2 * N, samples, tile, _PORT if real else LANES)
    for n in range(N):
        b = n * _PORT
        re, im = _field(tile, b)
        cosine, sine = splat(screens, at + n), splat(screens, at + _padded(N) + n)
        if real:
            _set_field(tile, b, (cosine * re, sine * re))
        else:
            _set_field(tile, b, (cosine * re - sine * im, cosine * im + sine * re))


@inlined
def _detect(tile, N):
    """Replace the fields by the intensities, one vector a port."""
    for n in range(N):
        re, im = _field(tile, n * _PORT)
        store(tile, n * LANES, re * re + im * im)


# --- Columns forwards -----------------------------------------------------------------------


@inlined
def _four(c, k, S):
    """Four coefficients of one interferometer, each in all lanes."""
    return splat(c, k), splat(c, k + S), splat(c, k + 2 * S), splat(c, k + 3 * S)


@inlined
def _ideal(c, k, S, u, v):
    (ur, ui), (vr, vi) = u, v
    sine, cosine, turn, swing = _four(c, k, S)
    tr, ti = sine * ur + cosine * vr, sine * ui + cosine * vi
    u = turn * tr - swing * ti, turn * ti + swing * tr
    return u, (cosine * ur - sine * vr, cosine * ui - sine * vi)


@inlined
def _general(c, k, S, u, v):
    (ur, ui), (vr, vi) = u, v
    ar, ai, br, bi = _four(c, k, S)
    cr, ci, dr, di = _four(c, k + 4 * S, S)
    u = ar * ur - ai * ui + br * vr - bi * vi, ar * ui + ai * ur + br * vi + bi * vr
    return u, (cr * ur - ci * ui + dr * vr - di * vi, cr * ui + ci * ur + dr * vi + di * vr)


@inlined
def _unpaired(amplitude, N, field):
    """What a column does to a port outside its active pairs, without the factor i."""
    re, im = field
    if N % 2:
        return amplitude * im, -(amplitude * re)
    return -(amplitude * re), -(amplitude * im)


@inlined
def _unpaired_port(tile, n, edges, edge, N):
    b = n * _PORT
    _set_field(tile, b, _unpaired(splat(edges, edge), N, _field(tile, b)))


def _columns(kind, couple):
    """Loops over the interferometers of one column, and of all columns."""

    @_of_kind(kind)
    def one_column(tile, c, k, edges, column, N):
        """The column whose coefficients start at k."""
        S, odd = _padded(N // 2), column % 2
        if odd:
            _unpaired_port(tile, 0, edges, 2 * column, N)
        for m in range((N - odd) // 2):
            b = (2 * m + odd) * _PORT
            u, v = couple(c, k + m, S, _field(tile, b), _field(tile, b + _PORT))
            _set_field(tile, b, u)
            _set_field(tile, b + _PORT, v)
        if (N + odd) % 2:
            _unpaired_port(tile, N - 1, edges, 2 * column + 1, N)

    @_of_kind(kind)
    def two_columns(tile, c, k, rows, edges, column, N):
        """An even column and the next in one pass over the tile, which halves the memory traffic.

        Once the even column has coupled ports 2m and 2m + 1, the odd one can couple port 2m with
        port 2m - 1, which ``held`` keeps in registers.
        """
        M, S = N // 2, _padded(N // 2)
        odd = k + rows * S
        u, held = couple(c, k, S, _field(tile, 0), _field(tile, _PORT))
        _set_field(tile, 0, _unpaired(splat(edges, 2 * column + 2), N, u))
        for m in range(1, M):
            b = 2 * m * _PORT
            u, v = couple(c, k + m, S, _field(tile, b), _field(tile, b + _PORT))
            held, u = couple(c, odd + m - 1, S, held, u)
            _set_field(tile, b - _PORT, held)
            _set_field(tile, b, u)
            held = v
        b = 2 * M * _PORT
        if N % 2:
            u = _unpaired(splat(edges, 2 * column + 1), N, _field(tile, b))
            held, u = couple(c, odd + M - 1, S, held, u)
            _set_field(tile, b, u)
        else:
            held = _unpaired(splat(edges, 2 * column + 3), N, held)
        _set_field(tile, b - _PORT, held)

    @_of_kind(kind)
    def all_columns(tile, c, k, rows, edges, N, L):
        size = rows * _padded(N // 2)
        for column in range(0, L - 1, 2):
            two_columns(tile, c, k + column * size, rows, edges, column, N)
        if L % 2:
            one_column(tile, c, k + (L - 1) * size, edges, L - 1, N)

    return one_column, all_columns


_, _all_ideal_columns = _columns("ideal", _ideal)
_one_general_column, _all_general_columns = _columns("general", _general)


def _forward(kind, prepare, all_columns):
    """Fields or intensities [P, B, N] at the mesh's output."""

    @_of_kind(kind)
    def run_forward(counters, dims, theta, phi, gamma, couplers, edges, fields, scratch, out):
        before = flush_denormals()
        c, screens = prepare(counters, dims, theta, phi, gamma, couplers, scratch)
        N, B, L = dims.ports, dims.samples, dims.columns
        chunks = (B + LANES - 1) // LANES
        width_in, width_out = (1 if dims.real else 2) * N, (1 if dims.power else 2) * N
        buffer = np.empty(N * _PORT + LANES, np.float32)
        tile = next_cache_line(pointer(buffer))
        while True:
            task = add_to_counter(counters, 2)
            if task >= dims.sets * chunks:
                break
            p, first = task // chunks, task % chunks * LANES
            samples = min(LANES, B - first)
            start = ((p if dims.batches > 1 else 0) * B + first) * width_in
            _enter(fields, start, dims.real, samples, N, screens, p * 2 * _padded(N), tile)
            all_columns(tile, c, p * L * dims.rows * _padded(N // 2), dims.rows, edges, N, L)
            if dims.power:
                _detect(tile, N)
            _write(tile, width_out, samples, out, (p * B + first) * width_out)
        keep_alive(buffer)
        restore_denormals(before)

    return run_forward


_forward_ideal = _forward("ideal", _prepare_ideal, _all_ideal_columns)
_forward_general = _forward("general", _prepare_general, _all_general_columns)


@kernel
def forward_ideal(counters, dims, *arrays):
    """Light through an ideal mesh: theta, phi, gamma, couplers, edges, fields, scratch, out."""
    _forward_ideal(pointer(counters), dims, *pointers(arrays))


@kernel
def forward_general(counters, dims, *arrays):
    """As :func:`forward_ideal`, through a mesh with splitter errors or loss."""
    _forward_general(pointer(counters), dims, *pointers(arrays))


# --- Backwards ------------------------------------------------------------------------------


@inlined
def _undo_ideal(c, k, S, _couplers, _at, _size, u, v, p, q):
    """Fields u, v and their adjoints p, q before the interferometer, and dl/dtheta, dl/dphi."""
    (ur, ui), (vr, vi), (pr, pi), (qr, qi) = u, v, p, q
    sine, cosine, turn, swing = _four(c, k, S)
    slopes_phi = pi * ur - pr * ui
    ur, ui = turn * ur + swing * ui, turn * ui - swing * ur
    pr, pi = turn * pr + swing * pi, turn * pi - swing * pr
    slopes_theta = fill(_HALF) * (pr * vr + pi * vi - qr * ur - qi * ui)
    return (
        (sine * ur + cosine * vr, sine * ui + cosine * vi),
        (cosine * ur - sine * vr, cosine * ui - sine * vi),
        (sine * pr + cosine * qr, sine * pi + cosine * qi),
        (cosine * pr - sine * qr, cosine * pi - sine * qi),
        (slopes_theta, slopes_phi),
    )


@inlined
def _undo_general(c, k, S, couplers, at, size, u, v, p, q):
    """As :func:`_undo_ideal`, with coupler errors.

    With the second coupler's error b, theta turns the fields after the interferometer by
    (cos(2b) sigma_y + sin(2b) sigma_z) / 2, up to a factor.
    """
    (ur, ui), (vr, vi), (pr, pi), (qr, qi) = u, v, p, q
    turn, swing = splat(c, k + 8 * S), splat(c, k + 9 * S)
    tr, ti = turn * ur + swing * ui, turn * ui - swing * ur
    sr, si = turn * pr + swing * pi, turn * pi - swing * pr
    slopes_phi = pi * ur - pr * ui
    exchange = sr * vr + si * vi - qr * tr - qi * ti
    imbalance = slopes_phi - (qi * vr - qr * vi)
    sine_2b, cosine_2b = splat(couplers, at + 4 * size), splat(couplers, at + 5 * size)
    slopes_theta = fill(_HALF) * (cosine_2b * exchange + sine_2b * imbalance)
    matrix = (*_four(c, k, S), *_four(c, k + 4 * S, S))
    return *_adjoint(matrix, u, v), *_adjoint(matrix, p, q), (slopes_theta, slopes_phi)


@inlined
def _undo_fitted(c, k, S, couplers, at, size, u, v, p, q):
    """As :func:`_undo_general`, with dl/da and dl/db of the couplers' errors, too.

    A coupler's error turns the fields at its place by -sigma_x: a's in front of the
    interferometer, b's after it, where phi is taken back first.
    """
    (ur, ui), (pr, pi), turn, swing = u, p, splat(c, k + 8 * S), splat(c, k + 9 * S)
    t = turn * ur + swing * ui, turn * ui - swing * ur
    s = turn * pr + swing * pi, turn * pi - swing * pr
    second = _crossed(t, v, s, q)
    u, v, p, q, (slopes_theta, slopes_phi) = _undo_general(c, k, S, couplers, at, size, u, v, p, q)
    return u, v, p, q, (slopes_theta, slopes_phi, _crossed(u, v, p, q), second)


@inlined
def _crossed(u, v, p, q):
    """The slope of a turn by -sigma_x."""
    (ur, ui), (vr, vi), (pr, pi), (qr, qi) = u, v, p, q
    return pr * vi - pi * vr + qr * ui - qi * ur


@inlined
def _adjoint(matrix, u, v):
    (ur, ui), (vr, vi) = u, v
    ar, ai, br, bi, cr, ci, dr, di = matrix
    u = ar * ur + ai * ui + cr * vr + ci * vi, ar * ui - ai * ur + cr * vi - ci * vr
    return u, (br * ur + bi * ui + dr * vr + di * vi, br * ui - bi * ur + dr * vi - di * vr)


@inlined
def _undo_unpaired_port(tile, b, N):
    re, im = _field(tile, b)
    if N % 2:
        re, im = im, -re
    _set_field(tile, b, (-re, -im))


@inlined
def _receive(upstream, start, power, samples, N, x, g):
    """Read the adjoints of the output fields x: 2 w x for weights w of intensities."""
    read_rows(upstream, start, N if power else 2 * N, samples, g, _PORT if power else LANES)
    for n in range(N if power else 0):
        b = n * _PORT
        double = load(g, b) + load(g, b)
        re, im = _field(x, b)
        _set_field(g, b, (double * re, double * im))


@inlined
def _add_slopes(found, slopes, to, size):
    slope_theta, slope_phi = sums_of_lanes(*found)
    slopes[to] += slope_theta
    slopes[to + size] += slope_phi


@inlined
def _add_fitted_slopes(found, slopes, to, size):
    theta, phi, first, second = found
    _add_slopes((theta, phi), slopes, to, size)
    _add_slopes((first, second), slopes, to + 2 * size, size)


def _undoing(kind, undo, add, adjoints=1):
    """Take fields x and adjoints g back through one lossless column.

    A second adjoint has slopes of the phases alone, which stand in front of the first one's. It is
    read once the first is written, as the processor has registers for one at a time.
    """

    @_of_kind(kind)
    def undo_column(x, at, g, c, k, couplers, column, N, L, slopes, to):
        M, S, odd, tile = N // 2, _padded(N // 2), column % 2, N * _PORT
        first = to + 2 * (adjoints - 1) * L * M
        if odd:
            _undo_unpaired_port(x, at, N)
            for j in range(adjoints):
                _undo_unpaired_port(g, j * tile, N)
        for m in range((N - odd) // 2):
            b = (2 * m + odd) * _PORT
            a, mzi, error = at + b, column * M + m, column * S + m
            u, v = _field(x, a), _field(x, a + _PORT)
            upper, lower, p, q, of_first = undo(
                c, k + m, S, couplers, error, L * S, u, v, _field(g, b), _field(g, b + _PORT)
            )
            _set_field(x, a, upper)
            _set_field(x, a + _PORT, lower)
            _set_field(g, b, p)
            _set_field(g, b + _PORT, q)
            add(of_first, slopes, first + mzi, L * M)
            if adjoints > 1:
                b += tile
                _, _, p, q, of_second = _undo_general(
                    c, k + m, S, couplers, error, L * S, u, v, _field(g, b), _field(g, b + _PORT)
                )
                _set_field(g, b, p)
                _set_field(g, b + _PORT, q)
                _add_slopes(of_second, slopes, to + mzi, L * M)
        if (N + odd) % 2:
            _undo_unpaired_port(x, at + (N - 1) * _PORT, N)
            for j in range(adjoints):
                _undo_unpaired_port(g, j * tile + (N - 1) * _PORT, N)

    return undo_column


_undo_ideal_column = _undoing("ideal", _undo_ideal, _add_slopes)
_undo_general_column = _undoing("general", _undo_general, _add_slopes)
_undo_fitted_column = _undoing("fitted", _undo_fitted, _add_fitted_slopes)
_undo_column_of_both = _undoing("both", _undo_fitted, _add_fitted_slopes, 2)


def _retracing(kind, undo_column, all_columns, adjoints=1):
    """From input fields to input adjoints; returns where the input fields are in x."""

    @_of_kind(kind)
    def retrace(dims, x, g, c, k, couplers, _loss, edges, upstream, start, samples, slopes, to):
        N, L, size = dims.ports, dims.columns, dims.rows * _padded(dims.ports // 2)
        all_columns(x, c, k, dims.rows, edges, N, L)
        _receive_all(dims, upstream, start, samples, x, g, adjoints)
        for column in range(L - 1, -1, -1):
            undo_column(x, 0, g, c, k + column * size, couplers, column, N, L, slopes, to)
        return 0

    return retrace


@inlined
def _receive_all(dims, upstream, start, samples, x, g, adjoints):
    """Read the tiles of all adjoints."""
    N, width = dims.ports, (1 if dims.power else 2) * dims.ports
    for j in range(adjoints):
        at = j * dims.sets * dims.samples * width + start
        _receive(upstream, at, dims.power, samples, N, x, advance(g, j * N * _PORT))


_retrace_ideal = _retracing("ideal", _undo_ideal_column, _all_ideal_columns)
_retrace_lossless = _retracing("general", _undo_general_column, _all_general_columns)
_retrace_fitted_lossless = _retracing("fitted", _undo_fitted_column, _all_general_columns)
_retrace_both_lossless = _retracing("both", _undo_column_of_both, _all_general_columns, 2)


@inlined
def _copy(tiles, start, to, size):
    for i in range(0, size, LANES):
        store(tiles, to + i, load(tiles, start + i))


@inlined
def _attenuate(tile, loss, start, N):
    for n in range(N):
        amplitude = splat(loss, start + n)
        for part in (n * _PORT, n * _PORT + LANES):
            store(tile, part, amplitude * load(tile, part))


@inlined
def _span(L):
    """Columns between stored fields, so that as many are stored as are recomputed at a time."""
    return math.ceil(math.sqrt(L))


@inlined
def _no_loss_slopes(x, at, g, N, slopes, to):
    pass


@inlined
def _add_loss_slopes(x, at, g, N, slopes, to):
    """Slopes of the amplitudes that a column passes, from the fields in front of its loss."""
    for n in range(N):
        (re, im), (gr, gi) = _field(x, at + n * _PORT), _field(g, n * _PORT)
        slope = re * gr + im * gi
        slopes[to + n] += sums_of_lanes(slope, slope)[0]


def _retracing_lossy(kind, retrace_lossless, undo_column, add_loss_slopes, adjoints=1):
    """The ``retrace`` of a mesh that may have loss."""

    @_of_kind(kind)
    def retrace_lossy(
        dims, x, g, c, k, couplers, loss, edges, upstream, start, samples, slopes, to
    ):
        """As ``retrace``, in a mesh with loss.

        Tiles of x: the running one; one before every span of columns; one after the
        interferometers (but before the loss) of every column of the span in work.
        """
        N, L, size = dims.ports, dims.columns, dims.rows * _padded(dims.ports // 2)
        span, tile = _span(L), N * _PORT
        trail = (1 + (L + span - 1) // span) * tile
        for column in range(L):
            if column % span == 0:
                _copy(x, 0, (1 + column // span) * tile, tile)
            _one_general_column(x, c, k + column * size, edges, column, N)
            _attenuate(x, loss, column * N, N)
        _receive_all(dims, upstream, start, samples, x, g, adjoints)
        for first in range((L - 1) // span * span, -1, -span):
            last = min(first + span, L)
            _copy(x, (1 + first // span) * tile, 0, tile)
            for column in range(first, last):
                _one_general_column(x, c, k + column * size, edges, column, N)
                _copy(x, 0, trail + (column - first) * tile, tile)
                _attenuate(x, loss, column * N, N)
            for column in range(last - 1, first - 1, -1):
                at = trail + (column - first) * tile
                place = to + (2 + 2 * adjoints) * L * (N // 2) + column * N
                add_loss_slopes(x, at, g, N, slopes, place)
                for j in range(adjoints):
                    _attenuate(advance(g, j * N * _PORT), loss, column * N, N)
                undo = k + column * size
                undo_column(x, at, g, c, undo, couplers, column, N, L, slopes, to)
        return trail

    @_of_kind(kind)
    def retrace_any(dims, *arguments):
        if dims.lossy:
            return retrace_lossy(dims, *arguments)
        return retrace_lossless(dims, *arguments)

    return retrace_any


_retrace_general = _retracing_lossy(
    "general", _retrace_lossless, _undo_general_column, _no_loss_slopes
)
_retrace_fitted = _retracing_lossy(
    "fitted", _retrace_fitted_lossless, _undo_fitted_column, _add_loss_slopes
)
_retrace_both = _retracing_lossy(
    "both", _retrace_both_lossless, _undo_column_of_both, _add_loss_slopes, 2
)


@inlined
def _leave(x, at, g, real, N, screens, screen, slopes, to):
    """Take the adjoints back through the input screen; add up the slopes of gamma."""
    for n in range(N):
        b = n * _PORT
        re, im = _field(g, b)
        slopes_gamma = im * load(x, at + b) - re * load(x, at + b + LANES)
        slopes[to + n] += sums_of_lanes(slopes_gamma, slopes_gamma)[0]
        cosine, sine = splat(screens, screen + n), splat(screens, screen + _padded(N) + n)
        if real:
            store(g, n * LANES, cosine * re + sine * im)
        else:
            _set_field(g, b, (cosine * re + sine * im, cosine * im - sine * re))


def _backward(kind, prepare, retrace, parts=2, adjoints=1):
    """Gradients of the phases, for every group of chunks, and of the fields [P, B, N].

    ``slopes`` [P, groups, D], zeros at first, become the gradients of theta, phi, in a fitted mesh
    also of both couplers' errors and of the loss, and of gamma. Of two adjoints, [2, P, B, N], the
    first has these; in front of them are theta and phi of the second, behind them its gamma. The
    gradient of the fields is that of the last. One thread adds up a group's chunks in order, so
    that no sum depends on the number of threads.
    """

    @_of_kind(kind)
    def run_backward(
        counters, dims, theta, phi, gamma, couplers, loss, edges, fields, upstream, scratch, slopes,
        out,
    ):  # fmt: skip
        before = flush_denormals()
        c, screens = prepare(counters, dims, theta, phi, gamma, couplers, scratch)
        N, B, L = dims.ports, dims.samples, dims.columns
        D = parts * L * (N // 2) + adjoints * N
        if parts > 2 and dims.lossy:
            D += L * N
        width, width_up = (1 if dims.real else 2) * N, (1 if dims.power else 2) * N
        tiles = 1 + adjoints + (_span(L) + (L + _span(L) - 1) // _span(L) if dims.lossy else 0)
        buffer = np.empty(tiles * N * _PORT + LANES, np.float32)
        g = next_cache_line(pointer(buffer))
        x = advance(g, adjoints * N * _PORT)
        while True:
            task = add_to_counter(counters, 2)
            if task >= dims.sets * dims.groups:
                break
            p, group = task // dims.groups, task % dims.groups
            k = p * L * dims.rows * _padded(N // 2)
            for first in range(group * LANES, B, dims.groups * LANES):
                samples = min(LANES, B - first)
                start = ((p if dims.batches > 1 else 0) * B + first) * width
                _enter(fields, start, dims.real, samples, N, screens, p * 2 * _padded(N), x)
                start = (p * B + first) * width_up
                at = retrace(
                    dims, x, g, c, k, couplers, loss, edges, upstream, start, samples, slopes,
                    task * D,
                )  # fmt: skip
                for j in range(adjoints):
                    to = (task + 1) * D - (adjoints - j) * N
                    screen, tile = p * 2 * _padded(N), advance(g, j * N * _PORT)
                    _leave(x, at, tile, dims.real, N, screens, screen, slopes, to)
                tile = advance(g, (adjoints - 1) * N * _PORT)
                _write(tile, width, samples, out, (p * B + first) * width)
        keep_alive(buffer)
        restore_denormals(before)

    return run_backward


_backward_ideal = _backward("ideal", _prepare_ideal, _retrace_ideal)
_backward_general = _backward("general", _prepare_general, _retrace_general)
_backward_fitted = _backward("fitted", _prepare_general, _retrace_fitted, parts=4)
_backward_both = _backward("both", _prepare_general, _retrace_both, parts=6, adjoints=2)


@kernel
def backward_ideal(counters, dims, *arrays):
    """Gradients of an ideal mesh, with the arrays of ``run_backward`` from theta to out."""
    _backward_ideal(pointer(counters), dims, *pointers(arrays))


@kernel
def backward_general(counters, dims, *arrays):
    """As :func:`backward_ideal`, of a mesh with splitter errors or loss."""
    _backward_general(pointer(counters), dims, *pointers(arrays))


@kernel
def backward_fitted(counters, dims, *arrays):
    """As :func:`backward_general`, with gradients of the couplers' errors and of the loss, too."""
    _backward_fitted(pointer(counters), dims, *pointers(arrays))


@kernel
def backward_both(counters, dims, *arrays):
    """As :func:`backward_fitted`, of two adjoints."""
    _backward_both(pointer(counters), dims, *pointers(arrays))
