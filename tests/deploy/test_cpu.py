import pytest
import torch

from benchmarks.cpu_matrix import TwoOfFour
from sparselab.masks import create_mask


@pytest.mark.parametrize(("rows", "channels"), [(64, 8), (1, 4), (130, 36), (70, 10), (2100, 1024)])
def test_products_are_those_of_the_dense_matrix(rows, channels):
    weight = torch.randn(rows, channels)
    weight = weight * create_mask(weight, "2:4", ragged="pad")
    weight[torch.rand(weight.shape) < 0.2] = 0
    vector = torch.randn(channels)
    packed = TwoOfFour.of(weight)
    found = packed @ vector
    bound = weight.double().abs() @ vector.double().abs() * channels * 2.0**-23
    assert bool(((found.double() - weight.double() @ vector.double()).abs() <= bound).all())
    if not rows % 64 and not channels % 4:
        assert packed.bytes == 0.5625 * 4 * rows * channels
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    assert torch.equal(packed @ vector, found)
    torch.set_num_threads(before)


def test_other_matrices_and_vectors_are_refused():
    for weight, words in (
        (torch.ones(4, 8), "16 weights of this one would be lost"),
        (torch.zeros(4, 8).half(), "got float16 of shape"),
        (torch.zeros(4, 8, 1), r"of shape \(4, 8, 1\)"),
    ):
        with pytest.raises(ValueError, match=words):
            TwoOfFour.of(weight)
    with pytest.raises(ValueError, match="one vector at a time"):
        TwoOfFour.of(torch.zeros(4, 8)) @ torch.zeros(2, 8)
