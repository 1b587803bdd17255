"""Opens media files: every failure is one clear error."""

import contextlib
import os


class MediaError(ValueError):
  """A file that cannot be used; the message is `path: reason`."""

  def __init__(self, path: str | os.PathLike, reason: str):
    super().__init__(f"{os.fspath(path)}: {reason}")
    self.reason = reason

  def __reduce__(self):
    path = str(self).removesuffix(f": {self.reason}")
    return (MediaError, (path, self.reason))


@contextlib.contextmanager
def opened(path: str | os.PathLike):
  """Opens a local file and turns FFmpeg's errors into MediaError."""
  import av

  path = os.fspath(path)
  if not os.path.exists(path):
    raise MediaError(path, "no such file")
  if os.path.isdir(path):
    raise MediaError(path, "is a directory")
  if os.path.getsize(path) == 0:
    raise MediaError(path, "the file is empty")
  av.logging.set_level(av.logging.PANIC)
  try:
    # An absolute path is never taken for a protocol, nor does a play list
    # that poses as a video reach the network.
    with av.open(
      os.path.abspath(path),
      metadata_errors="replace",
      options={"protocol_whitelist": "file"},
    ) as container:
      yield container
  except av.error.FFmpegError as error:
    reason = error.strerror or type(error).__name__
    raise MediaError(path, f"damaged or not a media file ({reason})") from error
