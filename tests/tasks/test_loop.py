"""The training loop: seeded, resumable, interruptible, and tracked without effect."""

from __future__ import annotations

import functools
import signal

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import sparselab as sl
from sparselab.tasks import Collated, Recipe, Task, dense_baseline, evaluate, fresh_model, train
from sparselab.tasks import baseline as baseline_module
from sparselab.tasks import loop as loop_module
from sparselab.tasks.loop import _order
from sparselab.trackers import (
    AccuracyTracker,
    MagnitudeTracker,
    MaskChurnTracker,
    PermutationTracker,
    ThroughputTracker,
)


def a_task(**changes: object) -> Task:
    """Which of four quadrants: learnt in a second."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 16, generator=generator)
    data = TensorDataset(x, (x[:, 0] > 0).long() * 2 + (x[:, 1] > 0).long())
    settings = {
        "name": "quadrants",
        "model": lambda: nn.Sequential(nn.Linear(16, 32), nn.Dropout(0.1), nn.ReLU(), nn.Linear(32, 8)),
        "train_data": data,
        "eval_data": data,
        "example_inputs": torch.zeros(2, 16),
        "recipe": Recipe("adamw,0.03", epochs=6, batch_size=64, warmup=0.1),
        "augment": lambda batch, generator: (
            batch[0] + 0.1 * torch.randn(batch[0].shape, generator=generator),
            batch[1],
        ),
    }
    return Task(**{**settings, **changes})  # type: ignore[arg-type]


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second))


def test_learns_and_the_seed_decides_everything():
    task = a_task()
    results = []
    for seed, state in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(state)  # the global generator has no say
        model = fresh_model(task, 0)
        train(task, model, seed=seed)
        results.append(weights(model))
        assert torch.initial_seed() == state
    assert same(results[0], results[1])
    assert not same(results[0], results[2])
    metrics = evaluate(task, model)
    assert metrics["top1"] > 85
    model.eval()
    x, y = task.eval_data[torch.arange(400)]
    assert metrics["top1"] == pytest.approx(100 * float((model(x).argmax(1) == y).double().mean()))
    assert metrics["loss"] == pytest.approx(float(nn.functional.cross_entropy(model(x), y).detach()), rel=1e-5)


def test_every_example_once_an_epoch():
    seen = []

    def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        seen.append(batch[1])
        return model(batch[0]).sum() * 0

    x = torch.arange(10)
    task = a_task(train_data=TensorDataset(torch.zeros(10, 16), x), loss=loss, augment=None)
    train(task, fresh_model(task), recipe=Recipe(epochs=2, batch_size=4))
    assert [len(batch) for batch in seen] == [4, 4, 2] * 2
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert not torch.equal(first, second)
    assert torch.equal(first, _order(10, 0, 0))


def test_learning_rate_follows_the_recipe():
    rates = []

    class Spy(ThroughputTracker):
        def attach(self, optimizer: torch.optim.Optimizer) -> None:
            optimizer.register_step_post_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))

    task = a_task()
    train(
        task,
        fresh_model(task),
        recipe=Recipe("sgd,0.5", "linear", batch_size=64, warmup=0.25),
        steps=8,
        trackers=[Spy()],
    )
    assert rates == pytest.approx([0, 0.25, 0.5, 0.5 * 5 / 6, 0.5 * 4 / 6, 0.25, 0.5 * 2 / 6, 0.5 / 6])


class Stops(ThroughputTracker):
    """Stops the run at a step, by Ctrl-C or by a crash; ``at=0``: never."""

    def __init__(self, at: int, how: str = "crash") -> None:
        super().__init__()
        self.at, self.how = at, how

    def _after_step(self, *args: object) -> None:
        super()._after_step(*args)  # type: ignore[arg-type]
        if self.step == self.at and self.how == "crash":
            raise RuntimeError("crashed")
        if self.step == self.at:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("schedule", ["one_shot", "recompute,5", "decay,0,12"])
@pytest.mark.parametrize(("stop", "how"), [(3, "ctrl-c"), (11, "ctrl-c"), (11, "crash")])
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, schedule, stop, how):
    task = a_task()

    def run(stops: Stops, checkpoint: object) -> tuple[list[torch.Tensor], list[int], int]:
        model = fresh_model(task, 3)
        sparsifier = sl.Sparsifier(model, "2:4", schedule=schedule)
        churn = MaskChurnTracker(sparsifier)
        trained = train(
            task,
            model,
            steps=16,
            sparsifier=sparsifier,
            trackers=[churn, stops],
            checkpoint=checkpoint,
            checkpoint_every=2,
        )
        return weights(model), churn.frame["flipped"].tolist(), trained.resumed_at

    expected, flips, resumed = run(Stops(0), None)
    assert resumed == 0
    file = tmp_path / "folder" / "run.pt"
    with pytest.raises(KeyboardInterrupt if how == "ctrl-c" else RuntimeError):
        run(Stops(stop, how), file)
    assert file.exists()
    found, more_flips, resumed = run(Stops(0), file)
    assert resumed == (stop if how == "ctrl-c" else stop - 1)  # a crash goes back to what was saved last
    assert same(found, expected)
    assert flips == more_flips
    assert not file.exists()


@pytest.mark.parametrize("schedule", ["recompute,5", "sr_ste"])
def test_a_failed_run_goes_on_with_the_same_objects(tmp_path, schedule):
    """As in a notebook, where the cell is run again: the sparsifier is attached to the new optimizer alone."""
    task = a_task()

    def objects(stop: int) -> tuple[nn.Module, sl.Sparsifier, Stops]:
        model = fresh_model(task, 3)
        return model, sl.Sparsifier(model, "2:4", schedule=schedule), Stops(stop)

    model, sparsifier, stops = objects(0)
    train(task, model, steps=16, sparsifier=sparsifier)
    expected, total = weights(model), sparsifier.step
    model, sparsifier, stops = objects(11)
    options = {"steps": 16, "sparsifier": sparsifier, "checkpoint": tmp_path / "run.pt", "checkpoint_every": 2}
    with pytest.raises(RuntimeError, match="crashed"):
        train(task, model, trackers=[stops], **options)
    stops.at = 0
    assert train(task, model, trackers=[stops], **options).resumed_at == 10
    assert same(weights(model), expected)
    assert sparsifier.step == total
    train(task, model, steps=4, sparsifier=sparsifier)  # and may train on
    assert sparsifier.step == total + 4


def test_random_states_of_gpus_are_resumed(tmp_path, monkeypatch):
    """A generator that stands for a GPU's: the network's noise comes from it, as dropout does there."""
    device = torch.Generator().manual_seed(5)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda index: device.get_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, index: device.set_state(state))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", device.manual_seed)
    monkeypatch.setattr(loop_module, "cuda_devices", lambda model: [0])

    class Noisy(nn.Linear):
        def forward(self, x):
            return super().forward(x) + torch.randn(x.shape[0], 8, generator=device)

    task = a_task(model=lambda: Noisy(16, 8))
    models = []
    for stop in (0, 5):
        models.append(fresh_model(task))
        before = device.get_state()
        options = {"steps": 9, "checkpoint": tmp_path / "run.pt"}
        if stop:
            with pytest.raises(KeyboardInterrupt):
                train(task, fresh_model(task), trackers=[Stops(stop, "ctrl-c")], **options)
        assert train(task, models[-1], trackers=[Stops(0)], **options).resumed_at == stop
        assert torch.equal(device.get_state(), before)
    assert same(weights(models[0]), weights(models[1]))


@pytest.mark.gpu
def test_an_interrupted_run_on_a_gpu_goes_on_to_the_same_bits(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    task = a_task()
    expected = fresh_model(task, 3).cuda()
    train(task, expected, steps=16, sparsifier=sl.Sparsifier(expected, "2:4", schedule="recompute,5"))
    options = {"steps": 16, "checkpoint": tmp_path / "run.pt"}
    for stop in (9, 0):
        model = fresh_model(task, 3).cuda()
        sparsifier = sl.Sparsifier(model, "2:4", schedule="recompute,5")
        trackers = [MaskChurnTracker(sparsifier), Stops(stop, "ctrl-c")]
        if stop:
            with pytest.raises(KeyboardInterrupt):
                train(task, model, sparsifier=sparsifier, trackers=trackers, **options)
        else:
            assert train(task, model, sparsifier=sparsifier, trackers=trackers, **options).resumed_at == 9
    assert same(weights(model), weights(expected))


def test_the_checkpoint_of_another_pattern_or_schedule_is_refused(tmp_path):
    task = a_task()

    def run(pattern: str, schedule: str, stop: int) -> None:
        model = fresh_model(task)
        sparsifier = sl.Sparsifier(model, pattern, schedule=schedule)
        train(task, model, sparsifier=sparsifier, trackers=[Stops(stop, "ctrl-c")], checkpoint=tmp_path / "run.pt")

    with pytest.raises(KeyboardInterrupt):
        run("2:4", "one_shot", 1)
    for pattern, schedule in (("1:4", "one_shot"), ("2:4", "recompute,3")):
        with pytest.raises(ValueError, match="another run"):
            run(pattern, schedule, 0)


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    task = a_task()
    file = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        train(task, fresh_model(task), checkpoint=file, trackers=[Stops(1, "ctrl-c")])
    with pytest.raises(ValueError, match="another run"):
        train(task, fresh_model(task), checkpoint=file, seed=1, trackers=[Stops(0)])


def test_trackers_have_no_effect():
    task = a_task()
    results = []
    for tracked in (False, True):
        model = fresh_model(task, 0)
        sparsifier = sl.Sparsifier(model, "2:4", schedule="recompute,6")
        batches = [task.eval_data[torch.arange(100)]]
        trackers = [
            AccuracyTracker(model, batches, 3),
            MagnitudeTracker(sparsifier, 4),
            MaskChurnTracker(sparsifier),
            PermutationTracker(sparsifier, 7),
            ThroughputTracker(5),
        ]
        train(task, model, sparsifier=sparsifier, trackers=trackers if tracked else ())
        results.append(weights(model))
    assert same(*results)
    assert all(len(tracker.frame) for tracker in trackers)


def test_a_loss_that_is_not_finite_stops_the_run():
    task = a_task(loss=lambda model, batch: model(batch[0]).sum() * torch.nan)
    with pytest.raises(FloatingPointError, match="step 0"):
        train(task, fresh_model(task))


def test_bad_recipes_are_refused():
    task = a_task()
    for recipe in (Recipe("sdg"), Recipe(learning_rate="cosinus")):
        with pytest.raises(ValueError, match="valid"):
            train(task, fresh_model(task), recipe=recipe)


def test_numbers_out_of_range_and_missing_examples_are_refused():
    for options in ({"batch_size": 0}, {"epochs": -1}, {"warmup": 1.5}):
        with pytest.raises(ValueError, match=r"batch_size at least 1"):
            Recipe(**options)
    task, empty = a_task(), TensorDataset(torch.zeros(0, 16), torch.zeros(0).long())
    with pytest.raises(ValueError, match="checkpoint_every=0"):
        train(task, fresh_model(task), checkpoint_every=0)
    with pytest.raises(ValueError, match="steps=-1"):
        train(task, fresh_model(task), steps=-1)
    with pytest.raises(ValueError, match="no examples to train"):
        train(a_task(train_data=empty), fresh_model(task), steps=1)
    with pytest.raises(ValueError, match="no examples to evaluate"):
        evaluate(a_task(eval_data=empty), fresh_model(task))


def test_baselines_are_trained_once_and_tell_their_recipes_apart(tmp_path, monkeypatch):
    runs = []
    monkeypatch.setattr(baseline_module, "train", lambda *args, **kwargs: runs.append(1) or train(*args, **kwargs))
    first, metrics = dense_baseline(a_task(), cache=tmp_path)
    again, same_metrics = dense_baseline(a_task(), cache=tmp_path)
    assert len(runs) == 1
    assert same(weights(first), weights(again))
    assert metrics == same_metrics
    assert not first.training
    dense_baseline(a_task(), seed=1, cache=tmp_path)
    dense_baseline(a_task(version="2"), cache=tmp_path)
    dense_baseline(a_task(recipe=Recipe("sgd,0.1")), cache=tmp_path)
    dense_baseline(
        a_task(loss=lambda model, batch: nn.functional.mse_loss(model(batch[0]).sum(1), batch[1].float())),
        cache=tmp_path,
    )
    assert len(runs) == 5


def test_baselines_tell_apart_what_no_weight_shows():
    """Changed in a notebook's cell, each of these has the same name, recipe and fresh weights."""

    def smoothed(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], smoothing: float) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1], label_smoothing=smoothing)

    def closed_over(smoothing: float):
        return lambda model, batch: smoothed(model, batch, smoothing)

    class Own(nn.Linear):
        pass

    class Other(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    Other.__name__ = Other.__qualname__ = "Own"
    variants = [
        {},
        *(
            {"model": lambda kind=kind: nn.Sequential(nn.Linear(16, 32), kind(), nn.Linear(32, 8))}
            for kind in (nn.ReLU, nn.GELU)
        ),
        *({"model": lambda kind=kind: nn.Sequential(kind(16, 8))} for kind in (Own, Other)),
        *({"loss": functools.partial(smoothed, smoothing=value)} for value in (0.1, 0.2)),
        *({"loss": closed_over(value)} for value in (0.1, 0.2)),
        {"metrics": lambda model, batch: {"top1": 0.0}},
    ]
    tasks = [a_task(**variant) for variant in variants]
    prints = [baseline_module.fingerprint(task, fresh_model(task)) for task in tasks]
    assert len(set(prints)) == len(prints)
    again = [a_task(**variant) for variant in variants]
    assert [baseline_module.fingerprint(task, fresh_model(task)) for task in again] == prints


def test_any_data_set_can_be_collated():
    data = Collated([(torch.full((2,), float(i)), i) for i in range(5)])
    inputs, labels = data[torch.tensor([3, 1])]
    assert inputs.tolist() == [[3, 3], [1, 1]]
    assert labels.tolist() == [3, 1]
    assert len(data) == 5
