"""What the commands that make and check data sets do with their flags."""

import argparse
import functools
import os
import shlex
import sys
from typing import Any

from mmdiff_jax.cli.parser import program_name
from mmdiff_jax.configuration import load_config
from mmdiff_jax.disk.names import one_line


def synthetic(options: argparse.Namespace) -> None:
  """Writes videos of sounding shapes."""
  from data_prep import make_synthetic
  from data_prep.options import geometry

  path = make_synthetic.write_split(
    options.argument,
    options.split,
    range(options.first, options.first + options.count),
    geometry(options.frames, options.size, options.fps, options.sample_rate),
    num_shapes=options.num_shapes,
    clutter=options.clutter,
    walls=options.walls,
  )
  print(f"Wrote {options.count} videos and {one_line(path)}.")


def prepare(options: argparse.Namespace) -> None:
  """Makes TFRecords of videos."""
  from data_prep import preparation
  from data_prep.options import choose
  from data_prep.summary import summary

  if options.text_encoder and not options.captions:
    raise ValueError("--text_encoder goes with --captions only.")
  if options.beam_options and options.runner != "beam":
    raise ValueError("--beam_options goes with --runner=beam only.")
  workers = options.workers or os.cpu_count() or 1
  name = getattr(options, "for")
  config = None if name is None else load_config(name, "--for")
  clips, note = choose(options, workers, config)
  if note:
    print(note, file=sys.stderr)
  manifest = preparation.prepare(
    options.input,
    options.output,
    clips,
    workers=workers,
    shards=options.shards or 0,
    runner=options.runner,
    beam_options=options.beam_options,
    labels=options.labels,
    captions=options.captions,
    embeddings=options.embeddings,
    open_encoder=functools.partial(_open_encoder, options.text_encoder),
    overwrite=options.overwrite,
  )
  print(summary(manifest))
  output = shlex.quote(options.output)
  following = f"--workdir=runs/mine --config.data.source=tfrecord:{output}"
  if name is not None:
    following = f"--config={shlex.quote(name)} {following}"
  print(f"Next: {program_name()} inspect {output}")
  print(f"Then: {program_name()} train {following}")


def _open_encoder(directory: str) -> Any:
  # Late: only captions need JAX.
  from mmdiff_jax.checkpoint.text_encoder import open_text_encoder

  return open_text_encoder(directory)


def prepare_tfds(options: argparse.Namespace) -> None:
  """Makes a TFDS data set of TFRecords."""
  from data_prep import tfds_builder

  count = tfds_builder.build(options.input, options.name, options.tfds_dir)
  print(
    f"{count} examples; train with --config.data.source=tfds:{options.name} "
    f"--config.data.tfds_dir={one_line(options.tfds_dir)}"
  )


def inspect(options: argparse.Namespace) -> int:
  """Checks and shows a prepared data set; returns 1 if anything is wrong."""
  from data_prep import inspect_dataset
  from mmdiff_jax.data.verify import verify_data_set

  output = inspect_dataset.check_sheet(options.argument, options.output)
  print(inspect_dataset.describe(options.argument))
  problems = verify_data_set(options.argument)
  for problem in problems:
    print(f"error: {one_line(problem)}", file=sys.stderr)
  if problems:
    return 1
  print("All records read; all CRCs are right.")
  inspect_dataset.contact_sheet(options.argument, output, clips=options.clips)
  print(f"Contact sheet: {one_line(output)}")
  return 0
