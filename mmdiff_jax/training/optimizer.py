"""AdamW with warm-up, annealing and gradient clipping."""

import optax
from ml_collections import ConfigDict

ANNEALS = ("constant", "linear", "cosine")


def learning_rate_schedule(train: ConfigDict) -> optax.Schedule:
  """Learning rate of a step: linear warm-up, then the chosen anneal to 0.

  Args:
    train: `config.train`.

  Returns:
    A function of the step number.
  """
  if train.anneal not in ANNEALS:
    raise ValueError(
      f"config.train.anneal={train.anneal!r} is unknown; choose one of "
      f"{', '.join(ANNEALS)}."
    )
  peak, warmup = train.learning_rate, train.warmup_steps
  rest = max(train.num_steps - warmup, 1)
  after = {
    "constant": optax.constant_schedule(peak),
    "linear": optax.linear_schedule(peak, 0.0, rest),
    "cosine": optax.cosine_decay_schedule(peak, rest),
  }[train.anneal]
  if warmup == 0:
    return after
  # The first step already moves: it has 1/warmup of the peak rate.
  rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
  return optax.join_schedules([rise, after], [warmup])


def create_optimizer(train: ConfigDict) -> optax.GradientTransformation:
  """Returns AdamW, preceded by global-norm clipping where asked for."""
  adamw = optax.adamw(
    learning_rate_schedule(train),
    b1=train.adam_b1,
    b2=train.adam_b2,
    weight_decay=train.weight_decay,
  )
  # The state has one structure, so that clipping can be turned on in mid-run.
  clip = optax.identity()
  if train.gradient_clip > 0:
    clip = optax.clip_by_global_norm(train.gradient_clip)
  return optax.chain(clip, adamw)
