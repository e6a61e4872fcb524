"""Pruners: the contract, names, and the Sparsifier that prunes by them."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import sparselab as sl
from sparselab.masks import calculator, create_mask
from sparselab.pruners import PRUNERS, BySaliency, Pruned, get_pruner
from sparselab.pruners.by_function import ByFunction
from sparselab.statistics import InputNorms, SecondMoments, collect, reconstruction_error
from sparselab.testing import PrunerContract

SPECS = [
    "by_saliency",
    "by_saliency,wanda",
    "magnitude",
    "wanda",
    "ria,power=0.3",
    "sparsegpt",
    "admm",
    "alps",
    "swaps",
]


class TestContract(PrunerContract):
    @pytest.fixture(params=SPECS)
    def pruner(self, request):
        return get_pruner(request.param)


def test_every_pruner_is_in_the_contract():
    assert {PRUNERS.get(name) for name in PRUNERS.names()} == {type(get_pruner(spec)) for spec in SPECS}


def test_names():
    assert get_pruner("ria,power=0.3") == BySaliency("ria,power=0.3")
    assert get_pruner(pruner := BySaliency(torch.abs)) is pruner
    for bad, message in (
        ("wandda", "unknown pruner 'wandda'"),
        ("wanda,power=2", "unknown option of saliency 'wanda' 'power'"),
        (BySaliency, "a pruner is a name with options or an object"),
    ):
        with pytest.raises(ValueError, match=message):
            get_pruner(bad)


def test_masks_by_saliency_are_those_of_create_mask():
    model, x = nn.Sequential(nn.Linear(16, 8)), torch.randn(20, 16) * torch.arange(1, 17)
    statistics = collect(model, [x], [InputNorms])
    wanda = sl.saliency.collect_activations(model, [x]).wanda()["0.weight"]
    found = get_pruner("wanda")(model[0].weight, calculator("2:4"), statistics[InputNorms]["0.weight"])
    expected = create_mask(model[0].weight, "2:4", saliency=wanda)
    assert torch.equal(found.mask, expected)
    assert torch.equal(found.weight, model[0].weight.detach() * expected)


@dataclass(frozen=True)
class LeastSquares:
    """Mask by magnitude, then every row by least squares on what it keeps: the best values for that mask."""

    needs = SecondMoments

    def __call__(self, weight, calculator, statistic=None, *, channel_dim=1):
        if not isinstance(statistic, SecondMoments):
            raise ValueError("LeastSquares needs SecondMoments: collect them")
        mask = create_mask(weight, calculator, channel_dim=channel_dim)
        rows, kept = statistic.rows(weight.detach().double()), statistic.rows(mask.double()).bool()
        new = torch.zeros_like(rows)
        for group, moments in enumerate(statistic.sums.double()):
            for row in range(rows.shape[1]):
                stays = kept[group, row]
                right = moments[stays] @ rows[group, row]
                new[group, row, stays] = torch.linalg.lstsq(moments[stays][:, stays], right[:, None]).solution[:, 0]
        return Pruned(mask, statistic.from_rows(new).to(weight.dtype))


class TestAPrunerThatUpdates(PrunerContract):
    @pytest.fixture
    def pruner(self):
        return LeastSquares()


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
    x = torch.randn(200, 16) @ torch.randn(16, 16)
    return model, x


@pytest.mark.parametrize("permuted", [False, True])
def test_a_sparsifier_prunes_by_it_and_keeps_its_values(permuted):
    model, x = network()
    dense = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    statistics = collect(model, [x], [SecondMoments])
    before = model(x).detach()
    sparsifier = sl.Sparsifier(
        model, "2:4", pruner=LeastSquares(), statistics=statistics, example_inputs=x[:2] if permuted else None
    )
    sparsifier.compute()
    assert sparsifier.enabled
    assert sl.check(model)["sparse"].all()
    plan = sparsifier.weights.plan
    assert (len(plan) > 0) == permuted
    moments = plan.moved(statistics[SecondMoments])
    for name, weight in plan.moved({name: dense[name] for name in ("0.weight", "2.weight")}).items():
        now = model.get_parameter(name).detach()
        alone = weight * sparsifier.masks[name]
        assert not torch.equal(now, alone)
        error, unchanged = (reconstruction_error(weight, each, moments[name]) for each in (now, alone))
        assert error < 0.9 * unchanged
    assert float((model(x).detach() - before).norm()) < float(before.norm())


def test_pruned_values_come_back_as_they_were_dense():
    model, x = network()
    dense = model[0].weight.detach().clone()
    statistics = collect(model, [x], [SecondMoments])
    sparsifier = sl.Sparsifier(model, "2:4", pruner=LeastSquares(), statistics=statistics, keep_pruned=True)
    sparsifier.compute()
    assert not torch.equal(model[0].weight, dense * sparsifier.masks["0.weight"])
    sparsifier.restore()
    torch.testing.assert_close(model[0].weight.detach(), dense)


@pytest.mark.parametrize("schedule", ["recompute,1", "sr_ste,0.0002"])
def test_masks_that_are_computed_again_do_not_update_what_is_updated_already(schedule):
    model, x = network()
    statistics = collect(model, [x], [SecondMoments])
    sparsifier = sl.Sparsifier(
        model, "2:4", pruner=LeastSquares(), statistics=statistics, schedule=schedule, keep_pruned=True
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)  # nothing is learnt
    sparsifier.attach(optimizer)
    sparsifier.compute()
    once = {name: model.get_parameter(name).detach().clone() for name in sparsifier.masks}
    for _ in range(20):
        model(x).sum().backward()
        optimizer.step()
    assert sparsifier.enabled
    for name, weight in once.items():
        torch.testing.assert_close(model.get_parameter(name).detach(), weight, rtol=1e-4, atol=1e-5)


def test_scores_in_a_pruner_follow_a_permutation():
    _, x = network()
    wanda = sl.saliency.collect_activations(network()[0], [x])
    pruned = []
    for options in ({"saliency": wanda.wanda()["0.weight"]}, {"pruner": BySaliency(wanda.wanda()["0.weight"])}):
        model = network()[0]
        sparsifier = sl.Sparsifier(model, "2:4", include=["0"], example_inputs=x[:2], **options)
        sparsifier.compute()
        pruned.append((model[0].weight.detach().clone(), sparsifier.masks["0.weight"].clone()))
    assert all(torch.equal(one, other) for one, other in zip(*pruned))


@dataclass(frozen=True)
class Returns:
    """Returns what ``make`` makes of the weight."""

    make: object
    needs = None

    def __call__(self, weight, calculator, statistic=None, *, channel_dim=1):
        return self.make(weight.detach(), create_mask(weight, calculator, channel_dim=channel_dim))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda weight, mask: (mask, weight), r"returns Pruned\(mask, weight\), got tuple"),
        (lambda weight, mask: Pruned(mask.float(), weight * mask), "mask is torch.float32 .* must be torch.bool"),
        (lambda weight, mask: Pruned(mask[:1], weight * mask), r"mask is .* of shape \(1, 16\) .* shape \(32, 16\)"),
        (lambda weight, mask: Pruned(mask, (weight * mask).double()), "weight is torch.float64"),
        (lambda weight, mask: Pruned(mask, weight), "not zero where its mask is False"),
        (lambda weight, mask: Pruned(mask, weight * mask * torch.inf), "not finite"),
    ],
)
def test_what_a_pruner_returns_is_looked_at_before_anything_changes(make, message):
    model, _ = network()
    before = model[0].weight.detach().clone()
    with pytest.raises(ValueError, match=f"layer '0.weight': .*{message}"):
        sl.Sparsifier(model, "2:4", pruner=Returns(make)).compute()
    assert torch.equal(model[0].weight, before)


def test_names_that_need_statistics_take_them():
    model, x = network()
    by_mapping, by_name = (
        sl.Sparsifier(m, "2:4", **options)
        for m, options in (
            (network()[0], {"saliency": sl.saliency.collect_activations(model, [x]).wanda()}),
            (network()[0], {"pruner": "wanda", "statistics": collect(model, [x])}),
        )
    )
    also_by_name = sl.Sparsifier(network()[0], "2:4", saliency="wanda", statistics=collect(model, [x]))
    for sparsifier in (by_mapping, by_name, also_by_name):
        sparsifier.compute()
        assert all(torch.equal(mask, by_mapping.masks[name]) for name, mask in sparsifier.masks.items())


def test_what_contradicts_itself_or_is_missing_is_said_before_any_work():
    model, x = network()
    for options, message in (
        ({"pruner": "wanda"}, r"pruner .*wanda.* needs InputNorms .*sl.statistics.collect\(model, batches"),
        ({"pruner": LeastSquares()}, "needs SecondMoments"),
        ({"pruner": "sparsegtp"}, "unknown pruner 'sparsegtp'"),
        ({"pruner": "wanda", "saliency": "ria"}, "a pruner has scores of its own; give one of the two"),
        ({"pruner": "magnitude", "pattern": lambda weight: weight > 0}, "the function decides already"),
        ({"saliency": "wanda"}, "cannot be computed from the weight alone"),
        ({"saliency": "wandda", "pattern": lambda weight: weight > 0}, "unknown saliency 'wandda'"),
        ({"pruner": lambda weight, calculator: None}, "says no `needs`"),
        ({"schedule": sl.training.schedules.Schedule}, "a schedule is a name with options .* got <class"),
        ({"schedule": 100}, "a schedule is a name with options .* got 100"),
        ({"pruner": "wanda", "statistics": {"0.weight": 1}}, "statistics are by kind, then by weight"),
        ({"pruner": "wanda", "statistics": 3}, "statistics are by kind, .* got int"),
    ):
        with pytest.raises(ValueError, match=message):
            sl.Sparsifier(model, **options)
    assert not any("mask" in name for name in model.state_dict())
    lacking = collect(model, [x], [SecondMoments], layers="0")
    sparsifier = sl.Sparsifier(model, "2:4", pruner=LeastSquares(), statistics=lacking)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"layer '2.weight': no SecondMoments .* Was its layer reached by the data"):
        sparsifier.compute()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_runs_of_different_pruners_are_different_runs():
    model, x = network()
    statistics = collect(model, [x])
    described = [
        sl.Sparsifier(network()[0], "2:4", **options).describe()["pattern"]
        for options in ({}, {"pruner": "magnitude"}, {"pruner": "wanda", "statistics": statistics})
    ]
    assert described[0] == "2:4"
    assert len(set(described)) == 3


def test_a_function_of_ones_own():
    weight = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    found = ByFunction(lambda weight: weight > 0)(weight)
    assert found.weight.tolist() == [[1.0, 0.0], [3.0, 4.0]]
    with pytest.raises(ValueError, match=r"must return a tensor of shape \(2, 2\)"):
        ByFunction(lambda weight: weight[0] > 0)(weight)
