"""Progress bars that stay readable in log files."""

import sys
from typing import Any

# Seconds between two lines where the output is not a terminal.
LOG_INTERVAL = 30.0


def progress_bar(
  total: int, unit: str, *, initial: int = 0, disable: bool = False
) -> Any:
  """Returns a tqdm bar on stderr, or now and then a line if that is a file."""
  import tqdm

  interval = 0.1 if sys.stderr.isatty() else LOG_INTERVAL
  return tqdm.tqdm(
    total=total,
    initial=initial,
    unit=unit,
    disable=disable,
    dynamic_ncols=True,
    mininterval=interval,
    maxinterval=interval,
  )
