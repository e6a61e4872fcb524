"""What single strategies and the two public functions promise beyond the contract."""

import concurrent.futures
import logging
import math
import multiprocessing
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sparselab as sl
from sparselab.permutation import STRATEGIES, SearchProblem, Term, search_permutation, search_permutations
from sparselab.permutation.optimal import Optimal
from sparselab.permutation.stripe_groups import StripeGroups
from sparselab.permutation.warming_up import warm_up, warm_up_toy


def listed(rows, channels, seed=1):
    np.random.seed(seed)  # noqa: NPY002 (the convention of the listing)
    return np.random.rand(rows, channels)  # noqa: NPY002


@pytest.mark.parametrize(
    ("spec", "retained"),
    [
        ("identity", 2852.376),
        ("channel_swap,0", 2913.352),
        ("stripe_groups,8,0", 2919.757),
        ("stripe_groups,12,0", 2921.947),
        ("optimize_stripe_groups,8,0", 2919.757),
    ],
)
def test_the_listing_of_the_authors(spec, retained):
    """Pool and Yu's own output for 128 x 64 at seed 1, in float32."""
    assert search_permutation(listed(128, 64), strategy=spec).retained == pytest.approx(retained, abs=0.01)


def test_escapes_keep_the_best():
    plain, escaping = (search_permutation(listed(32, 32), strategy=f"stripe_groups,8,{k}") for k in (0, 40))
    assert escaping.retained >= plain.retained
    plain, escaping = (search_permutation(listed(32, 32), strategy=f"channel_swap,{k}") for k in (0, 40))
    assert escaping.retained >= plain.retained


@pytest.mark.parametrize("seed", range(5))
def test_auto_finds_the_proven_optimum_of_few_channels(seed):
    scores = listed(32, 16, seed)
    auto, proven = search_permutation(scores), search_permutation(scores, strategy="optimal")
    assert auto.retained == pytest.approx(proven.retained, rel=1e-9)
    assert auto.gap == pytest.approx(0, abs=1e-6)
    assert proven.gap == pytest.approx(0, abs=1e-5)


def test_optimal_proves_or_says_how_far():
    scores = listed(40, 28)
    proven = search_permutation(scores, strategy="optimal")
    assert proven.gap == pytest.approx(0, abs=1e-5)
    annealed = search_permutation(scores, strategy="annealed_assignment", bound=True)
    assert annealed.retained <= proven.retained * (1 + 1e-9)
    assert annealed.upper_bound >= proven.retained * (1 - 1e-9)


def test_auto_beats_what_it_is_made_of():
    scores = listed(64, 64)
    auto = search_permutation(scores)
    for spec in ("channel_swap", "assignment", "stripe_groups,8,100"):
        assert auto.retained >= search_permutation(scores, strategy=spec).retained
    assert auto.efficacy > 40


@pytest.mark.parametrize("pattern", ["1:4", "2:8", "8:16"])
def test_other_patterns_gain(pattern):
    assert search_permutation(listed(32, 64), pattern).efficacy > 20


def test_heavy_tails_and_rows_of_different_scale():
    rng = np.random.default_rng(0)
    scores = np.abs(rng.standard_cauchy((48, 32))) * 10.0 ** rng.integers(-3, 4, (48, 1))
    auto = search_permutation(scores)
    assert auto.retained >= search_permutation(scores, strategy="channel_swap").retained


def test_windows_and_drawn_sets(monkeypatch):
    from sparselab.permutation import channel_swap, stripe_groups

    monkeypatch.setattr(channel_swap, "WINDOW", 16)
    monkeypatch.setattr(stripe_groups, "MAX_SETS", 20)
    for spec in ("channel_swap", "stripe_groups,8,2"):
        result = search_permutation(listed(16, 64), strategy=spec)
        assert sorted(result.order) == list(range(64))
        assert result.efficacy > 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "stripe"}, "stripe_groups"),
        ({"strategy": "stripe_groups,10"}, "multiple of M=4"),
        ({"strategy": "stripe_groups,16"}, "2,627,625 partitions"),
        ({"strategy": "exhaustive"}, "up to 16"),
        ({"strategy": "anneal,0"}, "at least 1"),
        ({"strategy": "assignment,worm"}, "identity, snake"),
        ({"strategy": "random,-1"}, "negative"),
        ({"pattern": "unstructured,0.5"}, "N:M"),
        ({"pattern": "m4n2_2d_fast"}, "both ways \\('m4n2_2d_best'\\), not 'm4n2_2d_fast'"),
        ({"pattern": "64:2:8"}, "along the input channels \\('2:8'\\)"),
        ({"pattern": "m8n4_2d_best"}, "up to M = 4, got M = 8: search for '4:8'"),
        ({"pattern": "m4n2_2d_best", "backend": "reference"}, "'cpu' \\(or 'auto'\\) only"),
        ({"pattern": "2:5"}, "pad the scores with zero columns to 35"),
        ({"backend": "gpu"}, "auto, cpu, cuda, reference"),
        ({"time_limit": 0}, "positive"),
        ({"saliency": "magnitud"}, "magnitude"),
        ({"strategy": None}, "such as 'stripe_groups,8,100', .* got None"),
        ({"strategy": StripeGroups}, "or an object such as"),
        ({"strategy": "annealed_assignment,9,hot=inf"}, "positive and finite"),
        ({"strategy": "anneal,9,hot=inf"}, "finite"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        search_permutation(listed(4, 32), **arguments)


@pytest.mark.parametrize(
    "dtype", [np.bool_, np.int8, np.uint8, np.int64, np.float16, ">f8", np.longdouble, torch.int8, torch.float8_e4m3fn]
)
def test_any_numbers_can_be_scored(dtype):
    matrix = np.random.default_rng(0).integers(0, 2, (6, 16))
    if np.dtype(np.int8) == dtype or dtype == torch.int8:
        matrix = -128 * matrix  # whose magnitude is no int8
    weight = torch.from_numpy(matrix).to(dtype) if isinstance(dtype, torch.dtype) else matrix.astype(dtype)
    result = search_permutation(weight, strategy="channel_swap")
    expected = search_permutation(np.abs(matrix).astype(float), strategy="channel_swap")
    assert result.retained == expected.retained > 0
    assert (result.order == expected.order).all()


@pytest.mark.parametrize("item", [None, "2:4", torch.nn.Linear(8, 8), np.array([[1, "a"]], object)])
def test_what_is_no_matrix_is_named(item):
    with pytest.raises(ValueError, match=f"a matrix of numbers .* got {type(item).__name__}"):
        search_permutation(item)


def test_one_score_as_large_as_a_float_can_be():
    scores = np.zeros((4, 16))
    scores[1, 3] = np.finfo(float).max
    result = search_permutation(scores, strategy="channel_swap")
    assert result.retained == np.finfo(float).max


@pytest.mark.parametrize("scores", [np.full((4, 8), -1.0), np.full((4, 8), np.nan), np.full((4, 8), np.inf)])
def test_bad_scores(scores):
    with pytest.raises(ValueError, match="negative"):
        SearchProblem.from_matrix(scores)


@pytest.mark.parametrize(
    ("columns", "message"),
    [([0, 1, 2], "4 integers"), ([0, 1, 2, 2], "twice"), ([0, 1, 2, 8], "outside"), ([0, 1, 2, -1], "outside")],
)
def test_bad_columns(columns, message):
    with pytest.raises(ValueError, match=message):
        SearchProblem((Term(np.ones((2, 8)), np.array(columns)),), 4)


def test_terms_on_one_saliency_must_not_meet():
    scores = np.ones((2, 8))
    with pytest.raises(ValueError, match="same column"):
        SearchProblem((Term(scores, np.arange(4)), Term(scores, np.arange(2, 6))), 4)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_problem_counts_exactly(data):
    """Any columns, in any order, at any offset, against moving the columns by hand."""
    size = data.draw(st.integers(1, 10))
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    scores = rng.random((3, 24))
    columns = rng.permutation(24)[: 2 * size].reshape(2, size)
    problem = SearchProblem(tuple(Term(scores, run, 2.0) for run in columns), size)
    order = rng.permutation(size)
    moved = scores.copy()
    for run in columns:
        moved[:, run] = scores[:, run[order]]
    true = 2.0 * np.sort(moved.reshape(3, 6, 4), axis=2)[:, :, 2:].sum()
    assert problem.retained(order) == pytest.approx(true, rel=1e-12)
    result = search_permutation(problem, strategy="annealed_assignment,24")
    assert result.retained >= result.baseline


def test_weights_of_several_terms_count():
    rng = np.random.default_rng(0)
    one, two = rng.random((20, 32)), rng.random((20, 32))
    alone = search_permutation(SearchProblem.from_matrix(one), seed=3)
    for small in (0.0, 1e-9):
        both = SearchProblem((Term(one, np.arange(32)), Term(two, np.arange(32), small)), 32)
        assert search_permutation(both, seed=3).efficacy == pytest.approx(alone.efficacy, abs=2)


def test_saliency_is_a_name_a_callable_or_scores():
    weight = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    orders = [
        search_permutation(weight, strategy="channel_swap", saliency=saliency).order
        for saliency in ("magnitude", torch.abs, weight.abs())
    ]
    assert all((order == orders[0]).all() for order in orders)


def test_a_time_limit_is_kept_and_used():
    result = search_permutation(listed(64, 128), time_limit=0.5)
    assert result.seconds > 0.4
    assert result.efficacy > 30


def test_an_interrupt_returns_the_best_so_far():
    heard = []

    def interrupt(seconds, retained):
        heard.append(retained)
        if len(heard) == 5:
            raise KeyboardInterrupt

    result = search_permutation(listed(32, 32), strategy="annealed_assignment", callback=interrupt)
    assert len(heard) == 5
    assert result.retained > result.baseline
    assert result.retained == pytest.approx(max(heard), rel=1e-5)


def test_an_interrupted_bound_keeps_the_order_and_the_rounds_that_are_done(monkeypatch):
    from sparselab.permutation.covering import Covering

    price, rounds, last = Covering._price, [], None

    def interrupt(self, duals):
        rounds.append(duals)
        if len(rounds) == last:
            raise KeyboardInterrupt
        return price(self, duals)

    monkeypatch.setattr(Covering, "_price", interrupt)
    scores = listed(16, 48)
    whole = search_permutation(scores, strategy="channel_swap", bound=True)
    last = len(rounds)
    rounds.clear()
    result = search_permutation(scores, strategy="channel_swap", bound=True)
    assert result.interrupted
    assert result.retained > result.baseline
    assert whole.upper_bound <= result.upper_bound < result.ideal


def test_stripe_groups_keep_what_they_found_when_time_is_up(monkeypatch):
    from sparselab.permutation import stripe_groups
    from sparselab.permutation.strategy import Search

    looks = []
    monkeypatch.setattr(stripe_groups, "_SCORES", 1)
    monkeypatch.setattr(stripe_groups, "_LEAST_SETS", 10)
    monkeypatch.setattr(Search, "running", lambda self: len(looks) < 3 and not looks.append(1))
    result = search_permutation(listed(8, 32), strategy="stripe_groups,12")
    assert result.evaluations == 30  # of 56 sets
    assert result.retained > result.baseline


def test_stripe_groups_look_at_the_clock_more_often_where_sets_take_longer(monkeypatch):
    """A set of a 2d mask takes a thousand times as long as one of a 1d mask: 7,140 of them took four seconds."""
    from sparselab.permutation.strategy import Search

    looks = {}
    for pattern in ("2:4", "m4n2_2d_best"):
        seen = []
        monkeypatch.setattr(Search, "running", lambda self, seen=seen: len(seen) < 3 and not seen.append(1))
        result = search_permutation(listed(64, 480), pattern, strategy="stripe_groups,8,0")
        looks[pattern] = result.evaluations / 7140
    assert looks["2:4"] >= 1
    assert looks["m4n2_2d_best"] < 0.5


@pytest.mark.parametrize("strategy", ["anneal,1000000000000", "random,1000000000", "channel_swap,1000000000"])
def test_a_time_limit_ends_what_would_take_for_ever(strategy):
    result = search_permutation(listed(8, 32), strategy=strategy, time_limit=0.1)
    assert result.retained > result.baseline


def test_progress_shows_a_bar(capsys):
    search_permutation(listed(16, 32), strategy="annealed_assignment,48", progress=True)
    written = capsys.readouterr().err
    assert "retained" in written
    assert written.count("retained") < 10  # hundreds of candidates; a file gets a line a second


def test_a_batch_shares_its_time():
    results = search_permutations([listed(16, 32), listed(32, 64)], time_limit=0.4)
    assert sum(result.seconds for result in results) > 0.3


def _order(seed):
    return sl.search_permutation(listed_scores(seed), strategy="annealed_assignment,100").order


def listed_scores(seed):
    return np.random.default_rng(seed).random((24, 32))


def test_several_threads_at_once():
    expected = [_order(seed) for seed in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(_order, range(4)))
    assert all((a == b).all() for a, b in zip(found, expected))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_process_pools_after_a_search(method):
    expected = [_order(seed) for seed in range(2)]
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        found = list(pool.map(_order, range(2)))
    assert all((a == b).all() for a, b in zip(found, expected))


def test_no_thread_is_left_behind():
    _order(0)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sparselab")]


def test_strategies_are_what_their_names_say():
    scores = listed(16, 32)
    by_name = search_permutation(scores, strategy="stripe_groups,size=8,escapes=3")
    by_object = search_permutation(scores, strategy=StripeGroups(8, 3))
    assert (by_name.order == by_object.order).all()


def test_a_time_limit_does_not_count_compiling_which_is_logged_once(tmp_path):
    code = (
        "import logging, numpy as np, sparselab as sl;"
        "logging.basicConfig(level=logging.INFO);"
        "result = sl.search_permutation(np.random.default_rng(0).random((16, 64)), time_limit=0.3);"
        "print(result.efficacy > 10, len(result.history) > 1)"
    )
    environment = {**os.environ, "SPARSELAB_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"], done.stderr
    assert done.stderr.count("compiling numeric kernels once, into") == 1


@pytest.mark.parametrize("pattern", ["2:4", "4:8"])
def test_what_is_run_to_compile_is_a_toy(pattern, monkeypatch):
    seen = []
    monkeypatch.setattr(Optimal, "__call__", lambda self, search: seen.append(search.matrix))
    warm_up_toy.cache_clear()
    warm_up("optimal", pattern)
    warm_up_toy.cache_clear()  # nothing was compiled
    (matrix,) = seen
    assert math.comb(matrix.channels, matrix.m) < 10**6  # groups that a proof prices every round


@pytest.mark.parametrize("name", STRATEGIES.names())
def test_every_strategy_offers_a_toy_that_is_soon_done(name):
    large = {"random": "random,10000000", "anneal": "anneal,10000000,64", "channel_swap": "channel_swap,10000000"}
    large |= {"annealed_assignment": "annealed_assignment,10000000,64", "stripe_groups": "stripe_groups,8,10000000"}
    strategy = STRATEGIES.resolve(large.get(name, name))
    toy = strategy.toy()
    assert type(toy) is type(strategy)
    result = search_permutation(listed(8, 16), strategy=toy)
    assert sorted(result.order) == list(range(16))
    assert result.evaluations < 10**6


def test_a_strategy_that_offers_no_toy_is_left_alone():
    class Own:
        def __call__(self, search):
            pytest.fail("was run to compile")

    assert warm_up(Own()) < 1


def test_a_backend_is_chosen_once(caplog):
    with caplog.at_level(logging.INFO, "sparselab"):
        for options in ({}, {"bound": True}, {"time_limit": 0.05}):
            caplog.clear()
            search_permutation(listed(8, 32), strategy="random,5", **options)
            assert [record.getMessage() for record in caplog.records] == ["backend auto: cpu (a small problem)"]


def test_what_a_result_says_of_itself_fits_a_line():
    result = search_permutation(listed(4, 256), strategy="channel_swap", bound=True)
    said = f"<SearchResult: efficacy {result.efficacy:.1f} of at most {result.bound_efficacy:.1f} for 2:4, 256 channels, by"
    assert repr(result).startswith(said)
    assert len(repr(result)) < 120
    assert repr(SearchProblem.from_matrix(listed(64, 64))) == "SearchProblem(size=64)"


def test_one_term_is_not_counted():
    spoilt = np.array([[1.0, np.nan, 0, 0]])
    with pytest.raises(ValueError, match=r"^scores must be non-negative and finite"):
        sl.search_permutation(spoilt)
    good = Term(np.ones((2, 4)), np.arange(4))
    with pytest.raises(ValueError, match=r"^term 1: scores must be non-negative and finite"):
        SearchProblem((good, Term(spoilt, np.arange(4))), 4)
    odd = Term(np.ones((2, 6)), np.arange(4))
    for terms, ending in (((odd,), "to 8$"), ((good, odd), "to 8, or leave this consumer out$")):
        with pytest.raises(ValueError, match=ending):
            SearchProblem(terms, 4).check("2:4")
