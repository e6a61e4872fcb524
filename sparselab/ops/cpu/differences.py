"""Sums of absolute differences of bytes: the one inner loop that annealing runs on.

``sum_r max(b, x) = (sum_r b + sum_r x + sum_r |b - x|) / 2``, and a search compares placements of the same channels in
the same slots, so only the last term matters to it. Processors have had an instruction for it since they decode video:
``psadbw`` takes 64 differences of bytes at once with AVX-512, 32 with AVX2, 16 with SSE2, against 16 float additions.
LLVM does not find it in a plain loop, so it is called by name where the processor is an x86; elsewhere the plain loop
computes the same integers.

Arrays are uint8 ``(count, width)``, C-contiguous, ``width`` a multiple of ``WIDTH`` and zeros behind the last row.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from sparselab.ops.jit import jit

Bytes = NDArray[np.uint8]
Sums = NDArray[np.int32]

WIDTH = 64
TILE = 4
_CACHED = 2**14  # bytes of rows that stay in a core's first-level cache while others stream past

_CGUTILS: Any = cgutils  # untyped


@dataclass(frozen=True)
class _Instruction:
    """An instruction of the processor's ``feature``: LLVM's ``name`` of it, the bytes it takes at a time, and how many
    columns of a tile are summed at once, so that the sums of all stay in registers (32 with AVX-512, else 16)."""

    feature: str
    name: str
    step: int
    columns: int


_INSTRUCTIONS = (
    _Instruction("avx512bw", "llvm.x86.avx512.psad.bw.512", 64, TILE),
    _Instruction("avx2", "llvm.x86.avx2.psad.bw", 32, TILE // 2),
    _Instruction("sse2", "llvm.x86.sse2.psad.bw", 16, TILE // 2),
)


def _instruction() -> _Instruction | None:
    """The widest that this processor has, or ``None``."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return None
    features = binding.get_host_cpu_features()
    return next((each for each in _INSTRUCTIONS if features.get(each.feature)), None)


def _emit_tile(builder: Any, step: int, name: str, left: list[Any], right: list[Any], width: Any) -> list[Any]:
    """IR of the sums between rows at the pointers ``left`` and ``right``: one i32 a pair, row-major."""
    i64 = ir.IntType(64)
    row, sums = ir.VectorType(ir.IntType(8), step), ir.VectorType(i64, step // 8)
    instruction = _CGUTILS.get_or_insert_function(builder.module, ir.FunctionType(sums, [row, row]), name)
    before = builder.block
    body, after = builder.append_basic_block("differences"), builder.append_basic_block("differences.end")
    builder.branch(body)

    builder.position_at_end(body)
    at = builder.phi(i64)
    totals = [builder.phi(sums) for _ in range(len(left) * len(right))]

    def load(pointer: Any) -> Any:
        value = builder.load(builder.bitcast(builder.gep(pointer, [at]), row.as_pointer()))
        value.align = 1
        return value

    columns = [load(pointer) for pointer in right]
    pairs = [(value, column) for value in map(load, left) for column in columns]
    added = [builder.add(total, builder.call(instruction, pair)) for total, pair in zip(totals, pairs)]
    following = builder.add(at, ir.Constant(i64, step))
    at.add_incoming(ir.Constant(i64, 0), before)
    at.add_incoming(following, body)
    for total, value in zip(totals, added):
        total.add_incoming(ir.Constant(sums, None), before)
        total.add_incoming(value, body)
    builder.cbranch(builder.icmp_signed("<", following, width), body, after)

    builder.position_at_end(after)
    return _emit_totals(builder, added, step // 8)


def _emit_totals(builder: Any, vectors: list[Any], lanes: int) -> list[Any]:
    """IR of the sum of each vector's i64 lanes, which stay below 2^31: one i32 each.

    Two vectors fold into one, half of its lanes for each, until every lane is a sum of its own. One vector after the
    other would take as long as what is summed where rows are 512 bytes.
    """
    i32 = ir.IntType(32)

    def pick(left: Any, right: Any, chosen: list[int]) -> Any:
        return builder.shuffle_vector(left, right, ir.Constant(ir.VectorType(i32, len(chosen)), chosen))

    each = lanes  # lanes that a vector's sum is spread over
    while each > 1:
        half = [lane for lane in range(2 * lanes) if lane % each < each // 2]
        pairs = list(zip(vectors[::2], vectors[1::2])) or [(vectors[0], vectors[0])]
        vectors = [
            builder.add(pick(one, two, half), pick(one, two, [lane + each // 2 for lane in half])) for one, two in pairs
        ]
        each //= 2
    return [
        builder.trunc(builder.extract_element(v, ir.Constant(i32, lane)), i32) for v in vectors for lane in range(lanes)
    ]


def _pointers(context: Any, builder: Any, kind: Any, array: Any, first: Any, count: int) -> tuple[list[Any], Any]:
    """Pointers to ``count`` rows of an array from row ``first``, and the rows' width."""
    view = context.make_array(kind)(context, builder, array)
    width = _CGUTILS.unpack_tuple(builder, view.shape)[1]
    rows = [builder.add(first, ir.Constant(ir.IntType(64), k)) for k in range(count)]
    return [builder.gep(view.data, [builder.mul(row, width)]) for row in rows], width


def _by_instruction(chosen: _Instruction) -> tuple[Any, Any]:
    """``pair`` and ``tile`` by one of the instructions."""
    step, name = chosen.step, chosen.name

    @intrinsic
    def pair(typing: Any, left: Any, i: Any, right: Any, j: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            lefts, width = _pointers(context, builder, signature.args[0], args[0], args[1], 1)
            rights, _ = _pointers(context, builder, signature.args[2], args[2], args[3], 1)
            return _emit_tile(builder, step, name, lefts, rights, width)[0]

        return types.int32(left, types.intp, right, types.intp), generate

    @intrinsic
    def tile(typing: Any, left: Any, i: Any, right: Any, j: Any, out: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds = signature.args
            lefts, width = _pointers(context, builder, kinds[0], args[0], args[1], TILE)
            rights, _ = _pointers(context, builder, kinds[2], args[2], args[3], TILE)
            targets, _ = _pointers(context, builder, kinds[4], args[4], args[1], TILE)
            for start in range(0, TILE, chosen.columns):
                columns = range(start, start + chosen.columns)
                sums = iter(_emit_tile(builder, step, name, lefts, [rights[x] for x in columns], width))
                for target in targets:
                    for x in columns:
                        column = builder.add(args[3], ir.Constant(ir.IntType(64), x))
                        builder.store(next(sums), builder.gep(target, [column]))
            return context.get_dummy_value()

        return types.void(left, types.intp, right, types.intp, out), generate

    return pair, tile


@jit
def plain_pair(left: Bytes, i: int, right: Bytes, j: int) -> int:
    """``sum |left[i] - right[j]|``, on any processor."""
    total = np.int32(0)
    for r in range(np.uint64(left.shape[1])):
        total += abs(np.int32(left[i, r]) - np.int32(right[j, r]))
    return total  # type: ignore[return-value]


@jit
def plain_tile(left: Bytes, i: int, right: Bytes, j: int, out: Sums) -> None:
    """``out[i + s, j + x] = sum |left[i + s] - right[j + x]|`` for a tile of 4 x 4, on any processor."""
    for s in range(i, i + TILE):
        for x in range(j, j + TILE):
            out[s, x] = plain_pair(left, s, right, x)


_found = _instruction()
pair, tile = (plain_pair, plain_tile) if _found is None else _by_instruction(_found)


@jit
def product(left: Bytes, right: Bytes, out: Sums) -> None:
    """Every ``out[s, x] = sum |left[s] - right[x]|``; both counts are multiples of ``TILE``."""
    block = max(TILE, _CACHED // left.shape[1] // TILE * TILE)
    for start in range(0, left.shape[0], block):
        for x in range(0, right.shape[0], TILE):
            for s in range(start, min(start + block, left.shape[0]), TILE):
                tile(left, s, right, x, out)


def quantised(values: NDArray[np.float32]) -> tuple[Bytes, float]:
    """``values`` ``(channels, rows)`` as bytes, rows padded to a multiple of ``WIDTH``, and how many levels a unit has.

    Integers up to 255 stay as they are. Scores far above the mean are cut: a channel that wins its row anyway adds the
    same wherever it is, so the cut costs next to nothing, and the levels go where the decisions are. With more than
    2^20 rows there are fewer levels, so that sums stay below 2^28.
    """
    channels, rows = values.shape
    levels = max(1, min(255, 2**28 // max(1, rows)))
    largest = float(values.max(initial=0.0))
    top = min(largest, 12.0 * float(values.mean(dtype=np.float64))) if values.size else 0.0
    whole = 0 < largest <= levels and all((channel == np.rint(channel)).all() for channel in values)
    per_unit = 1.0 if whole else levels / top if top > 0 else 1.0
    padded = np.zeros((channels, -(-max(rows, 1) // WIDTH) * WIDTH), np.uint8)
    _cut(values, np.float32(per_unit), np.float32(levels), padded)
    return padded, per_unit


@jit
def _cut(values: NDArray[np.float32], per_unit: np.float32, levels: np.float32, out: Bytes) -> None:
    for channel in range(values.shape[0]):
        for row in range(np.uint64(values.shape[1])):
            out[channel, row] = np.uint8(min(np.rint(values[channel, row] * per_unit), levels))
