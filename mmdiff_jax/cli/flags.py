"""Every flag once.

A flag that means something else for one command stands here as COMMAND.FLAG.
"""

from mmdiff_jax.cli.parser import (
  Flag,
  box,
  names,
  number,
  one_of,
  size,
  span,
  whole,
  wholes,
)

# Below, no sample may be left of a short sound; above, a typing error would
# run for ever.
_FPS = number(0.01, 1000)
_SAMPLE_RATE = whole(1000, 192_000)

_TRAINING = {
  "workdir": Flag("directory of a training run", "DIR"),
  "profile": Flag(
    "steps that JAX's profiler traces into WORKDIR/profile", "START:COUNT"
  ),
  "force": Flag("start a program that seems too large for the memory"),
  "distributed": Flag(
    "join the other hosts first; TPU pods, SLURM and Kubernetes tell who they "
    "are, elsewhere set the three flags below"
  ),
  "coordinator": Flag(
    "with --distributed: address of the first host", "HOST:PORT"
  ),
  "num_hosts": Flag("with --distributed: number of hosts", "N", whole(1)),
  "host": Flag("with --distributed: number of this one, from 0", "I", whole(0)),
}

_SAMPLING = {
  "checkpoint": Flag(
    "checkpoint, or workdir whose newest is taken; `sample` takes several, "
    "each with a flag of its own",
    "DIR",
    repeated=True,
  ),
  "sr_checkpoint": Flag("checkpoint of a super-resolution model", "DIR"),
  "output": Flag("where the result is written", "PATH"),
  "num_samples": Flag("samples to generate", "N", whole(1), 16),
  "seeds": Flag("seeds to sample with [config.seed]", "A,B,...", names, ()),
  "formats": Flag(
    "files to write, of mp4, wav, png, gif",
    "A,B,...",
    names,
    ("mp4", "wav", "gif"),
  ),
  "condition": one_of(
    "what of --source is known: its audio, its video, the beginning of both, "
    "or what an edit keeps",
    "audio",
    "video",
    "continue",
    "edit",
  ),
  "keep": one_of(
    "edit: the stream that is kept whole", "video", "audio", "none"
  ),
  "span": Flag("edit: seconds that are made anew", "FROM:TO", span),
  "box": Flag(
    "edit: pixels of the model's frames that are made anew", "X,Y,W,H", box
  ),
  "mask": Flag(
    "edit: a picture or video of the model's frame size, white where the "
    "pictures are made anew",
    "FILE",
  ),
  "between": Flag(
    "edit: a clip from the end of one file to the beginning of another",
    "A,B",
    names,
    (),
  ),
  "extend": one_of(
    "edit: continue the source, or lead up to it", "before", "after"
  ),
  "strength": Flag(
    "edit: noise that the source starts from, 1 for noise alone",
    "SHARE",
    number(),
  ),
  "source": Flag("a file or folder of media", "PATH"),
  "label": Flag("class that the samples belong to", "N", whole()),
  "duration": Flag(
    "length of each sample, beyond one clip's", "SECONDS", number()
  ),
  "overlap": Flag(
    "shared by neighbouring pieces of --duration", "SECONDS", number()
  ),
  "import_checkpoint.source": Flag("the published file", "FILE"),
  "format": one_of(
    "a checkpoint of this program, or a file with the published names",
    "checkpoint",
    "safetensors",
    default="checkpoint",
  ),
  "onsets": Flag("mark detected onsets"),
}

_EVALUATION = {
  "real": Flag("real clips: a folder, TFRecords or .npz", "PATH"),
  "fake": Flag("generated clips: a folder or .npz", "PATH"),
  "compare": Flag(
    "instead of --fake: several folders of generated clips",
    "A=DIR,B=DIR,...",
    names,
    (),
  ),
  "curve": Flag("with --compare: the folders are checkpoints of one run"),
  "evaluate.split": one_of(
    "share of --real by config.data.holdout_fraction [heldout, or all where "
    "nothing is held out]",
    "train",
    "heldout",
    "all",
  ),
  "protocol": one_of(
    "conventions of the evaluation", "paper", "clean", default="clean"
  ),
  "metrics": Flag("metrics to compute [all]", "A,B,...", names, ()),
  "weights_dir": Flag(
    "folder of the metric networks' published weights", "DIR"
  ),
  "cache_dir": Flag(
    "folder that keeps features [the user's cache]", "DIR", default=""
  ),
  "num_clips": Flag("clips of each side to evaluate", "N", whole(2), 2048),
  "batch_size": Flag(
    "clips that a metric's network sees at once [by the memory]", "N", whole(1)
  ),
  "max_bad": Flag(
    "share of a side's clips that may be unusable", "SHARE", default="5%"
  ),
  "memorisation": Flag("search training clips that samples copy"),
}

_COMPILATION = {
  "topology": Flag(
    "hardware to compile for: v5e:4x4, h100:1x8, 4090:1x1, cpu:8, ...", "NAME"
  ),
  "what": one_of("program to compile", "train", "sample", default="train"),
  "slices": Flag("slices of TPUs to compile for", "N", whole(1), 1),
  "hbm": Flag(
    "memory that a device may use [what the chip has]", "GIB", number()
  ),
  "compile.fit": Flag("find the smallest change that fits, by trying"),
  "cycles": Flag(
    "wait for XLA's own estimate of a TPU's cycles (minutes more)"
  ),
}

_PREPARATION = {
  "input": Flag("folder of videos, or one", "PATH"),
  "for": Flag(
    "configuration to prepare for, a file or a name: what of the five flags "
    "below is left out follows from it, and its network must take the clips",
    "CONFIG",
  ),
  "fps": Flag("frames per second [10]", "N", _FPS),
  "size": Flag("height and width of the frames in pixels [64]", "N|HxW", size),
  "sample_rate": Flag("audio samples per second [16000]", "N", _SAMPLE_RATE),
  "clip_frames": Flag("frames of a clip [16]", "N", whole(1)),
  "fit": one_of(
    "pictures of another aspect ratio: pad with black bars, crop the edges, or "
    "stretch [pad]",
    "pad",
    "crop",
    "stretch",
  ),
  "crop_bars": Flag("cut off the black bars that videos have at their edges"),
  "labels": one_of(
    "folders: a video's label is the first folder below --input",
    "none",
    "folders",
    default="none",
  ),
  "captions": Flag(
    "a .csv or .jsonl file with the columns name and caption; a video may have "
    "several, or none",
    "FILE",
    default="",
  ),
  "embeddings": Flag(
    "a .npz or .safetensors file with a vector under each video's name",
    "FILE",
    default="",
  ),
  "text_encoder": Flag(
    "folder of the text encoder: a BERT, as on the Hugging Face hub "
    "[all-MiniLM-L6-v2 of the extra `text`]",
    "DIR",
    default="",
  ),
  "workers": Flag(
    "processes; does not change the result [one per core]", "N", whole(1)
  ),
  "shards": Flag(
    "number of shards, at most one per video [one per 64 videos]",
    "N",
    whole(1),
  ),
  "missing_audio": one_of(
    "what to do with a video that has no sound",
    "skip",
    "silence",
    "error",
    default="skip",
  ),
  "channels": one_of(
    "how several audio channels become one", "mean", "first", default="mean"
  ),
  "min_loudness": Flag(
    "leave out clips whose sound is quieter (RMS) [none]",
    "DBFS",
    number(-200, 0),
  ),
  "max_silence": Flag(
    "leave out clips of which more is digital silence",
    "SHARE",
    number(0, 1),
    1.0,
  ),
  "max_frozen": Flag(
    "leave out clips of which in more the picture stands still",
    "SHARE",
    number(0, 1),
    1.0,
  ),
  "max_pixels": Flag(
    "leave out videos with larger pictures", "N", whole(64), 2**26
  ),
  "time_limit": Flag(
    "time after which a video is left out", "SECONDS", number(1), 3600.0
  ),
  "hdr": one_of(
    "videos of high dynamic range: map to BT.709, or skip",
    "map",
    "skip",
    default="map",
  ),
  "hwaccel": Flag(
    "hardware that decodes, by FFmpeg's name (cuda, vaapi, qsv, videotoolbox); "
    "what it cannot, the CPU decodes [none]",
    "NAME",
    default="",
  ),
  "frame_format": one_of(
    "storage of the frames [raw up to 64 pixels, else png]",
    "raw",
    "png",
    "jpeg",
  ),
  "jpeg_quality": Flag("for --frame_format=jpeg [95]", "N", whole(1, 100)),
  "runner": one_of(
    "what runs the work: processes of this program, or Apache Beam (extra "
    "`beam`)",
    "processes",
    "beam",
    default="processes",
  ),
  "beam_options": Flag(
    "options of --runner=beam as Beam spells them, in one argument: "
    "--beam_options='--runner=PrismRunner ...' [its DirectRunner]",
    "TEXT",
    default="",
  ),
  "overwrite": Flag(
    "replace a data set of other videos or options in --output"
  ),
  "inspect.output": Flag("contact sheet [DIR/contact_sheet.png]", "PNG"),
  "inspect.clips": Flag("clips on the contact sheet", "N", whole(1), 12),
  "name": Flag("name of the TFDS data set", "NAME"),
  "tfds_dir": Flag("folder of TFDS data sets", "DIR"),
  "prepare_tfds.input": Flag("folder that `prepare` made", "DIR"),
}

_SYNTHETIC = {
  "count": Flag("number of videos", "N", whole(1), 100),
  "first": Flag("index of the first one", "I", whole(0), 0),
  "synthetic.split": one_of(
    "seeds of", "train", "tune", "eval", default="train"
  ),
  "frames": Flag("frames of a video", "N", whole(1), 16),
  "num_shapes": Flag("shapes that move and sound", "N", whole(1), 1),
  "clutter": Flag("grey rectangles behind", "N", whole(0), 0),
  "walls": Flag("side walls that sound"),
}

_STUDY = {
  "study build.fake": Flag(
    "folder of a system's clips; may be repeated", "NAME=DIR", repeated=True
  ),
  "preset": Flag("default, paper, or a .yaml file", "NAME", default="default"),
  "study serve.host": Flag(
    "address to listen on", "ADDRESS", default="127.0.0.1"
  ),
  "port": Flag("port to listen on", "N", whole(0, 65535), 8000),
  "root_path": Flag("path below which a proxy serves it", "PATH", default=""),
  "per_client": Flag(
    "places that one address may take in an hour without an invitation",
    "N",
    whole(1),
    3,
  ),
  "study invite.count": Flag("number of links", "N", whole(1)),
  "address": Flag(
    "where raters reach the server", "URL", default="http://127.0.0.1:8000"
  ),
  "draws": Flag("draws of the bootstrap", "N", whole(1), 1000),
  "truth": Flag("with what each clip was: for when nobody answers any more"),
  "study plan.raters": Flag(
    "numbers of raters", "A,B,...", wholes, (10, 20, 30, 50, 100)
  ),
  "clips": Flag("clips of a system", "N", whole(1), 100),
  "per_rater": Flag("clips of a system that a rater sees", "N", whole(1), 20),
  "pilot": Flag("a study whose answers show the spreads", "STUDY"),
  "raters": Flag("raters that answer", "N", whole(1), 30),
  "cheaters": Flag("of them, who do not look", "N", whole(0), 0),
  "seed": Flag("seed of the answers", "N", whole(0), 0),
}

FLAGS: dict[str, Flag] = {
  **_TRAINING,
  **_SAMPLING,
  **_EVALUATION,
  **_COMPILATION,
  **_PREPARATION,
  **_SYNTHETIC,
  **_STUDY,
  "config": Flag(
    "configuration: a file, or the name of one that comes with the program "
    "[default]; --config.KEY=VALUE sets a key of it",
    "FILE",
  ),
  "traceback": Flag("show where in the code an error arose"),
}


def find_flag(command: str, name: str) -> Flag:
  """A command's flag of that name."""
  return FLAGS.get(f"{command}.{name}") or FLAGS[name]
