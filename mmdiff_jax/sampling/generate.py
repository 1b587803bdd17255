"""From checkpoints to media files: sampling, conditioning, the cascade."""

import hashlib
import logging
import pathlib
import resource
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mmdiff_jax import checkpoint, sharding, task
from mmdiff_jax.data import media, media_writer
from mmdiff_jax.files import check_directory
from mmdiff_jax.progress import progress_bar
from mmdiff_jax.sampling.clip_sampler import WindowSampler, condition_options
from mmdiff_jax.sampling.folder import SampleFolder
from mmdiff_jax.sampling.given import Job, load_sources, make_jobs
from mmdiff_jax.sampling.upscale import Upscaler

_log = logging.getLogger(__name__)

# Up to this size a checkpoint's files count with their bytes.
_SMALL_FILE = 2**20


def sample(
  config: ConfigDict,
  *,
  checkpoint_path: str,
  output: str,
  num_samples: int,
  seed: int,
  formats: Sequence[str] = ("mp4", "wav", "gif"),
  condition: str | None = None,
  source: str | None = None,
  duration: float | None = None,
  overlap: float | None = None,
  sr_checkpoint: str | None = None,
) -> dict[str, Any]:
  """Generates samples and writes them to `output`.

  Sample i depends on the seed and i alone; sample i of a source on the seed,
  the source and its name, and i. Samples that `output` holds already are not
  made again.

  Args:
    config: its sections `sample`, `sr` and `mesh` say how to sample; the
      network, data and diffusion settings come from the checkpoint.
    checkpoint_path: a checkpoint or a run's workdir.
    output: folder to write to.
    num_samples: samples in all; with a condition, samples of each source.
    seed: of the run.
    formats: of `outputs.FORMATS`.
    condition: None, "audio", "video" or "continue".
    source: file or folder with what is given, for a condition.
    duration: length of the samples in seconds; None is one clip.
    overlap: seconds that "continue" is given, and that neighbouring windows
      of a long sample share; None is half a clip.
    sr_checkpoint: a super-resolution checkpoint to upsample with.

  Returns:
    The statistics that `samples.json` records.

  Raises:
    ValueError: for settings that do not fit together or have no effect, and
      if `output` holds samples that were made otherwise.
    FileNotFoundError: for a missing checkpoint or source.
    NotADirectoryError: if `output` is a file.
  """
  check_directory(output)
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
  directory = checkpoint.find_checkpoint(checkpoint_path)
  run = checkpoint.load_config(directory)
  if run.model.name != "av_unet":
    raise ValueError(
      f"--checkpoint={checkpoint_path} is a {run.model.name}; give the joint "
      "model here, and this one as --sr_checkpoint."
    )
  run.update(sample=config.sample, sr=config.sr, mesh=config.mesh)
  _check_effect(run.sample, condition, duration, overlap)
  spec = task.av_spec(run)
  windows = WindowSampler(run, directory, mesh, seed, duration, overlap)
  sources = None
  if condition is not None:
    if not source:
      raise ValueError(f"--condition={condition} needs --source.")
    sources = load_sources(
      condition, source, spec, windows.known_frames(condition)
    )
  elif source:
    raise ValueError("--source is given without --condition.")
  jobs = make_jobs(num_samples, sources)
  overlaps = condition == "continue" or windows.total_frames > spec.frames
  settings = {
    "checkpoint_fingerprint": _fingerprint(directory),
    "seed": seed,
    "condition": condition,
    "frames": windows.total_frames,
    "overlap_frames": windows.overlap_frames if overlaps else None,
    "sample": checkpoint.config_to_json(run.sample),
  }
  # The samples do not depend on these.
  information = {
    "checkpoint": str(directory),
    "batch_size": settings["sample"].pop("batch_size"),
  }
  upscaler = None
  if sr_checkpoint:
    sr_directory = checkpoint.find_checkpoint(sr_checkpoint)
    upscaler = Upscaler(sr_directory, config, mesh, seed)
    upscaler.check_size(spec.height, spec.width)
    settings["sr_checkpoint_fingerprint"] = _fingerprint(sr_directory)
    settings["sr_share_noise"] = run.sr.share_noise
    settings["sr_sample"] = checkpoint.config_to_json(run.sr.sample)
    information["sr_checkpoint"] = str(sr_directory)
  folder = SampleFolder(output, spec, formats, settings, information)
  todo = [job for job in jobs if not folder.done(job.name, _identity(job))]
  if len(todo) < len(jobs):
    _log.info("%d of %d samples exist.", len(jobs) - len(todo), len(jobs))
  clock = _Clock()
  with progress_bar(len(todo), "sample") as progress:
    for batch in _batches(todo, run.sample.batch_size):
      video, audio = windows(batch)
      _write(folder, batch, video, audio, upscaler)
      clock.count(windows.nfe)
      progress.update(len(batch))
      progress.set_postfix_str(
        f"{clock.steps_per_second:.2f} steps/s", refresh=False
      )
      folder.write_index(clock.statistics(windows.nfe, upscaler))
  if todo:
    folder.write_grid()
  return clock.statistics(windows.nfe, upscaler)


def _check_effect(
  settings: ConfigDict,
  condition: str | None,
  duration: float | None,
  overlap: float | None,
) -> None:
  """Raises ValueError for options that would change nothing."""
  condition_options(settings)
  if overlap is not None and duration is None and condition != "continue":
    raise ValueError(
      f"--overlap={overlap} has no effect without --duration or "
      "--condition=continue."
    )
  if condition is not None or duration is not None:
    return
  unset = {
    "condition_method": "replacement",
    "guidance_scale": None,
    "resample_repeats": None,
    "resample_jump": None,
  }
  for name, value in unset.items():
    if settings[name] != value:
      raise ValueError(
        f"config.sample.{name}={settings[name]} has no effect without "
        "--condition or --duration."
      )


def _fingerprint(directory: pathlib.Path) -> str:
  """Tells checkpoints apart wherever they lie, without reading the arrays.

  The small files count with their bytes (among them the time of saving),
  the others with their names, which are random, and sizes.
  """
  digest = hashlib.sha256()
  for path in sorted(p for p in directory.rglob("*") if p.is_file()):
    size = path.stat().st_size
    name = path.relative_to(directory).as_posix()
    digest.update(f"{name} {size}\n".encode())
    if size <= _SMALL_FILE:
      digest.update(path.read_bytes())
  return digest.hexdigest()[:16]


def _identity(job: Job) -> dict[str, Any]:
  """What tells a sample from another one of its name."""
  identity: dict[str, Any] = {"index": job.index}
  if job.source is not None:
    identity["source_sha256"] = job.source.digest
  return identity


def _batches(jobs: Sequence[Job], size: int) -> Iterator[Sequence[Job]]:
  for start in range(0, len(jobs), size):
    yield jobs[start : start + size]


def _write(
  folder: SampleFolder,
  jobs: Sequence[Job],
  video: np.ndarray,
  audio: np.ndarray,
  upscaler: Upscaler | None,
) -> None:
  """Writes a batch; an upsampled clip goes beside as `<name>_<height>`."""
  for i, job in enumerate(jobs):
    record = _identity(job)
    if job.source is not None:
      record |= {
        "source": job.source.path,
        "given": sorted(job.source.known),
        "repairs": list(job.source.repairs),
      }
    if upscaler is not None:
      large = upscaler(video[i], job.index)
      record["upscaled"] = folder.write_media(
        f"{job.name}_{large.shape[1]}", large, audio[i]
      )
    folder.write(job.name, video[i], audio[i], record)


class _Clock:
  """Counts network evaluations per second; the first batch compiles."""

  def __init__(self):
    self._started = time.perf_counter()
    self._batches = 0
    self._steps = 0
    self.steps_per_second = 0.0

  def count(self, steps: int) -> None:
    """Counts the network evaluations of a finished batch."""
    now = time.perf_counter()
    self._batches += 1
    if self._batches == 1:
      self.steps_per_second = steps / (now - self._started)
      self._started = now
      return
    self._steps += steps
    self.steps_per_second = self._steps / (now - self._started)

  def statistics(self, nfe: int, upscaler: Upscaler | None) -> dict[str, Any]:
    """What `samples.json` says of the run's cost."""
    values = {
      "nfe": nfe,
      "steps_per_second": round(self.steps_per_second, 3),
      "peak_memory_bytes": _peak_memory(),
      "device": jax.devices()[0].device_kind,
      "num_devices": jax.device_count(),
    }
    if upscaler is not None:
      values["sr_nfe"] = upscaler.nfe
    return values


def _peak_memory() -> int:
  """Largest use of one device's memory; on CPU, of the process's."""
  stats = jax.local_devices()[0].memory_stats()
  if stats and "peak_bytes_in_use" in stats:
    return stats["peak_bytes_in_use"]
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def upscale(
  config: ConfigDict, *, sr_checkpoint: str, source: str, output: str, seed: int
) -> pathlib.Path:
  """Upsamples a video file and keeps its sound.

  Frames are taken at the file's own size. Frame rate and sound stay those of
  the file (the sound is encoded anew; more than two channels become one).

  Args:
    config: its sections `sr` and `mesh` apply.
    sr_checkpoint: a super-resolution checkpoint.
    source: a video file.
    output: folder that receives `<name>_<height>.mp4`.
    seed: of the noise.

  Returns:
    The path of the mp4.

  Raises:
    ValueError: if the file cannot be read, or has frames of a size that the
      network cannot take.
    NotADirectoryError: if `output` is a file.
  """
  check_directory(output)
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
  upscaler = Upscaler(sr_checkpoint, config, mesh, seed)
  clip = media.read_media(source, channels="all")
  audio = clip.audio
  if audio is not None and audio.shape[1] > 2:
    _log.warning("%s: %d channels become one.", source, audio.shape[1])
    audio = audio.mean(axis=1, keepdims=True)
  large = upscaler(clip.video, 0)
  name = f"{pathlib.Path(source).stem}_{large.shape[1]}.mp4"
  path = pathlib.Path(output) / name
  media_writer.write_mp4(
    path, large, audio, fps=clip.fps, sample_rate=clip.sample_rate
  )
  _log.info("Wrote %s.", path)
  return path
