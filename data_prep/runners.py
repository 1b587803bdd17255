"""The work in processes of this program."""

import collections
import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool

from data_prep import clip_task, data_set
from data_prep.clip_task import ClipOptions, ClipTask, prepare_clip, task_key
from data_prep.data_set import Shard
from data_prep.listing import Listed, find_videos
from mmdiff_jax.data.descriptions import Description

# Takes the report of a video that is done.
Advance = Callable[[dict], None]

_PENDING_PER_WORKER = 4


@contextlib.contextmanager
def progress(total: int) -> Iterator[Advance]:
  """Yields a function that advances a bar by a report."""
  from tqdm import tqdm

  skipped = 0
  with tqdm(total=total, unit="video", desc="prepare", disable=None) as bar:

    def advance(report: dict) -> None:
      nonlocal skipped
      if "reason" in report:
        skipped += 1
        bar.set_postfix(skipped=skipped)
      bar.update()

    yield advance


def run_processes(
  tasks: Sequence[ClipTask],
  workers: int,
  advance: Advance,
  work: Callable[[ClipTask], dict] = prepare_clip,
) -> None:
  """Prepares all tasks in `workers` processes (this one if 1)."""
  if workers == 1:
    for task in tasks:
      advance(work(task))
    return
  todo = collections.deque(tasks)
  while todo:
    suspects = _run_pool(todo, workers, advance, work)
    for task in suspects:
      # One of these took the pool down: each alone shows which.
      if _run_pool(collections.deque([task]), 1, advance, work):
        reason = "the decoder crashed on it"
        report = {"source": task.source, "reason": reason}
        advance(clip_task.write_report(task, report))


def _follow_parent() -> None:
  """Makes a worker leave Ctrl-C to its parent, and end when that is killed."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  parent = multiprocessing.parent_process()
  assert parent is not None, "the first process is not a worker"

  def wait() -> None:
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)

  threading.Thread(target=wait, daemon=True).start()


def _run_pool(
  todo: collections.deque[ClipTask],
  workers: int,
  advance: Advance,
  work: Callable[[ClipTask], dict],
) -> list[ClipTask]:
  """Works `todo` off; returns the tasks in flight if a process died."""
  pool = concurrent.futures.ProcessPoolExecutor(
    workers,
    mp_context=multiprocessing.get_context("spawn"),
    initializer=_follow_parent,
  )
  pending: dict[concurrent.futures.Future, ClipTask] = {}
  try:
    while todo or pending:
      while todo and len(pending) < workers * _PENDING_PER_WORKER:
        task = todo.popleft()
        try:
          pending[pool.submit(work, task)] = task
        except BrokenProcessPool:
          return [*pending.values(), task]
      done, _ = concurrent.futures.wait(
        pending, return_when=concurrent.futures.FIRST_COMPLETED
      )
      for future in done:
        if isinstance(future.exception(), BrokenProcessPool):
          return list(pending.values())
        advance(future.result())
        del pending[future]
    return []
  except KeyboardInterrupt:
    # What they write is whole or absent, so that nothing needs an end.
    for process in multiprocessing.active_children():
      process.kill()
    raise
  finally:
    pool.shutdown(wait=True, cancel_futures=True)


class ProcessEngine:
  """Does the steps of a preparation in processes of this program."""

  def __init__(self, parts: pathlib.Path, workers: int):
    """Works in `workers` processes; `parts` is the folder of the parts."""
    self._parts, self._workers = parts, workers

  def find_tasks(
    self, source_dir: str, labels: str, options: ClipOptions
  ) -> tuple[list[ClipTask], Listed]:
    """Lists the videos; see `listing.find_videos`."""
    listed = find_videos(source_dir, labels)
    parts = str(self._parts)
    tasks = [
      ClipTask(
        path,
        name,
        parts,
        task_key(path, name, options, label),
        options,
        Description(label=label),
      )
      for name, path, label in listed.videos
    ]
    return tasks, listed

  def prepare(self, tasks: Sequence[ClipTask]) -> list[dict]:
    """Prepares all videos; returns their reports.

    Raises:
      MissingAudioError: if a video has no sound and that is an error.
    """
    data_set.forget_incomplete(tasks)
    with progress(len(tasks)) as advance:
      run_processes(tasks, self._workers, advance)
    return [clip_task.read_report(task) for task in tasks]

  def write_shards(self, shards: Sequence[Shard]) -> None:
    """Writes the shards."""
    for shard in shards:
      parts = [task.part for task in shard.tasks]
      data_set.write_shard(self._parts / shard.name, parts)

  def move_shards(self, output: pathlib.Path, shards: Sequence[Shard]) -> None:
    """Gives the shards their names in the data set."""
    for shard in shards:
      data_set.move_shard(output, shard.name)
