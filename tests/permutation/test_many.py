import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import sparselab as sl
from sparselab.ops.threads import at_most, thread_count
from sparselab.permutation import search_permutation, search_permutations


def matrices(*shapes):
    return [np.random.default_rng(seed).random(shape) for seed, shape in enumerate(shapes)]


SHAPES = [(16, 32), (24, 64), (8, 16), (32, 96), (0, 8), (4, 4)]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_no_result(threads):
    several = matrices(*SHAPES)
    alone = [search_permutation(matrix, seed=7 + number) for number, matrix in enumerate(several)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = search_permutations(several, seed=7)
    finally:
        torch.set_num_threads(before)
    for one, other in zip(alone, together):
        assert one.order.tolist() == other.order.tolist()
        assert (one.retained, one.seed, one.strategy) == (other.retained, other.seed, other.strategy)


def test_none_is_none():
    assert search_permutations([]) == []


def test_whatever_is_refused_is_refused_before_anything_is_searched():
    heard = []
    good, ragged = matrices((8, 16), (8, 18))
    for bad, options, message in (
        (ragged, {}, "problem 1: .*18"),
        (good * np.nan, {}, "problem 1: "),
        (good, {"strategy": "channel_swop"}, "channel_swop"),
        (good, {"time_limit": 0}, "positive"),
        (good, {"backend": "gpu"}, "gpu"),
        (good, {"pattern": "unstructured,0.5"}, "N:M|unstructured"),
    ):
        with pytest.raises(ValueError, match=message):
            search_permutations([good, bad], callback=lambda *found: heard.append(found), **options)
    assert heard == []


def test_an_interrupt_ends_all_and_each_is_the_best_so_far():
    several = matrices(*[(64, 128)] * 12)
    main, sent = threading.main_thread(), threading.Event()

    def interrupt(seconds, retained):
        if not sent.is_set():
            sent.set()
            signal.pthread_kill(main.ident, signal.SIGINT)

    results = search_permutations(several, strategy="anneal,steps=1000000", time_limit=600, callback=interrupt)
    assert len(results) == 12
    for matrix, result in zip(several, results):
        assert sorted(result.order.tolist()) == list(range(128))
        kept = np.sort(matrix[:, result.order].reshape(64, -1, 4), 2)[..., 2:].sum()
        assert result.retained == pytest.approx(kept, rel=1e-6)
        assert result.interrupted == (result.strategy != "identity")
    assert results[0].interrupted
    assert results[-1].strategy == "identity"  # it never began


def test_an_interrupt_while_searches_are_begun_ends_all(monkeypatch):
    submit, begun = ThreadPoolExecutor.submit, []

    def interrupted(pool, *work):
        begun.append(work)
        if len(begun) == 2:
            signal.raise_signal(signal.SIGINT)
        return submit(pool, *work)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", interrupted)
    several = matrices(*[(64, 128)] * 6)
    results = search_permutations(several, strategy="anneal,steps=1000000", time_limit=600)
    assert [sorted(result.order.tolist()) == list(range(128)) for result in results] == [True] * 6
    assert results[-1].strategy == "identity"  # it never began


def test_an_interrupt_from_a_callback_ends_all():
    def interrupt(seconds, retained):
        raise KeyboardInterrupt

    results = search_permutations(matrices(*[(64, 128)] * 6), strategy="anneal", time_limit=600, callback=interrupt)
    assert len(results) == 6


def test_an_error_of_one_is_raised():
    def fail(seconds, retained):
        raise RuntimeError("from the callback")

    with pytest.raises(RuntimeError, match="from the callback"):
        search_permutations(matrices((8, 32), (8, 32)), callback=fail)


def test_the_bar_counts_problems(capsys):
    sl.search_permutations(matrices((8, 16), (8, 16), (8, 16)), progress=True)
    assert "3/3" in capsys.readouterr().err


def test_a_share_of_the_threads_is_this_threads_alone():
    everyone = thread_count()
    with at_most(1):
        assert thread_count() == 1
        seen = []
        other = threading.Thread(target=lambda: seen.append(thread_count()))
        other.start()
        other.join()
    assert thread_count() == everyone
    assert seen == [everyone]


def test_every_search_is_on_the_gpu_that_is_current_here(monkeypatch):
    seen, here = [], threading.local()
    here.number = 3
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: here.number)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: setattr(here, "number", number))
    search_permutations([np.ones((2, 8))] * 4, strategy="identity", callback=lambda *_: seen.append(here.number))
    search_permutations([np.ones((2, 8))] * 4, strategy="random,2", callback=lambda *_: seen.append(here.number))
    assert set(seen) == {3}
