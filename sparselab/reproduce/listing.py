"""The authors' README listing: one random matrix, every strategy, beside what was found here."""

from __future__ import annotations

import pandas as pd
from tqdm.auto import tqdm

from sparselab.masks.create import create_mask
from sparselab.permutation import search_permutation, warm_up
from sparselab.reproduce.random_matrices import authors_matrix
from sparselab.reproduce.section import Section, Settings, markdown_table
from sparselab.reproduce.sources import LEGEND, MEASURED, MISSING, QUOTED, cell

NAN = float("nan")
MASKS = {"unpruned": 4083.169, "unstructured": 3060.238, "50% of each row": 3042.332, "2:4": 2852.376}
"""Magnitude that stays under each mask, as the authors list it."""

AUTHORS = {
    "channel_swap,0": (2913.352, 32.1, 0.214),
    "channel_swap,100": (2914.174, 32.5, 2.249),
    "channel_swap,1000": (2920.694, 36.0, 20.248),
    "stripe_groups,8,0": (2919.757, 35.5, 0.013),
    "stripe_groups,8,100": (2919.758, 35.5, 0.152),
    "stripe_groups,8,1000": (2919.935, 35.6, 1.387),
    "stripe_groups,12,0": (2921.947, 36.6, 0.860),
    "random,1000": (NAN, 11.1, NAN),
    "random,10000": (NAN, 11.2, NAN),
    "random,100000": (NAN, 14.1, NAN),
}
"""Retained magnitude, efficacy and seconds on a V100 as they list them for 128 rows x 64 channels, seed 1."""

DETERMINISTIC = ("channel_swap,0", "stripe_groups,8,0", "stripe_groups,12,0")
SLOW = ("random,100000",)
OURS = ("assignment", "anneal", "auto", "optimal")
AUTHORS_CPU_SECONDS = {"channel_swap": 56, "stripe_groups,8": 61}
COLUMNS = ["strategy", "source", "retained", "efficacy", "seconds"]


def run(settings: Settings) -> Section:
    """Both tables in one, one row per strategy and source."""
    strategies = [*(name for name in AUTHORS if settings.full or name not in SLOW), *OURS]
    table = listing(strategies, progress=settings.progress)
    return Section("The authors' listing", _text(table), tables={"listing": table})


def listing(strategies: list[str], *, progress: bool = False) -> pd.DataFrame:
    """128 rows x 64 channels, seed 1: ``strategy, source, retained, efficacy, seconds``.

    For each strategy our row, and then the authors'.
    """
    scores = authors_matrix(128, 64)
    for strategy in strategies:
        warm_up(strategy)
    rows: list[tuple[str, str, float, float, float]] = []
    for name, retained in mask_magnitudes().items():
        rows += [(name, MEASURED, retained, NAN, NAN), (name, QUOTED, MASKS[name], NAN, NAN)]
    for strategy in tqdm(strategies, "listing", disable=not progress, leave=False):
        result = search_permutation(scores, strategy=strategy)
        rows.append((strategy, MEASURED, result.retained, result.efficacy, result.seconds))
        theirs = AUTHORS.get(strategy)
        rows.append((strategy, QUOTED, *theirs) if theirs else (strategy, MISSING, NAN, NAN, NAN))
    return pd.DataFrame(rows, columns=COLUMNS)


def mask_magnitudes() -> dict[str, float]:
    """What stays of the matrix under each mask of ``MASKS``, before any permutation."""
    import torch

    scores = torch.from_numpy(authors_matrix(128, 64))
    result = search_permutation(scores, strategy="identity")
    unstructured = scores[create_mask(scores, "unstructured,0.5")].sum()
    return dict(zip(MASKS, (float(scores.sum()), float(unstructured), result.ideal, result.baseline)))


def _text(table: pd.DataFrame) -> str:
    ours = table[table["source"] == MEASURED].set_index("strategy")
    theirs = table[table["source"] != MEASURED].set_index("strategy").reindex(ours.index)
    formats = {"retained": (".3f", ".3f"), "efficacy": (".2f", ".1f"), "seconds": (".3g", ".3f")}  # ours, theirs
    shown = pd.DataFrame({"": list(ours.index)})
    for name, (spec, _) in formats.items():
        shown[name] = [cell(value, spec) for value in ours[name]]
    for name, (_, spec) in formats.items():
        shown[f"authors' {name}"] = [cell(value, spec, source) for value, source in zip(theirs[name], theirs["source"])]
    difference = (ours["retained"] - theirs["retained"])[list(DETERMINISTIC)].abs().max()
    worst = (ours["retained"] - theirs["retained"])[list(MASKS)].abs().max()
    cpu = ", ".join(f"`{name}` {cell(seconds, '.0f', QUOTED)} s" for name, seconds in AUTHORS_CPU_SECONDS.items())
    return f"""
**The authors** list what each strategy of their code finds for one random matrix of 128 rows x 64 columns (numpy seed 1), and
how long it takes on one V100; on a CPU the same tool takes {cpu}. **Here** the same matrix on a CPU. {LEGEND}

{markdown_table(shown)}

**Same or different**: the masks without a permutation agree within {worst:.4f}, the deterministic strategies
({", ".join(f"`{name}`" for name in DETERMINISTIC)}) within {difference:.4f}. Strategies with escapes and random orders draw other
random numbers, so they agree only in kind. `optimal` is proven: no order retains more.
"""
