"""What `sample` runs is traced for every sampler that the README lists."""

import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from configs import default
from mmdiff_jax import samplers
from mmdiff_jax.devices.mesh import make_mesh
from mmdiff_jax.samplers import Condition
from mmdiff_jax.sampling.sample_fn import make_sample_fn
from mmdiff_jax.task import make_task
from tests.conftest import make_tiny_config
from tests.sr_fixtures import make_tiny_sr_config

README = pathlib.Path(__file__).parents[1] / "README.md"
BATCH = 2


def readme_rows():
  """(sampler, options) of every row of the README's table of samplers."""
  lines = README.read_text().splitlines()
  start = lines.index("| sampler | options | evaluations | when |")
  for line in lines[start + 2 :]:
    if not line.startswith("|"):
      return
    names, options = (cell.strip() for cell in line.split("|")[1:3])
    given = dict(re.findall(r"(\w+)=([\w+]+)", options))
    values = {k: int(v) if v.isdigit() else v for k, v in given.items()}
    listed = ["dpm_solver", "dpm_solver++"]
    if names != "either":
      listed = [names.strip("`")]
    for name in listed:
      yield name, values


ROWS = list(readme_rows())


def settings_of(name, options, **others):
  settings = default.get_config().sample
  settings.sampler = name
  if "steps" not in options and "method" not in options:
    options = options | {"steps": 3}
  settings.update(options | others)
  return settings


def test_the_readme_lists_every_sampler_and_method():
  assert {name for name, _ in ROWS} == set(samplers.SAMPLERS)
  methods = {options.get("method") for _, options in ROWS} - {None}
  assert methods == set(samplers.sampler_methods("dpm_solver++"))


def test_configuration_has_exactly_the_options_of_samplers():
  config = default.get_config()
  others = {"sampler", "batch_size", "cfg_scale", "cfg_interval", "sequence"}
  others |= {"coupling_audio", "coupling_video"}
  known = {"condition_method", "guidance_scale"} | (
    set(samplers.CONDITION_OPTIONS) - {"method", "scale"}
  )
  assert set(config.sample) == set(samplers.OPTIONS) | others | known
  assert set(config.sr.sample) == set(config.sample)


@pytest.mark.parametrize(("name", "options"), ROWS, ids=str)
@pytest.mark.parametrize("method", [None, "replacement", "gradient"])
def test_clips_are_sampled_under_every_condition(name, options, method):
  config = make_tiny_config()
  config.model.num_classes = 3
  task = make_task(config)
  settings = settings_of(name, options, cfg_scale=2.0)
  sample = make_sample_fn(task, settings, make_mesh())
  condition = None
  if method is not None:
    scale = 1.0 if method == "gradient" else 0.0
    known = {"audio": jnp.zeros((BATCH, *task.x["audio"].shape))}
    condition = Condition(known, method=method, scale=scale)
  check(sample, task, condition, {"label": jnp.zeros(BATCH, jnp.int32)})


@pytest.mark.parametrize(("name", "options"), ROWS, ids=str)
def test_images_and_resampled_clips_are_sampled_too(name, options):
  settings = settings_of(name, options)
  task = make_task(make_tiny_sr_config())
  low_res = jnp.zeros((BATCH, *task.inputs["low_res"].shape))
  sample = make_sample_fn(task, settings, make_mesh())
  check(sample, task, None, {"low_res": low_res})

  task = make_task(make_tiny_config())
  sample = make_sample_fn(task, settings, make_mesh())
  known = {"video": jnp.zeros((BATCH, *task.x["video"].shape))}
  check(sample, task, Condition(known, method="resampling"), {})


def check(sample, task, condition, inputs):
  """Traces a sampler; it must return what the task generates."""
  params = jax.eval_shape(task.init, jax.random.key(0))
  x, nfe = jax.eval_shape(
    lambda params, rng, indices: sample(
      params, rng, indices, condition, inputs=inputs
    ),
    params,
    jax.random.key(0),
    jnp.arange(BATCH),
  )
  shapes = {name: (BATCH, *leaf.shape) for name, leaf in task.x.items()}
  assert {name: leaf.shape for name, leaf in x.items()} == shapes
  assert nfe.shape == ()
