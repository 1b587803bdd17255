"""Networks as training and sampling see them: dicts in, a dict out.

The registry below is the one place that knows networks by name. A network of
your own is a Linen module, a `Network` around it and a call of `register`.
"""

import abc
import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmdiff_jax.av import AVSpec
from mmdiff_jax.models import attention, checks, embedders
from mmdiff_jax.models.av_unet import AVUNet
from mmdiff_jax.models.initial import init_in_one_draw
from mmdiff_jax.models.levels import Levels
from mmdiff_jax.models.sr_unet import SRUNet

Leaf = jax.ShapeDtypeStruct
Leaves = dict[str, Leaf]

# Fields that Linen adds to every module.
_OWN = {"parent", "name"}


@dataclasses.dataclass(frozen=True)
class Network(abc.ABC):
  """What training and sampling ask of a network.

  Attributes:
    module: the Linen module.
    module_cls: its class, whose fields are the keys of `config.model`.
    view: what of a record it is trained on, "clips" or "images".
    levels: the finest noise levels that it takes, of `levels.LEVELS`.
  """

  module: Any
  module_cls: ClassVar[type[nn.Module]]
  view: ClassVar[str] = "clips"
  levels: ClassVar[str] = "shared"

  @property
  def learn_sigma(self) -> bool:
    """Whether the output has a variance behind the prediction (channels)."""
    return getattr(self.module, "learn_sigma", False)

  @property
  def null(self) -> Mapping[str, Any]:
    """The value of each input that means "none".

    An input that is not named here is always needed.
    """
    return {}

  @property
  def grown(self) -> frozenset[str]:
    """Submodules that change nothing until they are trained.

    Parameters of a network that lacks them can be gone on from.
    """
    return frozenset()

  @abc.abstractmethod
  def declare(self, config: ConfigDict) -> tuple[Leaves, Leaves]:
    """What is generated and what the network is given beside it, by name.

    Args:
      config: of the run; `config.data` has the geometry.

    Returns:
      Shapes without batch axis, and types as a batch carries them (uint8
      stands for pixels, which become float32 in [-1, 1]).

    Raises:
      ValueError: if the geometry makes no sense for this network.
    """

  @abc.abstractmethod
  def smallest(self) -> tuple[Leaves, Leaves]:
    """Like `declare`, of the smallest geometry that the network accepts."""

  @abc.abstractmethod
  def __call__(
    self,
    module: Any,
    x: Mapping[str, jax.Array],
    t: Levels,
    inputs: Mapping[str, jax.Array],
    train: bool,
  ) -> dict[str, jax.Array]:
    """Calls the bound module.

    Args:
      module: `self.module`, bound to its variables.
      x: noisy samples `[B, ...]`, one of each generated input.
      t: step indices `[B]`, or by name as far as `levels` says.
      inputs: all inputs of `declare` `[B, ...]`.
      train: turns dropout on.

    Returns:
      A dict like `x`, with twice the channels where a variance is learnt.
    """

  def check_config(self) -> None:
    """Raises ValueError where the module's fields make no sense together."""
    check = getattr(self.module, "check_config", None)
    if check is not None:
      check()

  def check_shapes(self, x: Leaves) -> None:
    """Raises ValueError where the network cannot take samples like `x`."""
    del x  # Any, unless a network says otherwise.

  def check_inputs(self, inputs: Mapping[str, Any]) -> None:
    """Raises ValueError for values that an input cannot have."""
    del inputs  # Any, likewise.

  def init(self, rng: jax.Array, x: Leaves, inputs: Leaves) -> Any:
    """Initialises the module's variables for such inputs; traceable."""
    return self.module.init(
      rng,
      {k: jnp.zeros((1, *leaf.shape), jnp.float32) for k, leaf in x.items()},
      jnp.zeros((1,), jnp.int32),
      {
        k: jnp.zeros((1, *leaf.shape), leaf.dtype) for k, leaf in inputs.items()
      },
      False,
      method=self,
    )

  def on(self, platform: str, mesh: Mesh | None = None) -> "Network":
    """The network with the kernels that suit the hardware.

    Args:
      platform: "cpu", "gpu" or "tpu".
      mesh: devices that share a batch; None is one. The formulations for a CPU
        fold the batch into other axes: several devices would have to gather
        it.

    Raises:
      ValueError: for kernels of other hardware.
    """
    how: dict[str, Any] = {}
    alone = mesh is None or mesh.size == 1
    if getattr(self.module, "kernels", None) == "auto":
      how["kernels"] = "cpu" if platform == "cpu" and alone else "plain"
    name = getattr(self.module, "attention", None)
    if name == "pallas" and platform != "tpu":
      raise ValueError(
        f"model.attention='pallas' is for TPUs, not for a {platform}. Use "
        "'auto'."
      )
    if name == "cudnn" and platform == "tpu":
      raise ValueError(
        "model.attention='cudnn' is for GPUs, not for a tpu. Use 'auto'."
      )
    if platform != "cpu" and name in attention.NAMES:
      how["attention"] = attention.On(name, platform, None if alone else mesh)
    if not how:
      return self
    return dataclasses.replace(self, module=self.module.clone(**how))

  def plainly(self) -> "Network":
    """The network as its definition computes it, nothing of it twice."""
    plain = {"kernels": "plain", "attention": "xla", "remat": "none"}
    how = {k: v for k, v in plain.items() if hasattr(self.module, k)}
    return dataclasses.replace(self, module=self.module.clone(**how))


class _UNet(Network):
  """What our two networks have in common."""

  def init(self, rng: jax.Array, x: Leaves, inputs: Leaves) -> Any:
    """See `Network`."""
    init = super().init
    return init_in_one_draw(lambda rng: init(rng, x, inputs), rng)


class JointNetwork(_UNet):
  """The coupled U-Net: video and audio, and what it is told of them."""

  module_cls = AVUNet
  levels = "frame"

  @property
  def null(self) -> Mapping[str, Any]:
    """See `models.embedders`."""
    return embedders.null(self.module)

  @property
  def grown(self) -> frozenset[str]:
    """See `Network`."""
    return frozenset(map(embedders.module_name, embedders.sizes(self.module)))

  def declare(self, config: ConfigDict) -> tuple[Leaves, Leaves]:
    """Clips of the geometry of `config.data`."""
    spec = AVSpec.from_config(config.data)
    checks.check_rate(self.module, spec)
    return self._declare(spec.video_shape, spec.audio_shape)

  def smallest(self) -> tuple[Leaves, Leaves]:
    """See `Network`."""
    return self._declare(*self.module.input_shapes())

  def _declare(
    self, video: tuple[int, ...], audio: tuple[int, ...]
  ) -> tuple[Leaves, Leaves]:
    x = {"video": Leaf(video, jnp.uint8), "audio": Leaf(audio, jnp.float32)}
    return x, embedders.declare(self.module)

  def __call__(
    self,
    module: Any,
    x: Mapping[str, jax.Array],
    t: Levels,
    inputs: Mapping[str, jax.Array],
    train: bool,
  ) -> dict[str, jax.Array]:
    """See `Network`."""
    video, audio = module(x["video"], x["audio"], t, train=train, inputs=inputs)
    return {"video": video, "audio": audio}

  def check_shapes(self, x: Leaves) -> None:
    """See `Network`."""
    self.module.check_shapes(x["video"].shape, x["audio"].shape)

  def check_inputs(self, inputs: Mapping[str, Any]) -> None:
    """See `Network`."""
    embedders.check_values(self.module, inputs)


class SuperResolutionNetwork(_UNet):
  """The image U-Net: one large frame from its small version."""

  module_cls = SRUNet
  view = "images"

  def declare(self, config: ConfigDict) -> tuple[Leaves, Leaves]:
    """Images of the size of `config.data`, and at 1/`config.sr.factor`."""
    factor = config.sr.factor
    height, width = config.data.height, config.data.width
    if height % factor or width % factor:
      raise ValueError(
        f"config.sr.factor={factor} must divide config.data.height={height} "
        f"and config.data.width={width}."
      )
    low_res = (height // factor, width // factor, 3)
    return self._declare((height, width, 3), low_res)

  def smallest(self) -> tuple[Leaves, Leaves]:
    """See `Network`."""
    # The small image may have any size, that of the large one included.
    return self._declare(*self.module.input_shapes() * 2)

  def _declare(
    self, image: tuple[int, ...], low_res: tuple[int, ...]
  ) -> tuple[Leaves, Leaves]:
    return (
      {"image": Leaf(image, jnp.uint8)},
      {"low_res": Leaf(low_res, jnp.float32)},
    )

  def __call__(
    self,
    module: Any,
    x: Mapping[str, jax.Array],
    t: Levels,
    inputs: Mapping[str, jax.Array],
    train: bool,
  ) -> dict[str, jax.Array]:
    """See `Network`."""
    image = module(x["image"], t, low_res=inputs["low_res"], train=train)
    return {"image": image}

  def check_shapes(self, x: Leaves) -> None:
    """See `Network`."""
    self.module.check_shapes(x["image"].shape)


_NETWORKS: dict[str, type[Network]] = {
  "av_unet": JointNetwork,
  "sr_unet": SuperResolutionNetwork,
}


def register(name: str, network: type[Network]) -> None:
  """Makes a network available as `config.model.name`."""
  _NETWORKS[name] = network


def fields(name: str) -> set[str]:
  """Keys of `config.model` that belong to the network called `name`.

  Raises:
    ValueError: for an unknown name.
  """
  if name not in _NETWORKS:
    raise ValueError(
      f"model.name={name!r} is unknown; allowed are {', '.join(_NETWORKS)}."
    )
  return {
    field.name for field in dataclasses.fields(_NETWORKS[name].module_cls)
  } - _OWN


def create_network(model_config: Mapping[str, Any]) -> Network:
  """Builds the network that `config.model` describes.

  Args:
    model_config: `config.model`. `name` selects the network, the other keys
      are its fields; missing ones take the release's values.

  Raises:
    ValueError: for an unknown name or key, a key of another network, or
      values that make no sense together.
  """
  options = dict(model_config)
  name = options.pop("name", "av_unet")
  allowed = fields(name)
  for key in options:
    if key not in allowed:
      raise ValueError(_unknown_key(key, name))
  options = {
    key: tuple(value) if isinstance(value, list | tuple) else value
    for key, value in options.items()
  }
  kind = _NETWORKS[name]
  network = kind(kind.module_cls(**options))
  network.check_config()
  return network


def _unknown_key(key: str, name: str) -> str:
  owners = [other for other in _NETWORKS if key in fields(other)]
  if owners:
    return (
      f"model.{key} is a key of {' and '.join(owners)}, not of {name}; leave "
      "it out, or set model.name."
    )
  close = difflib.get_close_matches(key, fields(name)) or sorted(fields(name))
  return (
    f"model.{key} is not a key of {name}; did you mean {' or '.join(close)}?"
  )
