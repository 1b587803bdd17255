"""Runs the per-video work in processes, or in an Apache Beam pipeline."""

import collections
import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool

from data_prep import clip_task
from data_prep.clip_task import ClipTask, prepare_clip

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
  assert parent is not None, "the first process is no worker"

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


def check_beam() -> None:
  """Raises ValueError where Apache Beam is not installed."""
  try:
    import apache_beam  # noqa: F401
  except ImportError as error:
    raise ValueError(
      "--runner=beam needs Apache Beam: pip install apache-beam, or"
      " use --runner=processes."
    ) from error


def run_beam(tasks: Sequence[ClipTask], workers: int, advance: Advance) -> None:
  """Prepares all tasks in a Beam pipeline; the parts carry the results."""
  import apache_beam as beam
  from apache_beam.options.pipeline_options import PipelineOptions

  # DirectRunner by name: the default one downloads a program.
  mode = "in_memory" if workers == 1 else "multi_processing"
  options = PipelineOptions(
    flags=[],
    runner="DirectRunner",
    direct_num_workers=workers,
    direct_running_mode=mode,
  )
  with beam.Pipeline(options=options) as pipeline:
    videos = pipeline | "videos" >> beam.Create(tasks)
    videos = videos | "spread" >> beam.Reshuffle()
    _ = videos | "prepare" >> beam.Map(prepare_clip)
  for task in tasks:
    advance(clip_task.read_report(task))
