"""What the subcommands ``search``, ``experiment``, ``report`` and ``doctor`` do; ``cli.py`` reads their options."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import sys
import tomllib
from argparse import Namespace
from collections.abc import Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from sparselab import measures, plots
from sparselab.checkpoints import read_checkpoint
from sparselab.layout import to_matrix
from sparselab.masks import create_mask
from sparselab.patterns import Pattern
from sparselab.permutation import SearchProblem, SearchResult, search_permutation
from sparselab.permutation.probes import intermediate_orders, minimum_sparsity, prune_smallest
from sparselab.reproduce.section import Section, markdown_table
from sparselab.sweeps import experiment, history, load

# ----------------------------------------------------------------------------------------------------------------- search


def search(options: Namespace) -> int:
    """Search orders for a matrix from a file or a random one; a row a strategy, under the paper's reference rows."""
    if options.out and not Path(options.out).parent.is_dir():
        raise ValueError(f"--out {options.out}: there is no folder {Path(options.out).parent}")
    matrix = _matrix(options)
    if options.unstructured > 0:
        matrix = prune_smallest(matrix, options.unstructured)
    strategies = options.strategy or ["auto"]
    if options.unstructured < 0:
        rows = [
            {"strategy": name, "min_sparsity": minimum_sparsity(matrix, _searcher(options, name))}
            for name in strategies
        ]
        _print(pd.DataFrame(rows), options.json)
        return 0
    results = [_searcher(options, name)(matrix) for name in strategies]
    best = max(results, key=lambda result: result.retained)
    if options.out:
        np.save(options.out, best.order)
    frame = pd.concat([_reference_rows(matrix, options.pattern), _rows(results)], ignore_index=True)
    if options.intermediate_steps:
        problem = SearchProblem.from_matrix(np.abs(matrix))
        orders = intermediate_orders(problem, best.order, options.pattern, options.intermediate_steps)
        for number, order in enumerate(orders, 1):
            retained = problem.retained(order, options.pattern)
            efficacy = measures.efficacy(retained, best.baseline, best.ideal)
            row = {"strategy": f"step {number} to {best.strategy}", "magnitude": retained, "efficacy": efficacy}
            frame = pd.concat([frame, pd.DataFrame([{**row, "order": order.tolist()}])], ignore_index=True)
    _print(frame, options.json)
    return 0


def _searcher(options: Namespace, strategy: str) -> Any:
    def run(matrix: np.ndarray[Any, Any]) -> SearchResult:
        return search_permutation(
            matrix,
            options.pattern,
            strategy=strategy,
            seed=options.seed,
            backend=options.backend,
            time_limit=options.time_limit,
            progress=options.progress and options.unstructured >= 0 and sys.stderr.isatty(),
        )

    return run


def _rows(results: list[SearchResult]) -> pd.DataFrame:
    return pd.DataFrame(
        {"strategy": r.strategy, "magnitude": r.retained, "efficacy": r.efficacy, "seconds": r.seconds} for r in results
    )


def _reference_rows(matrix: np.ndarray[Any, Any], pattern: str) -> pd.DataFrame:
    scores = torch.from_numpy(np.abs(matrix).astype(np.float64))
    parsed = Pattern.parse(pattern)
    keep = round(parsed.density * scores.numel())
    as_it_is = measures.retained(scores, create_mask(scores, pattern))
    share = f"{100 * parsed.density:g}%"
    return pd.DataFrame(
        [
            {"strategy": "(unpruned)", "magnitude": float(scores.sum())},
            {"strategy": f"({share} unstructured)", "magnitude": float(scores.flatten().topk(keep).values.sum())},
            {"strategy": f"({share} of rows)", "magnitude": measures.ideal(scores, parsed.density), "efficacy": 100.0},
            {"strategy": f"({pattern} as it is)", "magnitude": as_it_is, "efficacy": 0.0},
        ],
        columns=["strategy", "magnitude", "efficacy", "seconds"],
    )


def _matrix(options: Namespace) -> np.ndarray[Any, Any]:
    """The weight matrix to search: of a file, or random as in the paper's listing."""
    if options.file is None:
        np.random.seed(options.seed)  # noqa: NPY002 (the paper's numbers are those of this generator)
        return np.random.rand(options.filters, options.channels)  # noqa: NPY002
    weight = read_weight(Path(options.file), options.tensor)
    return to_matrix(weight.float()).numpy()


def read_weight(file: Path, name: str | None) -> torch.Tensor:
    """A weight from a ``.npy``, ``.pt`` / ``.pth`` or ``.safetensors`` file; nothing is ever unpickled.

    ``name`` chooses a tensor where there are several. Raises ``ValueError`` naming those there are.
    """
    loaded = read_checkpoint(file)
    if isinstance(loaded, torch.Tensor):
        return loaded.detach()
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{file} holds a {type(loaded).__name__}, not a tensor or a state dict")
    weights = {key: value for key, value in loaded.items() if isinstance(value, torch.Tensor) and value.ndim >= 2}
    if name is None and len(weights) == 1:
        (name,) = weights
    if name not in weights:
        found = f"no weight {name!r}" if name is not None else f"{len(weights) or 'no'} weights"
        raise ValueError(f"{file} has {found}; choose one by --tensor: {', '.join(map(str, weights)) or 'none'}")
    return weights[name].detach()


# ------------------------------------------------------------------------------------------------------------- experiment


def run_sweep(options: Namespace) -> int:
    """Run the sweep that a TOML file describes."""
    file = Path(options.file)
    arguments = read_sweep(file)
    store = Path(options.store) if options.store else file.with_suffix(".sqlite")
    with _workers(options.workers) as executor:
        frame = experiment(
            **arguments,
            executor=executor,
            store=store,
            resume=options.resume,
            retry_failed=options.retry_failed,
            progress=options.progress,
        )
    _print(frame if options.json else summary(frame), options.json)
    failed = int((frame["state"] == "failed").sum())
    if not options.json:
        print(f"{len(frame) - failed} of {frame.attrs['trials']} trials done, {failed} failed; kept in {store}")
    if frame.attrs["interrupted"]:
        return 130
    return 1 if failed else 0


def read_sweep(file: Path) -> dict[str, Any]:
    """The arguments of ``experiment`` in a TOML file: keys are inputs, arrays are axes.

    ``"none"`` stands for ``None`` and ``{ range = [0, 3] }`` for ``range(0, 3)``; ``task = "module:function"`` is a
    function of a module beside the file or installed. Raises ``ValueError`` for what is not TOML and for options that
    belong to the command line.
    """
    if not file.is_file():
        raise ValueError(f"no such file: {file}")
    try:
        given = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file} is not TOML: {error}") from error
    if "task" not in given:
        raise ValueError(f'{file} names no task: write task = "fashion_mnist", or "module:function"')
    elsewhere = sorted(set(given) & {"executor", "store", "resume", "retry_failed", "progress", "where"})
    if elsewhere:
        raise ValueError(f"{file}: {', '.join(elsewhere)} belongs on the command line; see sparselab experiment --help")
    arguments = {name: _from_toml(value) for name, value in given.items()}
    tasks = arguments["task"] if isinstance(arguments["task"], list) else [arguments["task"]]
    arguments["task"] = [_function(task, file) if ":" in task else task for task in tasks]
    return arguments


def _from_toml(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_toml(item) for item in value]
    if isinstance(value, dict):
        if set(value) == {"range"}:
            return range(*value["range"]) if isinstance(value["range"], list) else range(value["range"])
        return {name: _from_toml(item) for name, item in value.items()}
    return None if value == "none" else value


def _function(spec: str, file: Path) -> Any:
    module, _, name = spec.partition(":")
    sys.path.insert(0, str(file.resolve().parent))
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError:
        raise ValueError(f"{file}: module {module!r} has no function {name!r}") from None
    finally:
        sys.path.pop(0)


def _workers(count: int) -> AbstractContextManager[Executor | None]:
    if count < 0:
        raise ValueError(f"--workers {count}: give a number of processes, or 0 to run in this one")
    if count == 0:
        return nullcontext()
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))


# ----------------------------------------------------------------------------------------------------------------- report


def report(options: Namespace) -> int:
    """Say what a store holds: means over seeds, failures, and with ``--out`` a folder with tables and figures."""
    frame = load(options.store)
    table = summary(frame)
    _print(table, options.json)
    failures = [f"failed {count} times: {error}" for error, count in frame["error"].dropna().value_counts().items()]
    if not options.json:
        print(f"{len(frame)} trials, {len(frame) - int((frame['state'] == 'failed').sum())} done", *failures, sep="\n")
    if options.out:
        folder = Path(options.out)
        folder.mkdir(parents=True, exist_ok=True)
        figures = _figures(frame)
        numbers = dict.fromkeys(table.select_dtypes("float").columns, ".5g")
        text = "\n\n".join(
            [
                f"{len(frame)} trials in `{Path(options.store).name}`.",
                markdown_table(table, numbers),
                *(f"- {failure}" for failure in failures),
                *(f"![{name}]({name}.png)" for name in figures),
            ]
        )
        Section("Sweep", text, {"trials": frame, "summary": table}, figures).write(folder, "report")
        if not options.json:
            print(f"report: {folder / 'report.md'}")
    return 0


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a combination of inputs, the seed aside: trials, failures, and mean and standard deviation of each metric."""
    inputs = [name for name in frame.attrs["inputs"] if name != "seed" and frame[name].nunique(dropna=False) > 1]
    by = [name for name in ["task", *inputs] if name == "task" or name in inputs]
    metrics = [name for name in frame.attrs["metrics"] if pd.api.types.is_numeric_dtype(frame[name])]
    groups = frame.groupby(by, dropna=False, observed=True, sort=False)
    table = groups.agg(trials=("state", "size"), failed=("state", lambda states: int((states == "failed").sum())))
    for name in metrics:
        numbers = groups[name]
        table[name], table[f"{name}_std"] = numbers.mean().astype(float), numbers.std().astype(float)
    table = table.reset_index()
    for name in by:
        table[name] = table[name].astype(object).where(table[name].notna(), "none")
    return table.dropna(axis=1, how="all")


def _figures(frame: pd.DataFrame) -> dict[str, Any]:
    """The figures that the frame has the columns for."""
    figures = {}
    if "finetuned_top1" in frame and frame["finetuned_top1"].notna().any():
        figures = {"accuracy": plots.accuracy_bars(frame), "pareto": plots.pareto(frame)}
    series = history(frame)
    if (series["quantity"].astype(str) == "top1").any():
        figures["curves"] = plots.recompute_curves(series)
    return figures


# ----------------------------------------------------------------------------------------------------------------- doctor


def doctor(options: Namespace) -> int:
    """Say what works here; 1 when something is broken, what is merely missing does not count."""
    from sparselab.doctor import examine

    findings = list(examine())
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        width = max(len(finding.what) for finding in findings)
        for finding in findings:
            print(f"{finding.state:<8} {finding.what:<{width}}  {finding.detail}")
    return 1 if any(finding.state == "broken" for finding in findings) else 0


def _print(frame: pd.DataFrame, as_json: bool) -> None:
    if as_json:
        print(frame.to_json(orient="records", double_precision=15))
        return
    shown = frame.drop(columns="order", errors="ignore")
    print(shown.to_string(index=False, na_rep="-", float_format=lambda value: f"{value:.5g}"))
