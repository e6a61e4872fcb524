import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sparselab.core.weight_matrix import channel_dim_of, from_matrix, from_slices, to_matrix, to_slices

shapes = st.lists(st.integers(1, 4), min_size=2, max_size=5)


@given(shapes, st.sampled_from([0, 1, -1]))
def test_there_and_back(shape, channel_dim):
    weight = torch.randn(shape)
    assert torch.equal(from_matrix(to_matrix(weight, channel_dim), weight.shape, channel_dim), weight)
    assert torch.equal(from_slices(to_slices(weight, channel_dim), weight.shape, channel_dim), weight)


def test_rows_run_over_positions_then_outputs():
    weight = torch.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    matrix = to_matrix(weight)
    expected = torch.stack([weight[k, :, y, x] for y in range(2) for x in range(2) for k in range(2)])
    assert torch.equal(matrix, expected)


def test_transposed_convolution():
    weight = torch.randn(4, 6, 3)
    expected = torch.stack([weight[:, k, x] for x in range(3) for k in range(6)])
    assert torch.equal(to_matrix(weight, 0), expected)


def test_a_vector_is_a_row():
    assert to_slices(torch.arange(4.0)).shape == (1, 1, 4)
    assert torch.equal(from_slices(torch.arange(4.0)[None, None], torch.Size([4])), torch.arange(4.0))


def test_linear_weights_are_not_copied():
    weight = torch.randn(4, 8)
    assert to_matrix(weight).data_ptr() == weight.data_ptr()


def test_scalars_are_refused():
    with pytest.raises(ValueError, match="at least one dimension, got a scalar"):
        to_slices(torch.tensor(1.0))


def test_channel_dims_of_layer_types():
    class MyLinear(nn.Linear):
        pass

    for module, dim in [
        (nn.Linear(4, 4), 1), (MyLinear(4, 4), 1), (nn.Conv1d(4, 4, 1), 1), (nn.Conv3d(4, 4, 1), 1),
        (nn.ConvTranspose1d(4, 4, 1), 0), (nn.ConvTranspose3d(4, 4, 1), 0), (nn.Embedding(4, 4), None),
        (nn.LayerNorm(4), None), (nn.Bilinear(4, 4, 4), None),
    ]:  # fmt: skip
        assert channel_dim_of(module, "weight") == dim, module
    attention = nn.MultiheadAttention(4, 2, kdim=8, vdim=8)
    assert channel_dim_of(attention, "k_proj_weight") == 1
    assert channel_dim_of(attention, "bias_k") is None


def test_gpt2_conv1d():
    conv1d = pytest.importorskip("transformers.pytorch_utils", reason="needs the extra 'zoo'").Conv1D
    assert channel_dim_of(conv1d(8, 4), "weight") == 0
