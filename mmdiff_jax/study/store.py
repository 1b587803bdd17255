"""What raters did: an append-only SQLite database.

No row is ever changed or deleted (the database refuses it, and `ledger` tells
if it happened all the same), and a write is on the disk when the call returns:
what was acknowledged survives a killed server. No address and no browser's
name is stored.

Many raters share one disk: whoever comes to write takes along what others
have queued meanwhile, in one transaction, and reading never waits for a disk.
"""

import contextlib
import dataclasses
import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mmdiff_jax.study import ledger


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
  """The database of one study; may be used from several threads.

  Args:
    path: the file; made if there is none.
    durable: what is acknowledged survives a crash of the machine.
  """

  def __init__(self, path: str | os.PathLike, durable: bool = True):
    self._queue: list[_Entry] = []
    self._queue_lock, self._write_lock = threading.Lock(), threading.Lock()
    self._read_lock = threading.Lock()
    self._writer = ledger.connect(path, durable)
    self._reader = ledger.connect(path)

  def close(self) -> None:
    """Closes the database."""
    with self._write_lock, self._read_lock:
      self._reader.close()
      self._writer.close()

  def check(self) -> None:
    """Compares all that is stored with its hashes.

    Raises:
      ValueError: for what is not as it was written.
    """
    with self._read_lock:
      ledger.check(self._reader)

  def last_hash(self) -> str:
    """The hash of the last event, in which all before it are contained."""
    with self._read_lock:
      return ledger.last(self._reader, "events")[1]

  def invite(self, digests: Iterable[str], time: float) -> None:
    """Makes invitations.

    Args:
      digests: SHA-256 of the token of each.
      time: now.
    """
    with self._write_lock, ledger.transaction(self._writer):
      for digest in digests:
        ledger.append(self._writer, "invitations", digest, float(time))

  def is_invited(self, token_sha256: str) -> bool:
    """Whether there is such an invitation."""
    sql = "SELECT count(*) FROM invitations WHERE token_sha256 = ?"
    return self._one(sql, token_sha256)[0] > 0

  def invitations(self) -> int:
    """Number of all invitations."""
    return self._one("SELECT count(*) FROM invitations")[0]

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
      The place, the one that the token has if it has one, or None where all
      are taken.
    """
    with self._write_lock, ledger.transaction(self._writer):
      known = self._writer.execute(
        "SELECT slot FROM raters WHERE token_sha256 = ?", (token_sha256,)
      ).fetchone()
      if known:
        return known[0]
      slot = self._free_slot(time, lengths, patience)
      if slot is not None:
        row = rater, token_sha256, slot, language, float(time)
        ledger.append(self._writer, "raters", *row)
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
      with ledger.transaction(self._writer):
        for entry in entries:
          entry.duplicate = not self._insert(entry.event)
    except BaseException as error:
      for entry in entries:
        entry.error = error
    else:
      for entry in entries:
        entry.written = True

  def _insert(self, event: Event) -> bool:
    data = json.dumps(event.data, sort_keys=True)
    row = float(event.time), event.rater, event.kind, event.trial, data
    try:
      ledger.append(self._writer, "events", *row)
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


def open_checked(path: str | os.PathLike) -> Store:
  """Opens a database and compares all that is stored with its hashes.

  Raises:
    ValueError: if it is damaged, or another version of the program made it.
    sqlite3.OperationalError: if it cannot be read, or is locked.
  """
  with contextlib.ExitStack() as stack:
    try:
      store = Store(path)
      stack.callback(store.close)
      store.check()
    except sqlite3.OperationalError:
      raise  # Of the disk, or of a lock.
    except (ledger.DamagedError, sqlite3.DatabaseError) as error:
      raise ValueError(
        f"{path} is damaged: {error}. Put a copy in its place."
      ) from error
    stack.pop_all()
  return store


@contextlib.contextmanager
def answered(path: str | os.PathLike) -> Iterator[Store]:
  """Opens the database of a study that somebody has answered.

  Raises:
    ValueError: if nobody has, or as `open_checked` does.
  """
  message = f"{path} holds no answers yet; serve the study first."
  if not os.path.exists(path):
    raise ValueError(message)
  with contextlib.closing(open_checked(path)) as store:
    if not store.events(kind="vote"):
      raise ValueError(message)
    yield store
