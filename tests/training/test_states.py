"""The states of masks on a model: every transition and error, and chains against an oracle."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sparselab as sl
from sparselab.training.choice import Choice
from sparselab.training.masked import MaskedWeights, MaskState

from .helpers import mlp

D, P, F, U, R = MaskState.DENSE, MaskState.PRUNED, MaskState.FADING, MaskState.UNMASKED, MaskState.RESTORED
WAYS_INTO = {
    D: [],
    P: ["compute"],
    F: ["choose"],
    U: ["compute", "unmask"],
    R: ["compute", "restore_dense"],
    MaskState.REMOVED: ["compute", "remove"],
}
# What leads where: a state, or the words of an error.
TRANSITIONS = {
    "compute": {D: P, P: P, F: P, U: P, R: P, MaskState.REMOVED: "make a new Sparsifier"},
    "choose": {D: F, P: F, F: F, U: F, R: F, MaskState.REMOVED: "make a new Sparsifier"},
    "apply": {D: D, P: P, F: P, U: U, R: P, MaskState.REMOVED: MaskState.REMOVED},
    "fade": {D: D, P: F, F: F, U: U, R: r"compute\(vanish=False\) first", MaskState.REMOVED: MaskState.REMOVED},
    "unmask": {D: D, P: U, F: U, U: U, R: U, MaskState.REMOVED: "make a new Sparsifier"},
    "restore_dense": {D: D, P: R, F: r"apply\(\) first", U: U, R: R, MaskState.REMOVED: "make a new Sparsifier"},
    "failed_step": {D: D, P: P, F: F, U: U, R: P, MaskState.REMOVED: MaskState.REMOVED},
    "remove": dict.fromkeys(MaskState, MaskState.REMOVED),
}
OPTIMIZER = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)


def weights_of(model: nn.Module, pattern: str = "2:4", keep_pruned: bool = True) -> MaskedWeights:
    return sl.Sparsifier(model, pattern, keep_pruned=keep_pruned).weights


def do(weights: MaskedWeights, action: str) -> None:
    if action == "choose":
        weights.compute(vanish=False)
    elif action == "fade":
        weights.apply(0.5)
    elif action == "failed_step":
        weights.begin_step(OPTIMIZER)
        weights.settle()
    else:
        getattr(weights, action)()


@pytest.mark.parametrize("state", MaskState)
@pytest.mark.parametrize("action", TRANSITIONS)
def test_every_transition(state, action):
    model = mlp()
    weights = weights_of(model)
    for before in WAYS_INTO[state]:
        do(weights, before)
    assert weights.state is state
    expected, was = TRANSITIONS[action][state], copy.deepcopy(model.state_dict())
    if isinstance(expected, MaskState):
        do(weights, action)
        assert weights.state is expected
        return
    with pytest.raises(RuntimeError, match=expected):
        do(weights, action)
    assert weights.state is state
    assert all(torch.equal(tensor, was[name]) for name, tensor in model.state_dict().items())


class Oracle:
    """One weight in numpy: the mask of the two largest of four, and what it took."""

    def __init__(self, weight: np.ndarray) -> None:
        self.weight, self.taken = weight.copy(), np.zeros_like(weight)
        self.mask = np.ones(weight.shape, bool)
        self.masked = self.inside = self.fading = False

    def dense(self) -> np.ndarray:
        return self.weight if self.inside else np.where(self.mask, self.weight, self.taken)

    def compute(self, vanish: bool = True) -> None:
        dense = self.dense().copy()
        groups = np.abs(dense).reshape(-1, 4)
        ranks = np.argsort(np.argsort(-groups, axis=1, kind="stable"), axis=1)
        self.mask = (ranks < 2).reshape(dense.shape)
        self.taken, self.weight = np.where(self.mask, 0, dense), np.where(self.mask, dense, 0) if vanish else dense
        self.masked, self.inside, self.fading = True, False, not vanish

    def choose(self) -> None:
        self.compute(vanish=False)

    def unmask(self) -> None:
        self.weight = self.dense().copy()
        self.mask[:], self.taken[:] = True, 0
        self.masked = self.inside = self.fading = False

    def restore_dense(self) -> None:
        self.weight, self.inside = self.dense().copy(), self.masked

    def apply(self, fade: float = 0.0) -> None:
        if self.inside:
            self.taken = np.where(self.mask, 0, self.weight)
        self.weight = self.weight * np.where(self.mask, 1, np.float32(fade))
        self.inside, self.fading = False, self.masked and fade > 0

    def fade(self) -> None:
        self.apply(0.5)

    def failed_step(self) -> None:
        if not self.fading:
            self.apply()

    def move(self, by: np.ndarray) -> None:
        self.weight = self.weight + by


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["move", *TRANSITIONS][:-1]), max_size=14), st.integers(0, 9))
def test_chains_of_actions_against_an_oracle(actions, seed):
    """Values, masks and kept values are the oracle's after every action; errors change nothing."""
    model = nn.Linear(8, 4, bias=False)
    random = np.random.default_rng(seed)
    start = random.normal(size=(4, 8)).astype(np.float32)
    model.weight.data = torch.from_numpy(start.copy())
    weights, oracle = weights_of(model), Oracle(start)
    (layer,) = weights.layers
    for action in actions:
        if action == "move":
            by = random.normal(size=(4, 8)).astype(np.float32)
            model.weight.data.add_(torch.from_numpy(by))
            oracle.move(by)
        elif isinstance(TRANSITIONS[action][weights.state], str):
            with pytest.raises(RuntimeError):
                do(weights, action)
        else:
            do(weights, action)
            getattr(oracle, action)()
        assert np.array_equal(model.weight.detach().numpy(), oracle.weight)
        assert np.array_equal(weights.masks["weight"].numpy(), oracle.mask)
        assert np.array_equal(weights.dense(layer).numpy(), oracle.dense())
        assert (weights.state is R, weights.state is F) == (oracle.inside, oracle.fading)


@pytest.mark.parametrize("state", [D, P, F, U, R])
def test_a_state_that_was_saved_is_the_state_that_is_loaded(state):
    model, other = mlp(), mlp(1)
    weights, loaded = weights_of(model), weights_of(other)
    for before in WAYS_INTO[state]:
        do(weights, before)
    other.load_state_dict(model.state_dict())
    loaded.load_state_dict(weights.state_dict())
    assert (loaded.state, loaded.shares) == (state, weights.shares)
    for one, two in zip(weights.layers, loaded.layers, strict=True):
        assert torch.equal(weights.dense(one), loaded.dense(two))


@pytest.mark.parametrize(
    ("older", "state"),
    [
        ({"step": None, "fading": False, "shares": {}, "computed": False}, D),
        ({"step": 2, "fading": False, "shares": {}, "computed": False}, D),  # dense steps first
        ({"step": 5, "fading": False, "shares": {"0.weight": 0.8}, "computed": True}, P),
        ({"step": 5, "fading": True, "shares": {"0.weight": 0.8}, "computed": True}, F),
        ({"step": 5, "fading": False, "shares": {}, "computed": True}, U),
        ({"step": 5, "fading": False, "shares": {"0.weight": 0.8}}, P),  # before there was ``computed``
        ({"step": None, "fading": False, "shares": {}}, D),
    ],
)
def test_a_state_of_an_older_sparsifier_is_read(older, state):
    plan = (
        {"plan": {"format": "sparselab.plan", "version": 1, "orders": [], "moves": []}} if "computed" in older else {}
    )
    sparsifier = sl.Sparsifier(mlp(), "2:4")
    sparsifier.load_state_dict({**older, **plan})
    assert (sparsifier.step, sparsifier.weights.state) == (older["step"], state)
    assert sparsifier.weights.shares == older["shares"]


def test_what_is_no_state_is_refused_and_changes_nothing():
    sparsifier = sl.Sparsifier(mlp(), "2:4")
    sparsifier.compute()
    good = sparsifier.state_dict()
    for wrong in ({}, {"step": 3}, {"step": 3, "shares": {}}, {**good, "plan": {}}, {**good, "state": "lost"}):
        with pytest.raises(ValueError, match=r"not the state of a Sparsifier|not a plan|unknown state of masks 'lost'"):
            sparsifier.load_state_dict(wrong)
    assert sparsifier.state_dict() == good
    gone = sl.Sparsifier(mlp(), "2:4")
    gone.finalize()
    with pytest.raises(ValueError, match="no masks to go on with"):
        sparsifier.load_state_dict(gone.state_dict())


def test_after_finalize_nothing_trains_dense_in_silence():
    model = mlp()
    sparsifier = sl.Sparsifier(model, "2:4", keep_pruned=True)
    state = sparsifier.state_dict()
    sparsifier.compute()
    sparsifier.finalize()
    sparsifier.finalize()  # once more changes nothing
    for action in (
        sparsifier.compute,
        sparsifier.restore,
        lambda: sparsifier.attach(torch.optim.SGD(model.parameters(), 0.1)),
        lambda: sparsifier.load_state_dict(state),
    ):
        with pytest.raises(RuntimeError, match="make a new Sparsifier"):
            action()


class TestPermutedOnce:
    """Permuting comes with the first masks, once, even if these cannot be computed then."""

    def start(self) -> tuple[nn.Module, sl.Sparsifier, dict[str, torch.Tensor]]:
        model, generator = mlp(), torch.Generator().manual_seed(0)
        scores = {
            "0.weight": torch.rand(32, 32, generator=generator),
            "2.weight": torch.rand(8, 32, generator=generator),
        }
        sparsifier = sl.Sparsifier(
            model, saliency=scores, keep_pruned=True, example_inputs=torch.randn(2, 32), permutation="channel_swap,0"
        )
        return model, sparsifier, scores

    def test_masks_that_fail_do_not_permute_a_second_time(self, monkeypatch):
        model, sparsifier, _ = self.start()
        with monkeypatch.context() as patch:
            patch.setattr(Choice, "__call__", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                sparsifier.compute()
        moved, report = copy.deepcopy(model.state_dict()), sparsifier.permutation_report
        assert len(report.plan)
        sparsifier.compute()
        sparsifier.restore()
        assert sparsifier.permutation_report is report
        assert all(torch.equal(tensor, moved[name]) for name, tensor in model.state_dict().items())

    def test_a_run_that_goes_back_to_its_start_begins_again_with_the_scores_as_given(self):
        model, sparsifier, _ = self.start()
        at_start = copy.deepcopy((model.state_dict(), sparsifier.state_dict()))
        sparsifier.compute()
        first = copy.deepcopy(model.state_dict())
        model.load_state_dict(at_start[0])
        sparsifier.load_state_dict(at_start[1])
        sparsifier.compute()
        assert all(torch.equal(tensor, first[name]) for name, tensor in model.state_dict().items())


def test_a_state_of_another_name_is_refused():
    sparsifier = sl.Sparsifier(nn.Linear(8, 8), "2:4")
    with pytest.raises(ValueError, match=r"unknown state of masks 'pruend'.*Did you mean 'pruned'"):
        sparsifier.load_state_dict({**sparsifier.state_dict(), "state": "pruend"})
