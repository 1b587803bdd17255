"""An append-only SQLite file whose rows form chains of hashes.

Every row bears the SHA-256 of its content and of the row before it in its
table. A row that was changed, exchanged or taken out from among others no
longer fits its neighbours. What is cut off at the end of a table fits: the
last hash, which the report states, is what tells.
"""

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence

# The columns of each table, between its number and its hash.
_TABLES = {
  "invitations": "token_sha256 TEXT UNIQUE NOT NULL, time REAL NOT NULL",
  "raters": (
    "rater TEXT UNIQUE NOT NULL, token_sha256 TEXT UNIQUE NOT NULL, "
    "slot INTEGER NOT NULL, language TEXT NOT NULL, time REAL NOT NULL"
  ),
  "events": (
    "time REAL NOT NULL, rater TEXT NOT NULL REFERENCES raters (rater), "
    "kind TEXT NOT NULL, trial INTEGER NOT NULL, data TEXT NOT NULL"
  ),
}
_INDICES = (
  "CREATE UNIQUE INDEX one_vote ON events (rater, trial) WHERE kind = 'vote'",
  "CREATE INDEX by_rater ON events (rater, kind, trial)",
)
# 0: without hashes.
_VERSION = 2
# How long a write waits for another program's before it is given up (s).
_PATIENCE = 5.0


class DamagedError(ValueError):
  """What is stored is not what was written."""


def connect(
  path: str | os.PathLike, durable: bool = True
) -> sqlite3.Connection:
  """Opens the file, and makes it if there is none.

  Args:
    path: the file.
    durable: a transaction ends when it is on the disk.

  Raises:
    ValueError: if another version of the program made it.
    sqlite3.Error: if it cannot be written or is not a database.
  """
  connection = sqlite3.connect(
    path, check_same_thread=False, isolation_level=None, timeout=_PATIENCE
  )
  try:
    connection.execute("PRAGMA journal_mode = WAL")
    level = "FULL" if durable else "OFF"
    connection.execute(f"PRAGMA synchronous = {level}")
    connection.execute("PRAGMA foreign_keys = ON")
    if not _schema(connection):
      with transaction(connection):
        if not _schema(connection):
          _create(connection)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != _VERSION:
      raise ValueError(
        f"{path} is of version {version}, this program writes {_VERSION}: use "
        "the program that made it."
      )
  except BaseException:
    connection.close()
    raise
  return connection


def _create(connection: sqlite3.Connection) -> None:
  # One at a time: executescript would end the transaction.
  for table, columns in _TABLES.items():
    connection.execute(
      f"CREATE TABLE {table} (number INTEGER PRIMARY KEY, {columns}, "
      "chain TEXT NOT NULL)"
    )
    for verb in ("UPDATE", "DELETE"):
      connection.execute(
        f"CREATE TRIGGER {table}_{verb} BEFORE {verb} ON {table} BEGIN SELECT "
        f"RAISE(ABORT, '{table} is append-only'); END"
      )
  for statement in _INDICES:
    connection.execute(statement)
  connection.execute(f"PRAGMA user_version = {_VERSION}")


def _schema(connection: sqlite3.Connection) -> list[tuple]:
  return connection.execute(
    "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
  ).fetchall()


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
  """What is written in it is on the disk at its end, or not written."""
  connection.execute("BEGIN IMMEDIATE")
  try:
    yield
    connection.execute("COMMIT")
  except BaseException:
    if connection.in_transaction:
      connection.execute("ROLLBACK")
    raise


def append(connection: sqlite3.Connection, table: str, *values) -> None:
  """Adds a row, within a transaction.

  Args:
    connection: that writes.
    table: its name.
    values: of all its columns, of the very types that they are read back as.

  Raises:
    sqlite3.IntegrityError: if the row must not be added.
  """
  number, chain = last(connection, table)
  row = (number + 1, *values)
  marks = ", ".join("?" * (len(row) + 1))
  connection.execute(
    f"INSERT INTO {table} VALUES ({marks})", (*row, _link(chain, row))
  )


def last(connection: sqlite3.Connection, table: str) -> tuple[int, str]:
  """Number and hash of a table's last row; 0 and the table's name of none."""
  row = connection.execute(
    f"SELECT number, chain FROM {table} ORDER BY number DESC LIMIT 1"
  ).fetchone()
  return row or (0, table)


def _link(chain: str, row: Sequence) -> str:
  return hashlib.sha256(json.dumps([chain, *row]).encode()).hexdigest()


def check(connection: sqlite3.Connection) -> None:
  """Reads everything and compares it with its hashes.

  Raises:
    DamagedError: if the file is damaged, or a row is not what was written.
  """
  try:
    found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
      raise DamagedError(f"integrity_check: {found}")
    if connection.execute("PRAGMA foreign_key_check").fetchone():
      raise DamagedError("events of raters who are not there")
    with contextlib.closing(sqlite3.connect(":memory:")) as fresh:
      _create(fresh)
      if _schema(fresh) != _schema(connection):
        raise DamagedError("its tables are not those that were made")
    for table in _TABLES:
      _check_chain(connection, table)
  except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
    raise DamagedError(str(error)) from error


def _check_chain(connection: sqlite3.Connection, table: str) -> None:
  chain = table
  rows = connection.execute(f"SELECT * FROM {table} ORDER BY number")
  for place, (*row, found) in enumerate(rows, 1):
    chain = _link(chain, row)
    if row[0] != place or found != chain:
      raise DamagedError(
        f"row {place} of {table} is not what was written (its hash differs)"
      )
