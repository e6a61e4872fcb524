"""The names under which a module keeps the mask of its weight, as ASP's checkpoints have them."""

from __future__ import annotations


def mask_name(attribute: str) -> str:
    """The buffer that holds the mask of the weight ``attribute``.

    >>> mask_name("weight")
    '__weight_mma_mask'
    """
    return f"__{attribute}_mma_mask"


def pruned_name(attribute: str) -> str:
    """The buffer that holds the values which pruning took."""
    return f"__{attribute}_mma_pruned_p"


def moves_name(attribute: str) -> str:
    """The attribute that lists the moves of a masked weight which its Sparsifier has not heard of yet."""
    return f"__{attribute}_mma_moves"
