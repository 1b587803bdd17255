"""Where a run's time goes, by a clock that the tests turn."""

import pytest

from mmdiff_jax.training import goodput
from mmdiff_jax.training.goodput import Goodput


@pytest.fixture
def clock(monkeypatch):
  """A list whose one element is the time."""
  now = [100.0]
  monkeypatch.setattr(goodput.time, "perf_counter", lambda: now[0])
  return now


def spend(clock, seconds):
  clock[0] += seconds


def test_every_second_goes_to_one_activity(clock):
  run = Goodput()
  spend(clock, 1)
  with run.doing("compiling"):
    spend(clock, 3)
  run.begin_steps()
  for _ in range(4):
    with run.doing("input"):
      spend(clock, 0.5)
    spend(clock, 2)
  with run.doing("saving"):
    spend(clock, 2)
    with run.doing("evaluation"):
      spend(clock, 4)
  scalars = run.scalars()
  assert scalars["run_seconds"] == 20
  expected = {
    "starting": 1, "compiling": 3, "input": 2, "steps": 8, "saving": 2,
    "evaluation": 4, "previews": 0, "lost": 0,
  }  # fmt: skip
  for activity, seconds in expected.items():
    assert scalars[f"time_{activity}"] == pytest.approx(seconds / 20)
  assert "steps 40%, evaluation 20%, compiling 15%" in run.in_words()


def test_what_was_done_after_the_checkpoint_is_lost(clock):
  first = Goodput()
  first.begin_steps()
  records = []
  for step in (10, 20, 30):
    with first.doing("input"):
      spend(clock, 1)
    spend(clock, 9)
    records.append({"step": step} | first.scalars())
  # Records without time, as of a held-out loss, say nothing of it.
  records.append({"step": 30, "heldout_loss": 1.0})
  again = Goodput()
  again.go_on(records, step=10)
  spend(clock, 10)
  scalars = again.scalars()
  assert scalars["run_seconds"] == pytest.approx(40)
  assert scalars["time_lost"] == pytest.approx(20 / 40)
  assert scalars["time_starting"] == pytest.approx(10 / 40)
  assert scalars["time_steps"] == pytest.approx(9 / 40)
  # A second restart keeps what the first one lost.
  third = Goodput()
  third.go_on([*records[:1], {"step": 20} | scalars], step=20)
  assert third.scalars()["time_lost"] == pytest.approx(20 / 40)


def test_a_new_run_has_lost_nothing(clock):
  run = Goodput()
  run.go_on([], 0)
  spend(clock, 5)
  assert run.scalars()["time_lost"] == 0
