"""Search the order of input channels that makes N:M sparsity hurt least. One file per strategy."""

from __future__ import annotations

from sparselab.permutation.many import search_permutations
from sparselab.permutation.problem import SearchProblem, Term
from sparselab.permutation.result import SearchResult
from sparselab.permutation.search import search_permutation
from sparselab.permutation.strategy import STRATEGIES, Search, Strategy
from sparselab.permutation.warming_up import warm_up

__all__ = [
    "STRATEGIES",
    "Search",
    "SearchProblem",
    "SearchResult",
    "Strategy",
    "Term",
    "search_permutation",
    "search_permutations",
    "warm_up",
]
