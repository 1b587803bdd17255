"""The command `prepare` under its first name.

python -m data_prep.videos_to_tfrecord --input=VIDEOS --output=DIR
"""

import runpy
import sys

if __name__ == "__main__":
  sys.argv.insert(1, "prepare")
  runpy.run_module("mmdiff_jax.cli", run_name="__main__")
