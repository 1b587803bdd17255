"""MM-Diffusion in JAX: prepare, train, sample and evaluate.

  main.py train --config=configs/landscape.py --workdir=DIR
  main.py sample --checkpoint=DIR --output=DIR --num_samples=N
  main.py upscale --sr_checkpoint=DIR --source=FILE --output=DIR
  main.py evaluate --real=DIR --fake=DIR --output=report.json
  main.py import_checkpoint --source=FILE.pt --workdir=DIR
  main.py export_checkpoint --checkpoint=DIR --output=DIR
  main.py gallery DIR

Every key of a configuration can be set on the command line:
--config.train.batch_size=8. `sample` takes the network from the checkpoint
and the sections `sample` and `sr` from --config; `evaluate` reads both sides
at the geometry of config.data.
"""

import difflib
import logging
import os
import pathlib
import sys

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

_DEFAULT_CONFIG = os.path.join(
  os.path.dirname(os.path.abspath(__file__)), "configs", "default.py"
)
_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Configuration file (default: configs/default.py)."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of a training run.")
_CHECKPOINT = flags.DEFINE_multi_string(
  "checkpoint", [], "Checkpoint or workdir to sample from; may be repeated."
)
_SR_CHECKPOINT = flags.DEFINE_string(
  "sr_checkpoint", None, "Checkpoint of a super-resolution model."
)
_OUTPUT = flags.DEFINE_string(
  "output",
  None,
  "Directory (sample, upscale, export_checkpoint) or report file (evaluate).",
)
_NUM_SAMPLES = flags.DEFINE_integer(
  "num_samples", 16, "Samples to generate.", lower_bound=1
)
_SEEDS = flags.DEFINE_list(
  "seeds", [], "Seeds to sample with (default: config.seed)."
)
_FORMATS = flags.DEFINE_list(
  "formats", ["mp4", "wav", "gif"], "Files to write: mp4, wav, png, gif."
)
_CONDITION = flags.DEFINE_enum(
  "condition",
  None,
  ["audio", "video", "continue"],
  "What of --source is given: its audio, its video, or the beginning of both.",
)
_SOURCE = flags.DEFINE_string(
  "source", None, "File or folder of media; a .pt file for import_checkpoint."
)
_DURATION = flags.DEFINE_float(
  "duration", None, "Length in seconds of each sample, beyond one clip's."
)
_OVERLAP = flags.DEFINE_float(
  "overlap", None, "Seconds shared by neighbouring windows of --duration."
)
_REAL = flags.DEFINE_string("real", None, "Real clips: folder or TFRecords.")
_FAKE = flags.DEFINE_string("fake", None, "Generated clips: a folder.")
_PROTOCOL = flags.DEFINE_enum(
  "protocol", "clean", ["paper", "clean"], "Evaluation protocol."
)
_METRICS = flags.DEFINE_list("metrics", [], "Metrics to compute (default all).")
_WEIGHTS_DIR = flags.DEFINE_string(
  "weights_dir", None, "Folder of the metric networks' published weights."
)
_NUM_CLIPS = flags.DEFINE_integer(
  "num_clips", 2048, "Clips of each side to evaluate.", lower_bound=2
)
_MEMORISATION = flags.DEFINE_bool(
  "memorisation", False, "Search training clips that samples copy."
)
_ONSETS = flags.DEFINE_bool("onsets", False, "Mark detected onsets (gallery).")
_TRACEBACK = flags.DEFINE_bool(
  "traceback", False, "Show where in the code an error arose."
)
_DISTRIBUTED = flags.DEFINE_bool(
  "distributed",
  False,
  "Join the other hosts before the work (train, evaluate). TPU pods, SLURM "
  "and Kubernetes tell who they are; elsewhere give the three flags below.",
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator", None, "With --distributed: HOST:PORT of the first host."
)
_NUM_HOSTS = flags.DEFINE_integer(
  "num_hosts", None, "With --distributed: number of hosts.", lower_bound=1
)
_HOST = flags.DEFINE_integer(
  "host", None, "With --distributed: number of this one, from 0.", lower_bound=0
)


def _need(flag: flags.FlagHolder) -> str:
  if not flag.value:
    raise ValueError(f"--{flag.name} is required by this command.")
  return flag.value


def _train(config, arguments):
  del arguments
  from mmdiff_jax.training.loop import train

  train(config, _need(_WORKDIR))


def _sample(config, arguments):
  del arguments
  runs = _sampling_runs(_need(_CHECKPOINT), _seeds(config), _need(_OUTPUT))
  from mmdiff_jax.sampling import generate

  for output, (checkpoint, seed) in runs.items():
    generate.sample(
      config,
      checkpoint_path=checkpoint,
      output=output,
      num_samples=_NUM_SAMPLES.value,
      seed=seed,
      formats=_FORMATS.value,
      condition=_CONDITION.value,
      source=_SOURCE.value,
      duration=_DURATION.value,
      overlap=_OVERLAP.value,
      sr_checkpoint=_SR_CHECKPOINT.value,
    )


def _seeds(config):
  try:
    seeds = [int(text) for text in _SEEDS.value]
  except ValueError:
    seeds = [-1]
  if any(not 0 <= seed < 2**32 for seed in seeds):
    raise ValueError(
      f"--seeds={','.join(_SEEDS.value)}: give integers from 0 to 2**32 - 1."
    )
  return seeds or [config.seed]


def _sampling_runs(checkpoints, seeds, output):
  """Output directory -> (checkpoint, seed), all of them distinct."""
  if len(checkpoints) == len(seeds) == 1:
    return {output: (checkpoints[0], seeds[0])}
  runs = {}
  for checkpoint in checkpoints:
    for seed in seeds:
      run = os.path.join(output, f"{_run_name(checkpoint)}-seed{seed}")
      if run in runs:
        raise ValueError(
          f"--checkpoint={checkpoint} --seeds={seed} would be written to "
          f"{run}, as would --checkpoint={runs[run][0]}; sample it apart, "
          "into another --output."
        )
      runs[run] = checkpoint, seed
  return runs


def _run_name(checkpoint):
  """runs/a, runs/a/checkpoints -> "a"; runs/a/checkpoints/50 -> "a-50"."""
  path, step = pathlib.Path(os.path.abspath(checkpoint)), ""
  if path.name.isdigit():
    path, step = path.parent, f"-{path.name}"
  if path.name in ("checkpoint", "checkpoints"):
    path = path.parent
  return path.name + step


def _upscale(config, arguments):
  del arguments
  from mmdiff_jax.sampling import generate

  generate.upscale(
    config,
    sr_checkpoint=_need(_SR_CHECKPOINT),
    source=_need(_SOURCE),
    output=_need(_OUTPUT),
    seed=config.seed,
  )


def _evaluate(config, arguments):
  del arguments
  from mmdiff_jax import task
  from mmdiff_jax.evaluation.evaluate import evaluate

  evaluate(
    real=_need(_REAL),
    fake=_need(_FAKE),
    output=_need(_OUTPUT),
    protocol=_PROTOCOL.value,
    metrics=_METRICS.value,
    memorisation=_MEMORISATION.value,
    weights_dir=_WEIGHTS_DIR.value,
    seed=config.seed,
    num_clips=_NUM_CLIPS.value,
    spec=task.av_spec(config),
  )


def _import_checkpoint(config, arguments):
  del arguments
  from mmdiff_jax.convert.importer import import_checkpoint

  import_checkpoint(config, source=_need(_SOURCE), workdir=_need(_WORKDIR))


def _export_checkpoint(config, arguments):
  del config, arguments
  from mmdiff_jax import checkpoint

  if len(_need(_CHECKPOINT)) > 1:
    raise ValueError("export_checkpoint takes one --checkpoint.")
  print(checkpoint.export_params(_CHECKPOINT.value[0], _need(_OUTPUT)))


def _gallery(config, arguments):
  del config
  from mmdiff_jax.gallery import make_gallery

  if len(arguments) != 1:
    raise ValueError("gallery takes one directory: main.py gallery DIR")
  print(make_gallery(arguments[0], onsets=_ONSETS.value))


def _join_hosts(command):
  """Makes the processes of all hosts one run, whose devices share the work."""
  ours = (_COORDINATOR, _NUM_HOSTS, _HOST)
  given = [flag for flag in ours if flag.value is not None]
  if given and (not _DISTRIBUTED.value or len(given) < len(ours)):
    names = ", ".join(f"--{flag.name}" for flag in ours)
    raise ValueError(
      f"--{given[0].name}: {names} go together, with --distributed."
    )
  if not _DISTRIBUTED.value:
    return
  if command not in _DISTRIBUTED_COMMANDS:
    raise ValueError(
      f"--distributed: {command} runs on one host, only "
      f"{' and '.join(_DISTRIBUTED_COMMANDS)} on several; leave the flag out."
    )
  if given and _HOST.value >= _NUM_HOSTS.value:
    raise ValueError(
      f"--host={_HOST.value} must be below --num_hosts={_NUM_HOSTS.value}."
    )
  import jax

  try:
    jax.distributed.initialize(*(flag.value for flag in ours))
  except ValueError as error:
    names = ", ".join(f"--{flag.name}" for flag in ours)
    raise ValueError(
      f"--distributed: no cluster manager was found; give {names}. ({error})"
    ) from error


def _check_flags(command):
  """Raises ValueError for a flag that only other commands take."""
  for flag in sorted(set().union(*_FLAGS.values()) - set(_FLAGS[command])):
    if flags.FLAGS[flag].present:
      takers = ", ".join(name for name in _FLAGS if flag in _FLAGS[name])
      raise ValueError(
        f"--{flag} is a flag of {takers}, not of {command}; leave it out."
      )


_DISTRIBUTED_COMMANDS = ("train", "evaluate")
# The flags that only some commands take.
_FLAGS = {
  "train": ["workdir"],
  "sample": [
    "checkpoint",
    "sr_checkpoint",
    "output",
    "num_samples",
    "seeds",
    "formats",
    "condition",
    "source",
    "duration",
    "overlap",
  ],
  "upscale": ["sr_checkpoint", "source", "output"],
  "evaluate": [
    "real",
    "fake",
    "output",
    "protocol",
    "metrics",
    "weights_dir",
    "num_clips",
    "memorisation",
  ],
  "import_checkpoint": ["source", "workdir"],
  "export_checkpoint": ["checkpoint", "output"],
  "gallery": ["onsets"],
}
_COMMANDS = {
  "train": _train,
  "sample": _sample,
  "upscale": _upscale,
  "evaluate": _evaluate,
  "import_checkpoint": _import_checkpoint,
  "export_checkpoint": _export_checkpoint,
  "gallery": _gallery,
}
_RESUMABLE = ("train", "sample")


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
  if arguments and name != "gallery":
    sys.exit(f"error: unexpected argument {arguments[0]!r}.")
  _set_up_logging()
  try:
    _check_flags(name)
    _join_hosts(name)
    _COMMANDS[name](_CONFIG.value, arguments)
  except (ValueError, OSError, RuntimeError, ImportError) as error:
    if _TRACEBACK.value:
      raise
    sys.exit(f"error: {error}")
  except KeyboardInterrupt:
    hint = ": the same command continues" if name in _RESUMABLE else ""
    print(f"Interrupted{hint}.", file=sys.stderr, flush=True)
    sys.stdout.flush()
    # As shells report a SIGINT. After an interrupted compilation, the usual
    # exit ends in a segmentation fault of XLA's.
    os._exit(130)


def _set_up_logging() -> None:
  """Our own messages from INFO on, everybody else's from WARNING on."""
  absl_logging.set_verbosity(absl_logging.WARNING)
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter("%(message)s"))
  logger = logging.getLogger("mmdiff_jax")
  logger.addHandler(handler)
  logger.setLevel(logging.INFO)
  logger.propagate = False


def _parse_flags(argv: list[str]) -> list[str]:
  """Parses the command line; a bad configuration key is one clear line."""
  if not any(a.split("=")[0] in ("--config", "-config") for a in argv):
    argv = [argv[0], f"--config={_DEFAULT_CONFIG}", *argv[1:]]
  try:
    arguments = flags.FLAGS(argv)
    _CONFIG.value.lock()  # Fails if the file could not be loaded.
    return arguments
  except flags.Error as error:
    sys.exit(f"error: {error}\nmain.py --help lists the flags.")
  except SyntaxError as error:
    sys.exit(f"error: --config: {error}; give a file of configs/.")
  except (AttributeError, KeyError, TypeError, OSError, ImportError) as error:
    message = str(error.args[0] if error.args else error)
    message = " ".join(message.replace("\\n", " ").split())
    sys.exit(f"error: --config: {message}")


if __name__ == "__main__":
  app.run(_main, flags_parser=_parse_flags)
