import concurrent.futures as cf
import multiprocessing

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import sparselab as sl
from sparselab.sweeps.pruning import DEFAULTS, pruning_run
from sparselab.tasks import Recipe, Task, dense_baseline, evaluate

MEASURED = ["dense_top1", "pruned_top1", "finetuned_top1", "finetuned_loss", "retained_percent", "efficacy", "density"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSELAB_CACHE", str(tmp_path / "cache"))


def network():
    return nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))


def blobs(finetuning="sgd,0.05"):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(96) % 4
    inputs = torch.randn(96, 16, generator=generator) + 2 * torch.eye(16)[labels]
    train, held = TensorDataset(inputs[:64], labels[:64]), TensorDataset(inputs[64:], labels[64:])
    return Task(
        name="blobs", model=network, train_data=train, eval_data=held, example_inputs=inputs[:2],
        recipe=Recipe("sgd,0.1", epochs=5, batch_size=16), finetuning=Recipe(finetuning, epochs=2, batch_size=16),
    )  # fmt: skip


def sweep(task=blobs, **options):
    return sl.experiment(task=task, **{"progress": False, "threads": 1, **options})


def test_the_columns_of_the_promise(tmp_path):
    frame = sweep(
        pattern=["2:4", "1:4"], permutation=[None, "channel_swap"], schedule=["one_shot", "recompute,3"], seed=range(2),
        steps=6, store=tmp_path / "runs.sqlite",
    )  # fmt: skip
    assert frame["error"].dropna().tolist() == []
    assert len(frame) == 16
    assert set(MEASURED) <= set(frame)
    for name in ("dense", "prune", "search", "finetune", "total"):
        assert (frame[f"seconds_{name}"] >= 0).all()
        assert f"seconds_{name}" in frame.attrs["measured"]
    assert frame["density"].tolist() == [0.5] * 8 + [0.25] * 8
    assert (frame["sparse_layers"] == 2).all()
    plain = frame["permutation"].isna()
    assert frame["efficacy"][plain].abs().max() < 1e-6
    assert (frame["efficacy"][~plain] > 5).all()
    assert frame["permuted_percent"][~plain].tolist() == [20.0] * 8  # 32 x 4 of 32 x 4 + 16 x 32 weights
    assert frame["not_permuted"][~plain].str.startswith("the model's input").all()
    assert frame[["permuted_percent", "not_permuted"]][plain].isna().all(axis=None)
    assert frame.groupby("seed")["dense_top1"].nunique().eq(1).all()
    pd.testing.assert_frame_equal(sl.load(tmp_path / "runs.sqlite"), frame)
    history = sl.history(frame)
    assert set(history["tracker"]) == {"accuracy", "magnitude", "mask_churn"}
    last = history[(history["tracker"] == "accuracy") & (history["quantity"] == "top1") & (history["step"] == 6)]
    assert last["value"].tolist() == frame["finetuned_top1"].tolist()


@pytest.mark.gpu
def test_a_permuted_trial_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    (row,) = sweep(device="cuda", pattern="2:4", permutation="auto", steps=6).to_dict("records")
    assert row["error"] is None
    assert row["device"].startswith("cuda")
    assert row["efficacy"] > 5  # the task's example inputs met the network on its device
    assert row["finetuned_top1"] > 50


def test_numbers_against_a_plain_calculation():
    (row,) = sweep(pattern="2:4", permutation=None, steps=0).to_dict("records")
    model, dense = dense_baseline(blobs(), seed=0)
    assert row["dense_top1"] == dense["top1"] == evaluate(blobs(), model)["top1"]
    kept = total = 0.0
    for layer in (model[0], model[3]):
        groups = layer.weight.detach().abs().double().reshape(-1, 4).sort(1).values
        kept, total = kept + float(groups[:, 2:].sum()), total + float(groups.sum())
    assert row["retained_percent"] == pytest.approx(100 * kept / total, rel=1e-6)
    assert "finetuned_top1" not in row


def test_a_dense_control_and_a_loss_that_is_not_a_number():
    (row,) = sweep(pattern=None, permutation=None, steps=2).to_dict("records")
    assert row["pruned_top1"] == row["dense_top1"]
    assert "density" not in row
    frame = sweep(lambda: blobs("sgd,1e30"), permutation=None, pattern=["2:4", "2:64"], steps=[8])
    assert frame["state"].eq("failed").all()
    assert frame["error"][0].startswith("FloatingPointError: blobs: the loss is")
    assert frame["error"][1].startswith("ValueError: pattern 2:64 fits no layer of blobs")


@pytest.mark.parametrize("bad", [{"steps": -1}, {"steps": 1.5}, {"seed": -1}, {"track_every": -1}])
def test_bad_values_of_axes_are_rows(bad):
    frame = sweep(permutation=None, **{"steps": 1, **bad})
    assert frame["state"].tolist() == ["failed"]
    assert "ValueError" in frame["error"][0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"patern": "2:4"},
            "unknown option or input of a sweep over 'digits' 'patern'; valid: calibration, device, orders, pattern, .*Did you",
        ),
        ({"pattern": ["2:4", "2;4"]}, "'2;4' is not a pattern; write 'N:M'"),
        ({"permutation": [None, "stripe_gruops"]}, "unknown strategy 'stripe_gruops'; valid: .*channel_swap"),
        ({"permutation": "random,trees=3"}, "unknown option of strategy 'random' 'trees'; valid:"),
        ({"schedule": "recompute,evry=3"}, "unknown option of schedule 'recompute' 'evry'; valid: every"),
        ({"saliency": "magnitud"}, "magnitud"),
        ({"resum": True}, "unknown option 'resum'; did you mean 'resume'"),
        ({"task": "digts"}, "unknown task 'digts'; valid: .*digits.*Did you mean 'digits'"),
        ({"task": "digits,epoch=2"}, "unknown option of task 'digits' 'epoch'; valid: epochs"),
        ({"task": 7}, "task=7 is no task"),
    ],
)
def test_what_is_misspelt_fails_before_the_first_trial(options, message):
    with pytest.raises(ValueError, match=message):
        sweep(**{"task": "digits", **options})


def test_a_task_and_what_makes_it_and_changes_that_make_other_keys():
    keys = [
        sweep(task, steps=0, permutation=None, **more)["key"][0]
        for task, more in (
            (blobs(), {}), (blobs(), {}), (blobs("sgd,0.01"), {}), (blobs, {}), (blobs(), {"version": 2}),
            (blobs(), {"seed": 1}),
        )
    ]  # fmt: skip
    assert keys[0] == keys[1]
    assert len(set(keys)) == 5
    assert pruning_run("digits,epochs=2").name == "digits,epochs=2"
    assert pruning_run(blobs).fill({}) == dict(DEFAULTS)


@pytest.mark.slow
def test_same_row_on_a_process_pool(tmp_path):
    options = {"pattern": ["2:4", "1:4"], "permutation": None, "steps": 4, "seed": range(2)}
    with cf.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        elsewhere = sweep(executor=pool, **options)  # both workers want the same dense networks: one trains them
    assert len(list((tmp_path / "cache" / "baselines").glob("*.pt"))) == 2
    here = sweep(**options)
    pd.testing.assert_frame_equal(elsewhere[["key", *MEASURED]], here[["key", *MEASURED]])


def test_saliency_from_data_by_name():
    frame = sweep(saliency=["magnitude", "wanda", "ria"], permutation="channel_swap", steps=0)
    assert frame["error"].dropna().tolist() == []
    by = frame.set_index("saliency")["retained_percent"]
    assert by["magnitude"] >= by[["wanda", "ria"]].max()  # what is retained is counted in magnitudes
    assert by.nunique() == 3


def test_pruners_are_inputs(tmp_path):
    """By name, with the statistics that they need; the saliency of that name finds the same masks."""
    frame = sweep(pruner=["magnitude", "wanda", "ria,power=0.3"], steps=0, permutation=None)
    assert list(frame["state"]) == ["done"] * 3, frame["error"].dropna().tolist()
    assert list(frame["pruner"]) == ["magnitude", "wanda", "ria,power=0.3"]
    assert "pruner" in frame.attrs["inputs"]
    by_saliency = sweep(saliency=["magnitude", "wanda", "ria,power=0.3"], steps=0, permutation=None)
    for column in ("retained_percent", "pruned_top1", "pruned_loss"):
        assert frame[column].tolist() == by_saliency[column].tolist()
    assert frame["retained_percent"].nunique() > 1
    with pytest.raises(ValueError, match="unknown pruner 'wandda'"):
        sweep(pruner="wandda")
    with pytest.raises(ValueError, match="pruner='magnitude' and saliency='ria': a pruner has scores of its own"):
        sweep(pruner="magnitude", saliency="ria")
    without = sweep(steps=0, permutation=None)
    assert "pruner" not in without


def test_no_schedule_is_refused_before_the_first_trial():
    with pytest.raises(ValueError, match="schedule=None: a network without masks is pattern=None"):
        sl.experiment("digits", schedule=[None, "one_shot"], pattern=["2:4"], progress=False)
