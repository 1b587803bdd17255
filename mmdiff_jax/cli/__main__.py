"""The command line as a module: `python -m mmdiff_jax.cli COMMAND`."""

import sys

from mmdiff_jax.cli.program import main

if __name__ == "__main__":
  sys.exit(main())
