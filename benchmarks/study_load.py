"""How many raters does the study's server bear, and what does a kill lose?

  python -m benchmarks.study_load STUDY              # 200 raters at once
  python -m benchmarks.study_load STUDY --kills 100  # kill -9, 100 times

STUDY is a folder that `main.py study build` made, without answers. Raters
answer as fast as the clips' length allows, so that every vote meets others.
"""

import argparse
import asyncio
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import httpx
import numpy as np

from mmdiff_jax.study.conduct import Conduct
from mmdiff_jax.study.folder import ANSWERS, Study, load_study
from mmdiff_jax.study.settings import SCALES
from mmdiff_jax.study.store import Store

_ROOT = pathlib.Path(__file__).parents[1]


def _serve(study: Study) -> tuple[subprocess.Popen, str]:
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
  address = f"http://127.0.0.1:{port}"
  while True:
    try:
      httpx.get(address)
      return process, address
    except httpx.TransportError:
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
  client: httpx.AsyncClient, study: Study, token: str, votes: int, start: float
) -> list[float]:
  """Answers some trials; returns the seconds that each vote took."""
  headers = {"X-Token": token}
  await asyncio.sleep(start)
  state = (await client.get("/api/state", headers=headers)).json()
  taken = []
  while len(taken) < votes and state["phase"] == "trial":
    for side in range(len(state["clips"])):
      body = {"trial": state["trial"], "side": side}
      answer = await client.post("/api/play", json=body, headers=headers)
      answer.raise_for_status()
      await asyncio.sleep(study.seconds)
    body = {
      "trial": state["trial"],
      "clips": state["clips"],
      "answers": dict.fromkeys(SCALES[state["task"]], 2),
      "fault": False,
    }
    began = time.perf_counter()
    answer = await client.post("/api/vote", json=body, headers=headers)
    taken.append(time.perf_counter() - began)
    answer.raise_for_status()
    state = answer.json()
  return taken


async def _crowd(
  address: str, study: Study, tokens: list[str], votes: int
) -> list[float]:
  limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
  async with httpx.AsyncClient(
    base_url=address, limits=limits, timeout=60
  ) as client:
    # Spread over one clip's length, as people are.
    spread = np.linspace(0, study.seconds, len(tokens))
    parts = await asyncio.gather(
      *(
        _answer(client, study, token, votes, float(start))
        for token, start in zip(tokens, spread, strict=True)
      )
    )
  return [taken for part in parts for taken in part]


def load(study: Study, raters: int, votes: int) -> None:
  """Prints the waiting times of votes of many raters at once."""
  tokens = _enter(study, raters)
  process, address = _serve(study)
  try:
    began = time.perf_counter()
    taken = asyncio.run(_crowd(address, study, tokens, votes))
    wall = time.perf_counter() - began
  finally:
    process.kill()
    process.wait()
  milliseconds = 1000 * np.array(taken)
  p50, p95, p99 = np.percentile(milliseconds, (50, 95, 99))
  print(
    f"{raters} raters, {len(taken)} votes, {len(taken) / wall:.0f} votes/s: "
    f"p50 {p50:.0f} ms, p95 {p95:.0f} ms, p99 {p99:.0f} ms"
  )


def kill(study: Study, kills: int) -> None:
  """Kills the server amid votes and counts those acknowledged but lost."""
  tokens = _enter(study, min(8, len(study.slots)))
  acknowledged = 0

  async def until_killed(address: str, process: subprocess.Popen) -> int:
    count = 0
    delay = study.seconds * (1 + rng.random())

    async def one(token: str) -> None:
      nonlocal count
      async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        try:
          while await _answer(client, study, token, 1, 0.0):
            count += 1
        except httpx.TransportError:
          pass

    async def killer() -> None:
      await asyncio.sleep(delay)
      os.kill(process.pid, signal.SIGKILL)

    await asyncio.gather(killer(), *(one(token) for token in tokens))
    return count

  rng = np.random.default_rng(0)
  for _ in range(kills):
    process, address = _serve(study)
    acknowledged += asyncio.run(until_killed(address, process))
    process.wait()
    store = Store(study.path / ANSWERS)
    if all(
      store.votes_of(Conduct(study, store).rater(t).rater)
      == len(Conduct(study, store).slot(Conduct(study, store).rater(t)).trials)
      for t in tokens
    ):
      store.close()
      tokens = _enter(study, len(tokens))
    else:
      store.close()
  store = Store(study.path / ANSWERS)
  stored = len(store.events(kind="vote"))
  store.close()
  # More may be stored than acknowledged: the answer to a vote can be killed.
  print(
    f"{kills} kills: {acknowledged} votes acknowledged, {stored} stored, "
    f"{max(0, acknowledged - stored)} lost"
  )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("study")
  parser.add_argument("--raters", type=int, default=200)
  parser.add_argument("--votes", type=int, default=10, help="of each rater")
  parser.add_argument("--kills", type=int, default=0)
  options = parser.parse_args()
  study = load_study(options.study)
  if (study.path / ANSWERS).exists():
    raise SystemExit(f"error: {study.path} has answers; build another study.")
  if options.kills:
    kill(study, options.kills)
  else:
    load(study, options.raters, options.votes)


if __name__ == "__main__":
  main()
