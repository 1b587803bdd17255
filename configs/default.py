"""Every configuration key once, with the release's values as defaults.

Other configs import this one and override: such a file is its own diff.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
  """Returns the default configuration (Landscape-size model, 64x64)."""
  config = ConfigDict()

  # Root of all randomness: initialisation, data order, noise, samples.
  config.seed = 0

  # Folder that keeps compiled programs, so that a second start is quick; ""
  # keeps none. (JAX_COMPILATION_CACHE_DIR takes precedence.)
  config.compilation_cache = "~/.cache/mmdiff_jax/xla"

  config.data = data = ConfigDict()
  # "tfrecord:DIR" (made by the command prepare), "tfds:NAME", "synthetic", or
  # the path of a folder of videos, an .npz or a media file (decoded anew for
  # every clip).
  data.source = "tfrecord:data"
  # Where prepared TFDS data sets live; "" means TFDS's own default.
  data.tfds_dir = ""
  # Frames of a clip, its height and width in pixels.
  data.frames = 16
  data.height = 64
  data.width = 64
  # Pictures of another aspect ratio: "pad" (black bars), "crop" or "stretch";
  # prepared data have it from --fit.
  data.fit = "pad"
  # Video frames per second.
  data.fps = 10.0
  # Audio samples per second.
  data.sample_rate = 16000
  # Probability of flipping a clip left to right.
  data.flip_probability = 0.5
  # Records whose crc32 hash of the source name falls in this share are held
  # out of training; the held-out loss and evaluation read them.
  data.holdout_fraction = 0.0
  # Threads that read and decode records, each a batch of its own.
  data.num_threads = 4
  # Batches prepared ahead of the device; at least one per thread.
  data.prefetch = 2
  # Of videos that are not prepared (those of a folder, arrays): a file of
  # captions (.csv, .jsonl), one of embeddings (.npz, .safetensors), and
  # "folders" where the first folder on a video's path is its label.
  data.captions = ""
  data.embeddings = ""
  data.labels = "none"
  # Folder of the text encoder; "" is all-MiniLM-L6-v2 of the extra `text`.
  data.text_encoder = ""
  # What training notes down of its data, for sampling: names of the classes,
  # and the hash of the text encoder that made the vectors of captions.
  data.classes = ()
  data.text_encoder_hash = ""
  # Number of distinct clips of the "synthetic" source.
  data.synthetic_clips = 4096

  config.model = model = ConfigDict()
  # The network: "av_unet" is the joint audio-video model. The other keys are
  # its fields; those of "sr_unet" are in configs/superres.py.
  model.name = "av_unet"
  # Channels of the first level; level i has model_channels*channel_mult[i].
  model.model_channels = 128
  model.channel_mult = (1, 2, 3, 4)
  # Residual blocks per level.
  model.num_res_blocks = 2
  # Heads of self-attention (of cross-attention too if num_head_channels
  # is None).
  model.num_heads = 4
  # Width of a cross-attention head.
  model.num_head_channels = 64
  # Down-sampling factors ("ds") that have each kind of attention.
  model.video_attention_resolutions = (2, 4, 8)
  model.audio_attention_resolutions = ()
  model.cross_attention_resolutions = (2, 4, 8)
  # Window (in frames) of the cross-attention at each listed resolution.
  model.cross_attention_windows = (1, 4, 8)
  # Shift the windows at random (RS-MMA).
  model.cross_attention_shift = True
  # Cross-attention over all frames in the middle block.
  model.middle_cross_attention = True
  # The time embedding scales and shifts (False: it is added).
  model.use_scale_shift_norm = True
  # What the network is told: one of so many classes, a caption by a vector of
  # so many numbers (384 by the default text encoder), a vector of your own; 0
  # is none.
  model.num_classes = 0
  model.text_dim = 0
  model.embedding_dim = 0
  # Predict a variance beside eps: twice the output channels.
  model.learn_sigma = False
  # Dropout rate when training.
  model.dropout = 0.1
  # Compute type, "bfloat16" or "float32"; parameters, norms and softmax stay
  # float32.
  model.dtype = "bfloat16"
  # Rematerialisation, from the least memory on: "blocks", "products" (keeps
  # what products make, computes norms again), "attention" or "none".
  model.remat = "none"
  # Cross- and self-attention: "auto" (by hardware, type and shape), or one of
  # "xla" (as model.kernels), "tiled", "lanes", "elementwise" (few tokens),
  # "packed" (few tokens), "pallas" (kernels of our own, TPU), "cudnn" (GPU).
  model.attention = "auto"
  # Formulations for the hardware: "cpu", "plain" (accelerators) or "auto", by
  # the device that the program is compiled for.
  model.kernels = "auto"

  config.diffusion = diffusion = ConfigDict()
  # Noise process: "vp" (variance preserving) or "flow" (rectified flow).
  diffusion.process = "vp"
  # Noise schedule of vp: "linear" or "cosine".
  diffusion.schedule = "linear"
  # vp: no signal is left in the last step (needs another prediction than eps).
  diffusion.zero_terminal_snr = False
  # Steps from a clip to noise.
  diffusion.num_timesteps = 1000
  # What the network predicts: "eps", "x_start", "v" or "velocity"; flow takes
  # all but eps.
  diffusion.prediction = "eps"
  # "mse"; with model.learn_sigma also "mse_vb" and "rescaled_mse_vb".
  diffusion.loss = "mse"
  # "uniform" or "loss_second_moment".
  diffusion.timestep_sampler = "uniform"

  config.train = train = ConfigDict()
  # Optimiser steps of the whole run.
  train.num_steps = 100_000
  # Clips per step, over all hosts.
  train.batch_size = 128
  # Micro-batches whose gradients are averaged within a step.
  train.microbatches = 1
  # AdamW: step size, decay of the parameters, decay of the moments.
  train.learning_rate = 1e-4
  train.weight_decay = 0.0
  train.adam_b1 = 0.9
  train.adam_b2 = 0.999
  # Steps of linear warm-up, and the schedule after it: "constant", "linear"
  # or "cosine" anneal to 0 at num_steps.
  train.warmup_steps = 0
  train.anneal = "constant"
  # Global norm to which gradients are clipped; 0 turns clipping off.
  train.gradient_clip = 0.0
  # A loss or gradient that is not finite: "stop" ends the run; "skip" drops
  # the update, and ends the run after max_skipped of them in a row.
  train.on_nonfinite = "stop"
  train.max_skipped = 10
  # Decay of the exponential moving average of the parameters.
  train.ema_decay = 0.9999
  # Weights of the modalities in the loss.
  train.video_loss_weight = 1.0
  train.audio_loss_weight = 1.0
  # Noise levels of a sample: "shared" by its streams and frames, or "mixed",
  # which also teaches the network to take any part of a clip as known.
  train.levels = "shared"
  # mixed: shares of the samples in which all has one level, one stream is
  # clean, each stream has a level of its own, some frames are clean, and one
  # stream is noise alone.
  train.level_shares = shares = ConfigDict()
  shares.joint = 0.25
  shares.clean_audio = 0.25
  shares.clean_video = 0.2
  shares.independent = 0.1
  shares.clean_frames = 0.15
  shares.pure_noise = 0.05
  # Share of training samples whose inputs (label, text, embedding) are
  # withheld, for guidance; without inputs it says nothing.
  train.cond_dropout = 0.1
  # Directory of a checkpoint whose parameters start this run; "" for none.
  train.init_from = ""
  # Intervals in steps; 0 turns the action off.
  train.log_every = 50
  train.checkpoint_every = 1000
  train.preview_every = 5000
  # The held-out loss: every so many steps, over so many batches of what
  # data.holdout_fraction holds out (nothing held out: no such loss).
  train.eval_every = 1000
  train.eval_batches = 4
  # Besides the latest two, every Nth step's checkpoint is kept for good.
  train.keep_every = 10_000
  # Samples of a preview and its sampler's steps (DDIM).
  train.preview_samples = 4
  train.preview_steps = 25

  config.mesh = mesh = ConfigDict()
  # Devices along the axes; -1 takes what is left.
  mesh.data = -1
  mesh.fsdp = 1

  # Unset keys take the sampler's own default; a key that the chosen sampler
  # does not have is an error when set. --config.sample.KEY=None unsets one.
  config.sample = sample = ConfigDict()
  # "ddpm", "ddim", "dpm_solver" or "dpm_solver++".
  sample.sampler = "ddpm"
  # Steps (unset: every training step for ddpm and ddim, 20 for DPM-Solver).
  sample.steps = placeholder(int)
  # DPM-Solver: order 1-3; method "singlestep", "singlestep_fixed",
  # "multistep", "adaptive" or, for dpm_solver++, "sde".
  sample.order = placeholder(int)
  sample.method = placeholder(str)
  # DPM-Solver: "logSNR", "time_uniform" or "time_quadratic".
  sample.grid = placeholder(str)
  # DDIM: 0 is deterministic, 1 as noisy as DDPM.
  sample.eta = placeholder(float)
  # Clip x_start to [-1, 1] (unset: DDPM and DDIM do, DPM-Solver does not).
  sample.clip_denoised = placeholder(bool)
  # dpm_solver++: dynamic thresholding of x_start.
  sample.dynamic_thresholding = placeholder(bool)
  # DPM-Solver: one more evaluation at the end, which returns x_start.
  sample.denoise_final = placeholder(bool)
  # multistep of order 3: begin with a singlestep of order 2.
  sample.singlestep_start = placeholder(bool)
  # adaptive: absolute and relative tolerance, by how much a step may exceed
  # the one before, the first step in lambda (unset: found from the
  # problem), the safety factor of a step's size, and the distance (in time)
  # from the end that counts as arrived.
  sample.atol = placeholder(float)
  sample.rtol = placeholder(float)
  sample.max_growth = placeholder(float)
  sample.first_step = placeholder(float)
  sample.safety = placeholder(float)
  sample.time_tolerance = placeholder(float)
  # Classifier-free guidance by what is given to the network (--label): 1 is
  # none, more follows it more closely.
  sample.cfg_scale = placeholder(float)
  # Noise levels sigma / alpha that guidance is limited to, such as 0.2,2
  # (unset: all); outside of them a call costs half.
  sample.cfg_interval = placeholder(tuple)
  # Coupling guidance of a stream by the other one, for networks trained with
  # mixed levels: 1 is the joint prediction, more follows the other stream more
  # closely. Each doubles or trebles the cost of a step.
  sample.coupling_video = placeholder(float)
  sample.coupling_audio = placeholder(float)
  # What is generated first: "joint", or "audio_first" or "video_first" (mixed
  # levels), from which the other stream follows.
  sample.sequence = "joint"
  # Clips generated at once.
  sample.batch_size = 8
  # Known values (--condition): "clean" at every step, or the paper's
  # "replacement", "gradient", or "resampling".
  sample.condition_method = "clean"
  # gradient: its scale, for the sum over a sample's elements.
  sample.guidance_scale = placeholder(float)
  # resampling (RePaint): repetitions of a stretch, and its length in steps.
  sample.resample_repeats = placeholder(int)
  sample.resample_jump = placeholder(int)

  config.sr = sr = ConfigDict()
  # Factor between the low and the high resolution.
  sr.factor = 4
  # Degradations of the low-resolution training input (SPEC: 64 -> 256).
  sr.noise_probability = 0.5
  sr.noise_max_sigma = 20.0
  sr.jpeg_probability = 0.5
  sr.jpeg_quality = (20, 80)
  # Frames that are upsampled at once when sampling.
  sr.chunk_frames = 16
  # One noise image for all frames of a clip.
  sr.share_noise = True
  # The sampler of super-resolution: keys as in config.sample. Unset keys are
  # those that the super-resolution checkpoint was trained with; where another
  # sampler is named, the sampler's own defaults.
  sr.sample = ConfigDict()
  for name in sample:
    sr.sample[name] = placeholder(sample.get_type(name))

  return config
