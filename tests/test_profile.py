"""--profile: a trace of some steps of a run."""

import jax.numpy as jnp
import pytest

from mmdiff_jax.training.profile import Profile


def test_the_steps_asked_for_are_traced(tmp_path):
  profile = Profile("2:2", tmp_path, 4)
  running = []
  for step in range(1, 5):
    profile.before(step)
    running.append(profile._running)
    state = jnp.ones(3) * step
    profile.after(step, state)
  assert running == [False, True, True, False]
  traces = list((tmp_path / "profile").rglob("*.xplane.pb"))
  assert traces and traces[0].stat().st_size > 0


def test_a_trace_that_was_cut_short_is_written(tmp_path):
  profile = Profile("1:9", tmp_path, 9)
  profile.before(1)
  profile.close()
  assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize(
  "steps", ["", "3", "a:b", "0:1", "1:0", "-1:2", "4:2", "1:2:3"]
)
def test_what_names_no_steps_is_refused(tmp_path, steps):
  with pytest.raises(ValueError, match=r"--profile=.*START:COUNT.*4 steps"):
    Profile(steps, tmp_path, 4)


def test_steps_that_are_past_are_not_traced(tmp_path, caplog):
  Profile("2:1", tmp_path, 4).check(2)
  assert "nothing is traced" in caplog.text
  caplog.clear()
  Profile("3:1", tmp_path, 4).check(2)
  assert not caplog.text
