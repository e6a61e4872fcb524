"""What loaders yield as calls of a model: each kind against the call that a user would write."""

from __future__ import annotations

from collections import UserDict

import pytest
import torch
from torch import nn

from sparselab.core.batches import arguments, call_for, excerpt
from sparselab.core.models import to_device

X, MASK, LABELS, TARGETS = torch.randn(3, 4), torch.ones(3, 4), torch.tensor([0, 1, 2]), torch.randn(3, 1)


class One(nn.Module):
    def forward(self, x): ...


class Optional(nn.Module):
    def forward(self, x, mask=None, *, scale=1.0): ...


class Two(nn.Module):
    def forward(self, x, y2): ...


class WithLabels(nn.Module):
    def forward(self, x, labels=None): ...


class Anything(nn.Module):
    def forward(self, *args, **kwargs): ...


CALLS = [
    (One, X, (X,), {}),
    (One, (X,), (X,), {}),
    (One, [X, LABELS], (X,), {}),
    (One, (X, TARGETS), (X,), {}),
    (One, (X, LABELS, "picture.png"), (X,), {}),
    (One, {"x": X}, (), {"x": X}),
    (One, {"x": X, "labels": LABELS}, (), {"x": X}),
    (One, ({"x": X}, LABELS), (), {"x": X}),
    (One, UserDict(x=X), (), {"x": X}),
    (Optional, (X, MASK), (X, MASK), {}),
    (Optional, (X, LABELS), (X,), {}),
    (Optional, [X, MASK, LABELS], (X, MASK), {}),
    (Two, (X, LABELS), (X, LABELS), {}),
    (Two, ((X, MASK), LABELS), (X, MASK), {}),
    (Two, (X, MASK, LABELS), (X, MASK), {}),
    (WithLabels, (X, LABELS), (X, LABELS), {}),
    (WithLabels, {"x": X, "labels": LABELS}, (), {"x": X, "labels": LABELS}),
    (Anything, (X, MASK), (X, MASK), {}),
    (Anything, (X, LABELS), (X,), {}),
    (Anything, {"labels": LABELS}, (), {"labels": LABELS}),
]


@pytest.mark.parametrize(("kind", "batch", "args", "kwargs"), CALLS)
def test_the_call_for_a_batch(kind, batch, args, kwargs):
    found, named = call_for(kind(), batch)
    assert [id(each) for each in found] == [id(each) for each in args]
    assert {key: id(value) for key, value in named.items()} == {key: id(value) for key, value in kwargs.items()}


def test_wrappers_take_what_is_inside_takes():
    assert len(call_for(nn.DataParallel(One()), (X, TARGETS))[0]) == 1
    assert list(arguments(torch.compile(Optional(), backend="eager"), (X, MASK))) == ["x", "mask"]
    assert arguments(One(), {"x": X})["x"] is X


def test_mappings_that_pytorch_does_not_look_into_move_too():
    class Encoding(UserDict):
        def to(self, device):
            return Encoding({key: value.to(device) for key, value in self.items()})

    for batch in (UserDict(x=X), Encoding(x=X), {"inner": UserDict(x=X)}):
        moved = to_device(batch, "meta")
        assert moved.get("inner", moved)["x"].is_meta
    assert isinstance(to_device(Encoding(x=X), "meta"), Encoding)


def test_an_excerpt_is_cut_from_plain_text_only():
    ids = torch.arange(200).reshape(2, 100)
    whole, padded = torch.ones_like(ids), torch.ones_like(ids).tril()
    cut = excerpt(UserDict(input_ids=ids, attention_mask=whole), 7)
    assert torch.equal(cut["input_ids"], ids[:, :7])
    assert cut["attention_mask"].shape == (2, 7)
    assert torch.equal(excerpt({"input_ids": ids}, 300)["input_ids"], ids)
    for batch in (
        {"input_ids": ids, "attention_mask": padded},
        {"input_ids": ids, "pixel_values": X},
        {"inputs_embeds": X},
        {"input_ids": ids[0]},
        (ids,),
        ids,
    ):
        assert excerpt(batch, 7) is batch
