"""Goodput: what share of a run's time its steps take, and what takes the rest.

The shares are of the whole run, earlier starts included: each record of the
log has them, and the next start continues from there.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# What a run may be doing. What is not named is a step; "lost" are steps that
# were behind the checkpoint from which a run went on.
ACTIVITIES = (
  "steps",
  "input",
  "starting",
  "compiling",
  "saving",
  "previews",
  "evaluation",
  "lost",
)
_SECONDS = "run_seconds"


def _key(activity: str) -> str:
  return f"time_{activity}"


class Goodput:
  """A clock that always runs for one activity."""

  def __init__(self) -> None:
    """Starts the clock, with "starting"."""
    self._seconds = dict.fromkeys(ACTIVITIES, 0.0)
    self._now = "starting"
    self._since = time.perf_counter()

  def _switch(self, activity: str) -> str:
    """Books the time until now; returns what it went to."""
    now, before = time.perf_counter(), self._now
    self._seconds[before] += now - self._since
    self._now, self._since = activity, now
    return before

  def begin_steps(self) -> None:
    """Says that steps take the time from here on."""
    self._switch("steps")

  @contextlib.contextmanager
  def doing(self, activity: str) -> Iterator[None]:
    """Books the time spent within it to one of `ACTIVITIES`."""
    before = self._switch(activity)
    try:
      yield
    finally:
      self._switch(before)

  def go_on(self, records: Sequence[Mapping[str, Any]], step: int) -> None:
    """Adds the time of earlier starts of the run, by its log.

    Args:
      records: of the log, all that were written.
      step: from which the run goes on; what was done after it is lost.
    """
    timed = [record for record in records if _SECONDS in record]
    before = [record for record in timed if record["step"] <= step]
    seconds = _seconds_of(before[-1]) if before else {}
    for activity, spent in seconds.items():
      self._seconds[activity] += spent
    total = timed[-1][_SECONDS] if timed else 0.0
    self._seconds["lost"] += max(0.0, total - sum(seconds.values()))

  def scalars(self) -> dict[str, float]:
    """Seconds of the run, and the share of each activity, for the log."""
    self._switch(self._now)
    total = sum(self._seconds.values())
    shares = {
      _key(activity): spent / max(total, 1e-9)
      for activity, spent in self._seconds.items()
    }
    return {_SECONDS: total} | shares

  def in_words(self) -> str:
    """The shares in one line, the largest first."""
    scalars = self.scalars()
    shares = sorted(
      ((scalars[_key(activity)], activity) for activity in ACTIVITIES),
      reverse=True,
    )
    parts = [f"{activity} {x:.0%}" for x, activity in shares if x >= 0.005]
    return f"Time, {scalars[_SECONDS]:.0f} s in all: {', '.join(parts)}."


def _seconds_of(record: Mapping[str, Any]) -> dict[str, float]:
  """Seconds by activity of a record of the log."""
  total = record[_SECONDS]
  return {
    activity: total * record.get(_key(activity), 0.0) for activity in ACTIVITIES
  }
