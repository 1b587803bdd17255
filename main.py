"""MM-Diffusion in JAX: prepare, train, sample and evaluate.

  main.py --help           the commands
  main.py train --help     the flags of one, an example, and the keys
  main.py config train     keys of the configuration, with their meaning

Installed, the same program is called `mmdiff-jax`.
"""

import sys

from mmdiff_jax.cli import main

if __name__ == "__main__":
  sys.exit(main())
