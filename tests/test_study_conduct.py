"""A session: what is refused, what is never forgotten."""

import concurrent.futures
import sqlite3

import pytest

from mmdiff_jax.study.serving.conduct import Conduct, Refused
from mmdiff_jax.study.serving.tones import tones_wav
from mmdiff_jax.study.store import Event, Store
from tests.study_fixtures import answers, build_small


@pytest.fixture(scope="module")
def study(tmp_path_factory):
  return build_small(tmp_path_factory.mktemp("served"))


class Clock:
  def __init__(self):
    self.now = 1000.0

  def __call__(self):
    return self.now


@pytest.fixture
def place(study, tmp_path):
  clock = Clock()
  store = Store(tmp_path / "answers.db")
  yield Conduct(study, store, clock), store, clock
  store.close()


def begin(conduct):
  token = conduct.start("en")
  assert conduct.hear(token, conduct.number_of_tones(token))
  return token


def answer(conduct, clock, token, value=1):
  """Plays and answers the current trial; returns its number."""
  state = conduct.state(token)
  for side in range(len(state["clips"])):
    conduct.play(token, state["trial"], side)
    clock.now += conduct.study.seconds
  conduct.vote(
    token, state["trial"], state["clips"],
    answers(state["task"], value), False,
  )  # fmt: skip
  return state["trial"]


def refusal(call, *arguments):
  with pytest.raises(Refused) as refused:
    call(*arguments)
  return refused.value.status


def test_a_whole_session_can_be_answered_and_resumed(place):
  conduct, store, clock = place
  token = begin(conduct)
  total = conduct.state(token)["total"]
  for trial in range(total):
    assert answer(conduct, clock, token) == trial
    conduct = Conduct(conduct.study, store, clock)  # As after a restart.
  assert conduct.state(token)["phase"] == "done"
  assert len(store.events(kind="vote")) == total


def test_early_double_and_forged_answers_are_refused(place):
  conduct, store, clock = place
  token = begin(conduct)
  state = conduct.state(token)
  task, clips = state["task"], state["clips"]
  good = answers(task)
  vote = conduct.vote
  assert refusal(vote, token, 0, clips, good, False) == 425  # Never played.
  conduct.play(token, 0, 0)
  clock.now += conduct.study.seconds - 0.3
  assert refusal(vote, token, 0, clips, good, False) == 425
  conduct.play(token, 0, 0)  # Playing again does not set the clock back.
  clock.now += 0.3
  assert refusal(vote, "forged", 0, clips, good, False) == 404
  assert refusal(vote, token, 0, ["0" * 24], good, False) == 404
  other = next(c for c in conduct.study.clips if c not in clips)
  assert refusal(vote, token, 0, [other], good, False) == 404
  assert refusal(vote, token, 1, clips, good, False) == 409
  assert refusal(vote, token, 99, clips, good, False) == 404
  for wrong in ({}, answers(task, 0), answers(task, 7), good | {"more": 1}):
    assert refusal(vote, token, 0, clips, wrong, False) == 422
  assert not store.events(kind="vote")
  vote(token, 0, clips, good, False)
  assert refusal(vote, token, 0, clips, good, False) == 409
  assert len(store.events(kind="vote")) == 1


def test_of_a_pair_both_must_have_ended(place):
  conduct, _, clock = place
  tokens = [begin(conduct) for _ in range(3)]
  token = next(t for t in tokens if conduct.state(t)["task"] == "preference")
  clips = conduct.state(token)["clips"]
  assert refusal(conduct.play, token, 0, 1) == 425
  conduct.play(token, 0, 0)
  assert refusal(conduct.play, token, 0, 1) == 425
  assert refusal(conduct.play, token, 0, 2) == 404
  clock.now += conduct.study.seconds
  conduct.play(token, 0, 1)
  good = answers("preference")
  assert refusal(conduct.vote, token, 0, clips, good, False) == 425
  clock.now += conduct.study.seconds
  conduct.vote(token, 0, clips, good, False)


def test_who_hears_nothing_cannot_take_part(place):
  conduct, _, _ = place
  token = conduct.start("de")
  assert refusal(conduct.play, token, 0, 0) == 409
  for _ in range(3):
    assert not conduct.hear(token, 99)
  assert conduct.state(token)["phase"] == "deaf"
  assert refusal(conduct.hear, token, conduct.number_of_tones(token)) == 409


def test_tones_are_as_many_as_asked_for_and_files_tell_nothing():
  import io
  import wave

  import numpy as np

  sizes = set()
  for count in range(3, 9):
    data = tones_wav(count)
    sizes.add(len(data))
    with wave.open(io.BytesIO(data)) as file:
      audio = np.frombuffer(file.readframes(10**6), "<i2").astype(float)
    loud = np.convolve(np.abs(audio), np.ones(800) / 800, "same") > 20
    assert np.count_nonzero(np.diff(loud.astype(int)) == 1) == count
  assert len(sizes) == 1


def test_places_are_given_once_and_left_ones_again(place):
  conduct, store, clock = place
  slots = len(conduct.study.slots)
  first = begin(conduct)
  tokens = [conduct.start("en") for _ in range(slots - 1)]
  assert len({conduct.rater(t).slot for t in [first, *tokens]}) == slots
  assert refusal(conduct.start, "en") == 403
  while conduct.state(first)["phase"] != "done":
    answer(conduct, clock, first)
  clock.now += 25 * 3600
  again = conduct.start("en")
  assert conduct.rater(again).slot == 1  # Place 0 was finished.
  store.append(Event(clock.now, conduct.rater(again).rater, "play", 0, {}))
  assert conduct.rater(conduct.start("en")).slot == 2


def test_nothing_can_be_changed_or_deleted(place, tmp_path):
  conduct, _, clock = place
  answer(conduct, clock, begin(conduct))
  with sqlite3.connect(tmp_path / "answers.db") as db:
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    for table in ("events", "raters"):
      for verb in (f"DELETE FROM {table}", f"UPDATE {table} SET time = 0"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
          db.execute(verb)
    rater = db.execute("SELECT rater FROM raters").fetchone()[0]
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
      db.execute(
        "INSERT INTO events (time, rater, kind, trial, data, chain) "
        "VALUES (0, ?, 'vote', 0, '{}', '')",
        (rater,),
      )


def test_votes_that_come_at_once_are_all_written_but_each_once(tmp_path):
  store = Store(tmp_path / "crowd.db")
  for number in range(8):
    name = f"rater {number}"
    store.add_rater(name, name, "en", 0.0, [9] * 8, 1.0)
  events = [
    Event(0.0, f"rater {number}", "vote", trial, {})
    for trial in range(9)
    for number in range(8)
  ]
  # Every vote twice, by 16 threads.
  with concurrent.futures.ThreadPoolExecutor(16) as pool:
    accepted = list(pool.map(store.append, events + events))
  assert sum(accepted) == 72
  store.close()
  again = Store(tmp_path / "crowd.db")
  found = {(e.rater, e.trial) for e in again.events()}
  again.close()
  assert found == {(e.rater, e.trial) for e in events}


def test_a_disk_that_fails_acknowledges_nothing(tmp_path):
  store = Store(tmp_path / "full.db")
  store.add_rater("somebody", "", "en", 0.0, [9], 1.0)
  store._writer.execute("PRAGMA max_page_count = 1")  # Full from here on.
  big = {"note": "x" * 100_000}
  with pytest.raises(sqlite3.OperationalError, match="full"):
    store.append(Event(0.0, "somebody", "vote", 0, big))
  store._writer.execute("PRAGMA max_page_count = 100000")
  assert store.votes_of("somebody") == 0
  assert store.append(Event(0.0, "somebody", "vote", 0, big))
  store.close()
