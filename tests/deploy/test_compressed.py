"""Kept values and packed places beside a reading of the bits in plain Python."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from sparselab.core.compressed import Grid, mask_of, restored
from sparselab.core.weight_matrix import to_slices
from sparselab.deploy.compressing import kept_places, kept_values
from sparselab.masks import create_mask


def read(values, places, n, m, width):
    """The rows of groups, bit by bit."""
    stream = [byte >> bit & 1 for byte in places.tolist() for bit in range(8)]
    groups, kept = [], iter(values.tolist())
    for number in range(len(values) // n):
        group = [0.0] * m
        if n * width <= m:
            start = number * n * width
            at = [sum(stream[start + i * width + bit] << bit for bit in range(width)) for i in range(n)]
        else:
            at = [i for i in range(m) if stream[number * m + i]]
        for place in at:
            group[place] = next(kept)
        groups.append(group)
    return groups


@st.composite
def weights(draw):
    m = draw(st.integers(2, 9))
    n = draw(st.integers(1, m - 1))
    shape, dim = draw(
        st.sampled_from(
            [((3, 11), 1), ((2, 12, 3, 1), 1), ((8, 3, 2), 0), ((2, 3, 8), -1), ((2, 9, 2), -2), ((0, 8), 1)]
        )
    )
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    weight *= create_mask(weight, f"{n}:{m}", channel_dim=dim, ragged="pad")
    weight[weight.abs() < draw(st.sampled_from([0.0, 1.0]))] = 0  # groups with room left
    return (weight + 0.0).to(draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int8]))), Grid(
        shape, n, m, dim
    )


@given(weights())
def test_every_pattern_comes_back(given):
    weight, grid = given
    values, places = kept_values(weight, grid), kept_places(weight, grid)
    assert (values.numel(), places.numel()) == (grid.values, grid.place_bytes)
    found = restored(values, places, grid)
    assert found.dtype == weight.dtype
    assert torch.equal(found, weight)
    slices = to_slices(weight, grid.channel_dim)
    width = max(1, math.ceil(math.log2(grid.m)))
    rows = read(values, places, grid.n, grid.m, width)
    flat = torch.tensor(rows).reshape(*slices.shape[:2], -(-grid.channels // grid.m) * grid.m)[..., : grid.channels]
    assert torch.equal(flat.to(weight.dtype), slices)
    mask = mask_of(places, grid)
    assert bool(mask[weight != 0].all())
    assert int(to_slices(mask, grid.channel_dim).sum()) <= grid.values
