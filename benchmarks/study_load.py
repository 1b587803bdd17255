"""How many raters does the study's server bear, and what does a kill lose?

  python -m benchmarks.study_load STUDY              # 200 raters at once
  python -m benchmarks.study_load STUDY --kills 100  # kill -9, 100 times

STUDY is a folder that `main.py study build` made, without answers. Raters
answer as fast as the clips' length allows, so that every vote meets others.
"""

import argparse
import asyncio
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np

from mmdiff_jax.study.folder import ANSWERS, Study, load_study
from mmdiff_jax.study.serving.conduct import Conduct
from mmdiff_jax.study.settings import SCALES
from mmdiff_jax.study.store import Store

_ROOT = pathlib.Path(__file__).parents[1]


class _Client:
  """One rater's connection.

  Plain sockets: 200 connections of an HTTP library cost more than the server.
  """

  def __init__(self, port: int, token: str):
    self._port, self._token = port, token

  async def __aenter__(self) -> "_Client":
    self._in, self._out = await asyncio.open_connection("127.0.0.1", self._port)
    return self

  async def __aexit__(self, *_: object) -> None:
    self._out.close()

  async def ask(self, path: str, body: dict | None = None) -> dict:
    """The answer's JSON; ConnectionError where the server died."""
    data = json.dumps(body).encode() if body is not None else b""
    self._out.write(
      f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\n"
      f"Host: 127.0.0.1\r\nX-Token: {self._token}\r\n"
      f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
      "".encode()
      + data
    )
    try:
      head = (await self._in.readuntil(b"\r\n\r\n")).decode().lower()
      length = int(head.partition("content-length:")[2].split()[0])
      answer = json.loads(await self._in.readexactly(length))
    except asyncio.IncompleteReadError as error:
      raise ConnectionResetError("the server closed the connection") from error
    if head.split()[1] != "200":
      raise RuntimeError(f"{path}: {head.split()[1]} {answer}")
    return answer


def _serve(study: Study) -> tuple[subprocess.Popen, int]:
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
  process = subprocess.Popen(
    [
      sys.executable, "main.py", "study", "serve", str(study.path),
      f"--port={port}",
    ],
    cwd=_ROOT, stderr=subprocess.DEVNULL,
  )  # fmt: skip
  while True:
    try:
      socket.create_connection(("127.0.0.1", port)).close()
      return process, port
    except ConnectionError:
      if process.poll() is not None:
        raise RuntimeError("the server does not start") from None
      time.sleep(0.05)


def _enter(study: Study, number: int) -> list[str]:
  """Tokens of raters who have passed the check of the headphones."""
  store = Store(study.path / ANSWERS)
  conduct = Conduct(study, store)
  tokens = [conduct.start("en") for _ in range(number)]
  for token in tokens:
    conduct.hear(token, conduct.number_of_tones(token))
  store.close()
  return tokens


async def _answer(
  client: _Client, study: Study, votes: int, start: float
) -> list[float]:
  """Answers some trials; returns the seconds that each vote took."""
  await asyncio.sleep(start)
  state = await client.ask("/api/state")
  taken: list[float] = []
  while len(taken) < votes and state["phase"] == "trial":
    for side in range(len(state["clips"])):
      await client.ask("/api/play", {"trial": state["trial"], "side": side})
      await asyncio.sleep(study.seconds)
    body = {
      "trial": state["trial"],
      "clips": state["clips"],
      "answers": dict.fromkeys(SCALES[state["task"]], 2),
      "fault": False,
    }
    began = time.perf_counter()
    state = await client.ask("/api/vote", body)
    taken.append(time.perf_counter() - began)
  return taken


async def _crowd(
  port: int, study: Study, tokens: list[str], votes: int
) -> list[float]:
  async def one(token: str, start: float) -> list[float]:
    async with _Client(port, token) as client:
      return await _answer(client, study, votes, start)

  # Spread over one clip's length, as people are.
  spread = np.linspace(0, study.seconds, len(tokens)).tolist()
  parts = await asyncio.gather(*map(one, tokens, spread))
  return [taken for part in parts for taken in part]


def load(study: Study, raters: int, votes: int) -> None:
  """Prints the waiting times of votes of many raters at once."""
  tokens = _enter(study, raters)
  process, port = _serve(study)
  try:
    began = time.perf_counter()
    taken = asyncio.run(_crowd(port, study, tokens, votes))
    wall = time.perf_counter() - began
  finally:
    process.kill()
    used = os.wait4(process.pid, 0)[2]
  milliseconds = 1000 * np.array(taken)
  p50, p95, p99 = np.percentile(milliseconds, (50, 95, 99))
  print(
    f"{raters} raters, {len(taken)} votes, {len(taken) / wall:.0f} votes/s: "
    f"p50 {p50:.0f} ms, p95 {p95:.0f} ms, p99 {p99:.0f} ms; the server's CPU: "
    f"{1000 * (used.ru_utime + used.ru_stime) / len(taken):.1f} ms a vote"
  )


def kill(study: Study, kills: int) -> None:
  """Kills the server amid votes and looks for each that was acknowledged."""
  tokens = _enter(study, min(8, len(study.slots)))
  acknowledged: list[tuple[str, int]] = []

  async def until_killed(port: int, process: subprocess.Popen) -> None:
    delay = study.seconds * (1 + rng.random())

    async def one(token: str) -> None:
      with contextlib.suppress(ConnectionError):
        async with _Client(port, token) as client:
          trial = (await client.ask("/api/state"))["trial"]
          while await _answer(client, study, 1, 0.0):
            acknowledged.append((token, trial))
            trial += 1

    async def killer() -> None:
      await asyncio.sleep(delay)
      os.kill(process.pid, signal.SIGKILL)

    await asyncio.gather(killer(), *map(one, tokens))

  rng = np.random.default_rng(0)
  stored: set[tuple[str, int]] = set()
  for _ in range(kills):
    process, port = _serve(study)
    asyncio.run(until_killed(port, process))
    process.wait()
    found, unfinished = _stored(study, tokens)
    stored |= found
    tokens = unfinished or _enter(study, len(tokens))
  lost = set(acknowledged) - stored
  # More may be stored than acknowledged: the answer to a vote can be killed.
  # A vote that was lost and given again would be acknowledged twice.
  print(
    f"{kills} kills: {len(acknowledged)} votes acknowledged, {len(stored)} "
    f"stored; {len(lost)} lost, "
    f"{len(acknowledged) - len(set(acknowledged))} acknowledged twice"
  )


def _stored(
  study: Study, tokens: list[str]
) -> tuple[set[tuple[str, int]], list[str]]:
  """(token and trial of all votes in the database, tokens still to answer)."""
  store = Store(study.path / ANSWERS)
  conduct = Conduct(study, store)
  found = {
    (token, event.trial)
    for token in tokens
    for event in store.events(conduct.rater(token).rater, "vote")
  }
  unfinished = [t for t in tokens if conduct.state(t)["phase"] == "trial"]
  store.close()
  return found, unfinished


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("study")
  parser.add_argument("--raters", type=int, default=200)
  parser.add_argument("--votes", type=int, default=10, help="of each rater")
  parser.add_argument("--kills", type=int, default=0)
  options = parser.parse_args()
  study = load_study(options.study)
  with contextlib.closing(Store(study.path / ANSWERS)) as store:
    if store.raters():
      raise SystemExit(f"error: {study.path} has answers; build another study.")
  if options.kills:
    kill(study, options.kills)
  else:
    load(study, options.raters, options.votes)


if __name__ == "__main__":
  main()
