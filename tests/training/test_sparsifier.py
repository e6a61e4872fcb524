"""Masks through training: exactly N:M after every step, whatever the optimizer; nothing lost, nothing left behind."""

from __future__ import annotations

import copy
import io

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import sparselab as sl

from .helpers import density, mlp, most_in_a_group, network

X = torch.randn(16, 32, generator=torch.Generator().manual_seed(1))
Y = torch.randn(16, 8, generator=torch.Generator().manual_seed(2))

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "adamw, for loop": lambda p: torch.optim.AdamW(p, 0.01, foreach=False),
    "adamw, foreach": lambda p: torch.optim.AdamW(p, 0.01, foreach=True),
    "adamw, fused": lambda p: torch.optim.AdamW(p, 0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.01),
}


def loss_of(model: nn.Module) -> Tensor:
    return (model(X) - Y).square().mean()


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss_of(model).backward()
    optimizer.step()


def is_two_of_four(model: nn.Module) -> bool:
    return all(most_in_a_group(m.weight) == 2 and density(m.weight) == 0.5 for m in model if isinstance(m, nn.Linear))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_exactly_two_of_four_after_every_step(name):
    model = mlp()
    optimizer = OPTIMIZERS[name](model.parameters())
    step(model, optimizer)  # dense momentum must not bring pruned weights back
    sparsifier = sl.Sparsifier(model, "2:4")
    sparsifier.attach(optimizer)
    sparsifier.compute()
    before = loss_of(model).item()
    for _ in range(12):
        step(model, optimizer)
        assert is_two_of_four(model)
        assert sparsifier.enabled
    assert loss_of(model).item() < before


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_kept_weights_move_as_in_a_network_that_never_had_the_others(name):
    """The oracle: multiply by the mask inside the forward pass, so that autograd itself never moves the others."""
    model = mlp()
    sparsifier = sl.Sparsifier(model, "2:4")
    sparsifier.compute()
    masks = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    reference = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    optimizer, plain = OPTIMIZERS[name](model.parameters()), OPTIMIZERS[name](reference.values())
    sparsifier.attach(optimizer)
    for _ in range(5):
        step(model, optimizer)
        plain.zero_grad()
        masked = {name: p * masks[name] if name in masks else p for name, p in reference.items()}
        (torch.func.functional_call(model, masked, (X,)) - Y).square().mean().backward()
        plain.step()
    for name, parameter in model.named_parameters():
        expected = reference[name].detach() * masks.get(name, 1)
        torch.testing.assert_close(parameter.detach(), expected)


def test_a_closure_never_sees_gradients_of_pruned_weights():
    model = mlp()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5, line_search_fn="strong_wolfe")
    sparsifier = sl.Sparsifier(model, "2:4")
    sparsifier.attach(optimizer)
    sparsifier.compute()
    inside = []

    def closure() -> Tensor:
        inside.append(is_two_of_four(model))
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    before = loss_of(model).item()
    optimizer.step(closure)
    optimizer.step(closure=closure)
    assert all(inside)
    assert len(inside) > 2
    assert is_two_of_four(model)
    assert loss_of(model).item() < before


def test_autocast_and_grad_scaler():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    sparsifier = sl.Sparsifier(model, "2:4")
    sparsifier.attach(optimizer)
    sparsifier.compute()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for turn in range(4):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model)
        scaler.scale(loss).backward()
        if turn == 2:
            model[0].weight.grad[0, 0] = torch.inf  # this step is skipped
        scaler.step(optimizer)
        scaler.update()
        assert is_two_of_four(model)
        assert model[0].weight.isfinite().all()


def test_gradient_accumulation_and_parameter_groups():
    model = mlp()
    optimizer = torch.optim.SGD([{"params": model[0].parameters(), "lr": 0.1}], lr=0.01, momentum=0.9)
    sparsifier = sl.Sparsifier(model, "2:4")
    sparsifier.attach(optimizer)
    optimizer.add_param_group({"params": model[2].parameters()})
    sparsifier.compute()
    for _ in range(3):
        optimizer.zero_grad()
        for _ in range(2):
            loss_of(model).backward()
        optimizer.step()
        assert is_two_of_four(model)


def test_several_models_and_optimizers():
    first, second = mlp(0), mlp(1)
    both = torch.optim.Adam([*first.parameters(), *second[0].parameters()])
    rest = torch.optim.SGD(second[2].parameters(), 0.1)
    sparsifiers = [sl.Sparsifier(first, "2:4"), sl.Sparsifier(second, "1:4", exclude=["2"])]
    sparsifiers[0].attach(both)
    sparsifiers[0].attach(both)  # twice is once
    sparsifiers[1].attach(both)
    sparsifiers[1].attach(rest)
    for sparsifier in sparsifiers:
        sparsifier.compute()
    for _ in range(3):
        (loss_of(first) + loss_of(second)).backward()
        both.step()
        rest.step()
    assert sparsifiers[0].step == 3
    assert is_two_of_four(first)
    assert most_in_a_group(second[0].weight) == 1
    assert most_in_a_group(second[2].weight) == 4


def test_a_compiled_model_is_pruned_by_its_own_names():
    model = mlp()
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.SGD(compiled.parameters(), 0.1)
    sparsifier = sl.Sparsifier(compiled, "2:4")
    assert list(sparsifier.masks) == ["0.weight", "2.weight"]
    sparsifier.attach(optimizer)
    dense = compiled(X)
    sparsifier.compute()
    assert not torch.equal(compiled(X), dense)
    for _ in range(2):
        step(compiled, optimizer)
    assert is_two_of_four(model)


def test_an_average_of_the_weights_is_pruned_by_the_masks_of_the_moment():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsifier = sl.Sparsifier(model, "2:4", schedule="recompute,2")
    sparsifier.attach(optimizer)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    sparsifier.compute()
    for _ in range(4):
        step(model, optimizer)
        average.update_parameters(model)
    assert most_in_a_group(average.module[0].weight) > 2
    sparsifier.apply_to(average)
    assert is_two_of_four(average.module)
    with pytest.raises(ValueError, match="not a copy"):
        sparsifier.apply_to(nn.Linear(3, 3))


class Failing(torch.optim.SGD):
    """Moves every weight, then fails: a crash in the middle of a step."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(1.0)
        raise KeyboardInterrupt


def test_a_crash_in_a_step_leaves_no_model_that_claims_to_be_sparse():
    model = mlp()
    failing, optimizer = Failing(model.parameters(), 0.1), torch.optim.SGD(model.parameters(), 0.1)
    sparsifier = sl.Sparsifier(model, "2:4")
    sparsifier.attach(failing)
    sparsifier.attach(optimizer)
    sparsifier.compute()
    loss_of(model).backward()
    with pytest.raises(KeyboardInterrupt):
        failing.step()
    assert not sparsifier.enabled
    optimizer.step()
    assert sparsifier.enabled
    with pytest.raises(KeyboardInterrupt):
        failing.step()
    sparsifier.state_dict()
    assert sparsifier.enabled
    assert is_two_of_four(model)


def test_a_failure_while_masks_are_put_in_place_puts_everything_back(monkeypatch):
    model = mlp()
    sparsifier = sl.Sparsifier(model, "2:4", keep_pruned=True)
    sparsifier.compute()
    with torch.no_grad():
        model[0].weight.add_(torch.randn(32, 32, generator=torch.Generator().manual_seed(5)))
    before = copy.deepcopy(model.state_dict())
    put, calls = Tensor.copy_, []

    def interrupted(tensor: Tensor, source: Tensor) -> Tensor:
        calls.append(source)
        if len(calls) == 5:  # in the middle of the second layer; then what was there is put back
            raise KeyboardInterrupt
        return put(tensor, source)

    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "copy_", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sparsifier.compute()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_weights_that_are_not_finite_stop_compute_before_it_changes_anything():
    model = mlp()
    model[2].weight.data[1, 3] = torch.nan
    before = copy.deepcopy(model.state_dict())
    sparsifier = sl.Sparsifier(model, "2:4")
    with pytest.raises(ValueError, match=r"2\.weight"):
        sparsifier.compute()
    assert torch.equal(model[0].weight, before["0.weight"])
    assert not sparsifier.enabled


def test_restore_and_recompute():
    model = mlp()
    dense = copy.deepcopy(model.state_dict())
    sparsifier = sl.Sparsifier(model, "2:4", keep_pruned=True)
    sparsifier.compute()
    assert sparsifier.enabled
    sparsifier.restore()
    assert not sparsifier.enabled
    assert all(torch.equal(dense[name], tensor) for name, tensor in model.named_parameters())
    sparsifier.compute()
    model[0].weight.data.mul_(1e-9)  # now the pruned values are the large ones
    taken = ~sparsifier.masks["0.weight"]
    sparsifier.compute()
    assert torch.equal(sparsifier.masks["0.weight"], taken)
    assert torch.equal(model[0].weight[taken], dense["0.weight"][taken])


def test_without_pruned_values_there_is_nothing_to_restore():
    sparsifier = sl.Sparsifier(mlp(), "2:4")
    sparsifier.compute()
    with pytest.raises(RuntimeError, match="keep_pruned"):
        sparsifier.restore()
    with pytest.raises(RuntimeError, match="keep_pruned"):
        sparsifier.compute()


def test_finalize_leaves_a_plain_model():
    model = mlp()
    names = list(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    sparsifier = sl.Sparsifier(model, "2:4", keep_pruned=True)
    sparsifier.attach(optimizer)
    sparsifier.compute()
    sparsifier.finalize()
    assert list(model.state_dict()) == names
    assert is_two_of_four(model)
    step(model, optimizer)
    assert density(model[0].weight) > 0.9  # no hook is left
    sl.Sparsifier(model, "2:4")


def test_a_model_whose_layers_were_replaced_does_not_claim_to_be_sparse():
    model = mlp()
    sparsifier = sl.Sparsifier(model, "2:4")
    sparsifier.compute()
    wrapped = nn.Sequential(model[2])  # as an adapter does: the layer is still there
    model[2] = wrapped
    assert sparsifier.enabled
    model[2] = nn.Linear(32, 8)
    assert not sparsifier.enabled


def test_frame_says_why_not():
    model = network()
    sparsifier = sl.Sparsifier(model, "2:4", exclude=["7"])
    frame = sparsifier.frame.set_index("layer")
    assert list(frame["eligible"]) == [False, True, False]
    assert "3 input channels" in frame.loc["0.weight", "reason"]
    assert frame.loc["7.weight", "reason"] == "in exclude"
    weight = model[3].weight.detach().clone()
    sparsifier.compute()
    frame = sparsifier.frame.set_index("layer")
    assert frame.loc["3.weight", "density"] == 0.5
    expected = 100 * float(model[3].weight.detach().abs().sum() / weight.abs().sum())
    assert frame.loc["3.weight", "retained_percent"] == pytest.approx(expected, rel=1e-6)


def test_bad_input_is_refused_before_anything_is_done():
    model = mlp()
    names = list(model.state_dict())
    for options, words in (
        ({"pattern": "2:5x"}, "2:5x"),
        ({"schedule": "recomputed,3"}, "recompute"),
        ({"permutation": "channel_swop"}, "channel_swap"),
        ({"include": ["7"]}, "'7'"),
        ({"exclude": ["7"]}, "'7'"),
        ({"saliency": "magnitud"}, "Did you mean 'magnitude'"),
        ({"saliency": "wanda"}, "collect_activations"),
        ({"pattern": "unstructured,0.5", "schedule": "gradual"}, "N:M"),
        ({"schedule": "recompute,0"}, "at least 1"),
        ({"schedule": "decay,10,10"}, "end"),
    ):
        with pytest.raises(ValueError, match=words):
            sl.Sparsifier(model, **options)
    assert list(model.state_dict()) == names
    sl.Sparsifier(model, "2:4")
    with pytest.raises(ValueError, match="has a mask already"):
        sl.Sparsifier(model, "2:4")


def test_a_mask_function_of_your_own():
    model = mlp()
    sparsifier = sl.Sparsifier(model, lambda weight: weight > 0)
    sparsifier.compute()
    assert (model[0].weight >= 0).all()


def test_detached_optimizers_no_longer_keep_masks_and_the_next_one_is_the_clock():
    model = mlp()
    first, second = (torch.optim.SGD(model.parameters(), 0.1) for _ in range(2))
    sparsifier = sl.Sparsifier(model, "2:4", schedule="sr_ste")
    sparsifier.attach(first)
    sparsifier.compute()
    step(model, first)
    sparsifier.detach(second)  # nothing to do
    sparsifier.detach(first)
    sparsifier.attach(second)
    step(model, second)
    assert sparsifier.step == 2
    assert is_two_of_four(model)
    step(model, first)
    assert sparsifier.step == 2
    assert density(model[0].weight) > 0.9
    sparsifier.finalize()
    assert is_two_of_four(model)


def test_masks_that_were_loaded_are_not_permuted_under(monkeypatch):
    """The weights of a pruned checkpoint are where they should be, and so are the values kept beside them."""
    pruned = mlp()
    sl.Sparsifier(pruned, "2:4", keep_pruned=True).compute()
    model = mlp(1)
    sparsifier = sl.Sparsifier(model, "2:4", keep_pruned=True, example_inputs=X, permutation="random,20")
    model.load_state_dict(pruned.state_dict())
    monkeypatch.setattr("sparselab.network.permuting.permute", lambda *args, **kwargs: pytest.fail("permuted"))
    sparsifier.compute()
    sparsifier.restore()
    assert all(torch.equal(p, q) for p, q in zip(mlp().parameters(), model.parameters()))
    sparsifier.compute()  # the masks were lifted: still not the first ones


def test_a_run_resumed_while_masks_are_off_is_not_permuted_again():
    def start(seed: int = 0) -> sl.Sparsifier:
        schedule = "recompute,8,regrow=true,grow=4"
        return sl.Sparsifier(mlp(seed), "2:4", schedule=schedule, example_inputs=X, permutation="random,20")

    sparsifier = start()
    optimizer = torch.optim.SGD(sparsifier.model.parameters(), 0.1)
    sparsifier.attach(optimizer)
    sparsifier.compute()
    for _ in range(5):
        step(sparsifier.model, optimizer)
    assert not sparsifier.enabled
    resumed = start(1)
    resumed.model.load_state_dict(sparsifier.model.state_dict())
    resumed.load_state_dict(sparsifier.state_dict())
    resumed.compute()
    assert resumed.permutation_report is None


RESUMED = ["one_shot", "one_shot,3", "recompute,3", "recompute,4,regrow=true,grow=2", "gradual,2,6", "decay,1,6"]
RESUMED += ["sr_ste", "sr_ste,0.1,every=3"]


@pytest.mark.parametrize("schedule", RESUMED)
@pytest.mark.parametrize("at", [1, 3, 5])
def test_resuming_gives_the_same_bits_as_not_stopping(schedule, at):
    def start() -> tuple[nn.Module, torch.optim.Optimizer, sl.Sparsifier]:
        model = mlp()
        optimizer = torch.optim.AdamW(model.parameters(), 0.02)
        sparsifier = sl.Sparsifier(model, "2:4", schedule=schedule)
        sparsifier.attach(optimizer)
        return model, optimizer, sparsifier

    model, optimizer, sparsifier = start()
    sparsifier.compute()
    saved = io.BytesIO()
    for number in range(9):
        if number == at:
            torch.save([part.state_dict() for part in (model, optimizer, sparsifier)], saved)
        step(model, optimizer)
    resumed, other_optimizer, other = start()
    saved.seek(0)
    for part, state in zip((resumed, other_optimizer, other), torch.load(saved, weights_only=True)):
        part.load_state_dict(state)
    for _ in range(at, 9):
        step(resumed, other_optimizer)
    assert other.step == sparsifier.step == 9
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


class TestPermutation:
    """With example inputs, channels are permuted before the first masks."""

    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))

    def test_keeps_the_function_and_retains_more(self):
        model = network().eval()
        expected, plain = model(self.x), network()
        sl.Sparsifier(plain, "2:4").compute()
        sparsifier = sl.Sparsifier(model, "2:4", example_inputs=self.x, keep_pruned=True, permutation="channel_swap,0")
        sparsifier.compute()
        kept = float(model[3].weight.detach().abs().sum(dtype=torch.float64))
        assert kept > float(plain[3].weight.detach().abs().sum(dtype=torch.float64))
        assert sparsifier.permutation_report.plan
        sparsifier.restore()
        torch.testing.assert_close(model(self.x), expected)

    def test_moves_the_state_of_every_optimizer(self):
        """Training after a permutation goes on as it would have without: the momenta went along."""
        models = [network(), network()]
        optimizers = [
            [torch.optim.Adam(m[:4].parameters(), 0.01), torch.optim.SGD(m[4:].parameters(), 0.01, momentum=0.9)]
            for m in models
        ]

        def steps(index: int) -> None:
            for _ in range(2):
                models[index](self.x).square().mean().backward()
                for optimizer in optimizers[index]:
                    optimizer.step()
                    optimizer.zero_grad()

        for index in (0, 1):
            models[index].eval()
            steps(index)
        sparsifier = sl.Sparsifier(models[1], "2:4", example_inputs=self.x, keep_pruned=True, permutation="random,20")
        for optimizer in optimizers[1]:
            sparsifier.attach(optimizer)
        sparsifier.compute()
        sparsifier.restore()
        assert not torch.equal(models[0][3].weight, models[1][3].weight)
        for index in (0, 1):
            steps(index)
        torch.testing.assert_close(models[1](self.x), models[0](self.x))

    def test_moves_scores_that_were_given(self):
        model = network()
        scores = {name: torch.rand_like(model.get_parameter(name)) for name in ("3.weight", "7.weight")}
        tag = {name: model.get_parameter(name).detach().clone() for name in scores}
        sparsifier = sl.Sparsifier(
            model, "2:4", saliency=scores, example_inputs=self.x, keep_pruned=True, permutation="channel_swap,0"
        )
        sparsifier.compute()
        masks = {name: mask.clone() for name, mask in sparsifier.masks.items()}
        sparsifier.restore()
        for name, before in tag.items():
            score_of = dict(zip(before.flatten().tolist(), scores[name].flatten().tolist()))
            weight = model.get_parameter(name).detach()
            moved = torch.tensor([score_of[value] for value in weight.flatten().tolist()]).view(weight.shape)
            assert torch.equal(masks[name], sl.create_mask(weight, "2:4", saliency=moved))

    def test_not_without_example_inputs_nor_when_told_not_to(self):
        for options in ({}, {"example_inputs": self.x, "permutation": None}):
            model = network()
            dense = model[3].weight.detach().clone()
            sparsifier = sl.Sparsifier(model, "2:4", **options)
            sparsifier.compute()
            assert sparsifier.permutation_report is None
            assert torch.equal(sparsifier.masks["3.weight"], sl.create_mask(dense, "2:4"))


def test_scores_from_data_follow_the_channels_into_a_resumed_run():
    model, x = network(), torch.randn(4, 3, 8, 8)
    ria = sl.saliency.collect_activations(model, [x]).ria()

    def made(model):
        return sl.Sparsifier(model, "2:4", saliency=ria, keep_pruned=True, permutation="channel_swap", example_inputs=x)

    first = made(model)
    first.compute()
    assert len(first.permutation_report.plan)
    second = made(network(seed=1))
    second.model.load_state_dict(model.state_dict())
    second.load_state_dict(first.state_dict())
    for sparsifier in (first, second):
        sparsifier.compute()
    assert all(torch.equal(first.masks[name], mask) for name, mask in second.masks.items())
    second.load_state_dict(first.state_dict())  # the same plan does not move them twice
    second.compute()
    assert all(torch.equal(first.masks[name], mask) for name, mask in second.masks.items())


def test_frame_is_a_plain_frame_that_can_be_called_as_it_was_once():
    sparsifier = sl.Sparsifier(nn.Sequential(nn.Linear(8, 8)), "1:4")
    sparsifier.compute()
    frame = sparsifier.frame
    assert frame.attrs["pattern"] == "1:4"
    assert frame().equals(frame)
    assert type(frame[frame["eligible"]]) is pd.DataFrame
    assert frame.loc[0, "density"] == 0.25


def test_repr_says_what_it_is_and_where_it_stands():
    sparsifier = sl.Sparsifier(nn.Sequential(nn.Linear(8, 8)), "1:4", schedule="recompute,10")
    assert "Sequential, '1:4', 1 weights, dense" in repr(sparsifier)
    sparsifier.compute()
    assert "pruned" in repr(sparsifier)


def test_finalize_without_masks_says_so(caplog):
    sparsifier = sl.Sparsifier(nn.Sequential(nn.Linear(8, 16)), "2:4", permutation=None)
    sparsifier.finalize()
    assert "finalize(): compute() was never called, so nothing is pruned" in caplog.text
    caplog.clear()
    sparsifier = sl.Sparsifier(nn.Sequential(nn.Linear(8, 16)), "2:4", permutation=None)
    sparsifier.compute()
    sparsifier.finalize()
    assert "never called" not in caplog.text
