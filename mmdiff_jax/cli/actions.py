"""What each command does with its flags.

The parts of the program are imported when they are needed: help, mistakes and
most commands need no JAX.
"""

import argparse
import shlex
import sys
from typing import Any

from ml_collections import ConfigDict

from mmdiff_jax.cli.parser import program_name

# Keys of config.data that say how clips are read.
_GEOMETRY = ("frames", "height", "width", "fps", "sample_rate", "fit")


def _asked(
  options: argparse.Namespace, config: ConfigDict, section: str
) -> dict[str, Any]:
  """The keys of a section that were asked for: all of them by --config."""
  values = dict(config[section])
  if options.config:
    return values
  return {
    key: value
    for key, value in values.items()
    if f"{section}.{key}" in options.overridden
  }


def train(options: argparse.Namespace, config: ConfigDict) -> int:
  """Trains a model; returns 143 or 130 where a signal stopped it."""
  import jax

  from mmdiff_jax.training.loop import train
  from mmdiff_jax.training.signals import StoppedError
  from mmdiff_jax.training.summary import summarise

  try:
    train(
      config,
      options.workdir,
      profile=options.profile,
      force=options.force,
    )
  except StoppedError as stopped:
    print(stopped, file=sys.stderr)
    return stopped.status
  if jax.process_index() == 0:  # One host speaks for all.
    workdir = shlex.quote(options.workdir)
    following = f"sample --checkpoint={workdir} --output=samples"
    if config.model.name == "sr_unet":
      following = f"upscale --sr_checkpoint={workdir} --source=... --output=..."
    print(summarise(options.workdir))
    print(f"Next: {program_name()} {following}")
  return 0


def sample(options: argparse.Namespace, config: ConfigDict) -> None:
  """Generates clips, of each checkpoint with each seed."""
  from mmdiff_jax.sampling import runs

  seeds = runs.parse_seeds(options.seeds) or [config.seed]
  if options.seeds and "seed" in options.overridden:
    raise ValueError("--seeds and --config.seed exclude each other.")
  if not options.sr_checkpoint:
    upscaling = sorted(k for k in options.overridden if k.startswith("sr."))
    if upscaling:
      raise ValueError(
        f"--config.{upscaling[0]} has no effect without --sr_checkpoint."
      )
  planned = runs.plan_runs(options.checkpoint, seeds, options.output)
  # Late: what is above needs no JAX.
  from mmdiff_jax.sampling import generate
  from mmdiff_jax.sampling.settings import check_same_network

  if options.config:
    for checkpoint, _ in planned.values():
      check_same_network(config, checkpoint, options.config)
  edit, between = _edit_of(options)
  for output, (checkpoint, seed) in planned.items():
    generate.sample(
      config,
      checkpoint_path=checkpoint,
      output=output,
      num_samples=options.num_samples,
      seed=seed,
      formats=options.formats,
      condition=options.condition,
      source=options.source,
      edit=edit,
      between=between,
      duration=options.duration,
      overlap=options.overlap,
      inputs={} if options.label is None else {"label": options.label},
      sr_checkpoint=options.sr_checkpoint,
      asked=_asked(options, config, "sample"),
      force=options.force,
    )


def _edit_of(options: argparse.Namespace) -> tuple[Any, Any]:
  """The edit that the flags describe, and its two files, or None each."""
  from mmdiff_jax.sampling.edit import Edit

  fields = ("keep", "span", "box", "mask", "extend", "strength")
  asked = {f: getattr(options, f) for f in fields}
  asked = {f: value for f, value in asked.items() if value is not None}
  between = tuple(options.between) or None
  if between is not None and len(between) != 2:
    raise ValueError(
      f"--between={','.join(between)}: give two files, separated by a comma."
    )
  if options.condition != "edit" and not asked and between is None:
    return None, None
  return Edit(**asked, between=between is not None), between


def upscale(options: argparse.Namespace, config: ConfigDict) -> None:
  """Upsamples the frames of videos."""
  from mmdiff_jax.sampling.upscale import upscale

  upscale(
    config,
    sr_checkpoint=options.sr_checkpoint,
    source=options.source,
    output=options.output,
    seed=config.seed,
    force=options.force,
  )


def evaluate(options: argparse.Namespace, config: ConfigDict) -> None:
  """Compares generated clips with real ones."""
  from mmdiff_jax.evaluation import compare
  from mmdiff_jax.evaluation.evaluate import evaluate
  from mmdiff_jax.evaluation.session import parse_share

  settings = {
    "split": options.split,
    "holdout_fraction": config.data.holdout_fraction,
    "protocol": options.protocol,
    "metrics": options.metrics,
    "weights_dir": options.weights_dir,
    "cache_dir": options.cache_dir,
    "seed": config.seed,
    "num_clips": options.num_clips,
    "max_bad": parse_share(options.max_bad),
    "batch_size": options.batch_size,
    "asked": {
      key: value
      for key, value in _asked(options, config, "data").items()
      if key in _GEOMETRY
    },
    "tfds_dir": config.data.tfds_dir,
    "synthetic_clips": config.data.synthetic_clips,
  }
  real, output = options.real, options.output
  if not options.compare:
    if not options.fake:
      raise ValueError("evaluate needs --fake, or --compare.")
    if options.curve:
      raise ValueError("--curve goes with --compare; name the folders there.")
    evaluate(
      real=real,
      fake=options.fake,
      output=output,
      memorisation=options.memorisation,
      **settings,
    )
    _name_page(output)
    return
  if options.fake or options.memorisation:
    raise ValueError("--compare takes neither --fake nor --memorisation.")
  compare.compare(
    real=real,
    fakes=compare.name_sides(options.compare),
    output=output,
    curve=options.curve,
    **settings,
  )
  _name_page(output)


def _name_page(output: str) -> None:
  """Says where a report can be looked at; one host speaks for all."""
  import jax

  if jax.process_index() == 0:
    print(f"To look at: {output.removesuffix('.json')}.html")


def import_checkpoint(options: argparse.Namespace, config: ConfigDict) -> None:
  """Makes a workdir of a published checkpoint."""
  from mmdiff_jax.convert.importer import import_checkpoint

  import_checkpoint(
    config,
    source=options.source,
    workdir=options.workdir,
  )


def export_checkpoint(options: argparse.Namespace) -> None:
  """Writes the averaged parameters without the training state."""
  from mmdiff_jax.convert import exporter

  if len(options.checkpoint) > 1:
    raise ValueError("export_checkpoint takes one --checkpoint.")
  export = (
    exporter.export_safetensors
    if options.format == "safetensors"
    else exporter.export_params
  )
  print(export(options.checkpoint[0], options.output))


def gallery(options: argparse.Namespace) -> None:
  """Makes a page with players."""
  from mmdiff_jax.gallery import make_gallery

  print(make_gallery(options.argument, onsets=options.onsets))


def compile_program(options: argparse.Namespace, config: ConfigDict) -> None:
  """Compiles a program for hardware that is absent."""
  from mmdiff_jax.aot.compile import compile_for

  compile_for(
    config,
    topology=options.topology,
    what=options.what,
    slices=options.slices,
    hbm=options.hbm,
    fit=options.fit,
    cycles=options.cycles,
    output=options.output,
  )


def verify(options: argparse.Namespace) -> None:
  """Reads what was written, and names what is not as it was."""
  from mmdiff_jax.cli.verify import verify

  wrong = 0
  for what, problems, notes in verify(options.argument):
    wrong += len(problems)
    print(what, "is as it was written." if not problems else "is not right:")
    for line in (*problems, *notes):
      print(f"  {line}")
  if wrong:
    raise ValueError(f"{options.argument}: {wrong} of its files are not right.")


def show_config(options: argparse.Namespace, config: ConfigDict) -> None:
  """Lists keys of the configuration."""
  from mmdiff_jax.cli import config_help

  print(
    config_help.describe(options.config or "default", config, options.argument)
  )
