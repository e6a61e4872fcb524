"""Table 2: accuracy of dense and N:M networks, with channels as trained, in random order, and permuted."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import pandas as pd
import torch

from sparselab.reproduce import pictures, trained
from sparselab.reproduce.answers import unpack
from sparselab.reproduce.section import Section, Settings, markdown_table, rows_of
from sparselab.reproduce.sources import MEASURED
from sparselab.reproduce.statistics import Estimate, estimate, mcnemar
from sparselab.reproduce.trained import AS_TRAINED, CHANNELS, DENSE, PERMUTED, RANDOM, Comparison

PATTERNS = ("2:4", "1:4", "1:8")
NETWORKS = ("plain", "depthwise", "residual")
FASHION = tuple(Comparison(f"fashion_mnist,{network},epochs=0.5", 5) for network in NETWORKS)
CIFAR = {
    "cuda": Comparison("cifar10,residual", 3),
    "cpu": Comparison("cifar10,residual,held_out=2000", 3, dense_steps=200, steps=200),
}
"""By device: five epochs of CIFAR-10, dense and after every pruning, are for a GPU; a CPU stops after 200 steps."""
DIGITS = Comparison("digits", 3, ("2:4", "1:4"))
"""Embedded in scikit-learn, seconds: in the quick form, and in the full one where neither data set is there."""
QUICK = (
    DIGITS,
    Comparison("fashion_mnist,plain,held_out=2000", 1, ("2:4",), 80, 30),
    Comparison("fashion_mnist,depthwise,held_out=2000", 1, ("2:4", "1:8"), 80, 30),
    Comparison("fashion_mnist,residual,held_out=2000", 1, ("2:4",), 80, 30),
    Comparison("cifar10,plain,examples=4000,held_out=1000", 1, ("2:4",), 40, 15),
)


def full_comparisons(device: str) -> tuple[Comparison, ...]:
    """All of (b), and (c) as long as ``device`` can bear."""
    return (*FASHION, CIFAR[torch.device(device).type])


@dataclass
class _Parts:
    """What the section is put together from."""

    texts: list[str] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    summaries: list[pd.DataFrame] = field(default_factory=list)
    trained: list[pd.DataFrame] = field(default_factory=list)
    seconds: float = 0.0


def run(settings: Settings) -> Section:
    """A table for the labelled pictures and one for every task; one whose data are missing gets a sentence saying so.

    Where no task has its data, digits stand in.
    """
    parts = _Parts([_HEAD.strip()])
    _add_pictures(parts, settings)
    for comparison in full_comparisons(settings.device) if settings.full else QUICK:
        _add_trained(parts, comparison, settings)
    if not parts.trained:
        parts.texts.append("Digits, which need no data, stand in:")
        _add_trained(parts, DIGITS, settings)
    if len(parts.trained) > 1:
        pooled = differences(pd.concat(parts.trained, ignore_index=True))
        parts.tables["table2_differences"] = pooled
        parts.texts.append(f"**All of (b) and (c) together**, paired by task and seed:\n\n{differences_text(pooled)}")
    summary = pd.concat(parts.summaries, ignore_index=True) if parts.summaries else pd.DataFrame({"network": []})
    parts.texts.append(_TRANSFORMER)
    return Section(
        "Table 2: accuracy",
        "\n\n".join(parts.texts),
        tables={"table2": summary.assign(source=MEASURED), **parts.tables},
        trial_seconds=parts.seconds,
    )


_HEAD = """
**The paper** prunes networks trained on ImageNet to 2:4, as they are and permuted, and repeats their training. **Here** networks and
data that a laptop can hold, everything measured; the paper's accuracies are not at hand. *As trained*: the channels where training left
them. *Permuted*: in the order that lets the masks keep the most, the same function as before. *Random order*: an order that ignores the
weights, as a control for luck; what permuting gains is worth mentioning only beside it. 1:4 and 1:8 prune more, where the loss is large
enough to see a difference. Batch norm statistics are re-estimated after every pruning. Square brackets are 95% intervals.
"""

_TRANSFORMER = "**(d) MiniLM on `sentiment`** has a part of its own, `transformers`, with three saliencies."

# ----------------------------------------------------------------------------------------------------------- pictures


def _add_pictures(parts: _Parts, settings: Settings) -> None:
    name = "(a) EfficientNet-Lite0 on labelled ImageNet pictures"
    try:
        found = pictures.prune_all(settings, picture_trials(settings.full))
    except (FileNotFoundError, ModuleNotFoundError) as error:
        parts.texts.append(f"**{name}** was skipped: {error}.")
        return
    summary = summarise_pictures(found)
    parts.summaries.append(summary)
    parts.tables["table2_pictures"] = found[["pattern", "channels", "seed", "retained_percent", "top1", "divergence"]]
    parts.seconds += float(found["seconds_total"].sum())
    parts.texts.append(_pictures_text(name, found, summary))


def picture_trials(full: bool) -> list[dict[str, object]]:
    """The networks to compare; the controls' orders are drawn anew for each seed."""
    shared = {"every": 1 if full else 4}
    seeds = range(5 if full else 1)
    patterns = PATTERNS if full else ("2:4",)
    strategy = {AS_TRAINED: "identity", RANDOM: "identity", PERMUTED: "auto"}
    cases = [(DENSE, AS_TRAINED, 0)]
    cases += [(p, c, s) for p in patterns for c in CHANNELS for s in (seeds if c != AS_TRAINED else range(1))]
    return [{"pattern": p, "channels": c, "strategy": strategy[c], "seed": s, **shared} for p, c, s in cases]


def summarise_pictures(found: pd.DataFrame) -> pd.DataFrame:
    """One row per pattern and channels: means over the seeds.

    Rows of permuted channels have McNemar's test, seed by seed, against the others.
    ``p_as_trained`` and ``p_random_order`` are of the first seed: the tests of several seeds share
    their pictures, and are not independent.
    """
    rows = []
    for (pattern, channels), mine in found.groupby(["pattern", "channels"], sort=False):
        tests = {}
        if channels == PERMUTED:
            right = found[(found["pattern"] == pattern) & (found["seed"] == 0)].set_index("channels")["right"]
            count = int(mine["pictures"].iloc[0])
            answered = {name: unpack(packed, count) for name, packed in right.items()}
            tests = {
                "p_as_trained": mcnemar(answered[PERMUTED], answered[AS_TRAINED]).p,
                "p_random_order": mcnemar(answered[PERMUTED], answered[RANDOM]).p,
            }
        means = {name: float(mine[name].mean()) for name in ("retained_percent", "top1", "divergence")}
        rows.append(
            {
                "network": "EfficientNet-Lite0",
                "pattern": pattern,
                "channels": channels,
                "seeds": len(mine),
                "phase": "one shot",
                **means,
                **tests,
            }
        )
    return pd.DataFrame(rows)


def _pictures_text(name: str, found: pd.DataFrame, summary: pd.DataFrame) -> str:
    names = {"retained_percent": "retained, %", "top1": "top-1", "divergence": "KL to dense", "seeds": "seeds"}
    shown = summary[["pattern", "channels", *names]].rename(columns=names)
    formats = {"retained, %": ".2f", "top-1": ".1f", "KL to dense": ".3f"}
    permuted = summary[summary["channels"] == PERMUTED]
    verdicts = [
        _picture_verdict(summary, row.pattern, row.p_as_trained, row.p_random_order) for row in rows_of(permuted)
    ]
    return f"""**{name}** ({found["pictures"].iloc[0]}), no fine-tuning; the 1x1 convolutions of the blocks are pruned. Statistics are
re-estimated on one half, accuracy is measured on the other, and the other way round. The pictures probably come from the training set,
so only differences mean something. *KL* is the mean divergence of the logits' distribution from the dense network's, in nats.

{markdown_table(shown, formats)}

{" ".join(verdicts)}"""


def _picture_verdict(summary: pd.DataFrame, pattern: str, p_plain: float, p_random: float) -> str:
    top1 = summary[summary["pattern"] == pattern].set_index("channels")["top1"]
    against_plain = top1[PERMUTED] - top1[AS_TRAINED]
    against_random = top1[PERMUTED] - top1[RANDOM]
    helps = against_plain > 0 and against_random > 0 and max(p_plain, p_random) < 0.05
    return (
        f"{pattern}: permuting changes top-1 by {against_plain:+.1f} points against as trained (McNemar's p = {p_plain:.2g}) and by "
        f"{against_random:+.1f} against a random order (p = {p_random:.2g}): {'it helps' if helps else 'no help that could be told from chance'}."
    )


# ------------------------------------------------------------------------------------------------------------ trained


def _add_trained(parts: _Parts, comparison: Comparison, settings: Settings) -> None:
    label = "(c)" if comparison.task.startswith("cifar10") else "(b)"
    try:
        found = trained.compare(comparison, settings)
    except (FileNotFoundError, ModuleNotFoundError) as error:
        parts.texts.append(f"**{label} {comparison.task}** was skipped: {error}.")
        return
    parts.trained.append(found)
    parts.summaries.append(summarise_trained(comparison.task, found))
    parts.tables[f"table2_{'_'.join(comparison.task.split(',')[:2])}"] = found[
        [
            "pattern",
            "channels",
            "seed",
            "dense_top1",
            "retained_percent",
            "one_shot_top1",
            "one_shot_divergence",
            "finetuned_top1",
        ]
    ]
    parts.seconds += float(found["seconds_total"].sum())
    parts.texts.append(trained_text(f"{label} {comparison.task}", comparison, found))


def summarise_trained(network: str, found: pd.DataFrame) -> pd.DataFrame:
    """One row per pattern, channels and phase: mean top-1 with its interval over the seeds.

    Also the retained magnitude and the divergence.
    """
    rows = []
    for (pattern, channels), mine in found.groupby(["pattern", "channels"], sort=False):
        for phase in ("one shot", "fine-tuned"):
            top1 = estimate(mine["one_shot_top1" if phase == "one shot" else "finetuned_top1"])
            rows.append(
                {
                    "network": network,
                    "pattern": pattern,
                    "channels": channels,
                    "seeds": len(mine),
                    "phase": phase,
                    "retained_percent": mine["retained_percent"].mean(),
                    "top1": top1.mean,
                    "low": top1.low,
                    "high": top1.high,
                    "divergence": mine["one_shot_divergence"].mean() if phase == "one shot" else float("nan"),
                }
            )
    return pd.DataFrame(rows)


def trained_text(title: str, comparison: Comparison, found: pd.DataFrame) -> str:
    """The table of one task and what permuting changes, seed by seed."""
    rows = []
    for (pattern, channels), mine in found.groupby(["pattern", "channels"], sort=False):
        one_shot, tuned = estimate(mine["one_shot_top1"]), estimate(mine["finetuned_top1"])
        rows.append(
            (
                pattern,
                channels,
                mine["retained_percent"].mean(),
                str(one_shot),
                mine["one_shot_divergence"].mean(),
                str(tuned),
            )
        )
    columns = ["pattern", "channels", "retained, %", "one shot", "KL to dense", "fine-tuned"]
    table = markdown_table(pd.DataFrame(rows, columns=columns), {"retained, %": ".1f", "KL to dense": ".3f"})
    seeds = found["seed"].nunique()
    short = "" if comparison.steps is None else " This is the short form: both trainings stop early."
    return f"""**{title}**, top-1 in percent, {seeds} seed{"s" if seeds > 1 else ""}; dense before fine-tuning
{estimate(found.groupby("seed")["dense_top1"].mean())}.{short}

{table}

{differences_text(differences(found))}"""


def differences(found: pd.DataFrame) -> pd.DataFrame:
    """What permuting changes: permuted minus either control, paired by task and seed, before and after fine-tuning.

    One row per pattern, phase and control, with the mean difference (in points of top-1; for the
    divergence in nats that are saved), its 95% interval, its p-value and the number of pairs.
    """
    rows = []
    for pattern in dict.fromkeys(found["pattern"]):
        for phase, (value, sign) in _PHASES.items():
            for against in (AS_TRAINED, RANDOM) if pattern != DENSE else ():
                pairs = [sign * difference for difference in trained.paired(found, pattern, value, against)]
                told = asdict(estimate(pairs))
                rows.append({"pattern": pattern, "phase": phase, "against": against, "pairs": len(pairs), **told})
    return pd.DataFrame(rows)


_PHASES = {
    "one shot": ("one_shot_top1", 1),
    "one shot, KL saved": ("one_shot_divergence", -1),
    "fine-tuned": ("finetuned_top1", 1),
}
"""What is compared, and the sign that makes more of it better."""


def differences_text(table: pd.DataFrame) -> str:
    """The differences as Markdown, with a verdict: permuting helps only where it beats both controls beyond chance."""
    rows = []
    for (pattern, phase), both in table.groupby(["pattern", "phase"], sort=False):
        told = [Estimate(row.mean, row.low, row.high, row.p) for row in rows_of(both)]
        verdict = "cannot be told from chance"
        if all(each.low > 0 for each in told):
            verdict = "helps"
        elif all(each.high < 0 for each in told):
            verdict = "hurts"
        elif any(each.p != each.p for each in told):
            verdict = "one pair says nothing"
        texts = [str(each) + ("" if each.p != each.p else f", p = {each.p:.2g}") for each in told]
        rows.append((pattern, phase, *texts, verdict))
    columns = ["pattern", "phase", *(f"permuted minus {name}" for name in (AS_TRAINED, RANDOM)), "permuting"]
    return markdown_table(pd.DataFrame(rows, columns=columns))
