"""When a network is looked at while it is trained, and which parameters."""

import pytest

from mmdiff_jax.training import observers
from mmdiff_jax.training.shown import Shown
from mmdiff_jax.training.state import TrainState
from tests.toy import make_toy_config


@pytest.fixture
def seen(monkeypatch):
  """Stands in for previews and the held-out loss: what they are handed."""
  seen = []

  def preview(params, step):
    seen.append((params, step))
    return Shown()

  def held_out_loss(params):
    seen.append(params)
    return {"heldout_loss": 1.5}

  monkeypatch.setattr(observers, "make_preview", lambda *_: preview)
  monkeypatch.setattr(observers, "make_held_out_loss", lambda *_: held_out_loss)
  return seen


def make(tmp_path, held_out=None, **train):
  config = make_toy_config()
  config.train.update({"preview_every": 0, "eval_every": 0} | train)
  return observers.make_observers(None, config, None, tmp_path, held_out)


STATE = TrainState(
  step=10, params="raw", ema_params="averaged", opt_state=(), timestep_state={}
)


def test_previews_show_the_averaged_parameters(seen, tmp_path):
  (observer,) = make(tmp_path, preview_every=5)
  observer.observe(STATE, 10)
  assert (observer.every, seen) == (5, [("averaged", 10)])


def test_the_held_out_loss_is_that_of_the_parameters_that_are_trained(
  seen, tmp_path
):
  (observer,) = make(tmp_path, held_out=[], eval_every=4)
  shown = observer.observe(STATE, 10)
  assert (observer.every, seen) == (4, ["raw"])
  assert shown.scalars == {"heldout_loss": 1.5}


def test_what_is_switched_off_or_lacks_clips_is_not_looked_at(seen, tmp_path):
  assert make(tmp_path, held_out=[]) == []
  assert make(tmp_path, held_out=None, eval_every=4) == []
