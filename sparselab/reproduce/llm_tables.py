"""The tables about language models: methods beside published ones, paired over windows, and recovery."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from sparselab.reproduce.section import markdown_table, rows_of
from sparselab.reproduce.sources import QUOTED, cell
from sparselab.reproduce.statistics import Estimate, estimate
from sparselab.reproduce.trained import AS_TRAINED, DENSE, PERMUTED, RANDOM

MODELS = ("Llama-2-7B", "Llama-3.1-8B", "Qwen2.5-7B")
PUBLISHED: Mapping[tuple[str, str], Sequence[float]] = {
    (DENSE, AS_TRAINED): (5.47, 6.24, 7.74),
    ("wanda", AS_TRAINED): (12.16, 23.42, 24.44),
    ("wanda", PERMUTED): (11.00, 21.09, 18.76),
    ("ria", AS_TRAINED): (11.30, 22.62, 22.67),
    ("ria", PERMUTED): (10.26, 19.80, 17.58),
    ("sparsegpt", AS_TRAINED): (11.12, 16.62, 14.34),
}
"""WikiText-2 perplexity at 2:4 of ``MODELS``: PermLLM (arXiv 2510.10136), Table 1, calibrated on C4, 128 x 1024."""

PERPLEXITY = ".1f"
_LABELS = {"magnitude": "magnitude", "wanda": "Wanda", "ria": "RIA", "sparsegpt": "SparseGPT", "admm": "ADMM"}


_QUICK = (
    "This is the quick form: few windows, some of the methods, and so little calibration that an update of the weights "
    "fits it and not other text, so the order of the methods is not that of the full form."
)


def methods_text(frame: pd.DataFrame, *, full: bool) -> str:
    """What was done, and for every text and pattern a table of its methods."""
    short = "" if full else f" {_QUICK}"
    seeds = frame["seed"].nunique()
    parts = [
        f"Every matrix in the blocks of SmolLM2 (135 M parameters) is pruned in one shot; embedding and head, one "
        f"tensor, stay.{short} Perplexities, and how many times that of the dense model they are; with {seeds} "
        f"calibration{'s' if seeds > 1 else ''}, means and the standard deviation. Wanda and RIA score by the inputs "
        "of the dense model, as they are defined; the others prune block after block. *Permuted / as trained* is the "
        "ratio of perplexities with its 95% interval, paired over windows. *int8*: the pruned weights rounded to eight "
        "bits afterwards, a scale for each output.",
        "*Italics* are quoted: WikiText-2 at 2:4, other models, tokenizers, contexts and calibrations, so ratios are "
        "all that can be compared (PermLLM, arXiv 2510.10136, Table 1). Their orders are gathered or virtual, one for "
        "each layer; those here are free, one for all that share a stream, and cost nothing at run time.",
    ]
    for (name, pattern), rows in frame[_one_size(frame)].groupby(["name", "pattern"], sort=False):
        if pattern != DENSE:
            dense = frame[(frame["name"] == name) & (frame["pattern"] == DENSE)].iloc[0]
            parts += [f"**{pattern}**, {_protocol(rows.iloc[0])}:", _methods_table(rows, dense, str(pattern))]
    return "\n\n".join(parts)


def _one_size(frame: pd.DataFrame) -> pd.Series[bool]:
    """The rows without recovery, of the size of calibration that most methods have."""
    pruned = frame[frame["pattern"] != DENSE]
    size = pruned.groupby("calibration")["pruner"].nunique().idxmax()
    return (frame["steps"] == 0) & frame["calibration"].isin([0, size])


def _protocol(row: pd.Series[float]) -> str:
    return (
        f"{row['text']} ({row['text_hash']}), {row['windows']} windows of {row['context']} tokens, stride {row['stride']}, "
        f"{row['dtype']}; calibration {row['calibration_text']} ({row['calibration_hash']}), {row['calibration']} windows"
    )


def _methods_table(rows: pd.DataFrame, dense: pd.Series[float], pattern: str) -> str:
    """One row for the dense model and for each method and order, with what is published beside them."""
    quoted = pattern == "2:4"
    lines = [
        ("dense", "", cell(dense["perplexity"], PERPLEXITY), "1.00", "", cell(dense["int8_perplexity"], PERPLEXITY))
    ]
    keys = [(DENSE, AS_TRAINED)]
    for pruner in dict.fromkeys(rows["pruner"]):
        for channels in (AS_TRAINED, RANDOM, PERMUTED):
            mine = rows[(rows["pruner"] == pruner) & (rows["channels"] == channels)]
            if len(mine):
                ratio = cell(mine["perplexity"].mean() / dense["perplexity"])
                gained = str(_ratio(rows, pruner, channels) or "") if channels != AS_TRAINED else ""
                both = [_spread(mine[column]) for column in ("perplexity", "int8_perplexity")]
                lines.append((_label(pruner), channels, both[0], ratio, gained, both[1]))
                keys.append((pruner, channels))
    columns = ["method", "channels", "perplexity", "x dense", "/ as trained", "int8"]
    table = pd.DataFrame(lines, columns=columns)
    if quoted:
        for number, model in enumerate(MODELS):
            table[model] = [_quoted(key, number) for key in keys]
    return markdown_table(table)


def _label(pruner: str) -> str:
    return _LABELS.get(pruner, pruner.upper() if pruner.islower() and "," not in pruner else pruner)


def _spread(values: pd.Series[float]) -> str:
    mean = cell(values.mean(), PERPLEXITY)
    return mean if len(values) < 2 else f"{mean} ± {values.std():.1f}"


def _quoted(key: tuple[str, str], model: int) -> str:
    """A published perplexity with its ratio to dense, in italics."""
    if key not in PUBLISHED:
        return "n/a"
    value, dense = PUBLISHED[key][model], PUBLISHED[DENSE, AS_TRAINED][model]
    return f"{cell(value, source=QUOTED)} (x {cell(value / dense, source=QUOTED)})"


def _ratio(rows: pd.DataFrame, pruner: str, channels: str) -> Estimate | None:
    """Perplexity with ``channels`` over that as trained: window by window, means over the seeds that both have."""
    mine = rows[rows["pruner"] == pruner]
    moved, kept = (mine[mine["channels"] == each].set_index("seed")["nats"] for each in (channels, AS_TRAINED))
    seeds = moved.index.intersection(kept.index)
    if not len(seeds):
        return None
    nats = [np.array([_unpacked(each[seed]) for seed in seeds]).mean(0) for each in (moved, kept)]
    found = estimate(nats[0] - nats[1])
    return Estimate(math.exp(found.mean), math.exp(found.low), math.exp(found.high), found.p)


def _unpacked(nats: str) -> list[float]:
    return [float(each) for each in nats.split()]


def recovery_text(frame: pd.DataFrame) -> str:
    """Perplexity against minutes of recovery, of the methods that were trained on."""
    trained = frame[frame["steps"] > 0]
    same = ["name", "pattern", "pruner", "channels", "calibration", "seed"]
    known = {tuple(row) for row in trained[same].to_numpy().tolist()}
    chosen = frame[[tuple(row) in known for row in frame[same].to_numpy().tolist()]]
    lines = [
        (
            _label(row.pruner),
            row.steps,
            0.0 if row.steps == 0 else row.seconds_recovery / 60,
            row.perplexity,
            row.density,
        )
        for row in rows_of(chosen.sort_values(["pruner", "steps"], kind="stable"))
    ]
    columns = ["method", "steps", "minutes", "perplexity", "density"]
    formats = {"minutes": ".1f", "perplexity": PERPLEXITY, "density": ".3f"}
    return (
        "**Recovery**: the pruned model is trained to foretell what the dense one does, under its masks, on the text that "
        f"it was calibrated on. {_protocol(chosen.iloc[0])}.\n\n{markdown_table(pd.DataFrame(lines, columns=columns), formats)}"
    )
