"""``sparselab prune`` and ``sparselab permute``: a model from a shell, changed and written again."""

from __future__ import annotations

from argparse import Namespace

from sparselab.command_line.models import NamedModel
from sparselab.command_line.printing import print_frame


def prune(options: Namespace) -> int:
    """Prune a model on calibration data, block by block, and write it."""
    from sparselab.layerwise import prune as pruned

    named = NamedModel.of(options)
    report = pruned(
        named.model,
        named.batches(options),
        options.pattern,
        pruner=options.pruner,
        permutation=options.permutation,
        outputs=_outputs(options),
        unreached=options.unreached,
        include=options.include,
        exclude=options.exclude,
        store=options.store,
        seed=options.seed,
        progress=options.progress,
    )
    named.save()
    if options.json:
        print_frame(report.frame, as_json=True)
    else:
        print(f"{report}\nwritten to {named.out}")
    return 0


def permute(options: Namespace) -> int:
    """Put the channels of a model in orders that let the pattern keep more of it, and write it.

    Where none moved the answer is 1 and nothing is written.
    """
    from sparselab.core.batches import calibration_batches
    from sparselab.network.examples import as_example
    from sparselab.network.permuting import permute as permuted

    named = NamedModel.of(options)
    if options.examples < 1:
        raise ValueError(f"--examples {options.examples}: the model is traced on 1 batch or more")
    batches = calibration_batches(named.batches(options), "to trace the model on")
    if options.examples > len(batches):
        raise ValueError(f"--examples {options.examples}: more than there are batches ({len(batches)})")
    report = permuted(
        named.model,
        [as_example(batch) for batch in batches[: options.examples]],
        options.pattern,
        strategy=options.strategy,
        include=options.include,
        exclude=options.exclude or (),
        seed=options.seed,
        outputs=_outputs(options),
        unreached=options.unreached,
        progress=options.progress,
    )
    moved = len(report.plan) > 0
    if moved:
        named.save()
    if moved and options.plan:
        report.plan.save(options.plan)
    if options.json:
        print_frame(report.frame, as_json=True)
    elif not moved:
        print(f"{report}\nnothing written")
    else:
        print(f"{report}\nwritten to {named.out}" + (f", the plan to {options.plan}" if options.plan else ""))
    return 0 if moved else 1


def _outputs(options: Namespace) -> list[str | int] | None:
    """The outputs that were named; whole numbers are indices."""
    return [int(name) if name.lstrip("-").isdigit() else name for name in options.output] if options.output else None
