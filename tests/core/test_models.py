"""A model's mode and its buffers for a while, and what is left behind: nothing."""

import contextlib

import pytest
import torch
from torch import nn

from sparselab.core.models import buffers_kept, evaluating, in_mode


class Opinionated(nn.Module):
    """Its ``train`` reaches into the model, as that of low-rank adapters does, which merge their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.drop, self.merged = nn.Linear(2, 2), nn.Dropout(), 0

    def train(self, mode=True):
        self.merged += 1
        self.inner.weight.data.add_(1.0)
        return super().train(mode)


@pytest.mark.parametrize("training", [True, False])
def test_a_mode_for_a_while_calls_no_train_and_is_put_back_module_by_module(training):
    model = nn.Sequential(Opinionated(), nn.BatchNorm1d(2))
    model[1].training = False
    weight = model[0].inner.weight.clone()
    before = [module.training for module in model.modules()]
    with in_mode(model, training=training):
        assert {module.training for module in model.modules()} == {training}
    assert [module.training for module in model.modules()] == before
    assert model[0].merged == 0
    assert torch.equal(model[0].inner.weight, weight)


def test_an_error_puts_the_modes_back_too():
    model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2).eval())

    def stop():
        with evaluating(model):
            assert not model[0].training
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        stop()
    assert [module.training for module in model.modules()] == [True, True, False]


def test_wrapped_models_are_in_evaluation_mode_inside():
    model = nn.Dropout()
    for wrapped in (torch.compile(model), nn.DataParallel(model)):
        with evaluating(wrapped):
            assert not model.training
        assert model.training


class Counting(nn.Module):
    """Buffers written in place, bound anew, not stored, and not a number."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sum", torch.tensor([1.0, float("nan")]))
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("last", torch.zeros(2), persistent=False)
        self.register_buffer("nothing", None)

    def forward(self, x):
        self.sum.add_(x.sum(0))
        self.calls = self.calls + 1
        self.last[:] = x[0]
        return x


@pytest.mark.parametrize("fails", [False, True])
def test_buffers_are_the_same_tensors_with_the_same_content(fails):
    model = nn.Sequential(Counting(), nn.BatchNorm1d(2))
    tensors = dict(model.named_buffers())
    contents = {name: buffer.clone() for name, buffer in tensors.items()}

    def run():
        with buffers_kept(model):
            model(torch.randn(3, 2))
            assert model[0].calls == 1
            assert not torch.equal(model[1].running_mean, contents["1.running_mean"])
            if fails:
                raise ValueError("end")

    with pytest.raises(ValueError, match="end") if fails else contextlib.nullcontext():
        run()
    assert all(buffer is tensors[name] for name, buffer in model.named_buffers())
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, contents[name], rtol=0, atol=0, equal_nan=True)


def test_buffers_of_a_script_module_are_kept_too():
    class Scripted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return x

    model = torch.jit.script(Scripted())
    with buffers_kept(model):
        model(torch.ones(1))
        assert model.calls == 1
    assert model.calls == 0
