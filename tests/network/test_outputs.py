"""Outputs that matter, several examples, and parameters that no example reaches."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

import sparselab as sl
from sparselab.network.control import random_plan
from sparselab.network.examples import examples_of
from sparselab.network.named_axes import NetworkAxes
from sparselab.network.outputs import OutputChoice

from .helpers import outputs_of, randomised, relative_error

FAST = "random,20"
X = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(1))


class Decoder(nn.Module):
    """A residual stream; beside the logits it returns the stream, and keys of four heads of eight."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 64), nn.Linear(64, 32)
        self.key, self.value, self.out = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.head = nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> dict[str, object]:
        h = self.inp(x)
        h = h + self.down(F.relu(self.up(h)))
        k, v = (each(h).unflatten(-1, (4, 8)).transpose(1, 2) for each in (self.key, self.value))
        h = h + self.out(F.scaled_dot_product_attention(k, k, v).transpose(1, 2).flatten(2))
        return {"logits": self.head(h), "hidden": h, "cache": (k, v)}


def decoder() -> Decoder:
    return randomised(Decoder().eval())  # type: ignore[return-value]


def returned(model: nn.Module, x: torch.Tensor = X):
    with torch.no_grad():
        return model(x)


def permuted(report: sl.PermutationReport) -> set[str]:
    return set(report.weights.loc[report.weights["status"] == "permuted", "weight"])


class TestOutputs:
    def test_only_what_is_chosen_stays(self) -> None:
        strict, model = decoder(), decoder()
        before = returned(model)
        everything = sl.permute(strict, X, strategy=FAST)
        assert permuted(everything) == {"down.weight"}
        report = sl.permute(model, X, strategy=FAST, outputs="logits")
        after = returned(model)
        assert permuted(report) == {
            "up.weight",
            "down.weight",
            "key.weight",
            "value.weight",
            "out.weight",
            "head.weight",
        }
        assert relative_error([before["logits"]], [after["logits"]]) < 1e-5
        assert report.max_rel_error <= report.tolerance == 1e-9
        assert report.differing == ("hidden", "cache.1")  # nothing reads the widths of keys as channels
        assert "order_of" in str(report)
        # And the others are what they were, in the orders that the report gives.
        found = {output.name: output for output in report.outputs}
        for name, old, new in [
            ("hidden", before["hidden"], after["hidden"]),
            ("cache.0", before["cache"][0], after["cache"][0]),
            ("cache.1", before["cache"][1], after["cache"][1]),
            ("logits", before["logits"], after["logits"]),
        ]:
            assert relative_error([found[name](old)], [new]) < 1e-5
        assert relative_error([before["hidden"][..., report.order_of("hidden")]], [after["hidden"]]) < 1e-5
        assert report.order_of("logits").tolist() == list(range(8))
        assert sl.permute(model, X, strategy=FAST, outputs="logits").suggestion is None

    def test_an_order_serves_a_reader_that_is_another_model(self) -> None:
        model, reader = decoder(), randomised(nn.Linear(32, 5))
        before = reader(returned(model)["hidden"]).detach()
        report = sl.permute(model, X, strategy=FAST, outputs="logits")
        reader.weight.data = reader.weight.data[:, report.order_of("hidden")]
        assert relative_error([before], [reader(returned(model)["hidden"]).detach()]) < 1e-5

    def test_the_report_says_what_a_choice_would_free(self) -> None:
        model = decoder()
        report = sl.permute(model, X, strategy=FAST)
        assert report.suggestion is not None
        assert report.suggestion.line == 'permute(model, example_inputs, outputs="logits")'
        assert report.suggestion.left_out == ("hidden", "cache")
        assert report.suggestion.line in str(report)
        chosen = sl.permute(model, X, strategy=FAST, outputs=report.suggestion.outputs)
        assert chosen.share_permuted == pytest.approx(report.share_permuted + report.suggestion.share)
        assert chosen.suggestion is None
        assert pickle.loads(pickle.dumps(report)).suggestion == report.suggestion

    @pytest.mark.parametrize(
        "outputs",
        [
            "logits",
            0,
            -3,
            ["logits"],
            ("logits",),
            lambda out: out["logits"],
            lambda out: {"a": out["logits"][:, -1] * 2},
        ],
    )
    def test_a_name_an_index_or_a_function(self, outputs) -> None:
        report = sl.permute(decoder(), X, strategy=FAST, outputs=outputs)
        assert "head.weight" in permuted(report)
        assert "hidden" in report.differing

    def test_a_name_stands_for_all_below_it(self) -> None:
        report = sl.permute(decoder(), X, strategy=FAST, outputs=["logits", "cache"])
        assert report.differing == ("hidden",)
        assert "key.weight" in permuted(report)
        assert "out.weight" not in permuted(report)
        assert sl.permute(decoder(), X, strategy=FAST, outputs=["logits", "cache.0"]).differing == ("hidden", "cache.1")

    @pytest.mark.parametrize(
        ("outputs", "message"),
        [
            ("logit", r"outputs='logit': no tensor .* the model returns logits, hidden, cache"),
            (3, "outputs=3: no tensor"),
            (["logits", "loss"], "outputs='loss'"),
            (True, "outputs takes names"),
            ([], "outputs takes names"),
            (1.5, r"outputs takes names .* got 1.5"),
            ([None], "outputs takes names"),
            (lambda out: out["logit"], "raised KeyError"),
            (lambda out: 3, "returned no tensor, but int"),
        ],
    )
    def test_what_is_no_output_is_refused(self, outputs, message: str) -> None:
        model, plain = decoder(), decoder()
        with pytest.raises(ValueError, match=message):
            sl.permute(model, X, outputs=outputs)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))

    def test_a_single_tensor_has_no_name(self) -> None:
        model = randomised(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)))
        assert permuted(sl.permute(model, X, strategy=FAST, outputs=0)) == {"2.weight"}
        with pytest.raises(ValueError, match="the model returns one tensor"):
            sl.permute(model, X, outputs="logits")

    def test_orders_that_are_none(self) -> None:
        report = sl.permute(decoder(), X, strategy=FAST, outputs="logits")
        with pytest.raises(ValueError, match=r"'hiden' is no output of the model; it returned 'logits', 'hidden'"):
            report.order_of("hiden")
        with pytest.raises(ValueError, match="dim=3"):
            report.order_of("hidden", dim=3)
        with pytest.raises(ValueError, match="moved together"):  # widths differ from head to head
            report.order_of("cache.1")
        assert report.order_of("hidden", dim=1).tolist() == list(range(6))

    def test_the_control_and_the_axes_take_them_too(self) -> None:
        model = decoder()
        before = returned(model)["logits"]
        plan = random_plan(model, X, outputs="logits")
        assert len(random_plan(model, X)) < len(plan)
        plan.apply(model)
        assert relative_error([before], [returned(model)["logits"]]) < 1e-5
        axes = NetworkAxes.of(model, X).named
        assert set(axes) < set(NetworkAxes.of(model, X, outputs="logits").named)


class Sees(nn.Module):
    """Text, and pictures put among it where there are some: a model of two paths."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.see, self.project = nn.Embedding(10, 32), nn.Linear(8, 16), nn.Linear(16, 32)
        self.up, self.down, self.head = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 8)

    def forward(self, ids: torch.Tensor, pictures: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        h, found = self.embed(ids), {}
        if pictures is not None:
            seen = self.see(pictures)
            h = torch.cat([self.project(F.relu(seen)), h], 1)
            found["seen"] = seen
        return {"logits": self.head(h + self.down(F.relu(self.up(h)))), **found}


IDS = torch.arange(10).view(2, 5)
TEXT, BOTH = {"ids": IDS}, {"ids": IDS, "pictures": X[:2]}
UNREACHED = ("see.weight", "see.bias", "project.weight", "project.bias")


def sees() -> Sees:
    return randomised(Sees().eval())  # type: ignore[return-value]


class TestExamples:
    def test_a_path_that_no_example_takes_stops_everything(self, caplog) -> None:
        model = sees()
        before = outputs_of(model, BOTH)
        report = sl.permute(model, TEXT, strategy=FAST)
        assert all(torch.equal(a, b) for a, b in zip(before, outputs_of(model, BOTH), strict=True))
        assert report.unreached == UNREACHED
        assert report.share_permuted == 0
        assert report.untraceable is None
        assert "4 parameters are used by no example" in report.refused
        assert "example_inputs=[this, that]" in report.why_not
        assert str(report).startswith("Nothing was permuted. 4 parameters")
        said = [record.getMessage() for record in caplog.records if record.name == "sparselab"]
        assert said == [f"nothing was permuted: {report.refused}"]
        with pytest.raises(RuntimeError, match="used by no example"):
            sl.permute(model, TEXT, strict=True)
        with pytest.raises(ValueError, match="used by no example"):
            random_plan(model, TEXT)
        with pytest.raises(ValueError, match="used by no example"):
            NetworkAxes.of(model, TEXT)

    def test_keep_is_an_explicit_choice(self) -> None:
        model = sees()
        text, both = outputs_of(model, TEXT), outputs_of(model, BOTH)
        report = sl.permute(model, TEXT, strategy=FAST, unreached="keep")
        assert permuted(report) == {"up.weight", "down.weight", "head.weight"}
        assert report.unreached == UNREACHED
        assert "used by no example: 'see.weight'" in str(report)
        assert relative_error(text, outputs_of(model, TEXT)) < 1e-5
        assert relative_error(both, outputs_of(model, BOTH)) > 1e-2  # the trap
        with pytest.raises(ValueError, match="unreached is 'refuse' or 'keep', got 'move'"):
            sl.permute(model, TEXT, unreached="move")

    @pytest.mark.parametrize("examples", [[TEXT, BOTH], [(IDS,), (IDS, X[:2])], [BOTH, (IDS,)]])
    def test_several_examples_constrain_and_are_compared(self, examples) -> None:
        model = sees()
        text, both = outputs_of(model, TEXT), outputs_of(model, BOTH)
        report = sl.permute(model, examples, strategy=FAST)
        assert permuted(report) == {"up.weight", "down.weight", "head.weight"}  # the features seen are an output
        assert report.suggestion is not None
        assert report.suggestion.outputs == ("logits",)
        assert report.unreached == ()
        assert relative_error(text, outputs_of(model, TEXT)) < 1e-5
        assert relative_error(both, outputs_of(model, BOTH)) < 1e-5
        assert "project.weight" in permuted(sl.permute(model, examples, strategy=FAST, outputs="logits"))
        with pytest.raises(ValueError, match="returns none of them; the model returns logits"):
            sl.permute(model, examples, outputs="seen")

    def test_a_branch_on_a_shape(self) -> None:
        """Long inputs take another path, with no parameter of its own: only an example can tell."""

        class Long(nn.Sequential):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                h = self[0](x)
                return self[1](h.flip(-1) if x.shape[1] > 6 else h)

        model, long = randomised(Long(nn.Linear(8, 16), nn.Linear(16, 4))), torch.randn(2, 9, 8)
        assert "1.weight" in permuted(
            sl.permute(randomised(Long(nn.Linear(8, 16), nn.Linear(16, 4))), X, strategy=FAST)
        )
        before = outputs_of(model, X), outputs_of(model, long)
        sl.permute(model, [X, long], strategy=FAST)
        assert relative_error(before[0] + before[1], outputs_of(model, X) + outputs_of(model, long)) < 1e-5

    def test_a_result_that_nobody_uses_is_no_unreached_parameter(self) -> None:
        """What is computed with a parameter has been seen, even if it is thrown away (a pooler, say)."""

        class Pooled(nn.Sequential):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                h = self[0](x)
                self[2](h)
                return self[1](h.relu())

        model = randomised(Pooled(nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 16)))
        before = outputs_of(model, X)
        report = sl.permute(model, X, strategy=FAST)
        assert report.unreached == ()
        assert "1.weight" in permuted(report)
        assert relative_error(before, outputs_of(model, X)) < 1e-5

    def test_every_example_is_compared(self, monkeypatch) -> None:
        """A fault that only the second example shows is found: the rule of `cat` forgets what it puts together."""
        from sparselab.network.axes import fresh
        from sparselab.network.rules import RULES

        model = sees()
        before = outputs_of(model, BOTH)
        monkeypatch.setitem(
            RULES, "cat", lambda call: (*(fresh(n, "") for n in call.shape[:-1]), call["tensors"][1].dims[-1])
        )
        report = sl.permute(model, [TEXT, BOTH], strategy=FAST, outputs="logits")
        assert "rolled_back" in set(report.frame["status"])
        assert relative_error(before[:1], outputs_of(model, BOTH)[:1]) < 1e-5

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ([], "an empty list"),
            ([IDS, X[:2]], r"a list of 2, and Sees takes so many positional arguments.*\[\(a,\), \(b,\)\]"),
            ([IDS, None], "entry 1 is none, but a NoneType"),
            ([[IDS], [IDS]], "entry 0 is none, but a list"),
        ],
    )
    def test_a_list_that_is_no_list_of_examples(self, given, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            sl.permute(sees(), given)

    def test_tensors_in_a_list_where_a_model_takes_one(self) -> None:
        model = nn.Linear(8, 4)
        assert examples_of([X, X], model) == [X, X]
        assert examples_of((X, X), model) == [(X, X)]
        loader = DataLoader([((x, x), 0) for x in X], batch_size=3)
        ((first, second),) = examples_of(loader, model)  # collated into a list: the arguments of one example
        assert torch.equal(first, X)
        assert torch.equal(second, X)


def test_a_choice_by_index_follows_the_order_of_the_output() -> None:
    """Independent of names: entry i of a tuple, of a dict, and of a dataclass."""
    a, b, c = (torch.full((1,), float(n)) for n in range(3))
    for output in [(a, (b, c)), {"x": a, "y": (b, c)}]:
        assert [tensor.item() for _, tensor in OutputChoice.of(1)(output)] == [1.0, 2.0]
        assert [tensor.item() for _, tensor in OutputChoice.of([-1, 0])(output)] == [0.0, 1.0, 2.0]
        assert np.array_equal([t.item() for _, t in OutputChoice.of(None)(output)], [0.0, 1.0, 2.0])
