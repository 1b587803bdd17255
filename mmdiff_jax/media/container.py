"""Opens media files: every failure is one clear error."""

import contextlib
import dataclasses
import os
import stat
import time

HDR = ("map", "skip")
# What becomes of a picture of another aspect ratio: black bars, edges cut off,
# or another shape.
FITS = ("pad", "crop", "stretch")

ANIMATED_WEBP = "animated WebP cannot be read"
# How the reason of a file or folder that may not be read begins.
CLOSED = "cannot be opened"
# Bytes of a WebP file up to its marks, and the one of animations.
_WEBP_HEAD, _WEBP_ANIMATED = 21, 0x02

_KINDS = (
  (stat.S_ISDIR, "is a directory"),
  (stat.S_ISFIFO, "is a FIFO, not a regular file"),
  (stat.S_ISSOCK, "is a socket, not a regular file"),
  (stat.S_ISBLK, "is a device, not a regular file"),
  (stat.S_ISCHR, "is a device, not a regular file"),
)


@dataclasses.dataclass(frozen=True)
class ReadOptions:
  """Bounds and choices of reading a file.

  Attributes:
    max_pixels: a file with larger pictures (pixels) is refused.
    time_limit: seconds after which a file is given up.
    hdr: "map" pictures of high dynamic range to BT.709, or "skip" the file.
    threads: of the decoder; 0 takes one per core.
    fit: one of `FITS`.
    hwaccel: kind of hardware that decodes pictures of the kinds it knows, as
      FFmpeg calls it ("cuda"); "" decodes all by the CPU.
  """

  max_pixels: int = 2**26
  time_limit: float = 3600.0
  hdr: str = "map"
  threads: int = 0
  # These are not in `repr`, by which earlier data sets know their options.
  fit: str = dataclasses.field(default="pad", repr=False)
  hwaccel: str = dataclasses.field(default="", repr=False)

  def __post_init__(self):
    if self.fit not in FITS:
      raise ValueError(
        f"fit={self.fit!r} is unknown; allowed are {', '.join(FITS)}."
      )


class MediaError(ValueError):
  """A file that cannot be used; the message is `path: reason`."""

  def __init__(self, path: str | os.PathLike, reason: str):
    super().__init__(f"{os.fspath(path)}: {reason}")
    self.reason = reason

  def __reduce__(self):
    path = str(self).removesuffix(f": {self.reason}")
    return (MediaError, (path, self.reason))


class Deadline:
  """Ends the reading of a file that takes too long."""

  def __init__(self, path: str | os.PathLike, seconds: float):
    """Starts the clock: `check` raises after `seconds`."""
    self._path, self._seconds = path, seconds
    self._end = time.monotonic() + seconds

  def check(self) -> None:
    """Raises MediaError if the time is over."""
    if time.monotonic() > self._end:
      raise MediaError(
        self._path, f"takes longer than {self._seconds:g} s to read"
      )


def why_closed(error: OSError) -> str:
  """Why a file or folder cannot be opened, in words."""
  return f"{CLOSED}: {(error.strerror or str(error)).lower()}"


def irregular(path: str | os.PathLike) -> str | None:
  """Why a path is not to be opened; None for a regular file with content.

  Nothing is opened: a FIFO would wait for ever, a device has no end.
  """
  try:
    status = os.stat(path)
  except FileNotFoundError:
    return "no such file"
  except OSError as error:
    return why_closed(error)
  for is_kind, words in _KINDS:
    if is_kind(status.st_mode):
      return words
  return None if status.st_size else "the file is empty"


def _check_head(path: str | os.PathLike) -> None:
  """Raises MediaError for a file that may not be read, or FFmpeg cannot."""
  try:
    with open(path, "rb") as file:
      head = file.read(_WEBP_HEAD)
  except OSError as error:
    raise MediaError(path, why_closed(error)) from error
  webp = head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X"
  if webp and len(head) == _WEBP_HEAD and head[20] & _WEBP_ANIMATED:
    raise MediaError(path, ANIMATED_WEBP)


def check_hwaccel(name: str) -> None:
  """Raises ValueError where such hardware cannot decode here."""
  import av
  from av.codec.hwaccel import HWAccel, hwdevices_available

  known = hwdevices_available()
  if name not in known:
    raise ValueError(
      f"--hwaccel={name}: this FFmpeg knows {', '.join(known) or 'none'}; leave"
      " it out to decode by the CPU."
    )
  av.logging.set_level(None)
  try:
    # What decodes anything decodes H.264.
    HWAccel(name).create(av.Codec("h264", "r"))
  except (av.error.FFmpegError, NotImplementedError) as error:
    reason = getattr(error, "strerror", None) or "it decodes no H.264"
    raise ValueError(
      f"--hwaccel={name}: this machine has none that can be used ({reason});"
      " leave it out to decode by the CPU."
    ) from error


@contextlib.contextmanager
def opened(
  path: str | os.PathLike, hwaccel: str = "", plays_edits: bool = True
):
  """Opens a local file and turns FFmpeg's errors into MediaError.

  Args:
    path: of the file.
    hwaccel: see `ReadOptions`.
    plays_edits: FFmpeg applies the edit lists of mp4; otherwise all of the
      media is there, at its own times.
  """
  import av
  from av.codec.hwaccel import HWAccel

  path = os.fspath(path)
  problem = irregular(path)
  if problem is not None:
    raise MediaError(path, problem)
  _check_head(path)
  # With any level, even PANIC, PyAV hears the errors of decoder threads and
  # waits for the interpreter, which may be waiting for these threads.
  av.logging.set_level(None)
  try:
    # An absolute path is never taken for a protocol, nor does a play list
    # that poses as a video reach the network.
    with av.open(
      os.path.abspath(path),
      metadata_errors="replace",
      options={
        "protocol_whitelist": "file",
        "ignore_editlist": str(int(not plays_edits)),
      },
      hwaccel=HWAccel(hwaccel) if hwaccel else None,
    ) as container:
      yield container
  except av.error.FFmpegError as error:
    reason = error.strerror or type(error).__name__
    raise MediaError(path, f"damaged or not a media file ({reason})") from error
