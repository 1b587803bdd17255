"""Networks are built where the configuration makes sense, else refused."""

import importlib
import pathlib

import jax
import pytest

from mmdiff_jax import models
from tests.unet_golden import TINY

CONFIGS = sorted(
  path.stem
  for path in (pathlib.Path(__file__).parents[1] / "configs").glob("*.py")
  if path.stem != "__init__"
)
VIDEO, AUDIO = (1, 4, 4, 4, 3), (1, 64, 1)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_has_a_network_that_returns_its_clips(name):
  config = importlib.import_module(f"configs.{name}").get_config()
  data, model = config.data, models.create_model(config.model)
  video = (2, data.frames, data.height, data.width, 3)
  audio = (2, round(data.frames / data.fps * data.sample_rate), 1)
  shapes, options = [video, audio], {}
  if isinstance(model, models.SRUNet):
    small = (2, *(size // config.sr.factor for size in video[2:4]), 3)
    shapes = [(2, *video[2:])]
    options = {"low_res": jax.ShapeDtypeStruct(small, "float32")}
  inputs = [jax.ShapeDtypeStruct(s, "float32") for s in shapes]
  t = jax.ShapeDtypeStruct((2,), "int32")
  out, _ = jax.eval_shape(
    model.init_with_output, jax.random.key(0), *inputs, t, **options
  )
  factor = 2 if model.learn_sigma else 1
  assert [x.shape for x in jax.tree.leaves(out)] == [
    (*shape[:-1], shape[-1] * factor) for shape in shapes
  ]


@pytest.mark.parametrize(
  "change",
  [
    {"num_res_blocks": 2, "channel_mult": (1, 1, 2)},
    {"num_head_channels": None},
    {"video_attention_resolutions": (), "cross_attention_resolutions": ()}
    | {"cross_attention_windows": ()},
    {"audio_attention_resolutions": (1, 2), "middle_cross_attention": False},
    {"cross_attention_resolutions": (2, 1), "cross_attention_windows": (4, 1)},
    {"use_scale_shift_norm": False, "learn_sigma": True},
    {"remat": "attention", "dropout": 0.0, "attention": "xla"},
  ],
)
def test_sensible_combinations_build(change):
  config = TINY | change
  model = models.create_model(config)
  levels = len(model.channel_mult) - 1
  video, audio = (2, 4, 8, 8, 3), (2, 4**levels * 5, 1)
  model.check_shapes(video, audio)
  inputs = [jax.ShapeDtypeStruct(s, "float32") for s in (video, audio)]
  t = jax.ShapeDtypeStruct((2,), "int32")
  key = jax.random.key(0)
  (video_out, audio_out), _ = jax.eval_shape(
    lambda *args: model.init_with_output(key, *args), *inputs, t
  )
  factor = 2 if model.learn_sigma else 1
  assert video_out.shape == (*video[:-1], 3 * factor)
  assert audio_out.shape == (*audio[:-1], factor)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"name": "unet"}, "model.name='unet'.*av_unet"),
    ({"chanel_mult": (1, 2)}, "chanel_mult.*channel_mult"),
    ({"num_heads": 3}, "num_heads=3 does not divide the 64 channels"),
    ({"num_head_channels": 48}, "num_head_channels=48 does not divide"),
    ({"num_head_channels": 0}, "num_head_channels=0"),
    ({"model_channels": 40}, "model_channels=40 must be a multiple of 32"),
    ({"channel_mult": ()}, "channel_mult"),
    ({"channel_mult": (1, 0)}, "channel_mult"),
    ({"num_res_blocks": 0}, "num_res_blocks=0"),
    ({"dropout": 1.0}, "dropout=1.0"),
    ({"dtype": "float64"}, "dtype='float64'.*bfloat16"),
    ({"remat": "all"}, "remat='all'.*blocks"),
    ({"attention": "flash"}, "attention='flash'.*cudnn"),
    ({"attention": "cudnn"}, "attention='cudnn' is impossible"),
    (
      {"attention": "cudnn", "dtype": "bfloat16", "kernels": "cpu"},
      "attention='cudnn' is impossible.*model.kernels is 'cpu'",
    ),
    ({"kernels": "gpu"}, "kernels='gpu' is unknown.*'plain'"),
    ({"num_classes": -1}, "num_classes=-1"),
    ({"learn_sigma": "yes"}, "learn_sigma='yes'"),
    ({"video_attention_resolutions": (3,)}, "video_attention_resolutions"),
    ({"audio_attention_resolutions": (2, 2)}, "audio_attention_resolutions"),
    ({"cross_attention_windows": (1, 2)}, "one window for each"),
    ({"cross_attention_windows": (0,)}, "positive integers"),
    ({"cross_attention_windows": (5,)}, "window longer than the clip of 4"),
  ],
)
def test_senseless_configurations_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    models.create_model(TINY | change).check_shapes(VIDEO, AUDIO)


@pytest.mark.parametrize(
  ("video", "audio", "message"),
  [
    ((1, 4, 5, 4, 3), AUDIO, "5x4 pixels.*multiples of 2"),
    (VIDEO, (1, 66, 1), "66 samples.*multiple of 4"),
    (VIDEO, (1, 12, 1), "12 samples.*at least 16"),
    (VIDEO, (2, 64, 1), "1 clips, audio 2"),
    ((4, 4, 3), AUDIO, "expected"),
  ],
)
def test_clips_that_do_not_fit_are_refused(video, audio, message):
  with pytest.raises(ValueError, match=message):
    models.create_model(TINY).check_shapes(video, audio)
