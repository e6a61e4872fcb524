"""Padding counts for nothing without being asked: against the same texts without any."""

from __future__ import annotations

import logging
from collections import UserDict

import pytest
import torch
from torch import Tensor, nn

import sparselab as sl
from sparselab.statistics import InputNorms, SecondMoments, collect, padding

KINDS = [InputNorms, SecondMoments]
X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]])


class Reader(nn.Module):
    """Tokens, a pooler, and a layer that sees two tokens at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.pooler, self.pairs = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(16, 4)

    def forward(self, x, attention_mask=None):
        y = self.tokens(x)
        return self.pooler(y[:, 0]), self.pairs(x[:, :4].reshape(len(x), 2, 16))


def sums(found) -> dict[str, Tensor]:
    return {name: moments.sums[0] for name, moments in found[SecondMoments].items()}


@pytest.mark.parametrize(
    "batch",
    [
        {"x": X, "attention_mask": MASK},
        UserDict(x=X, attention_mask=MASK.bool()),
        {"x": X, "attention_mask": MASK.float()},
        {"x": X, "attention_mask": MASK[:, None, None]},
        (X, MASK),
        [X, MASK, torch.tensor([0, 1])],
        ({"x": X, "attention_mask": MASK}, torch.tensor([0, 1])),
    ],
)
def test_padding_is_found_in_every_kind_of_batch(batch, caplog):
    model = Reader()
    with caplog.at_level(logging.WARNING, "sparselab.statistics"):
        found = sums(collect(model, [batch], KINDS, dtype=torch.float64))
    seen = X[MASK.bool()].double()
    torch.testing.assert_close(found["tokens.weight"], seen.T @ seen)
    first = model.tokens(X)[:, 0].double().detach()
    torch.testing.assert_close(found["pooler.weight"], first.T @ first)
    # Other positions than the mask has: counted as a whole, and said once.
    pairs = X[:, :4].reshape(4, 16).double()
    torch.testing.assert_close(found["pairs.weight"], pairs.T @ pairs)
    assert [record.getMessage() for record in caplog.records] == [
        "all positions count in the inputs of pairs.weight, which are others than those of the attention mask; "
        "to say which count, collect for them with mask=..."
    ]


def test_the_short_ways_find_it_too_and_none_counts_all():
    batch = {"x": X, "attention_mask": MASK}
    expected = X[MASK.bool()].norm(dim=0)
    by_norms = sl.saliency.collect_activations(Reader(), [batch]).inputs["tokens.weight"].norms
    torch.testing.assert_close(by_norms.flatten().float(), expected)
    by_wanda = sl.saliency.collect_wanda(Reader(), [batch])["tokens.weight"].norms
    torch.testing.assert_close(by_wanda.flatten().float(), expected)
    everything = sl.saliency.collect_activations(Reader(), [batch], mask=None).inputs["tokens.weight"].norms
    torch.testing.assert_close(everything.flatten().float(), X.flatten(0, 1).norm(dim=0))
    turned = sl.saliency.collect_activations(Reader(), [{"x": X}], mask=lambda batch: torch.tensor([True, False]))
    torch.testing.assert_close(turned.inputs["tokens.weight"].norms.flatten().float(), X[0].norm(dim=0))


def test_a_layer_that_a_given_mask_does_not_fit_is_an_error_still():
    with pytest.raises(ValueError, match=r"the mask of shape \(2, 5\) does not fit what 'pairs.weight' is given"):
        collect(Reader(), [{"x": X, "attention_mask": MASK}], mask="attention_mask")


def test_masks_that_hide_nothing_are_none():
    assert padding({"attention_mask": torch.ones(2, 5)}) == ()
    assert padding({"input_ids": X}) == padding(X) == padding({"attention_mask": None}) == ()


@pytest.mark.parametrize(
    ("mask", "what"),
    [
        (torch.ones(2, 1, 5, 5).tril(), r"torch.float32 of shape \(2, 1, 5, 5\)"),
        (torch.zeros(2, 1, 1, 5) - 1e9, r"torch.float32 of shape \(2, 5\)"),
        (torch.ones(5, dtype=torch.bool), r"torch.bool of shape \(5,\)"),
        ({"full_attention": MASK}, "dict"),
    ],
)
def test_masks_that_say_who_sees_whom_are_refused(mask, what):
    with pytest.raises(
        ValueError,
        match=rf"'attention_mask' of a batch is {what}: padding is a mask of 0 and 1 of shape \(samples, tokens\).*"
        r"by mask=\.\.\., a function of the batch, or mask=None",
    ):
        collect(Reader(), [{"x": X, "attention_mask": mask}])


class Translator(nn.Module):
    """An encoder, and a decoder that looks at it: texts of two lengths."""

    class config:
        is_encoder_decoder = True

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.cross = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x, decoder_inputs_embeds, attention_mask=None, decoder_attention_mask=None):
        seen = self.encoder(x)
        return self.decoder(decoder_inputs_embeds), self.cross(seen)


def test_masks_of_pixels_are_said_to_be_unused(caplog):
    class Viewer(nn.Linear):
        def forward(self, pixels, pixel_mask=None):
            return super().forward(pixels)

    hidden = torch.ones(2, 20, 20).tril()
    with caplog.at_level(logging.WARNING, "sparselab.statistics"):
        found = sums(collect(Viewer(8, 4), [{"pixels": X, "pixel_mask": hidden}], KINDS))
    seen = X.flatten(0, 1)
    torch.testing.assert_close(found["weight"], seen.T @ seen)
    assert "pixel_mask hides pixels" in caplog.text
    assert "all of them count; to say which do, give mask=" in caplog.text


def test_encoder_and_decoder_have_masks_of_their_own():
    model, theirs = Translator(), torch.randn(2, 4, 8)
    hidden = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    batch = {"x": X, "decoder_inputs_embeds": theirs, "attention_mask": MASK}
    encoded = model.encoder(X)[MASK.bool()].detach().double()

    def check(found, decoded):
        seen, decoded = X[MASK.bool()].double(), decoded.double()
        torch.testing.assert_close(found["encoder.weight"], seen.T @ seen)
        torch.testing.assert_close(found["decoder.weight"], decoded.T @ decoded)
        torch.testing.assert_close(found["cross.weight"], encoded.T @ encoded)

    both = {**batch, "decoder_attention_mask": hidden}
    check(sums(collect(model, [both], KINDS, dtype=torch.float64)), theirs[hidden.bool()])
    check(sums(collect(model, [batch], KINDS, dtype=torch.float64)), theirs.flatten(0, 1))
    same = {**batch, "decoder_inputs_embeds": X}
    with pytest.raises(
        ValueError, match=r"masks of encoder and decoder have the same shape, \(2, 5\).*'encoder.weight'"
    ):
        collect(model, [same])
    with pytest.raises(ValueError, match=r"no(ne)? for the decoder: add decoder_attention_mask or decoder_input_ids"):
        collect(model, [{"input_ids": X, "attention_mask": MASK}])


def test_labels_are_no_inputs():
    model, x = nn.Linear(8, 4), torch.randn(6, 8)
    for batch in [(x, torch.arange(6)), [x, torch.randn(6, 4)], {"input": x, "labels": torch.arange(6)}]:
        found = sl.saliency.collect_activations(model, [batch]).inputs["weight"].norms
        torch.testing.assert_close(found.flatten().float(), x.norm(dim=0))


def test_what_the_model_fails_on_is_said():
    with pytest.raises(
        RuntimeError,
        match=r"Linear failed on batch 1: RuntimeError: .*A batch is what model\(\.\.\.\) takes",
    ) as raised:
        collect(nn.Linear(8, 4), [torch.randn(2, 8), torch.randn(2, 5)], [InputNorms])
    assert isinstance(raised.value, ValueError)
    assert isinstance(raised.value.__cause__, RuntimeError)
    with pytest.raises(ValueError, match="layer 'weight' is not initialised yet: run one forward pass first"):
        collect(nn.LazyLinear(4), [torch.randn(2, 8)])
    with pytest.raises(
        ValueError, match="what 'weight' is given is on the meta device, without values: load the weights"
    ):
        collect(nn.Linear(8, 4, device="meta"), [torch.randn(2, 8, device="meta")])
