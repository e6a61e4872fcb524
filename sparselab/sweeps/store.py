"""The store of a sweep: one SQLite file, one transaction per trial, nothing in it that is ever unpickled."""

from __future__ import annotations

import atexit
import json
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from sparselab.core.artefacts import is_artefact
from sparselab.core.fingerprint import Cell
from sparselab.core.paths import as_path
from sparselab.metrics.metric import Quantity

FORMAT = 1
_APPLICATION = 0x4E4D5357  # marks the file as ours, where `file` and SQLite look for it
_BUSY_SECONDS = 60.0
_CHUNK = 500

_SCHEMA = """
CREATE TABLE IF NOT EXISTS trials (
    key       TEXT PRIMARY KEY,
    sweep     TEXT NOT NULL,     -- the sweep that ran it first, and its place there
    position  INTEGER NOT NULL,
    task      TEXT NOT NULL,
    inputs    TEXT NOT NULL,     -- JSON objects
    metrics   TEXT NOT NULL,
    measured  TEXT NOT NULL,
    state     TEXT NOT NULL,     -- done, failed
    error     TEXT,
    traceback TEXT
);
CREATE TABLE IF NOT EXISTS histories (
    key       TEXT NOT NULL REFERENCES trials (key),
    tracker   TEXT NOT NULL,
    columns   TEXT NOT NULL,     -- a JSON array
    rows      TEXT NOT NULL,     -- a JSON array of arrays
    PRIMARY KEY (key, tracker)
);
CREATE TABLE IF NOT EXISTS sweeps (
    sweep     TEXT PRIMARY KEY,
    number    INTEGER NOT NULL,
    made      TEXT NOT NULL      -- a JSON object: how the sweep was made
);
CREATE TABLE IF NOT EXISTS tasks (
    task       TEXT PRIMARY KEY,
    quantities TEXT NOT NULL     -- a JSON array: what its trials measure, the headline first
);
"""


@dataclass(frozen=True)
class Series:
    """A time series: the columns of a tracker's frame and its rows."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Outcome:
    """What became of a trial. ``measured`` holds what differs from run to run: seconds, memory, machine.

    ``quantities`` is what the trial says of its metrics and series: which way is better, the headline first.
    """

    state: str
    metrics: Mapping[str, Cell] = field(default_factory=dict)
    measured: Mapping[str, Cell] = field(default_factory=dict)
    error: str | None = None
    traceback: str | None = None
    histories: Mapping[str, Series] = field(default_factory=dict)
    quantities: Sequence[Quantity] = ()


@dataclass(frozen=True)
class Record:
    """A row of the store: a trial and what became of it."""

    key: str
    task: str
    inputs: Mapping[str, Cell]
    outcome: Outcome


class Store:
    """An open store; a context manager. Several processes of one machine may have the same file open.

    ``create=False`` raises ``FileNotFoundError`` where there is no file. Raises ``ValueError`` for a file that is not a
    store, for a folder, and for a store that a newer version wrote. A committed trial outlives the death of the process and of the machine.
    """

    def __init__(self, path: str | Path, *, create: bool = True) -> None:
        self.path = as_path(path, "a store")
        if not create and not self.path.exists():
            raise FileNotFoundError(f"no such store: {self.path}")
        if self.path.is_dir():
            if is_artefact(self.path):
                raise ValueError(
                    f"{self.path} has a model that sl.save wrote, no store of a sweep: read it by sl.load_into"
                )
            raise ValueError(f"{self.path} is a folder; a store of a sweep is one file")
        if create:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
        except sqlite3.OperationalError as error:
            raise OSError(f"{self.path} cannot be opened as a store: {error}") from error
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        try:
            with self._transaction():  # all of one moment: another process may be making the store
                self._check()
            _patiently(lambda: self._connection.execute("PRAGMA journal_mode = WAL"))
            self._connection.execute("PRAGMA synchronous = FULL")
            with self._transaction():
                self._check()  # another process may have been faster
                for statement in _SCHEMA.split(";\n"):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                self._connection.execute(f"PRAGMA user_version = {FORMAT}")
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            raise ValueError(f"{self.path} is not a store of sparselab: {error}") from error

    def _check(self) -> None:
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != _APPLICATION:
            raise ValueError(f"{self.path} is an SQLite database, but not a store of sparselab")
        if version > FORMAT:
            raise ValueError(
                f"{self.path} has format {version}, this sparselab reads up to {FORMAT}: upgrade sparselab"
            )

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._connection.close()

    def _transaction(self) -> _Transaction:
        return _Transaction(self._connection)

    def states(self, keys: Iterable[str]) -> dict[str, str]:
        """The state of each of ``keys`` that the store holds."""
        return {
            key: state
            for chunk in _chunks(keys)
            for key, state in self._connection.execute(
                f"SELECT key, state FROM trials WHERE key IN ({_marks(chunk)})", chunk
            )
        }

    def begin(self, sweep: str, made: Mapping[str, Any]) -> None:
        """Note how a sweep was made; the first note stays."""
        with self._transaction():
            self._connection.execute(
                "INSERT INTO sweeps SELECT ?, count(*), ? FROM sweeps WHERE true ON CONFLICT DO NOTHING",
                (sweep, json.dumps(made)),
            )

    def save(self, sweep: str, position: int, record: Record, *, replace: bool = False) -> None:
        """Write a trial and its histories, all or nothing. A trial that is there stays, unless ``replace``."""
        outcome = record.outcome
        values = (record.task, *(json.dumps(dict(part)) for part in (record.inputs, outcome.metrics, outcome.measured)))
        row = (record.key, sweep, position, *values, outcome.state, outcome.error, outcome.traceback)
        with self._transaction():
            if outcome.quantities:
                said = json.dumps([asdict(quantity) for quantity in outcome.quantities])
                self._connection.execute("INSERT OR REPLACE INTO tasks VALUES (?, ?)", (record.task, said))
            if replace:
                self._connection.execute("DELETE FROM histories WHERE key = ?", (record.key,))
                self._connection.execute("DELETE FROM trials WHERE key = ?", (record.key,))
            written = self._connection.execute(f"INSERT OR IGNORE INTO trials VALUES ({_marks(row)})", row).rowcount
            if written:
                self._connection.executemany(
                    "INSERT INTO histories VALUES (?, ?, ?, ?)",
                    [
                        (
                            record.key,
                            name,
                            json.dumps(list(series.columns)),
                            json.dumps([list(row) for row in series.rows]),
                        )
                        for name, series in outcome.histories.items()
                    ],
                )

    def records(self, keys: Iterable[str] | None = None) -> Iterator[Record]:
        """The trials of ``keys`` that the store holds, in that order; all of them, sweep by sweep, without ``keys``."""
        select = "SELECT key, task, inputs, metrics, measured, state, error, traceback FROM trials"
        if keys is None:
            order = " LEFT JOIN sweeps USING (sweep) ORDER BY number, position, key"
            yield from map(_record, self._connection.execute(select + order))
            return
        for chunk in _chunks(keys):
            rows = self._connection.execute(f"{select} WHERE key IN ({_marks(chunk)})", chunk)
            found = {row[0]: row for row in rows}
            yield from (_record(found[key]) for key in chunk if key in found)

    def histories(self, keys: Iterable[str]) -> Iterator[tuple[str, str, Series]]:
        """``(key, tracker, series)`` of the trials of ``keys``, in that order."""
        for key in keys:
            rows = self._connection.execute(
                "SELECT tracker, columns, rows FROM histories WHERE key = ? ORDER BY rowid", (key,)
            )
            for tracker, columns, values in rows:
                yield key, tracker, Series(json.loads(columns), json.loads(values))

    def quantities(self) -> dict[str, list[Quantity]]:
        """What the trials of each task measure, the headline first; tasks that did not say are missing."""
        rows = self._connection.execute("SELECT task, quantities FROM tasks")
        return {task: [Quantity(**each) for each in json.loads(said)] for task, said in rows}

    def sweeps(self) -> list[dict[str, Any]]:
        """How each sweep in the store was made, oldest first."""
        rows = self._connection.execute("SELECT made FROM sweeps ORDER BY number")
        return [json.loads(made) for (made,) in rows]


class _Transaction:
    """Everything in the block is written, or, if it raises, nothing; waits its turn among processes."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        _patiently(lambda: self._connection.execute("BEGIN IMMEDIATE"))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self._connection.execute("COMMIT")
        elif self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


def _patiently(execute: Any) -> None:
    """SQLite does not wait in every case in which another process holds the file: try again for a minute."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            execute()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _record(row: tuple[Any, ...]) -> Record:
    key, task, inputs, metrics, measured, state, error, traceback = row
    parts = [{name: _thaw(value) for name, value in json.loads(text).items()} for text in (inputs, metrics, measured)]
    return Record(key, task, parts[0], Outcome(state, parts[1], parts[2], error, traceback))


def _thaw(value: Any) -> Cell:
    """JSON knows no tuples: its lists were some."""
    return tuple(_thaw(item) for item in value) if isinstance(value, list) else value


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def _chunks(keys: Iterable[str]) -> Iterator[list[str]]:
    """SQLite takes a bounded number of values a statement."""
    every = list(keys)
    return (every[start : start + _CHUNK] for start in range(0, len(every), _CHUNK))


def temporary_path() -> Path:
    """A fresh place for a store that is gone when this process ends."""
    folder = tempfile.mkdtemp(prefix="sparselab-sweep-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder) / "runs.sqlite"
