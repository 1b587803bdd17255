"""TensorBoard's event files."""

import pathlib
import time
from typing import Any

from mmdiff_jax.disk.files import naming


class EventFile:
  """Scalars, pictures, sounds and settings of a run, for TensorBoard.

  Every event is written by the caller's own thread, so that an error is the
  caller's: tensorboardX's `SummaryWriter` has a thread that dies of it, and
  then waits for that thread for ever.
  """

  def __init__(self, folder: pathlib.Path, *, first_step: int):
    """Opens a new file in `folder`; it replaces what is after `first_step`."""
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    self._folder = folder
    folder.mkdir(parents=True, exist_ok=True)
    with naming(folder):
      self._writer = EventsWriter(str(folder / "events"))
    self._write(
      Event(
        step=first_step + 1, session_log=SessionLog(status=SessionLog.START)
      )
    )

  def add(self, summary: Any, step: int = 0) -> None:
    """Writes what a function of `tensorboardX.summary` made.

    Raises:
      OSError: naming the folder.
    """
    from tensorboardX.proto.event_pb2 import Event

    self._write(Event(summary=summary, step=step))

  def _write(self, event: Any) -> None:
    event.wall_time = time.time()
    with naming(self._folder):
      self._writer.write_event(event)

  def flush(self) -> None:
    """Brings the file to the disk."""
    with naming(self._folder):
      self._writer.flush()

  def close(self) -> None:
    """Flushes and closes the file."""
    with naming(self._folder):
      self._writer.close()
