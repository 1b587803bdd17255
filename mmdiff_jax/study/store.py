"""What raters did: an append-only SQLite database.

No row is ever changed or deleted (the database refuses it), and a write is on
the disk when the call returns: what was acknowledged survives a killed server.
No address and no browser's name is stored.
"""

import csv
import dataclasses
import io
import json
import os
import sqlite3
import threading
from collections.abc import Sequence
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


class Store:
  """The database of one study; may be used from several threads."""

  def __init__(self, path: str | os.PathLike):
    self._lock = threading.Lock()
    self._db = sqlite3.connect(
      path, check_same_thread=False, isolation_level=None, timeout=30
    )
    self._db.execute("PRAGMA journal_mode = WAL")
    self._db.execute("PRAGMA synchronous = FULL")
    self._db.execute("PRAGMA foreign_keys = ON")
    self._db.executescript(_SCHEMA)
    for table in ("raters", "events"):
      for verb in ("UPDATE", "DELETE"):
        self._db.executescript(_APPEND_ONLY.format(table=table, verb=verb))

  def close(self) -> None:
    """Closes the database."""
    with self._lock:
      self._db.close()

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
    with self._lock:
      self._db.execute("BEGIN IMMEDIATE")
      try:
        slot = self._free_slot(time, lengths, patience)
        if slot is not None:
          self._db.execute(
            "INSERT INTO raters VALUES (?, ?, ?, ?, ?)",
            (rater, token_sha256, slot, language, time),
          )
      except BaseException:
        self._db.execute("ROLLBACK")
        raise
      self._db.execute("COMMIT")
      return slot

  def _free_slot(
    self, now: float, lengths: Sequence[int], patience: float
  ) -> int | None:
    taken: dict[int, bool] = {}  # Whether the place may be given again.
    rows = self._db.execute(
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
    with self._lock:
      try:
        self._db.execute(
          "INSERT INTO events (time, rater, kind, trial, data) "
          "VALUES (?, ?, ?, ?, ?)",
          (
            event.time, event.rater, event.kind, event.trial,
            json.dumps(event.data, sort_keys=True),
          ),
        )  # fmt: skip
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
    with self._lock:
      rows = self._db.execute(
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
    with self._lock:
      rows = self._db.execute(
        "SELECT rater, slot, language, time FROM raters ORDER BY time, rater"
      ).fetchall()
    return [Rater(*row) for row in rows]

  def _one(self, sql: str, *values):
    with self._lock:
      return self._db.execute(sql, values).fetchone()


_COLUMNS = (
  "time", "rater", "slot", "task", "trial", "kind", "clips", "scale", "value",
  "fault", "seconds",
)  # fmt: skip


def export_votes(store: Store) -> list[dict[str, Any]]:
  """One row per vote and scale, without the truth."""
  slots = {r.rater: r.slot for r in store.raters()}
  return [
    {
      "time": round(event.time, 3),
      "rater": event.rater,
      "slot": slots[event.rater],
      "task": event.data["task"],
      "trial": event.trial,
      "kind": event.data["kind"],
      "clips": " ".join(event.data["clips"]),
      "scale": scale,
      "value": value,
      "fault": int(event.data["fault"]),
      "seconds": event.data["seconds"],
    }
    for event in store.events(kind="vote")
    for scale, value in event.data["answers"].items()
  ]


def votes_csv(store: Store) -> str:
  """`export_votes` as CSV."""
  text = io.StringIO()
  writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
  writer.writeheader()
  writer.writerows(export_votes(store))
  return text.getvalue()
