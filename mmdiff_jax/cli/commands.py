"""The commands: one row of a table each."""

import dataclasses
from collections.abc import Callable

from mmdiff_jax.cli import actions


@dataclasses.dataclass(frozen=True)
class Command:
  """One command.

  Attributes:
    run: takes the flags; the configuration, if the command has one; and the
      argument that is no flag, if there is one. With its own parser it takes
      all that follows the name, and how the program is called.
    summary: one line.
    example: the flags of a typical call.
    flags: those it takes.
    keys: of the configuration, that matter most to it; `config` says whether
      it reads one at all.
    argument: what the argument that is no flag is called; in brackets where
      it may be left out.
    own_parser: whether it reads all that follows its name by itself.
    resumable: whether the same command continues after an interruption.
  """

  run: Callable[..., int | None]
  summary: str
  example: str = ""
  flags: tuple[str, ...] = ()
  keys: tuple[str, ...] = ()
  config: bool = True
  argument: str = ""
  own_parser: bool = False
  resumable: bool = False


_HOSTS = ("distributed", "coordinator", "num_hosts", "host")
_GEOMETRY = ("data.frames", "data.height", "data.fps", "data.sample_rate")

# fmt: off
COMMANDS = {
  "synthetic": Command(
    actions.synthetic, "write videos of sounding shapes, to try the rest",
    own_parser=True),
  "prepare": Command(
    actions.prepare, "make TFRecords of a folder of videos", own_parser=True),
  "prepare_tfds": Command(
    actions.prepare_tfds, "make a TFDS data set of what `prepare` made",
    own_parser=True),
  "inspect": Command(
    actions.inspect, "check and show what `prepare` made", own_parser=True),
  "train": Command(
    actions.train, "train a model, or go on with a run",
    "--config=landscape --workdir=runs/mine"
    " --config.data.source=tfrecord:data/mine",
    ("workdir", "profile", "force", *_HOSTS),
    ("data.source", *_GEOMETRY, "data.holdout_fraction", "train.num_steps",
     "train.batch_size", "train.microbatches", "train.learning_rate",
     "train.gradient_clip", "train.init_from", "train.checkpoint_every",
     "train.preview_every", "model.model_channels", "model.remat",
     "mesh.fsdp"),
    resumable=True),
  "sample": Command(
    actions.sample, "generate clips from a checkpoint",
    "--checkpoint=runs/mine --output=samples --num_samples=16",
    ("checkpoint", "sr_checkpoint", "output", "num_samples", "seeds", "label",
     "formats", "condition", "source", "duration", "overlap", "force"),
    ("sample.sampler", "sample.steps", "sample.order", "sample.method",
     "sample.batch_size", "sample.cfg_scale", "sample.condition_method",
     "sample.guidance_scale", "seed"),
    resumable=True),
  "upscale": Command(
    actions.upscale, "enlarge the frames of videos (super-resolution)",
    "--sr_checkpoint=runs/sr --source=clips --output=large",
    ("sr_checkpoint", "source", "output"),
    ("sr.chunk_frames", "sr.sample.sampler", "sr.sample.steps")),
  "evaluate": Command(
    actions.evaluate, "compare generated clips with real ones",
    "--real=data/mine --fake=samples --output=report.json",
    ("real", "fake", "compare", "curve", "output", "split", "protocol",
     "metrics", "weights_dir", "cache_dir", "num_clips", "max_bad",
     "batch_size", "memorisation", *_HOSTS),
    (*_GEOMETRY, "data.holdout_fraction")),
  "gallery": Command(
    actions.gallery, "make a page to look at and listen to clips with",
    "samples", ("onsets",), config=False, argument="DIR"),
  "verify": Command(
    actions.verify, "tell whether files are as they were written", "runs/mine",
    config=False, argument="DIR"),
  "import_checkpoint": Command(
    actions.import_checkpoint, "take over a published checkpoint",
    "--source=Landscape.pt --workdir=runs/landscape", ("source", "workdir"),
    ("model.model_channels", "model.channel_mult", "model.learn_sigma")),
  "export_checkpoint": Command(
    actions.export_checkpoint, "hand a model on without its training state",
    "--checkpoint=runs/mine --output=mine_averaged",
    ("checkpoint", "output", "format"), config=False),
  "compile": Command(
    actions.compile_program, "what a program needs on hardware that is absent",
    "--topology=v5e:4x4 --config.mesh.fsdp=4",
    ("topology", "what", "slices", "hbm", "fit", "cycles", "output"),
    ("train.batch_size", "train.microbatches", "model.remat", "mesh.data",
     "mesh.fsdp")),
  "study": Command(
    actions.study, "ask people: build, serve, report, export, plan, simulate",
    own_parser=True),
  "config": Command(
    actions.show_config, "list the keys of a configuration", "train.batch_size",
    argument="[KEY]"),
}
# fmt: on
