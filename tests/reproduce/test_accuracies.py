"""Table 2 and the white paper's recipe: networks pruned, compared, quantised."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

import sparselab as sl
from sparselab.reproduce import Settings, pictures, table2, trained, whitepaper
from sparselab.reproduce.answers import Answers, answers, pack, unpack
from sparselab.reproduce.int8 import quantise_int8
from sparselab.reproduce.trained import AS_TRAINED, DENSE, PERMUTED, RANDOM, Comparison
from sparselab.tasks import LabelledPictures

pytest.importorskip("sklearn", reason="needs the extra 'zoo'")
QUIET = Settings(progress=False)


@pytest.fixture
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr("sparselab.tasks.baseline.cache_dir", lambda: tmp_path)


@pytest.mark.usefixtures("_elsewhere")
def test_a_comparison_has_the_control_and_is_resumed(tmp_path):
    comparison = Comparison("digits", 2, ("2:4",), dense_steps=20, steps=5)
    settings = Settings(progress=False, store=tmp_path / "trials.sqlite")
    found = trained.compare(comparison, settings)
    assert list(found[found["seed"] == 1]["channels"]) == [AS_TRAINED, AS_TRAINED, RANDOM, PERMUTED]
    retained = found[found["pattern"] != DENSE].groupby("channels")["retained_percent"].mean()
    assert retained[PERMUTED] > max(retained[AS_TRAINED], retained[RANDOM])
    dense = found[found["pattern"] == DENSE]
    assert (dense["retained_percent"] == 100).all()
    assert dense["one_shot_divergence"].abs().max() < 1e-9
    assert (dense["one_shot_top1"] == dense["dense_top1"]).all()
    assert (found["one_shot_divergence"] >= -1e-9).all()
    again = trained.compare(comparison, settings)
    assert again["seconds"].tolist() == found["seconds"].tolist()

    differences = trained.paired(found, "2:4", "finetuned_top1", RANDOM)
    by_hand = [
        float(rows.loc[PERMUTED] - rows.loc[RANDOM])
        for _, rows in found[found["pattern"] == "2:4"]
        .set_index(["seed", "channels"])["finetuned_top1"]
        .groupby("seed")
        for rows in [rows.droplevel("seed")]
    ]
    assert differences == pytest.approx(by_hand)
    text = table2.trained_text("(b) digits", comparison, found)
    assert "permuted minus random order" in text
    assert "2 seeds" in text


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [((1, 1), "helps"), ((1, 0), "cannot be told from chance"), ((-1, -1), "hurts")],
)
def test_permuting_helps_only_beyond_both_controls(gains, verdict):
    controls = dict(zip((AS_TRAINED, RANDOM), gains))
    noise = np.random.default_rng(0).normal(0, 0.1, (5, 3))
    rows = [
        ("a task", "2:4", channels, seed, 80.0 + 3 * seed - controls.get(channels, 0) + noise[seed, number])
        for seed in range(5)
        for number, channels in enumerate((AS_TRAINED, RANDOM, PERMUTED))
    ]
    found = pd.DataFrame(rows, columns=["name", "pattern", "channels", "seed", "one_shot_top1"])
    found = found.assign(finetuned_top1=found["one_shot_top1"], one_shot_divergence=-found["one_shot_top1"])
    table = table2.differences(found)
    wide = found.pivot_table(index="seed", columns="channels", values="one_shot_top1")
    assert table["p"].iloc[0] == pytest.approx(stats.ttest_rel(wide[PERMUTED], wide[AS_TRAINED]).pvalue)
    assert table["mean"].iloc[1] == pytest.approx((wide[PERMUTED] - wide[RANDOM]).mean())
    assert (table["pairs"] == 5).all()
    assert all(line.endswith(f"| {verdict} |") for line in table2.differences_text(table).splitlines()[2:])
    one = table2.differences_text(table2.differences(found[found["seed"] == 0]))
    assert one.count("one pair says nothing") == 3


def test_divergence_is_scipys():
    generator = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, 7, 4, generator=generator)
    labels = torch.arange(7) % 4
    expected = np.mean([stats.entropy(torch.softmax(p, 0), torch.softmax(q, 0)) for p, q in zip(one, two)])
    assert Answers(two, labels).divergence_from(Answers(one, labels)) == pytest.approx(expected, rel=1e-5)
    assert Answers(one, labels).divergence_from(Answers(one, labels)) == 0
    assert unpack(pack(Answers(one, labels).right), 7).tolist() == (one.argmax(1) == labels).tolist()


def small_network():
    torch.manual_seed(0)
    blocks = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 8, 3), _blocks=blocks, head=head)).eval()


@pytest.fixture
def some_pictures(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (10, 3, 16, 16), dtype=torch.uint8, generator=generator)
    some = LabelledPictures(pixels, torch.arange(10) % 4)
    monkeypatch.setattr(pictures, "efficientnet_lite0", small_network)
    monkeypatch.setattr(LabelledPictures, "load", lambda: some)
    for cached in (pictures._pictures, pictures._dense):
        cached.cache_clear()
    yield some
    for cached in (pictures._pictures, pictures._dense):
        cached.cache_clear()


def test_pictures_have_the_control_and_are_paired(some_pictures):
    trials = [{**trial, "every": 1} for trial in table2.picture_trials(full=False)]
    found = pictures.prune_all(QUIET, trials).set_index(["pattern", "channels"])
    retained = found["retained_percent"]
    assert retained["2:4", PERMUTED] > retained["2:4", AS_TRAINED]
    assert found.loc[(DENSE, AS_TRAINED), "divergence"] == 0
    assert (found["top1"] * 10 / 100 == [unpack(right, 10).sum() for right in found["right"]]).all()
    summary = table2.summarise_pictures(found.reset_index())
    assert summary[["p_as_trained", "p_random_order"]].notna().sum().tolist() == [1, 1]


def test_each_half_is_judged_with_the_statistics_of_the_other(some_pictures):
    told = pictures.cross_answers(small_network(), some_pictures)
    model = small_network()
    sl.recalibrate_batchnorm(model, some_pictures[1::2].batches())
    expected = model(next(some_pictures[::2].batches())[0])
    assert torch.allclose(told.logits[::2], expected, atol=1e-5)
    assert torch.equal(told.labels, some_pictures.labels)


@pytest.mark.usefixtures("_elsewhere")
def test_the_recipe_ends_sparse_in_int8(monkeypatch):
    monkeypatch.setattr(whitepaper, "QUICK", whitepaper.Recipe("digits", 1, 10, 4))
    section = whitepaper.run(QUIET)
    table = section.tables["whitepaper"]
    assert list(table["channels"]) == [AS_TRAINED, RANDOM, PERMUTED]
    assert table["dense_top1"].nunique() == 1
    assert (table["sparse_layers"] == 3).all()
    assert "All 3 pruned layers are still" in section.text


def test_int8_is_numpys_rounding_and_keeps_zeros():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        model[3].weight[:, ::2] = 0
        model[3].weight[1] = 0
    weight, bias = (tensor.detach().double().numpy().copy() for tensor in (model[3].weight, model[3].bias))
    x = torch.randn(4, 2, 4, 4)
    quantise_int8(model, [x])

    scale = np.abs(weight).max(1, keepdims=True) / 127
    expected = np.round(np.divide(weight, scale, out=np.zeros_like(weight), where=scale > 0)) * scale
    assert np.allclose(model[3].weight.detach(), expected, atol=1e-6)
    assert (model[3].weight.detach().numpy()[weight == 0] == 0).all()

    h = torch.randn(5, 16)
    largest = nn.Sequential(*model[:3])(x).abs().max().item()
    steps = np.clip(np.round(h.double().numpy() / (largest / 127)), -127, 127) * (largest / 127)
    # 1e-2: an input halfway between two steps may be rounded either way
    assert np.allclose(model[3](h).detach(), steps @ expected.T + bias, atol=1e-2)
    with pytest.raises(ValueError, match="no batch to calibrate"):
        quantise_int8(nn.Sequential(nn.Linear(4, 4)), [])


def test_answers_follow_the_tasks_order():
    task = sl.tasks.get_task("digits")
    model = task.model()
    told = answers(task, model, batch_size=100)
    assert torch.equal(told.labels, task.eval_data[torch.arange(len(task.eval_data))][1])
    assert told.top1 == pytest.approx(sl.tasks.evaluate(task, model)["top1"])
    assert model.training
