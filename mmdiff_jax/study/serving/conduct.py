"""The rules of taking part, without a web around them.

The server believes no page: it knows when a clip's playing was announced, and
an answer before the clip can have ended is refused, as is a second one, one
out of turn and one about other clips than were shown.
"""

import contextlib
import hashlib
import logging
import os
import secrets
import time
from collections.abc import Callable
from typing import Any

from mmdiff_jax.study.folder import ANSWERS, Slot, Study, load_study
from mmdiff_jax.study.settings import SCALES
from mmdiff_jax.study.store import Event, Rater, Store

_LOGGER = logging.getLogger(__name__)
# Tones of the headphones' check: 3 to 8, three attempts.
_TONES, _ATTEMPTS = range(3, 9), 3
# Clocks of players and servers differ a little (seconds).
_SLACK = 0.1


class Refused(Exception):
  """Something against the rules: an HTTP status and the reason."""

  def __init__(self, status: int, reason: str):
    super().__init__(reason)
    self.status, self.reason = status, reason


class Conduct:
  """Answers what a rater's page asks."""

  def __init__(
    self, study: Study, store: Store, clock: Callable[[], float] = time.time
  ):
    self.study, self.store, self._clock = study, store, clock
    self._lengths = [len(slot.trials) for slot in study.slots]
    # Facts that no later event can change.
    self._raters: dict[str, Rater] = {}
    self._hearing: set[str] = set()

  def start(self, language: str, invitation: str = "") -> str:
    """Takes a new rater in; returns the token to come back by.

    Args:
      language: of the texts.
      invitation: the token that the rater was sent, which stays the rater's;
        whoever uses it again comes back.
    """
    if language not in self.study.settings.languages:
      raise Refused(422, f"There are no texts in {language!r}.")
    if invitation and not self.store.is_invited(_digest(invitation)):
      raise Refused(403, "There is no such invitation.")
    token = invitation or secrets.token_urlsafe(16)
    slot = self.store.add_rater(
      secrets.token_hex(4),
      _digest(token),
      language,
      self._clock(),
      self._lengths,
      self.study.settings.patience * 3600,
    )
    if slot is None:
      raise Refused(403, "The study is full: all places are taken.")
    return token

  def invite(self, count: int) -> list[str]:
    """Makes so many invitations; returns their tokens, which nobody keeps."""
    tokens = [secrets.token_urlsafe(16) for _ in range(count)]
    self.store.invite(map(_digest, tokens), self._clock())
    return tokens

  def awaits(self, token: str) -> bool:
    """Whether a token is an invitation that nobody has used yet."""
    digest = _digest(token)
    return self.store.is_invited(digest) and self.store.rater(digest) is None

  def rater(self, token: str) -> Rater:
    """The rater of a token."""
    digest = _digest(token)
    if digest not in self._raters:
      rater = self.store.rater(digest)
      if rater is None:
        raise Refused(404, "This link belongs to nobody.")
      self._raters[digest] = rater
    return self._raters[digest]

  def slot(self, rater: Rater) -> Slot:
    """The place that a rater has."""
    return self.study.slots[rater.slot]

  def state(self, token: str) -> dict[str, Any]:
    """What the page should show now, and what it may load ahead."""
    rater = self.rater(token)
    slot = self.slot(rater)
    state: dict[str, Any] = {"task": slot.task, "total": len(slot.trials)}
    state["trial"] = trial = self.store.votes_of(rater.rater)
    if not self._hears(rater):
      left = _ATTEMPTS - len(self._tones(rater))
      return state | {"phase": "tones" if left else "deaf", "attempts": left}
    if trial == len(slot.trials):
      return state | {"phase": "done"}
    shown = slot.trials[trial]
    following = slot.trials[trial + 1 : trial + 2]
    return state | {
      "phase": "trial",
      "training": shown.kind == "training",
      "clips": list(shown.clips),
      "ahead": [clip for t in following for clip in t.clips],
      "seconds": self.study.seconds,
    }

  def number_of_tones(self, token: str) -> int:
    """How many tones this rater's check plays in this attempt."""
    rater = self.rater(token)
    attempt = len(self._tones(rater))
    seed = hashlib.sha256(f"{token} {attempt}".encode()).digest()
    return _TONES[seed[0] % len(_TONES)]

  def hear(self, token: str, count: int) -> bool:
    """Takes the counted tones; whether they were right."""
    rater = self.rater(token)
    heard = self._tones(rater)
    if "passed" in heard or len(heard) >= _ATTEMPTS:
      raise Refused(409, "The check of the headphones is over.")
    right = count == self.number_of_tones(token)
    outcome = "passed" if right else "failed"
    self._append(rater, "tones", -1, {"outcome": outcome})
    return right

  def play(self, token: str, trial: int, side: int) -> None:
    """Notes that a clip of the current trial begins to play."""
    rater, shown = self._current(token, trial)
    if not 0 <= side < len(shown.clips):
      raise Refused(404, f"Trial {trial} has no clip {side}.")
    begun = self._begun(rater, trial)
    if side > 0 and not self._over(begun.get(side - 1)):
      raise Refused(425, "The other clip is still playing.")
    if side not in begun:
      self._append(rater, "play", trial, {"side": side})

  def vote(
    self,
    token: str,
    trial: int,
    clips: list[str],
    answers: dict[str, int],
    fault: bool,
  ) -> None:
    """Takes an answer; on return it is on the disk.

    Args:
      token: of the rater.
      trial: number of the trial, which must be the current one.
      clips: ids of what was shown.
      answers: value on each of the task's scales, from 1.
      fault: whether the rater ticked that something is broken.

    Raises:
      Refused: 404 forged token or clips, 409 second vote or out of turn, 422
        values that do not exist, 425 before the clip can have ended.
    """
    rater, shown = self._current(token, trial)
    if tuple(clips) != shown.clips:
      raise Refused(404, "These clips do not belong to this trial.")
    task = self.slot(rater).task
    scales = SCALES[task]
    if set(answers) != set(scales):
      raise Refused(422, f"Answer {', '.join(scales)}; got {list(answers)}.")
    for scale, value in answers.items():
      if isinstance(value, bool) or not 1 <= value <= scales[scale]:
        raise Refused(422, f"{scale} is 1 to {scales[scale]}, got {value}.")
    begun = self._begun(rater, trial)
    if not all(self._over(begun.get(i)) for i in range(len(clips))):
      raise Refused(425, "The clip cannot have been seen to its end yet.")
    end = begun[len(clips) - 1] + self.study.seconds
    data = {
      "task": task,
      "kind": shown.kind,
      "clips": clips,
      "answers": answers,
      "fault": bool(fault),
      "seconds": round(max(0.0, self._clock() - end), 3),
    }
    if not self._append(rater, "vote", trial, data):
      raise Refused(409, "This trial is answered already.")

  def _current(self, token: str, trial: int):
    rater = self.rater(token)
    if not self._hears(rater):
      raise Refused(409, "First comes the check of the headphones.")
    trials, current = self.slot(rater).trials, self.store.votes_of(rater.rater)
    if not 0 <= trial < len(trials):
      raise Refused(404, f"There is no trial {trial}.")
    if trial < current:
      raise Refused(409, "This trial is answered already.")
    if trial > current:
      raise Refused(409, f"Trial {current} comes first.")
    return rater, trials[trial]

  def _begun(self, rater: Rater, trial: int) -> dict[int, float]:
    events = self.store.events(rater.rater, "play", trial)
    return {e.data["side"]: e.time for e in reversed(events)}

  def _over(self, begun: float | None) -> bool:
    if begun is None:
      return False
    return self._clock() - begun >= self.study.seconds - _SLACK

  def _tones(self, rater: Rater) -> list[str]:
    events = self.store.events(rater.rater, "tones")
    return [event.data["outcome"] for event in events]

  def _hears(self, rater: Rater) -> bool:
    if rater.rater not in self._hearing:
      if "passed" not in self._tones(rater):
        return False
      self._hearing.add(rater.rater)
    return True

  def _append(self, rater: Rater, kind: str, trial: int, data: dict) -> bool:
    return self.store.append(
      Event(self._clock(), rater.rater, kind, trial, data)
    )


def invite(path: str | os.PathLike, count: int, address: str) -> list[str]:
  """Makes invitations to a study, which may be being served.

  Args:
    path: its folder.
    count: how many.
    address: of the server, as raters reach it.

  Returns:
    The links; nothing keeps them.

  Raises:
    ValueError: if there is no study.
  """
  study = load_study(path)
  with contextlib.closing(Store(study.path / ANSWERS)) as store:
    tokens = Conduct(study, store).invite(count)
    if store.invitations() > len(study.slots):
      _LOGGER.warning(
        "%d invitations, but places for %d raters: who comes late finds the "
        "study full.", store.invitations(), len(study.slots),
      )  # fmt: skip
  return [f"{address.rstrip('/')}/s/{token}" for token in tokens]


def _digest(token: str) -> str:
  return hashlib.sha256(token.encode()).hexdigest()
