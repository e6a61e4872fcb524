import numpy as np
import pytest
import torch
from torch import nn

import sparselab as sl
from sparselab.saliency import Wanda, collect_wanda, scores


def test_the_four_ways_to_say_magnitude():
    weight = torch.randn(4, 8)
    for saliency in ("magnitude", torch.abs, weight.abs(), lambda w: w.abs()):
        assert torch.equal(scores(weight, saliency), weight.abs())


@pytest.mark.parametrize(
    ("saliency", "message"),
    [
        ("magnitud", "unknown saliency 'magnitud'; valid: magnitude, wanda. Did you mean 'magnitude'?"),
        ("wanda", "collect them with collect_wanda"),
        (torch.ones(2, 2), r"scores have shape \(2, 2\), the weight \(4, 8\)"),
        (lambda w: w, "must not be negative"),
        (lambda w: 3, "returned int, not a tensor"),
    ],
)
def test_bad_saliency(saliency, message):
    with pytest.raises(ValueError, match=message):
        sl.create_mask(-torch.ones(4, 8), "2:4", saliency=saliency)


def test_wanda_changes_the_mask():
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    wanda = Wanda(torch.tensor([100.0, 1.0, 1.0, 1.0]))
    assert sl.create_mask(weight, "2:4", saliency=wanda).int().tolist() == [[1, 0, 0, 1]]
    with pytest.raises(ValueError, match="3 channel norms for a weight with 4 input channels"):
        sl.create_mask(weight, "2:4", saliency=Wanda(torch.ones(3)))


def test_wanda_of_half_precision_does_not_overflow():
    weight = torch.full((1, 4), 6e4, dtype=torch.float16)
    assert torch.isfinite(Wanda(torch.full((4,), 1e3))(weight)).all()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, groups=2)
        self.up = nn.ConvTranspose2d(8, 4, 2)
        self.linear = nn.Linear(4, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        self.seen = {"conv.weight": x}
        x = self.conv(x)
        self.seen["up.weight"] = x
        x = self.up(x).flatten(2).transpose(1, 2)
        self.seen["linear.weight"] = x
        x = self.linear(x)
        self.seen["attention.in_proj_weight"] = x
        return self.attention(x, x, x)[0]


def test_collected_norms_agree_with_the_inputs():
    torch.manual_seed(0)
    model = Net()
    batches = [torch.randn(3, 4, 5, 5) for _ in range(2)]
    collected = collect_wanda(model, batches)
    seen = []
    for batch in batches:
        model(batch)
        seen.append({name: value.detach().double().numpy() for name, value in model.seen.items()})
    channels = {"conv.weight": 1, "up.weight": 1, "linear.weight": -1, "attention.in_proj_weight": -1}
    assert set(collected) == set(channels)
    for name, dim in channels.items():
        together = [np.moveaxis(batch[name], dim, 0).reshape(batch[name].shape[dim], -1) for batch in seen]
        norms = np.linalg.norm(np.concatenate(together, axis=1), axis=1)
        weight = model.get_parameter(name).detach()
        if name == "conv.weight":  # two groups of four outputs, each with its own half of the input channels
            per_weight = np.repeat(norms.reshape(2, 2), 4, axis=0)[:, :, None, None]
        elif name == "up.weight":
            per_weight = norms[:, None, None, None]
        else:
            per_weight = norms[None]
        np.testing.assert_allclose(collected[name](weight).numpy(), weight.abs().numpy() * per_weight, rtol=1e-5)


def test_collecting_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    collect_wanda(model, [(torch.randn(3, 4),)])
    assert model.training
    assert not model[1].training
    assert not model[0]._forward_pre_hooks
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="no batch to collect inputs from"):
        collect_wanda(model, [])


def test_a_mapping_must_have_every_eligible_layer():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    only_first = collect_wanda(model[:1], [torch.randn(2, 8)])
    assert set(only_first) == {"0.weight"}
    with pytest.raises(ValueError, match=r"no saliency for weight '1.weight'; the mapping has 1 others"):
        sl.magnitude_report(model, "2:4", saliency=only_first)
    both = collect_wanda(model, [torch.randn(2, 8)])
    assert not sl.magnitude_report(model, "2:4", saliency=both)["retained"].isna().any()
