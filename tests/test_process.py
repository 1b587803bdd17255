"""Processes and predictions: Gaussian data in closed form, identities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdiff_jax.diffusion import (
  PREDICTIONS,
  make_process,
  make_schedule,
  training_losses,
)
from mmdiff_jax.samplers import make_sampler
from mmdiff_jax.task import make_task
from mmdiff_jax.training import settings
from tests import gaussian_data
from tests.toy import make_toy_config

KEY = jax.random.key(0)
START = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
PROCESSES = {
  "vp": make_process("vp"),
  "cosine": make_process("vp", schedule="cosine"),
  "zero terminal SNR": make_process("vp", zero_terminal_snr=True),
  "flow": make_process("flow"),
}
EVERY = [
  (process, prediction)
  for process in PROCESSES
  for prediction in PREDICTIONS
  if prediction != "eps" or process in ("vp", "cosine")
]
SOLVERS = {
  "ddim": {"name": "ddim", "steps": 200, "clip_denoised": False},
  "dpm_solver": {"name": "dpm_solver", "steps": 50},
  "multistep": {
    "name": "dpm_solver++",
    "method": "multistep",
    "order": 2,
    "steps": 50,
  },
  "adaptive": {"name": "dpm_solver++", "method": "adaptive"},
}


def sample(process, prediction, options):
  sampler = make_sampler(prediction=prediction, **options)
  denoise_fn = gaussian_data.make_denoiser(process, prediction=prediction)
  return jax.jit(lambda x: sampler(denoise_fn, process, x, KEY)[0])(START)


def exact(process, data=False):
  """The flow of the noise to the first step, or on to the data."""
  # DPM-Solvers leave out a step without signal.
  start = -1 if data or not process.loses_signal else -2
  x = gaussian_data.flow(process, START, start)
  if not data:
    return x
  return gaussian_data.MEAN + gaussian_data.STD * (
    (START - process.alpha[-1] * gaussian_data.MEAN)
    / np.sqrt(
      process.alpha[-1] ** 2 * gaussian_data.STD**2 + process.sigma[-1] ** 2
    )
  )


@pytest.mark.parametrize(("process", "prediction"), EVERY)
def test_every_prediction_leads_to_the_data(process, prediction):
  process = PROCESSES[process]
  ddim = sample(process, prediction, SOLVERS["ddim"])
  np.testing.assert_allclose(ddim, exact(process, data=True), atol=0.02)


@pytest.mark.parametrize("solver", ["dpm_solver", "multistep", "adaptive"])
@pytest.mark.parametrize("process", PROCESSES)
def test_every_solver_follows_the_flow_of_every_process(process, solver):
  process = PROCESSES[process]
  got = sample(process, "v", SOLVERS[solver])
  np.testing.assert_allclose(got, exact(process), atol=0.03)


@pytest.mark.parametrize("prediction", ["x_start", "v", "velocity"])
def test_ddim_of_rectified_flow_is_euler_on_the_velocity(prediction):
  process = PROCESSES["flow"]

  def velocity(x, s):
    return np.sin(3 * x) + s

  def network(x, t, rng):
    s = ((t + 1) / 1000).reshape(-1, 1)
    out = jnp.sin(3 * x) + s
    x_start = x - s * out
    return {
      "velocity": out,
      "x_start": x_start,
      "v": (1 - s) * (x_start + out) - s * x_start,
    }[prediction]

  sampler = make_sampler(
    "ddim", steps=10, clip_denoised=False, prediction=prediction
  )
  x, nfe = sampler(network, process, START, KEY)
  expected = START.astype(np.float64)
  for s in np.linspace(1, 0.1, 10):
    expected = expected - 0.1 * velocity(expected, s)
  assert nfe == 10
  np.testing.assert_allclose(x, expected, atol=1e-5)


def test_rectified_flow_by_hand():
  process = make_process("flow", 4)
  np.testing.assert_array_equal(process.alpha, [0.75, 0.5, 0.25, 0.0])
  np.testing.assert_array_equal(process.sigma, [0.25, 0.5, 0.75, 1.0])
  np.testing.assert_allclose(
    process.log_snr, [np.log(9), 0, -np.log(9), -np.inf]
  )
  middle = process.at(np.array([0.375]))
  np.testing.assert_allclose(middle.alpha, 0.625)
  np.testing.assert_allclose(process.time_of(middle.lambda_), 0.375)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_zero_terminal_snr_shifts_and_scales_alpha(name):
  before = make_schedule(name).alpha
  after = make_schedule(name, zero_terminal_snr=True).alpha
  assert after[-1] == 0
  np.testing.assert_allclose(after[0], before[0], rtol=1e-9)
  slope, offset = np.polyfit(before, after, 1)
  np.testing.assert_allclose(after, slope * before + offset, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 4, 25, 60, "20"])
@pytest.mark.parametrize("process", ["flow", "zero terminal SNR"])
def test_ddim_starts_where_there_is_noise_alone(process, steps):
  ddim = make_sampler("ddim", steps=steps, prediction="v")
  walked = ddim.respace(PROCESSES[process])
  assert walked.timestep_map[-1] == 999
  assert walked.alpha[-1] == 0


@pytest.mark.parametrize(
  "use",
  [
    lambda process, config: training_losses(
      lambda x, t, rng: x, process, START, jnp.zeros(3, int), START
    ),
    lambda process, config: make_sampler("ddpm").respace(process),
    lambda process, config: make_sampler("dpm_solver")(
      lambda x, t, rng: x, process, START, KEY
    ),
    lambda process, config: make_sampler("dpm_solver", method="adaptive")(
      lambda x, t, rng: x, process, START, KEY
    ),
    lambda process, config: make_task(config),
  ],
)
@pytest.mark.parametrize("process", ["flow", "zero terminal SNR"])
def test_eps_is_refused_where_no_signal_is_left(process, use):
  config = make_toy_config()
  config.diffusion.prediction = "eps"
  if process == "flow":
    config.diffusion.process = "flow"
  else:
    config.diffusion.zero_terminal_snr = True
  with pytest.raises(ValueError, match="'eps' .*x_start, v, velocity"):
    use(PROCESSES[process], config)


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"name": "edm"}, "allowed are vp, flow"),
    ({"name": "flow", "zero_terminal_snr": True}, "leave it out"),
    ({"name": "flow", "num_timesteps": 0}, "at least 1"),
    (
      {"num_timesteps": 1, "schedule": "cosine", "zero_terminal_snr": True},
      "2",
    ),
  ],
)
def test_a_wrong_process_is_a_clear_error(options, match):
  with pytest.raises(ValueError, match=match):
    make_process(**options)


def test_configurations_of_old_checkpoints_mean_what_they_meant():
  config = make_toy_config()
  old = config.copy_and_resolve_references().unlock()
  del old.diffusion.process, old.diffusion.zero_terminal_snr
  np.testing.assert_array_equal(
    make_task(old).process.alpha, make_task(config).process.alpha
  )
  settings.compare(old, config)
  config.diffusion.process = "flow"
  with pytest.raises(ValueError, match="diffusion.process was vp"):
    settings.compare(old, config)
