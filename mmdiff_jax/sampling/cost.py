"""What sampling costs: time, network evaluations, memory."""

import resource
import time
from typing import Any

import jax


class Clock:
  """Counts network evaluations per second; the first batch compiles."""

  def __init__(self):
    self._started = time.perf_counter()
    self._batches = 0
    self._steps = 0
    self.steps_per_second = 0.0

  def count(self, steps: int) -> None:
    """Counts the network evaluations of a finished batch."""
    now = time.perf_counter()
    self._batches += 1
    if self._batches == 1:
      self.steps_per_second = steps / (now - self._started)
      self._started = now
      return
    self._steps += steps
    self.steps_per_second = self._steps / (now - self._started)

  def statistics(self, nfe: int, sr_nfe: int | None) -> dict[str, Any]:
    """What `samples.json` says of the run's cost.

    Args:
      nfe: network evaluations of a sample.
      sr_nfe: those of upsampling it; None where it is not.
    """
    values = {
      "nfe": nfe,
      "steps_per_second": round(self.steps_per_second, 3),
      "peak_memory_bytes": _peak_memory(),
      "device": jax.devices()[0].device_kind,
      "num_devices": jax.device_count(),
    }
    if sr_nfe is not None:
      values["sr_nfe"] = sr_nfe
    return values


def _peak_memory() -> int:
  """Largest use of one device's memory; on CPU, of the process's."""
  stats = jax.local_devices()[0].memory_stats()
  if stats and "peak_bytes_in_use" in stats:
    return stats["peak_bytes_in_use"]
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
