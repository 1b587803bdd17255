"""The command `prepare` under its first name.

python -m data_prep.videos_to_tfrecord --input=VIDEOS --output=DIR
"""

import sys

from mmdiff_jax.cli import main

if __name__ == "__main__":
  sys.exit(main(["prepare", *sys.argv[1:]]))
