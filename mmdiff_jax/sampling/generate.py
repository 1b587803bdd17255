"""From checkpoints to media files: sampling, conditioning, the cascade."""

import dataclasses
import hashlib
import itertools
import logging
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmdiff_jax import checkpoint
from mmdiff_jax.devices.compilation import announce
from mmdiff_jax.devices.mesh import make_mesh
from mmdiff_jax.disk.checksums import CHECKSUMS
from mmdiff_jax.disk.files import check_directory, file_size, list_files
from mmdiff_jax.disk.locks import locked
from mmdiff_jax.disk.progress import progress_bar
from mmdiff_jax.sampling.clip_sampler import (
  ClipSampler,
  Lengths,
)
from mmdiff_jax.sampling.cost import Clock
from mmdiff_jax.sampling.edit import Edit
from mmdiff_jax.sampling.folder import SampleFolder, check_formats
from mmdiff_jax.sampling.known_sources import (
  Job,
  make_jobs,
)
from mmdiff_jax.sampling.opened_sources import (
  Asked,
  json_edit,
  open_sources,
)
from mmdiff_jax.sampling.parameters import load_sampling_params
from mmdiff_jax.sampling.sample_fn import (
  make_configured_sampler,
)
from mmdiff_jax.sampling.settings import (
  check_effect,
  check_inputs,
  own_sampler,
  without_batch_size,
)
from mmdiff_jax.sampling.upscale import Upscaler
from mmdiff_jax.task import Task, make_task

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
  edit: Edit | None = None,
  between: tuple[str, str] | None = None,
  duration: float | None = None,
  overlap: float | None = None,
  inputs: Mapping[str, Any] | None = None,
  sr_checkpoint: str | None = None,
  asked: Mapping[str, Any] | None = None,
  force: bool = False,
) -> dict[str, Any]:
  """Generates samples and writes them to `output`.

  Sample i depends on the seed, i and `inputs` alone; sample i of a source on
  the source and its name too. Samples that `output` holds already are not
  made again.

  Args:
    config: its sections `sample`, `sr` and `mesh` say how to sample; the
      network, data and diffusion settings come from the checkpoint.
    checkpoint_path: a checkpoint or a run's workdir.
    output: folder to write to.
    num_samples: samples in all; with a condition, samples of each source.
    seed: of the run.
    formats: of `folder.FORMATS`.
    condition: None, "audio", "video", "continue" or "edit".
    source: file or folder with the known values of a condition.
    edit: what of the source "edit" keeps, and what it makes anew.
    between: in place of `source`, for an edit from one to the other.
    duration: length of the samples in seconds; None is one clip.
    overlap: seconds that "continue" starts from, and that neighbouring
      pieces of a long sample share; None is half a clip.
    inputs: of the network by name, such as `{"label": 3}`; one that is left
      out is withheld.
    sr_checkpoint: a super-resolution checkpoint to upsample with.
    asked: keys of `config.sample` that take precedence over the
      checkpoint's own sampler; None takes the section as it is.
    force: start programs that seem too large for the memory, too.

  Returns:
    The statistics that `samples.json` records.

  Raises:
    ValueError: for settings that do not fit together or have no effect, a
      source that cannot be used, and if `output` holds samples that were made
      otherwise.
    FileNotFoundError: for a missing checkpoint.
    NotADirectoryError: if `output` is a file.
    locks.InUseError: if another process writes to `output`.
    memory.DoesNotFitError: if the sampler needs more memory than there is.
  """
  check_directory(output)
  check_formats(formats)
  mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
  directory = checkpoint.find_checkpoint(checkpoint_path)
  run, task = _load_task(directory, mesh)
  lengths = Lengths.of(task.spec, condition, duration, overlap)
  nothing_known = condition is None and duration is None
  settings = config.sample
  if asked is not None:
    settings = own_sampler(run.sample, settings, asked, nothing_known, inputs)
  check_effect(task, settings, condition, nothing_known)
  check_inputs(task, settings, inputs or {})
  make_configured_sampler(task, settings)  # Fails before the work.
  fit = run.data.get("fit", "pad")
  sources = open_sources(
    Asked(condition, source, edit, between), task, lengths, config.data, fit
  )
  jobs = make_jobs(num_samples, sources)
  upscaler = None
  made_by = {
    "checkpoint_fingerprint": _fingerprint(directory),
    "seed": seed,
    "condition": condition,
    "frames": lengths.total,
    "overlap_frames": lengths.overlap,
    "sample": without_batch_size(settings),
  }
  if edit is not None:
    made_by["edit"] = json_edit(edit)
  if inputs:
    made_by["inputs"] = {k: np.asarray(v).tolist() for k, v in inputs.items()}
  # The samples do not depend on these.
  information = {
    "checkpoint": str(directory),
    "batch_size": settings.batch_size,
    # By which the evaluation reads them.
    "geometry": dataclasses.asdict(
      dataclasses.replace(task.spec, frames=lengths.total)
    )
    | {"fit": fit},
  }
  if sr_checkpoint:
    sr_directory = checkpoint.find_checkpoint(sr_checkpoint)
    upscaler = Upscaler(sr_directory, config, mesh, seed, force)
    upscaler.check_size(task.spec.height, task.spec.width)
    made_by |= {
      "sr_checkpoint_fingerprint": _fingerprint(sr_directory),
      "sr_share_noise": config.sr.share_noise,
      "sr_sample": checkpoint.config_to_json(config.sr.sample),
    }
    information["sr_checkpoint"] = str(sr_directory)
  with locked(output):
    folder = SampleFolder(output, task.spec, formats, made_by, information)
    todo = [job for job in jobs if not folder.done(job.name, _identity(job))]
    if len(todo) < len(jobs):
      _log.info("%d of %d samples exist.", len(jobs) - len(todo), len(jobs))
    params = load_sampling_params(task, directory, mesh)
    clips = ClipSampler(
      task, settings, lengths, params, mesh, seed, inputs, force
    )
    if todo:
      _log.info("%s", _describe(settings, clips, condition))
      announce("it")
    return _generate(todo, settings.batch_size, clips, folder, upscaler)


def _generate(
  jobs: Sequence[Job],
  batch_size: int,
  clips: ClipSampler,
  folder: SampleFolder,
  upscaler: Upscaler | None,
) -> dict[str, Any]:
  """Makes and writes samples batch by batch; returns the run's statistics."""
  clock = Clock()

  def statistics() -> dict[str, Any]:
    return clock.statistics(clips.nfe, upscaler.nfe if upscaler else None)

  steps = clips.count_steps(bool(jobs) and jobs[0].source is not None)
  total, done = -(-len(jobs) // batch_size), 0
  # Where a sampler chooses its steps, batches are all there is to count.
  bar = progress_bar(total * (steps or 1), "step" if steps else "batch")
  with bar as progress:
    for batch in _batches(jobs, batch_size):
      progress.set_postfix_str(f"{done} of {len(jobs)} samples", refresh=False)
      if steps:
        video, audio = clips(batch, progress.update)
      else:
        video, audio = clips(batch)
        progress.update()
      _write(folder, batch, video, audio, upscaler)
      clock.count(clips.nfe)
      done += len(batch)
      folder.write_index(statistics())
    progress.set_postfix_str(f"{done} of {len(jobs)} samples")
  if jobs or folder.needs_grid():
    folder.write_grid()
  return statistics()


def _describe(
  settings: ConfigDict, clips: ClipSampler, condition: str | None
) -> str:
  """Sampler, steps, batch and guidance in a line."""
  name = " ".join(filter(None, [settings.sampler, settings.method]))
  if settings.order:
    name += f" of order {settings.order}"
  steps = clips.count_steps(condition is not None)
  guidance = []
  if settings.cfg_scale is not None:
    guidance.append(f"classifier-free, scale {settings.cfg_scale:g}")
    if settings.cfg_interval is not None:
      low, high = settings.cfg_interval
      guidance[-1] += f" at noise levels {low:g} to {high:g}"
  if condition is not None:
    guidance.append(f"known values {settings.condition_method}")
    if settings.guidance_scale is not None:
      guidance[-1] += f", scale {settings.guidance_scale:g}"
  return (
    f"Sampler: {name}, {steps or 'as many as needed'} steps, batches of "
    f"{settings.batch_size}, guidance: {'; '.join(guidance) or 'none'}."
  )


def _load_task(directory: pathlib.Path, mesh: Mesh) -> tuple[ConfigDict, Task]:
  """Configuration and task of a checkpoint, if it makes clips."""
  run = checkpoint.load_config(directory)
  task = make_task(run, mesh)
  if task.x.keys() != {"video", "audio"}:
    raise ValueError(
      f"--checkpoint={directory} holds {run.model.name}, which generates "
      f"{', '.join(task.x)}; give a model of video and audio here, and one of "
      "super-resolution as --sr_checkpoint."
    )
  return run, task


def _fingerprint(directory: pathlib.Path) -> str:
  """Tells checkpoints apart wherever they lie, without reading the arrays.

  The small files count with their bytes (among them the time of saving),
  the others with their names, which are random, and sizes. The checksums,
  which may come later or never, do not count.
  """
  digest = hashlib.sha256()
  for name, path in list_files(directory):
    # Nor does what only a copy in an object store has.
    if path.name in (CHECKSUMS, checkpoint.CLOUD_MARK):
      continue
    size = file_size(path)
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
  """Batches of samples of one length."""
  for _, alike in itertools.groupby(jobs, lambda job: job.frames):
    group = list(alike)
    for start in range(0, len(group), size):
      yield group[start : start + size]


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
        "known": sorted(job.source.known),
        "repairs": list(job.source.repairs),
      }
    if upscaler is not None:
      large = upscaler(video[i], job.index)
      record["upscaled"] = folder.write_media(
        f"{job.name}_{large.shape[1]}", large, audio[i]
      )
    folder.write(job.name, video[i], audio[i], record)
