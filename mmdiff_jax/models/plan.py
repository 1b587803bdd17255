"""The order of a U-Net's layers, as data.

The networks walk a `UNetPlan` to compute, and the checkpoint importer walks the
same one to find where a published weight belongs.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

Resample = Literal["", "down", "up"]


@dataclasses.dataclass(frozen=True)
class Layer:
  """One submodule of a U-Net.

  Attributes:
    name: submodule name, made of its position.
    kind: a residual block, or the attention layer that follows it.
    channels: output channels.
    ds: down-sampling factor at which the layer's input lives.
    level: index of the resolution level.
    dilation_power: n in dilation = 2^(n mod 10) of the audio convolution.
    resample: what a residual block does to the resolution.
  """

  name: str
  kind: Literal["block", "attention"]
  channels: int
  ds: int
  level: int
  dilation_power: int = 0
  resample: Resample = ""


Cell = tuple[Layer, ...]


@dataclasses.dataclass(frozen=True)
class UNetPlan:
  """Layers in forward order.

  The output of the stem and of each cell of `down` goes on the skip stack;
  each cell of `up` first concatenates the top of that stack.
  """

  down: tuple[Cell, ...]
  middle: Cell
  up: tuple[Cell, ...]

  @property
  def layers(self) -> Cell:
    """All layers in the order in which they run."""
    return sum((*self.down, self.middle, *self.up), ())


def make_plan(
  model_channels: int,
  channel_mult: Sequence[int],
  num_res_blocks: int,
  attention_resolutions: Sequence[int],
  *,
  attention_name: str,
  middle_attention: bool,
) -> UNetPlan:
  """Lays out a U-Net.

  Args:
    model_channels: channels of a level with multiplier 1.
    channel_mult: one multiplier per level.
    num_res_blocks: residual blocks per level on the way down; one more each on
      the way up.
    attention_resolutions: values of `ds` whose blocks are followed by an
      attention layer.
    attention_name: word for that layer in the submodules' names.
    middle_attention: whether the middle has an attention layer.

  Returns:
    The plan.
  """
  levels = len(channel_mult)
  n = 1

  def cell(part: str, level: int, i: int, dilation_power: int) -> Cell:
    channels, ds = channel_mult[level] * model_channels, 2**level
    place = (channels, ds, level)
    block = Layer(f"{part}_{level}_block_{i}", "block", *place, dilation_power)
    if ds not in attention_resolutions:
      return (block,)
    name = f"{part}_{level}_{attention_name}_{i}"
    return (block, Layer(name, "attention", *place))

  def resampling(part: Resample, level: int, dilation_power: int) -> Layer:
    return Layer(
      f"{part}_{level}_resample",
      "block",
      channel_mult[level] * model_channels,
      2**level,
      level,
      dilation_power,
      part,
    )

  down = []
  for level in range(levels):
    for i in range(num_res_blocks):
      down.append(cell("down", level, i, n))
      n += 1
    if level < levels - 1:
      down.append((resampling("down", level, n),))
      n += 1

  last = levels - 1
  place = (channel_mult[last] * model_channels, 2**last, last)
  middle = [Layer("middle_block_0", "block", *place, n)]
  if middle_attention:
    middle.append(Layer(f"middle_{attention_name}", "attention", *place))
  middle.append(Layer("middle_block_1", "block", *place, n))
  n -= 1

  up = []
  for level in reversed(range(levels)):
    for i in range(num_res_blocks + 1):
      layers = cell("up", level, i, n)
      n -= 1
      if level > 0 and i == num_res_blocks:
        layers += (resampling("up", level, n),)
      up.append(layers)
  return UNetPlan(tuple(down), tuple(middle), tuple(up))
