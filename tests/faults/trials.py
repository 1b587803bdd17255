"""Tries of each kind of fault; each yields what was wrong, or nothing."""

import contextlib
import os
import pathlib
import random
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.faults.commands import COMMANDS, ROOT, Command
from tests.faults.damage import HollowError
from tests.faults.processes import Child, Point, call

# Of ours, or the last line of a traceback; not a "standard error".
_ERROR = re.compile(r"^error: |^[\w.]+(Error|Exception)\b|^Traceback")
# What only a run under way, or one that was killed, may leave.
_LITTER = (".tmp", ".parts", ".building", ".lock", ".probe")


class Trials:
  """Tries of one command, against what an undisturbed run leaves."""

  def __init__(self, command: Command, work: pathlib.Path, rng: random.Random):
    """Runs the command once; `work` holds `inputs`."""
    self.command = command
    self._inputs, self._out = work / "inputs", work / "out"
    self._rng = rng
    self._fresh()
    started = time.monotonic()
    child = self._start()
    if child.wait() != 0:
      raise RuntimeError(child.text())
    self._seconds = time.monotonic() - started
    self._events = child.events
    self._expected = call(command.result, self._out)
    self._check_harness()
    self._largest = max(
      path.stat().st_size for path in self._out.rglob("*") if path.is_file()
    )

  def _check_harness(self) -> None:
    """Raises unless what is undisturbed is right and losses are found.

    Losses are one changed byte, a file that is gone, and one that was left.
    """
    if wrong := self._check_result():
      raise HollowError(f"{self.command.name}: undisturbed, and {wrong}")
    before = {p: p.read_bytes() for p in self._out.rglob("*") if p.is_file()}

    def restore() -> None:
      for path, content in before.items():
        path.write_bytes(content)

    self.command.plant(self._out)
    (spoilt,) = (p for p in before if p.read_bytes() != before[p])
    self._expect_loss("a changed byte")
    spoilt.unlink()
    self._expect_loss("a file that is gone")
    restore()
    litter = spoilt.with_name(f".{spoilt.name}.0123456789abcdef.tmp")
    litter.touch()
    self._expect_loss("a file that was left")
    litter.unlink()

  def _expect_loss(self, what: str) -> None:
    if not self._check_result():
      raise HollowError(f"{self.command.name}: {what} is not found")

  def _fresh(self) -> None:
    self.command.fresh(self._inputs, self._out)

  def _start(self, **how: Any) -> Child:
    return self.command.start(self._inputs, self._out, **how)

  def _litter(self) -> list[str]:
    return [
      str(path.relative_to(self._out))
      for path in self._out.rglob("*")
      if any(mark in path.name for mark in (*_LITTER, "orbax-checkpoint-tmp"))
    ]

  def _check_result(self) -> str:
    """What is wrong with the results, if anything is."""
    try:
      if call(self.command.result, self._out) != self._expected:
        return "another result"
    except RuntimeError as error:
      return f"no whole result: {str(error).strip().splitlines()[-1]}"
    litter = self._litter()
    return f"left behind: {', '.join(litter)}" if litter else ""

  def _run_again(self) -> str:
    """Runs the command anew; what is wrong then, if anything is."""
    child = self._start()
    status = child.wait()
    if status is None:
      os.kill(child.pid, signal.SIGKILL)
      return "hangs"
    wrong = self._check_result()
    # One that finds its results there may refuse to make them again.
    return wrong and f"{wrong} ({_last_line(child.text())})"

  def kill(self) -> tuple[str, str] | None:
    """Kills it at a moment or ahead of an event, and runs it again.

    Returns:
      Where it was killed and what was wrong; None if it ended before.
    """
    self._fresh()
    if self._rng.random() < 0.5:
      seconds = self._rng.uniform(0, self._seconds)
      where = f"after {seconds:.2f} s"
      child = self._start()
      status = child.wait(seconds)
      if status is None:
        os.kill(child.pid, signal.SIGKILL)
        status = child.wait()
    else:
      number = self._rng.randrange(self._events)
      where = f"ahead of event {number}"
      child = self._start(point=Point(number))
      status = child.wait()
    orphans = child.has_orphans()
    if status != -signal.SIGKILL:
      return None
    return where, "its processes live on" if orphans else self._run_again()

  def fill_disk(self) -> tuple[str, str] | None:
    """Lets no file grow beyond a size; then runs it again without the limit."""
    self._fresh()
    # Small sizes too: by order of magnitude.
    limit = int(self._largest ** self._rng.random()) - 1
    where = f"files of at most {limit} bytes"
    child = self._start(file_limit=limit)
    status = child.wait()
    if status is None:
      os.kill(child.pid, signal.SIGKILL)
      return where, "hangs"
    text = child.text()
    if status == 0:
      return where, self._check_result()
    errors = [line for line in text.splitlines() if _ERROR.search(line)]
    if len(errors) != 1 or not errors[0].startswith("error: "):
      return where, f"not one line but {errors[:3]} in {len(text)} characters"
    # Of a place that it writes to, be it among its inputs.
    if str(self._out.parent) not in errors[0]:
      return where, f"no path: {errors[0]}"
    return where, self._run_again()

  def meet(self) -> tuple[str, str] | None:
    """Starts a second process while the first is held at an event."""
    self._fresh()
    number = self._rng.randrange(self._events)
    where = f"held ahead of event {number}"
    first = self._start(point=Point(number, signal.SIGSTOP))
    if not first.wait_until_held():
      return None
    in_use = any(self._out.rglob(".lock"))
    second = self._start()
    status, text = second.wait(), second.text()
    os.kill(first.pid, signal.SIGCONT)
    if status is None or first.wait() is None:
      return where, "hangs"
    refused = status != 0 and "in use by process" in _last_line(text)
    if self.command.locked and in_use and not refused:
      return where, f"the second is not refused: {_last_line(text)}"
    return where, self._check_result()


def _last_line(text: str) -> str:
  return (text.strip().splitlines() or [""])[-1][:300]


class HostTrials:
  """Kills of one of two hosts that train together."""

  def __init__(self, work: pathlib.Path, rng: random.Random):
    """Trains once on two hosts."""
    self._command, self._rng = COMMANDS["train"], rng
    self._inputs, self._out = work / "inputs", work / "out"
    started = time.monotonic()
    self._command.fresh(self._inputs, self._out)
    self._finish(self._start())
    self._seconds = time.monotonic() - started
    self._expected = call(self._command.result, self._out)
    self._command.plant(self._out)
    if self._compare() == "":
      raise HollowError("two hosts: a planted loss is not found")

  def _compare(self) -> str:
    """What is wrong with the results, if anything is."""
    try:
      same = call(self._command.result, self._out) == self._expected
    except RuntimeError as error:
      return _last_line(str(error))
    return "" if same else "another result"

  def _start(self) -> list[Child]:
    with socket.socket() as probe:
      probe.bind(("localhost", 0))
      address = f"localhost:{probe.getsockname()[1]}"
    line = self._command.line(self._inputs, self._out)

    def host(number: int) -> Child:
      flags = [
        "--distributed", f"--coordinator={address}", "--num_hosts=2",
        f"--host={number}",
      ]  # fmt: skip
      # A program of its own: it starts its own command line once more.
      program = [sys.executable, str(ROOT / "main.py"), *line, *flags]
      return Child(lambda: os.execv(program[0], program))

    return [host(0), host(1)]

  def _finish(self, hosts: list[Child]) -> None:
    for child in hosts:
      if child.wait() != 0:
        raise RuntimeError(_last_line(child.text()))

  def kill(self) -> tuple[str, str] | None:
    """Kills one, the other some seconds later, and runs both again."""
    self._command.fresh(self._inputs, self._out)
    hosts = self._start()
    victim = self._rng.randrange(2)
    seconds = self._rng.uniform(0, self._seconds)
    where = f"host {victim} after {seconds:.2f} s"
    ended = hosts[victim].wait(seconds) is not None
    for number in (victim, 1 - victim):
      with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(hosts[number].pid, signal.SIGKILL)
        hosts[number].wait()
      time.sleep(self._rng.uniform(0, 2))
    if ended:
      return None
    try:
      self._finish(self._start())
    except RuntimeError as error:
      return where, _last_line(str(error))
    return where, self._compare()


def repeat(
  trial: Callable[[], tuple[str, str] | None], tries: int
) -> Iterator[tuple[str, str]]:
  """Results of `tries` tries; those that met nothing are made again."""
  done = 0
  for _ in range(3 * tries):
    if done == tries:
      return
    result = trial()
    if result is not None:
      done += 1
      yield result
