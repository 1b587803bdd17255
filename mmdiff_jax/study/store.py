"""What raters did: an append-only SQLite database.

No row is ever changed or deleted (the database refuses it), and a write is on
the disk when the call returns: what was acknowledged survives a killed server.
No address and no browser's name is stored.

Many raters share one disk: whoever comes to write takes along what others
have queued meanwhile, in one transaction, and reading never waits for a disk.
"""

import contextlib
import dataclasses
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS raters (
  rater TEXT PRIMARY KEY, token_sha256 TEXT UNIQUE NOT NULL,
  slot INTEGER NOT NULL, language TEXT NOT NULL, time REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
  number INTEGER PRIMARY KEY, time REAL NOT NULL,
  rater TEXT NOT NULL REFERENCES raters (rater),
  kind TEXT NOT NULL, trial INTEGER NOT NULL, data TEXT NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS one_vote ON events (rater, trial)
  WHERE kind = 'vote';
CREATE INDEX IF NOT EXISTS by_rater ON events (rater, kind, trial);
"""
_APPEND_ONLY = """
CREATE TRIGGER IF NOT EXISTS {table}_{verb} BEFORE {verb} ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;
"""


@dataclasses.dataclass(frozen=True)
class Rater:
  """Somebody who began: a random name, a place, a language, the time."""

  rater: str
  slot: int
  language: str
  time: float


@dataclasses.dataclass(frozen=True)
class Event:
  """One thing that a rater did.

  Attributes:
    time: seconds since 1970, of the server's clock.
    rater: who.
    kind: "tones", "play" or "vote".
    trial: number within the rater's place; -1 for none.
    data: what belongs to it.
  """

  time: float
  rater: str
  kind: str
  trial: int
  data: dict[str, Any]


@dataclasses.dataclass
class _Entry:
  """An event that waits to be written, and what became of it."""

  event: Event
  written: bool = False
  duplicate: bool = False
  error: BaseException | None = None


class Store:
  """The database of one study; may be used from several threads."""

  def __init__(self, path: str | os.PathLike):
    self._queue: list[_Entry] = []
    self._queue_lock, self._write_lock = threading.Lock(), threading.Lock()
    self._read_lock = threading.Lock()
    self._writer, self._reader = _connect(path), _connect(path)
    self._writer.execute("PRAGMA journal_mode = WAL")
    self._writer.execute("PRAGMA synchronous = FULL")
    self._writer.execute("PRAGMA foreign_keys = ON")
    self._writer.executescript(_SCHEMA)
    for table in ("raters", "events"):
      for verb in ("UPDATE", "DELETE"):
        script = _APPEND_ONLY.format(table=table, verb=verb)
        self._writer.executescript(script)

  def close(self) -> None:
    """Closes the database."""
    with self._write_lock, self._read_lock:
      self._reader.close()
      self._writer.close()

  @contextlib.contextmanager
  def _transaction(self) -> Iterator[None]:
    """What is written in it is on the disk at its end, or not written."""
    self._writer.execute("BEGIN IMMEDIATE")
    try:
      yield
      self._writer.execute("COMMIT")
    except BaseException:
      if self._writer.in_transaction:
        self._writer.execute("ROLLBACK")
      raise

  def add_rater(
    self,
    rater: str,
    token_sha256: str,
    language: str,
    time: float,
    lengths: Sequence[int],
    patience: float,
  ) -> int | None:
    """Gives the next place to a new rater.

    First come places that nobody has had, then those whose last rater left
    unfinished and gave no sign of life for `patience` seconds.

    Args:
      rater: name of the new one.
      token_sha256: by which the rater comes back.
      language: of the texts.
      time: now.
      lengths: number of votes of each place.
      patience: seconds.

    Returns:
      The place, or None where all are taken.
    """
    with self._write_lock, self._transaction():
      slot = self._free_slot(time, lengths, patience)
      if slot is not None:
        self._writer.execute(
          "INSERT INTO raters VALUES (?, ?, ?, ?, ?)",
          (rater, token_sha256, slot, language, time),
        )
      return slot

  def _free_slot(
    self, now: float, lengths: Sequence[int], patience: float
  ) -> int | None:
    taken: dict[int, bool] = {}  # Whether the place may be given again.
    rows = self._writer.execute(
      "SELECT slot, raters.time, max(events.time), "
      "count(events.number) FILTER (WHERE kind = 'vote') "
      "FROM raters LEFT JOIN events USING (rater) GROUP BY rater"
    )
    for slot, began, last, votes in rows:
      idle = now - max(began, last or 0.0) > patience
      abandoned = idle and votes < lengths[slot]
      taken[slot] = taken.get(slot, True) and abandoned
    fresh = (s for s in range(len(lengths)) if s not in taken)
    again = (s for s in sorted(taken) if taken[s])
    return next(fresh, next(again, None))

  def rater(self, token_sha256: str) -> Rater | None:
    """The rater of a token, or None."""
    row = self._one(
      "SELECT rater, slot, language, time FROM raters WHERE token_sha256 = ?",
      token_sha256,
    )
    return row and Rater(*row)

  def append(self, event: Event) -> bool:
    """Writes an event; False if it is a second vote of one trial."""
    entry = _Entry(event)
    with self._queue_lock:
      self._queue.append(entry)
    with self._write_lock:
      if not entry.written and entry.error is None:
        self._write_queue()
    if entry.error is not None:
      raise entry.error
    return not entry.duplicate

  def _write_queue(self) -> None:
    """Writes all that waits, one's own entry and others', at once."""
    with self._queue_lock:
      entries, self._queue = self._queue, []
    try:
      with self._transaction():
        for entry in entries:
          entry.duplicate = not self._insert(entry.event)
    except BaseException as error:
      for entry in entries:
        entry.error = error
    else:
      for entry in entries:
        entry.written = True

  def _insert(self, event: Event) -> bool:
    values = (
      event.time, event.rater, event.kind, event.trial,
      json.dumps(event.data, sort_keys=True),
    )  # fmt: skip
    try:
      self._writer.execute(
        "INSERT INTO events (time, rater, kind, trial, data) "
        "VALUES (?, ?, ?, ?, ?)",
        values,
      )
    except sqlite3.IntegrityError:
      return False
    return True

  def votes_of(self, rater: str) -> int:
    """Number of votes of a rater."""
    sql = "SELECT count(*) FROM events WHERE rater = ? AND kind = 'vote'"
    return self._one(sql, rater)[0]

  def events(
    self,
    rater: str | None = None,
    kind: str | None = None,
    trial: int | None = None,
  ) -> list[Event]:
    """Events in the order in which they came, all or some."""
    wanted = {"rater": rater, "kind": kind, "trial": trial}
    wanted = {k: v for k, v in wanted.items() if v is not None}
    where = " AND ".join(f"{key} = ?" for key in wanted) or "1"
    with self._read_lock:
      rows = self._reader.execute(
        "SELECT time, rater, kind, trial, data FROM events "
        f"WHERE {where} ORDER BY number",
        tuple(wanted.values()),
      ).fetchall()
    return [
      Event(time, who, what, number, json.loads(data))
      for time, who, what, number, data in rows
    ]

  def raters(self) -> list[Rater]:
    """All raters in the order in which they came."""
    with self._read_lock:
      rows = self._reader.execute(
        "SELECT rater, slot, language, time FROM raters ORDER BY time, rater"
      ).fetchall()
    return [Rater(*row) for row in rows]

  def _one(self, sql: str, *values):
    with self._read_lock:
      return self._reader.execute(sql, values).fetchone()


def _connect(path: str | os.PathLike) -> sqlite3.Connection:
  return sqlite3.connect(
    path, check_same_thread=False, isolation_level=None, timeout=30
  )
