"""A small study of sounding shapes, built once for several test files."""

import dataclasses

from data_prep.make_synthetic import write_folder
from mmdiff_jax.av import AVSpec
from mmdiff_jax.study.building.build import build
from mmdiff_jax.study.settings import SCALES, TaskSettings, load_settings

SPEC = AVSpec(8, 32, 32, 10.0, 4000)


def small_settings(**changes):
  """The default's settings with blocks of 8 stimuli."""
  settings = dataclasses.replace(load_settings(), **changes)
  tasks = {name: TaskSettings(3, 8) for name in settings.tasks}
  return dataclasses.replace(settings, tasks=tasks)


def build_small(folder, **changes):
  """Builds a study of 12 sources in three versions."""
  seeds = {"real": 0, "good": 100, "bad": 200}
  for name, first in seeds.items():
    write_folder(folder / name, range(first, first + 12), SPEC)
  settings = small_settings(match="order", training=2, **changes)
  fake = {name: folder / name for name in ("good", "bad")}
  return build(folder / "real", fake, folder / "study", settings)


def answers(task, value=1):
  """One value on every scale of a task."""
  return dict.fromkeys(SCALES[task], value)
