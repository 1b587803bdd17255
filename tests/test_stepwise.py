"""A run of a sampler in parts is the run in one piece."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from mmdiff_jax.devices.mesh import make_mesh
from mmdiff_jax.samplers import Condition
from mmdiff_jax.sampling import stepwise
from mmdiff_jax.sampling.clip_sampler import ClipSampler, Lengths
from mmdiff_jax.sampling.known_sources import Job
from mmdiff_jax.sampling.sample_fn import inherit_sampler, make_sample_fn
from mmdiff_jax.sampling.stepwise import WatchedSampler
from mmdiff_jax.task import make_task
from tests import toy

BATCH = 2


@pytest.fixture(scope="module")
def task():
  return make_task(toy.make_toy_config())


@pytest.fixture(scope="module")
def params(task):
  return task.init(jax.random.key(0))


def settings_of(name, **options):
  settings = default.get_config().sample
  settings.update(sampler=name, **options)
  return settings


CASES = [
  ("ddpm", {"steps": 7}, None, 7),
  ("ddim", {"steps": 5, "eta": 0.5}, {"method": "replacement"}, 5),
  ("dpm_solver++", {"method": "multistep", "order": 2, "steps": 6}, None, 6),
  # Six steps in stretches of three, each made twice.
  (
    "dpm_solver++",
    {"method": "multistep", "order": 2, "steps": 6},
    {"method": "resampling", "resample_repeats": 2, "resample_jump": 3},
    12,
  ),
  # Two singlesteps of order 3 and the orders 2 and 1: four guided steps.
  ("dpm_solver", {"steps": 9}, {"method": "gradient", "scale": 1.0}, 4),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_parts_make_the_same_samples_bit_for_bit(
  task, params, case, monkeypatch
):
  name, options, known, count = case
  settings, mesh = settings_of(name, **options), make_mesh()
  condition = None
  if known is not None:
    sound = jnp.full((BATCH, *task.x["audio"].shape), 0.25)
    condition = Condition({"audio": sound}, **known)
  args = params, jax.random.key(3), jnp.arange(BATCH), condition
  whole, nfe = make_sample_fn(task, settings, mesh)(*args)
  watched = WatchedSampler(task, settings, mesh)
  # Parts of one step, then of as many as fit into an endless interval.
  monkeypatch.setattr(stepwise, "_INTERVAL", 0.0)
  told = []
  parts, calls = watched(*args, watch=told.append)
  assert told == [1] * count and calls == nfe == _calls(case)
  assert watched.count(condition) == count
  for leaf, other in zip(
    jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True
  ):
    np.testing.assert_array_equal(leaf, other)
  monkeypatch.setattr(stepwise, "_INTERVAL", 1e9)
  told.clear()
  watched(*args, watch=told.append)
  assert told == [1, count - 1]


def _calls(case):
  return 9 if case[0] == "dpm_solver" else case[3]


def test_a_sampler_that_chooses_its_steps_is_run_whole(task, params):
  settings = settings_of("dpm_solver++", method="adaptive", atol=0.5, rtol=0.5)
  mesh = make_mesh()
  args = params, jax.random.key(3), jnp.arange(BATCH)
  watched = WatchedSampler(task, settings, mesh)
  assert watched.count(None) is None
  x, nfe = watched(*args)
  whole, calls = make_sample_fn(task, settings, mesh)(*args, None, {})
  np.testing.assert_array_equal(x["audio"], whole["audio"])
  assert nfe == calls


@pytest.mark.parametrize("pieces", [1, 3])
def test_clips_count_the_steps_of_all_their_pieces(pieces):
  config = toy.make_toy_config()
  config.data.frames = 4
  task = make_task(config)
  params, spec = task.init(jax.random.key(0)), task.spec
  overlap = 2 if pieces > 1 else None
  total = spec.frames + (pieces - 1) * (spec.frames - 2)
  settings = settings_of(
    "ddim",
    steps=4,
    batch_size=1,
    condition_method="resampling",
    resample_repeats=2,
    resample_jump=4,
  )
  clips = ClipSampler(
    task, settings, Lengths(total, overlap), params, make_mesh(), 0
  )
  told = []
  clips([Job("a", 0)], told.append)
  # All pieces but the first know their beginning, and repeat their steps.
  assert sum(told) == clips.count_steps(False) == 4 + (pieces - 1) * 8


def test_options_go_with_the_sampler_that_they_belong_to():
  trained = settings_of("ddim", steps=30, eta=0.5)

  def inherited(**asked):
    found = inherit_sampler(trained, asked)
    return {k: v for k, v in found.items() if v is not None}

  assert inherited() == {"sampler": "ddim", "steps": 30, "eta": 0.5}
  assert inherited(steps=9) == {"sampler": "ddim", "steps": 9, "eta": 0.5}
  assert inherited(eta=None) == {"sampler": "ddim", "steps": 30}
  assert inherited(sampler="ddpm") == {"sampler": "ddpm"}
