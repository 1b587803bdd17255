"""MM-Diffusion in JAX: prepare, train, sample and evaluate.

  main.py train --config=configs/landscape.py --workdir=DIR
  main.py sample --checkpoint=DIR --output=DIR --num_samples=N
  main.py upscale --sr_checkpoint=DIR --source=FILE --output=DIR
  main.py evaluate --real=DIR --fake=DIR --output=report.json
  main.py evaluate --real=DIR --compare=DIR,DIR --output=table.json
  main.py import_checkpoint --source=FILE --workdir=DIR
  main.py export_checkpoint --checkpoint=DIR --output=DIR
  main.py gallery DIR
  main.py compile --topology=v5e:4x4 --config=configs/landscape.py
  main.py verify DIR
  main.py study build|serve|report|plan|simulate ... (study --help)

Every key of a configuration can be set on the command line:
--config.train.batch_size=8; an optional one is unset by
--config.sample.steps=None. `sample` takes the network from the checkpoint and
the sections `sample` and `sr` from --config; `evaluate` reads both sides at
the geometry of config.data.
"""

import dataclasses
import difflib
import logging
import os
import re
import sys
from collections.abc import Callable

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, FieldReference, config_flags

_DEFAULT_CONFIG = os.path.join(
  os.path.dirname(os.path.abspath(__file__)), "configs", "default.py"
)
_FLAGS = flags.FLAGS
_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Configuration file (default: configs/default.py)."
)
flags.DEFINE_string("workdir", None, "Directory of a training run.")
flags.DEFINE_string(
  "profile",
  None,
  "START:COUNT, steps that JAX's profiler traces into WORKDIR/profile (train).",
)
flags.DEFINE_multi_string(
  "checkpoint", [], "Checkpoint or workdir to sample from; may be repeated."
)
flags.DEFINE_string(
  "sr_checkpoint", None, "Checkpoint of a super-resolution model."
)
flags.DEFINE_string(
  "output",
  None,
  "Directory (sample, upscale, export_checkpoint) or report file (evaluate).",
)
flags.DEFINE_enum(
  "format",
  "checkpoint",
  ["checkpoint", "safetensors"],
  "What export_checkpoint writes: a checkpoint of this program, or a file with "
  "the published names.",
)
flags.DEFINE_integer("num_samples", 16, "Samples to generate.", lower_bound=1)
flags.DEFINE_list("seeds", [], "Seeds to sample with (default: config.seed).")
flags.DEFINE_list(
  "formats", ["mp4", "wav", "gif"], "Files to write: mp4, wav, png, gif."
)
flags.DEFINE_enum(
  "condition",
  None,
  ["audio", "video", "continue"],
  "What of --source is given: its audio, its video, or the beginning of both.",
)
flags.DEFINE_string(
  "source",
  None,
  "File or folder of media; a .pt or .safetensors file for import_checkpoint.",
)
flags.DEFINE_integer("label", None, "Class that the samples belong to.")
flags.DEFINE_float(
  "duration", None, "Length in seconds of each sample, beyond one clip's."
)
flags.DEFINE_float(
  "overlap", None, "Seconds shared by neighbouring pieces of --duration."
)
flags.DEFINE_string("real", None, "Real clips: folder, TFRecords or .npz.")
flags.DEFINE_string("fake", None, "Generated clips: a folder or .npz.")
flags.DEFINE_list(
  "compare",
  [],
  "Instead of --fake: folders of generated clips, NAME=DIR or DIR, to compare.",
)
flags.DEFINE_bool(
  "curve", False, "With --compare: the folders are checkpoints of one run."
)
flags.DEFINE_enum(
  "split",
  None,
  ["train", "heldout", "all"],
  "Share of --real by config.data.holdout_fraction (default: heldout, or all "
  "where nothing is held out).",
)
flags.DEFINE_enum(
  "protocol", "clean", ["paper", "clean"], "Evaluation protocol."
)
flags.DEFINE_list("metrics", [], "Metrics to compute (default all).")
flags.DEFINE_string(
  "weights_dir", None, "Folder of the metric networks' published weights."
)
flags.DEFINE_string(
  "cache_dir", "", "Folder that keeps features (default: the user's cache)."
)
flags.DEFINE_integer(
  "num_clips", 2048, "Clips of each side to evaluate.", lower_bound=2
)
flags.DEFINE_integer(
  "batch_size",
  None,
  "Clips that a metric's network sees at once (default: by the memory).",
  lower_bound=1,
)
flags.DEFINE_string(
  "max_bad", "5%", "Share of a side's clips that may be unusable."
)
flags.DEFINE_bool(
  "memorisation", False, "Search training clips that samples copy."
)
flags.DEFINE_string(
  "topology",
  None,
  "Hardware to compile for: v5e:4x4, v5p:2x2x4, h100:1x8, cpu:8, ...",
)
flags.DEFINE_enum("what", "train", ["train", "sample"], "Program to compile.")
flags.DEFINE_integer(
  "slices", 1, "Slices of TPUs to compile for.", lower_bound=1
)
flags.DEFINE_float(
  "hbm", None, "GiB a device that compile may use (default: what the chip has)."
)
flags.DEFINE_bool(
  "fit", False, "Find the smallest change that fits, by trying (compile)."
)
flags.DEFINE_bool("onsets", False, "Mark detected onsets (gallery).")
flags.DEFINE_bool("traceback", False, "Show where in the code an error arose.")
flags.DEFINE_bool(
  "distributed",
  False,
  "Join the other hosts before the work (train, evaluate). TPU pods, SLURM "
  "and Kubernetes tell who they are; elsewhere give the three flags below.",
)
flags.DEFINE_string(
  "coordinator", None, "With --distributed: HOST:PORT of the first host."
)
flags.DEFINE_integer(
  "num_hosts", None, "With --distributed: number of hosts.", lower_bound=1
)
flags.DEFINE_integer(
  "host", None, "With --distributed: number of this one, from 0.", lower_bound=0
)


def _need(name: str):
  if not _FLAGS[name].value:
    raise ValueError(f"--{name} is required by this command.")
  return _FLAGS[name].value


def _train(config: ConfigDict) -> None:
  from mmdiff_jax.training.loop import train

  train(config, _need("workdir"), profile=_FLAGS.profile)


def _sample(config: ConfigDict) -> None:
  from mmdiff_jax.sampling import runs

  seeds = runs.parse_seeds(_FLAGS.seeds) or [config.seed]
  planned = runs.plan_runs(_need("checkpoint"), seeds, _need("output"))
  # Late: what is above needs no JAX.
  from mmdiff_jax.sampling import generate

  for output, (checkpoint, seed) in planned.items():
    generate.sample(
      config,
      checkpoint_path=checkpoint,
      output=output,
      num_samples=_FLAGS.num_samples,
      seed=seed,
      formats=_FLAGS.formats,
      condition=_FLAGS.condition,
      source=_FLAGS.source,
      duration=_FLAGS.duration,
      overlap=_FLAGS.overlap,
      cond={} if _FLAGS.label is None else {"label": _FLAGS.label},
      sr_checkpoint=_FLAGS.sr_checkpoint,
    )


def _upscale(config: ConfigDict) -> None:
  from mmdiff_jax.sampling.upscale import upscale

  upscale(
    config,
    sr_checkpoint=_need("sr_checkpoint"),
    source=_need("source"),
    output=_need("output"),
    seed=config.seed,
  )


def _evaluate(config: ConfigDict) -> None:
  from mmdiff_jax.av import AVSpec
  from mmdiff_jax.evaluation import compare
  from mmdiff_jax.evaluation.evaluate import evaluate
  from mmdiff_jax.evaluation.session import parse_share

  settings = {
    "split": _FLAGS.split,
    "holdout_fraction": config.data.holdout_fraction,
    "protocol": _FLAGS.protocol,
    "metrics": _FLAGS.metrics,
    "weights_dir": _FLAGS.weights_dir,
    "cache_dir": _FLAGS.cache_dir,
    "seed": config.seed,
    "num_clips": _FLAGS.num_clips,
    "max_bad": parse_share(_FLAGS.max_bad),
    "batch_size": _FLAGS.batch_size,
    "spec": AVSpec.from_config(config.data),
    "tfds_dir": config.data.tfds_dir,
    "synthetic_clips": config.data.synthetic_clips,
  }
  real, output = _need("real"), _need("output")
  if not _FLAGS.compare:
    if _FLAGS.curve:
      raise ValueError("--curve goes with --compare; name the folders there.")
    evaluate(
      real=real,
      fake=_need("fake"),
      output=output,
      memorisation=_FLAGS.memorisation,
      **settings,
    )
    return
  if _FLAGS.fake or _FLAGS.memorisation:
    raise ValueError("--compare takes neither --fake nor --memorisation.")
  compare.compare(
    real=real,
    fakes=compare.name_sides(_FLAGS.compare),
    output=output,
    curve=_FLAGS.curve,
    **settings,
  )


def _import_checkpoint(config: ConfigDict) -> None:
  from mmdiff_jax.convert.importer import import_checkpoint

  import_checkpoint(config, source=_need("source"), workdir=_need("workdir"))


def _export_checkpoint(config: ConfigDict) -> None:
  del config
  from mmdiff_jax.convert import exporter

  if len(_need("checkpoint")) > 1:
    raise ValueError("export_checkpoint takes one --checkpoint.")
  export = (
    exporter.export_safetensors
    if _FLAGS.format == "safetensors"
    else exporter.export_params
  )
  print(export(_FLAGS.checkpoint[0], _need("output")))


def _gallery(config: ConfigDict, directory: str = "") -> None:
  del config
  from mmdiff_jax.gallery import make_gallery

  if not directory:
    raise ValueError("gallery takes one directory: main.py gallery DIR")
  print(make_gallery(directory, onsets=_FLAGS.onsets))


def _compile(config: ConfigDict) -> None:
  from mmdiff_jax.aot.compile import compile_for

  compile_for(
    config,
    topology=_need("topology"),
    what=_FLAGS.what,
    slices=_FLAGS.slices,
    hbm=_FLAGS.hbm,
    fit=_FLAGS.fit,
    output=_FLAGS.output,
  )


def _verify(config: ConfigDict, directory: str = "") -> None:
  del config
  from mmdiff_jax.verify import verify

  if not directory:
    raise ValueError("verify takes one directory: main.py verify DIR")
  wrong = 0
  for what, problems in verify(directory):
    wrong += len(problems)
    print(what, "is as it was written." if not problems else "is not right:")
    for problem in problems:
      print(f"  {problem}")
  if wrong:
    raise ValueError(f"{directory}: {wrong} of its files are not right.")


def _study(config: ConfigDict, *arguments: str) -> None:
  del config
  from mmdiff_jax.study import command

  command.run(arguments)


@dataclasses.dataclass(frozen=True)
class Command:
  """One command.

  Attributes:
    run: takes the configuration, and the arguments that are no flags.
    flags: that only some commands take.
    takes_argument: whether one argument follows that is no flag.
    own_parser: whether it reads all that follows its name by itself.
    several_hosts: whether --distributed applies.
    resumable: whether the same command continues after an interruption.
  """

  run: Callable[..., None]
  flags: tuple[str, ...]
  takes_argument: bool = False
  own_parser: bool = False
  several_hosts: bool = False
  resumable: bool = False


# fmt: off
_COMMANDS = {
  "train": Command(
    _train, ("workdir", "profile"), several_hosts=True, resumable=True),
  "sample": Command(
    _sample,
    ("checkpoint", "sr_checkpoint", "output", "num_samples", "seeds", "label",
     "formats", "condition", "source", "duration", "overlap"),
    resumable=True),
  "upscale": Command(_upscale, ("sr_checkpoint", "source", "output")),
  "evaluate": Command(
    _evaluate,
    ("real", "fake", "compare", "curve", "output", "split", "protocol",
     "metrics", "weights_dir", "cache_dir", "num_clips", "max_bad",
     "batch_size", "memorisation"),
    several_hosts=True),
  "import_checkpoint": Command(_import_checkpoint, ("source", "workdir")),
  "export_checkpoint": Command(
    _export_checkpoint, ("checkpoint", "output", "format")),
  "compile": Command(
    _compile, ("topology", "what", "slices", "hbm", "fit", "output")),
  "gallery": Command(_gallery, ("onsets",), takes_argument=True),
  "verify": Command(_verify, (), takes_argument=True),
  "study": Command(_study, (), own_parser=True),
}
# fmt: on


def _check_flags(command: str) -> None:
  """Raises ValueError for a flag that only other commands take."""
  owned = {flag for row in _COMMANDS.values() for flag in row.flags}
  for flag in sorted(owned - set(_COMMANDS[command].flags)):
    if _FLAGS[flag].present:
      takers = [name for name, row in _COMMANDS.items() if flag in row.flags]
      raise ValueError(
        f"--{flag} is a flag of {', '.join(takers)}, not of {command}; leave "
        "it out."
      )


# Flags that name places, and those that must be local.
_PLACES = (
  "workdir", "checkpoint", "sr_checkpoint", "output", "source", "real", "fake",
)  # fmt: skip
_LOCAL_PLACES = ("weights_dir", "cache_dir")


def _check_places(command: str, arguments: list[str]) -> None:
  """Raises ValueError for a place that cannot be reached, before any work."""
  from mmdiff_jax.files import check_local, check_path

  config = _CONFIG.value
  for name in _PLACES:
    values = _FLAGS[name].value or []
    for value in [values] if isinstance(values, str) else values:
      check_path(value.removeprefix("tfrecord:"), f"--{name}")
  for name in _LOCAL_PLACES:
    check_local(_FLAGS[name].value or "", f"--{name}")
  for key in ("data.source", "data.tfds_dir", "train.init_from"):
    section, name = key.split(".")
    place = config[section][name].removeprefix("tfrecord:")
    check_path(place, f"--config.{key}")
  check_path(config.compilation_cache, "--config.compilation_cache")
  for argument in arguments:
    if command in ("gallery", "study"):
      check_local(argument.rpartition("=")[2], command)
    else:
      check_path(argument)


def _join_hosts(command: str) -> None:
  """Makes the processes of all hosts one run, whose devices share the work.

  That run is in a child of this process, which watches over it.
  """
  ours = ("coordinator", "num_hosts", "host")
  values = [_FLAGS[name].value for name in ours]
  if not _FLAGS.distributed:
    for name, value in zip(ours, values, strict=True):
      if value is not None:
        raise ValueError(f"--{name} goes with --distributed; add that flag.")
    return
  if not _COMMANDS[command].several_hosts:
    able = [name for name, row in _COMMANDS.items() if row.several_hosts]
    raise ValueError(
      f"--distributed: {command} runs on one host, only {' and '.join(able)} "
      "on several; leave the flag out."
    )
  from mmdiff_jax import hosts

  if not hosts.is_watched():
    hosts.run_watched()
  hosts.watch_parent()
  from mmdiff_jax import sharding

  sharding.join_hosts(*values)


def _main(argv: list[str]) -> None:
  if len(argv) < 2:
    sys.exit(f"error: name a command: {', '.join(_COMMANDS)} (or --help).")
  name, arguments = argv[1], argv[2:]
  if name not in _COMMANDS:
    close = difflib.get_close_matches(name, _COMMANDS, 1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    sys.exit(
      f"error: unknown command {name!r}.{hint} "
      f"Commands: {', '.join(_COMMANDS)}."
    )
  command = _COMMANDS[name]
  if len(arguments) > command.takes_argument and not command.own_parser:
    sys.exit(f"error: unexpected argument {arguments[-1]!r}.")
  _set_up_logging()
  try:
    _check_flags(name)
    _check_places(name, arguments)
    _keep_compiled_programs(_CONFIG.value.compilation_cache)
    _join_hosts(name)
    command.run(_CONFIG.value, *arguments)
  except (ValueError, OSError, RuntimeError, ImportError) as error:
    if _FLAGS.traceback:
      raise
    if _FLAGS.distributed:
      from mmdiff_jax import hosts

      hosts.leave(error)
    sys.exit(f"error: {error}")
  except KeyboardInterrupt:
    hint = ": the same command continues" if command.resumable else ""
    print(f"Interrupted{hint}.", file=sys.stderr, flush=True)
    sys.stdout.flush()
    # As shells report a SIGINT. After an interrupted compilation, the usual
    # exit ends in a segmentation fault of XLA's.
    os._exit(130)


def _set_up_logging() -> None:
  """Our own messages from INFO on, everybody else's from WARNING on."""
  absl_logging.set_verbosity(absl_logging.WARNING)
  # Orbax logs each failure several times, with tracebacks, and raises it too.
  absl_logging.get_absl_logger().addFilter(
    lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname
  )
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter("%(message)s"))
  logger = logging.getLogger("mmdiff_jax")
  logger.addHandler(handler)
  logger.setLevel(logging.INFO)
  logger.propagate = False


def _keep_compiled_programs(folder: str) -> None:
  """Lets JAX find in `folder` what an earlier process compiled."""
  if folder and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Read by JAX when it is imported, which few commands need to be.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.expanduser(folder)


_UNSET = re.compile(r"--?config\.([\w.]+)=None")


def _parse_flags(argv: list[str]) -> list[str]:
  """Parses the command line; a bad configuration key is one clear line."""
  name = argv[1] if len(argv) > 1 else ""
  if name in _COMMANDS and _COMMANDS[name].own_parser:
    _parse_flags(argv[:1])
    return argv
  if not any(a.split("=")[0] in ("--config", "-config") for a in argv):
    argv = [argv[0], f"--config={_DEFAULT_CONFIG}", *argv[1:]]
  unset = [match[1] for match in map(_UNSET.fullmatch, argv) if match]
  argv = [argument for argument in argv if not _UNSET.fullmatch(argument)]
  try:
    arguments = _FLAGS(argv)
    _CONFIG.value.lock()  # Fails if the file could not be loaded.
    for key in unset:
      _unset(_CONFIG.value, key)
    return arguments
  except flags.Error as error:
    sys.exit(f"error: {error}\nmain.py --help lists the flags.")
  except SyntaxError as error:
    sys.exit(f"error: --config: {error}; give a file of configs/.")
  except (AttributeError, KeyError, TypeError, OSError, ImportError) as error:
    message = str(error.args[0] if error.args else error)
    message = " ".join(message.replace("\\n", " ").split())
    sys.exit(f"error: --config: {message}")


def _unset(config: ConfigDict, key: str) -> None:
  *sections, name = key.split(".")
  for section in sections:
    config = config[section]
  fields = dict(config.items(preserve_field_references=True))
  if not isinstance(fields.get(name), FieldReference):
    raise TypeError(f"{key}=None: only optional keys can be unset.")
  config[name] = None


if __name__ == "__main__":
  app.run(_main, flags_parser=_parse_flags)
