"""Which steps of a long process a short one visits."""

import numpy as np


def respaced_indices(
  num_timesteps: int, respacing: str, keep: str = "first"
) -> np.ndarray:
  """Chooses the steps of a shorter process (Nichol & Dhariwal 2021).

  Args:
    num_timesteps: number of steps T to choose from.
    respacing: "ddimN" for the first integer stride that gives exactly N
      steps, or comma-separated counts: T is cut into that many near-equal
      sections, and each keeps its count of evenly spaced steps.
    keep: which end of the table a stride is sure to visit, "first" or "last".
      Sections visit both.

  Returns:
    Increasing step indices, int64.

  Raises:
    ValueError: if the text is malformed or asks for more steps than exist.
  """
  text = str(respacing)
  ddim = text.startswith("ddim")
  try:
    counts = [int(part) for part in text.removeprefix("ddim").split(",")]
  except ValueError:
    counts = []
  if not counts or min(counts) < 1 or (ddim and len(counts) > 1):
    raise ValueError(
      f"respacing {text!r} is not understood; allowed are 'ddimN' and "
      "comma-separated positive counts such as '250' or '10,15,20'."
    )
  if ddim:
    return _strided_indices(num_timesteps, counts[0], keep)
  return _section_indices(num_timesteps, counts)


def integer_stride(num_timesteps: int, count: int) -> int | None:
  """The first stride from either end that takes `count` steps, or None."""
  for stride in range(1, num_timesteps + 1):
    if len(range(0, num_timesteps, stride)) == count:
      return stride
  return None


def _strided_indices(num_timesteps: int, count: int, keep: str) -> np.ndarray:
  stride = integer_stride(num_timesteps, count)
  if stride is None:
    raise ValueError(
      f"respacing 'ddim{count}': no integer stride takes exactly {count} of "
      f"{num_timesteps} steps; use the section count '{count}' or another N."
    )
  indices = np.arange(0, num_timesteps, stride)
  return indices if keep == "first" else (num_timesteps - 1 - indices)[::-1]


def _section_indices(num_timesteps: int, counts: list[int]) -> np.ndarray:
  base, longer = divmod(num_timesteps, len(counts))
  kept, start = [], 0
  for section, count in enumerate(counts):
    size = base + (section < longer)
    if count > size:
      raise ValueError(
        f"respacing asks for {count} steps in a section of {size} (section "
        f"{section} of {len(counts)} over {num_timesteps} steps); ask for at "
        f"most {size}."
      )
    stride = (size - 1) / (count - 1) if count > 1 else 1.0
    # A running sum, not j * stride: the rounding of halves depends on it.
    position = 0.0
    for _ in range(count):
      kept.append(start + round(position))
      position += stride
    start += size
  return np.array(kept, np.int64)
