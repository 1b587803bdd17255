"""The commands: one row of a table each."""

import dataclasses
from collections.abc import Callable, Mapping

from mmdiff_jax.cli import actions, data_sets, studies
from mmdiff_jax.cli.flags import find_flag
from mmdiff_jax.cli.parser import Flag


@dataclasses.dataclass(frozen=True)
class Command:
  """One command.

  Attributes:
    run: takes the flags, and the configuration if the command reads one;
      returns None or an exit status. The argument that is not a flag is
      `argument` of the flags.
    summary: one line.
    example: the arguments of a typical call.
    needs: flags that must be set.
    takes: flags that may be set.
    keys: of the configuration, those that matter most to it.
    reads: keys and sections of the configuration that it reads; () is all of
      them.
    otherwise: where the other keys come from.
    config: whether it reads a configuration.
    instead: flags of a command without a configuration that stand for keys of
      another name, or for --config.
    argument: what the argument that is not a flag is called; in brackets
      where it may be left out, "" where there is none.
    devices: whether it computes on JAX's devices.
    resumable: whether the same command continues after an interruption.
  """

  run: Callable[..., int | None]
  summary: str
  example: str
  needs: tuple[str, ...] = ()
  takes: tuple[str, ...] = ()
  keys: tuple[str, ...] = ()
  reads: tuple[str, ...] = ()
  otherwise: str = ""
  config: bool = True
  instead: Mapping[str, str] = dataclasses.field(default_factory=dict)
  argument: str = ""
  devices: bool = False
  resumable: bool = False

  @property
  def flags(self) -> tuple[str, ...]:
    """The names of all its flags."""
    common = ("config", "traceback") if self.config else ("traceback",)
    return (*self.needs, *self.takes, *common)


_HOSTS = ("distributed", "coordinator", "num_hosts", "host")
# What all commands that read a configuration read of it.
_ALWAYS = ("seed", "compilation_cache")
_SOURCES = ("data.tfds_dir", "data.synthetic_clips")
_UPSCALING = ("sr.chunk_frames", "sr.share_noise", "sr.sample")
_TRAINED = "it comes from the checkpoint"
_GEOMETRY = ("data.frames", "data.height", "data.fps", "data.sample_rate")

# fmt: off
COMMANDS = {
  "synthetic": Command(
    data_sets.synthetic, "write videos of sounding shapes, to try the rest",
    "shapes --count=100",
    takes=("count", "first", "split", "frames", "size", "fps", "sample_rate",
           "num_shapes", "clutter", "walls"),
    config=False, argument="DIR"),
  "prepare": Command(
    data_sets.prepare, "make TFRecords of a folder of videos",
    "--input=VIDEOS --output=data/mine --size=64 --fps=10",
    ("input", "output"),
    ("for", "fps", "size", "sample_rate", "clip_frames", "fit", "crop_bars",
     "labels", "captions", "embeddings", "text_encoder", "workers", "shards",
     "missing_audio", "channels", "min_loudness", "max_silence", "max_frozen",
     "max_pixels", "time_limit", "hdr", "hwaccel", "frame_format",
     "jpeg_quality", "runner", "beam_options", "overwrite"),
    config=False, resumable=True,
    instead={"config": "for", "frames": "clip_frames", "height": "size",
             "width": "size"}),
  "prepare_tfds": Command(
    data_sets.prepare_tfds, "make a TFDS data set of what `prepare` made",
    "--input=data/mine --name=mine --tfds_dir=tfds",
    ("input", "name", "tfds_dir"), config=False),
  "inspect": Command(
    data_sets.inspect, "check and show what `prepare` made", "data/mine",
    takes=("clips", "output"), config=False, argument="DIR"),
  "train": Command(
    actions.train, "train a model, or go on with a run",
    "--config=landscape --workdir=runs/mine"
    " --config.data.source=tfrecord:data/mine",
    ("workdir",), ("profile", "force", *_HOSTS),
    ("data.source", *_GEOMETRY, "data.holdout_fraction", "train.num_steps",
     "train.batch_size", "train.microbatches", "train.learning_rate",
     "train.gradient_clip", "train.init_from", "train.checkpoint_every",
     "train.preview_every", "model.model_channels", "model.remat",
     "mesh.fsdp"),
    devices=True, resumable=True),
  "sample": Command(
    actions.sample, "generate clips from a checkpoint",
    "--checkpoint=runs/mine --output=samples --num_samples=16",
    ("checkpoint", "output"),
    ("sr_checkpoint", "num_samples", "seeds", "label", "formats", "condition",
     "keep", "span", "box", "mask", "between", "extend", "strength",
     "source", "duration", "overlap", "force"),
    ("sample.sampler", "sample.steps", "sample.order", "sample.method",
     "sample.batch_size", "sample.cfg_scale", "sample.cfg_interval",
     "sample.condition_method",
     "sample.guidance_scale", "seed"),
    ("sample", "mesh", *_UPSCALING, *_SOURCES, *_ALWAYS), _TRAINED,
    devices=True, resumable=True),
  "upscale": Command(
    actions.upscale, "enlarge the frames of videos (super-resolution)",
    "--sr_checkpoint=runs/sr --source=clips --output=large",
    ("sr_checkpoint", "source", "output"), ("force",),
    keys=("sr.chunk_frames", "sr.sample.sampler", "sr.sample.steps"),
    reads=("mesh", *_UPSCALING, *_ALWAYS), otherwise=_TRAINED,
    devices=True),
  "evaluate": Command(
    actions.evaluate, "compare generated clips with real ones",
    "--real=data/mine --fake=samples --output=report.json",
    ("real", "output"),
    ("fake", "compare", "curve", "split", "protocol", "metrics", "weights_dir",
     "cache_dir", "num_clips", "max_bad", "batch_size", "memorisation",
     *_HOSTS),
    (*_GEOMETRY, "data.holdout_fraction"),
    (*_GEOMETRY, "data.width", "data.fit", "data.holdout_fraction", *_SOURCES,
     *_ALWAYS), devices=True),
  "gallery": Command(
    actions.gallery, "make a page to look at and listen to clips with",
    "samples", takes=("onsets",), config=False, argument="DIR"),
  "verify": Command(
    actions.verify, "tell whether files are as they were written", "runs/mine",
    config=False, argument="DIR"),
  "import_checkpoint": Command(
    actions.import_checkpoint, "take over a published checkpoint",
    "--source=Landscape.pt --workdir=runs/landscape", ("source", "workdir"),
    keys=("model.model_channels", "model.channel_mult", "model.learn_sigma"),
    devices=True),
  "export_checkpoint": Command(
    actions.export_checkpoint, "hand a model on without its training state",
    "--checkpoint=runs/mine --output=mine_averaged",
    ("checkpoint", "output"), ("format",), config=False, devices=True),
  "compile": Command(
    actions.compile_program, "what a program needs on hardware that is absent",
    "--topology=v5e:4x4 --config.mesh.fsdp=4",
    ("topology",), ("what", "slices", "hbm", "fit", "cycles", "output"),
    ("train.batch_size", "train.microbatches", "model.remat", "mesh.data",
     "mesh.fsdp")),
  "study build": Command(
    studies.build, "make the folder of a study of people's judgement",
    "--real=data/mine --fake=ours=samples --output=study",
    ("real", "fake", "output"), ("preset",), config=False),
  "study serve": Command(
    studies.serve, "let raters answer", "study --port=8000",
    takes=("host", "port", "root_path", "per_client"), config=False,
    argument="STUDY"),
  "study invite": Command(
    studies.invite, "print links, each of which lets one rater take part",
    "study --count=24", ("count",), ("address",), config=False,
    argument="STUDY"),
  "study report": Command(
    studies.report, "analyse the answers", "study",
    takes=("output", "draws"), config=False, argument="STUDY"),
  "study export": Command(
    studies.export, "write all answers to a .csv or .json file",
    "study --output=votes.csv", ("output",), ("truth",), config=False,
    argument="STUDY"),
  "study plan": Command(
    studies.plan, "how many raters and clips a study needs",
    "--clips=100 --per_rater=20",
    takes=("raters", "clips", "per_rater", "pilot"), config=False),
  "study simulate": Command(
    studies.simulate, "let simulated raters answer, to try the report",
    "study --raters=30", takes=("raters", "cheaters", "seed"), config=False,
    argument="STUDY"),
  "config": Command(
    actions.show_config, "list the keys of a configuration", "train.batch_size",
    argument="[KEY]"),
}
# fmt: on


def flags_of(name: str) -> dict[str, Flag]:
  """The flags of a command by name, in the order of its help."""
  return {flag: find_flag(name, flag) for flag in COMMANDS[name].flags}
