"""Distillation: the loss and its gradient against float64, and what fine-tuning under masks does with it."""

import copy
import pickle

import pytest
import torch
from torch import nn

import sparselab as sl
from sparselab.core.fingerprint import digest
from sparselab.metrics import Divergence
from sparselab.metrics.language import DenseReference
from sparselab.tasks import Recipe, evaluate, language_model_task, train
from sparselab.tasks.distillation import Distillation


class Bigrams(nn.Module):
    """The logits of the next token depend on this one."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.layer, self.head = nn.Embedding(128, 16), nn.Linear(16, 32), nn.Linear(32, 128)

    def forward(self, input_ids):
        return self.head(self.layer(self.embed(input_ids)).tanh())


def letters(text):
    return list(text.encode())


PROSE = " ".join(f"the {word} of {number}" for number, word in enumerate(["mask", "row", "block"] * 60))


def tiny(loss="distil"):
    recipe = Recipe("adamw,0.01", "cosine", epochs=0, batch_size=4)
    return language_model_task(
        Bigrams(), letters, (PROSE[:800], PROSE), context=16, include=("layer", "head"), loss=loss, recipe=recipe
    )


@pytest.mark.parametrize("hidden", [False, True])
def test_loss_and_gradient_against_float64(hidden):
    dense, model = Bigrams(), Bigrams(1)
    tokens = torch.randint(
        128, (20, 17), generator=torch.Generator().manual_seed(0)
    )  # more places than are taken at a time
    labels = tokens.masked_fill(torch.arange(17) < torch.arange(20)[:, None] % 9, -100) if hidden else tokens
    batch = {"input_ids": tokens, "labels": labels}
    loss = Distillation(DenseReference(lambda: dense))(model, batch)
    (3 * loss).backward()
    found = {name: each.grad.double() for name, each in model.named_parameters()}
    twin, double = copy.deepcopy(model).double(), copy.deepcopy(dense).double()
    p, q = (each(tokens)[:, :-1].log_softmax(-1) for each in (double, twin))
    each = (p.exp() * (p - q)).sum(-1)[labels[:, 1:] != -100]
    twin.zero_grad()
    (3 * each.mean()).backward()
    assert float(loss.detach()) == pytest.approx(float(each.mean().detach()), rel=1e-6)
    assert float(loss.detach()) == pytest.approx(sl_measured(dense, model, batch), rel=1e-5)
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-8)
    assert all(each.grad is None for each in dense.parameters())


def sl_measured(dense, model, batch):
    total, count = Divergence(lambda: dense).sums(model, batch)
    return total / count


def test_fine_tuning_brings_a_pruned_model_nearer_and_keeps_zeros():
    task = tiny()
    model = task.model()
    report = sl.prune(model, task.calibration_batches(4), pruner="magnitude", include=task.include, progress=False)
    assert report.density == 0.5
    zeros = {name: each == 0 for name, each in model.named_parameters() if each.ndim > 1}
    before = evaluate(task, model)["kl"]
    sparsifier = sl.Sparsifier(model, "2:4", include=task.include, permutation=None)
    train(task, model, recipe=task.finetuning_recipe, steps=40, sparsifier=sparsifier)
    assert evaluate(task, model)["kl"] < 0.5 * before
    for name in ("layer.weight", "head.weight"):
        assert torch.equal(dict(model.named_parameters())[name] == 0, zeros[name])


def test_the_loss_is_part_of_a_task():
    task = pickle.loads(pickle.dumps(tiny()))
    assert isinstance(task.loss, Distillation)
    assert digest(task.loss) == digest(tiny().loss) != digest(tiny("next_token").loss)
    assert task.metrics[1].reference is not None
    mine = tiny()
    assert mine.metrics[1].reference is mine.loss.reference  # one dense model in memory, not two
    with pytest.raises(ValueError, match="distil"):
        tiny("distill")
