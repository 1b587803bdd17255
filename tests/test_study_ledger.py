"""What is stored is what was written, or the damage is named."""

import contextlib
import hashlib
import json
import random
import re
import sqlite3

import pytest

from mmdiff_jax.study.folder import (
  STUDY,
  Slot,
  Study,
  Trial,
  load_study,
  write_study,
)
from mmdiff_jax.study.store import Event, Store, answered
from tests.study_fixtures import small_settings

RATERS, TRIALS = 4, 6


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  """A closed database of some votes, as bytes, and what it holds."""
  path = tmp_path_factory.mktemp("ledger") / "answers.db"
  with contextlib.closing(Store(path)) as store:
    store.invite(["a" * 64, "b" * 64], 5.0)
    for number in range(RATERS):
      name = f"rater{number}"
      store.add_rater(name, f"{number:064d}", "en", 10.0, [TRIALS] * 9, 1.0)
    for trial in range(TRIALS):
      for number in range(RATERS):
        data = {
          "task": "opinion", "kind": "regular", "clips": ["c" * 24],
          "answers": {"video": 1 + (trial + number) % 5}, "fault": False,
          "seconds": 1.25,
        }  # fmt: skip
        event = Event(20.5 + trial, f"rater{number}", "vote", trial, data)
        assert store.append(event)
    content = store.raters(), store.events(), store.invitations()
  assert not path.with_name("answers.db-wal").exists()
  return path.read_bytes(), content


def read(path):
  with answered(path) as store:
    return store.raters(), store.events(), store.invitations()


def changed(tmp_path, data, script):
  """The file after an SQL script of somebody who gets round the triggers."""
  path = tmp_path / "answers.db"
  path.write_bytes(data)
  with contextlib.closing(sqlite3.connect(path)) as db:
    triggers = db.execute(
      "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
    ).fetchall()
    for name, _ in triggers:
      db.execute(f"DROP TRIGGER {name}")
    db.executescript(script)
    for _, sql in triggers:
      db.execute(sql)
    db.commit()
  return path


def test_what_was_written_is_read(tmp_path, written):
  data, content = written
  path = changed(tmp_path, data, "")
  assert read(path) == content
  assert len(content[1]) == RATERS * TRIALS


@pytest.mark.parametrize(
  ("script", "named"),
  [
    # One digit of one answer.
    ("""UPDATE events SET data = replace(data, '"video": 3', '"video": 4')
        WHERE number = 3""", "row 3 of events"),
    ("UPDATE events SET time = time + 1e-6 WHERE number = 4", "4 of events"),
    ("UPDATE raters SET slot = 8 WHERE number = 2", "row 2 of raters"),
    ("UPDATE invitations SET time = 6 WHERE number = 2", "2 of invitations"),
    ("DELETE FROM events WHERE number = 5", "row 5 of events"),
    ("DELETE FROM raters WHERE number = 4", "raters who are not there"),
    # Two votes exchanged, each with its hash.
    ("""UPDATE events SET number = -1 WHERE number = 5;
        UPDATE events SET number = 5 WHERE number = 9;
        UPDATE events SET number = 9 WHERE number = -1""", "row 5 of events"),
    ("""INSERT INTO events SELECT 25, time, rater, 'play', 99, data, chain
        FROM events WHERE number = 24""", "row 25 of events"),
    ("CREATE TRIGGER more AFTER INSERT ON events BEGIN SELECT 1; END",
     "tables are not those"),
    ("DROP INDEX one_vote", "tables are not those"),
  ],
)  # fmt: skip
def test_a_change_that_sqlite_accepts_is_noticed(
  tmp_path, written, script, named
):
  path = changed(tmp_path, written[0], script)
  with pytest.raises(ValueError, match=f"answers.db is damaged: .*{named}"):
    read(path)


def test_flipped_bits_are_refused_or_change_nothing(tmp_path, written):
  data, content = written
  path, rng = tmp_path / "answers.db", random.Random(0)
  refused = 0
  for _ in range(400):
    position = rng.randrange(8 * len(data))
    flipped = bytearray(data)
    flipped[position // 8] ^= 1 << position % 8
    path.write_bytes(flipped)
    for suffix in ("-wal", "-shm"):
      path.with_name(f"answers.db{suffix}").unlink(missing_ok=True)
    try:
      assert read(path) == content, position
    except (ValueError, sqlite3.Error):
      refused += 1
  assert refused > 60  # Most of a small file is free.


def test_any_changed_digit_of_a_vote_is_noticed(tmp_path, written):
  """Flips of the very bytes that hold votes, which SQLite does not check."""
  data, _ = written
  path = tmp_path / "answers.db"
  digits = [m.start() for m in re.finditer(rb'(?<="video": )[1-5]', data)]
  assert len(digits) == RATERS * TRIALS
  for place in digits:
    flipped = bytearray(data)
    flipped[place] ^= 1  # 1 for 0, 2 for 3, 4 for 5.
    path.write_bytes(flipped)
    with pytest.raises(ValueError, match="not what was written"):
      read(path)


def test_a_database_of_another_version_is_named(tmp_path):
  path = tmp_path / "answers.db"
  with contextlib.closing(sqlite3.connect(path)) as db:
    db.execute("CREATE TABLE raters (rater TEXT PRIMARY KEY)")
  with pytest.raises(ValueError, match="version 0, this program writes 2"):
    Store(path)


def test_the_last_hash_contains_all_before_it(tmp_path, written):
  data, _ = written
  path = tmp_path / "answers.db"
  path.write_bytes(data)
  with contextlib.closing(Store(path)) as store:
    before = store.last_hash()
    event = Event(99.0, "rater0", "play", 0, {"side": 0})
    store.append(event)
    assert store.last_hash() != before
  with contextlib.closing(sqlite3.connect(path)) as db:
    rows = db.execute("SELECT * FROM events ORDER BY number").fetchall()
  chain = "events"
  for *row, found in rows:
    chain = hashlib.sha256(json.dumps([chain, *row]).encode()).hexdigest()
    assert chain == found


@pytest.fixture
def sealed(tmp_path):
  """A small study.json."""
  trials = (Trial("regular", ("c" * 24,)), Trial("trap", ("d" * 24,)))
  study = Study(
    path=tmp_path, settings=small_settings(), seconds=0.8, size=(32, 32),
    clips={"c" * 24: "0" * 64, "d" * 24: "1" * 64}, texts={},
    slots=(Slot("turing", trials),), truth_sha256="2" * 64,
  )  # fmt: skip
  write_study(study)
  return study


def test_any_changed_digit_of_a_study_is_noticed(sealed):
  path = sealed.path / STUDY
  text = path.read_text()
  assert load_study(sealed.path) == sealed
  for match in re.finditer(r"\d", text):
    other = str((int(match[0]) + 1) % 10)
    path.write_text(text[: match.start()] + other + text[match.end() :])
    with pytest.raises(ValueError, match="not what was built"):
      load_study(sealed.path)


def test_flipped_bits_of_a_study_are_refused_or_change_nothing(sealed):
  path, rng = sealed.path / STUDY, random.Random(1)
  data = path.read_bytes()
  for _ in range(400):
    position = rng.randrange(8 * len(data))
    flipped = bytearray(data)
    flipped[position // 8] ^= 1 << position % 8
    path.write_bytes(flipped)
    with contextlib.suppress(ValueError):
      assert load_study(sealed.path) == sealed, position


def test_a_study_without_a_checksum_is_refused(sealed):
  path = sealed.path / STUDY
  content = json.loads(path.read_text())
  del content["checksum"]
  path.write_text(json.dumps(content))
  with pytest.raises(ValueError, match="no checksum"):
    load_study(sealed.path)
