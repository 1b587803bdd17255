"""Configurations by name or path, as the command line gives them.

In a checkout `configs/` and `data_prep/` lie beside the package; a wheel has
them inside it, in `mmdiff_jax/bundled/`, so that it installs no module of so
general a name. Programs of the command line import them by the same names in
both (`add_top_level`).
"""

import difflib
import importlib.util
import operator
import pathlib
import re
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

_PACKAGE = pathlib.Path(__file__).parent
_BUNDLED = _PACKAGE / "bundled"
_TOP_LEVEL = _BUNDLED if _BUNDLED.is_dir() else _PACKAGE.parent


def add_top_level() -> None:
  """Makes `configs` and `data_prep` importable, wherever they lie."""
  if str(_TOP_LEVEL) not in sys.path:
    sys.path.insert(0, str(_TOP_LEVEL))


def shipped_configs() -> list[str]:
  """Names of the configurations that come with the program."""
  folder = _TOP_LEVEL / "configs"
  return sorted(p.stem for p in folder.glob("*.py") if p.stem != "__init__")


def find_config(text: str, flag: str = "--config") -> pathlib.Path:
  """The file of a configuration.

  Args:
    text: the path of a file, or the name of a configuration that comes with
      the program: `shapes`, or `configs/shapes.py` as in a checkout.
    flag: that names it, for errors.

  Raises:
    ValueError: if there is none.
  """
  path = pathlib.Path(text)
  if path.suffix == ".py" and path.is_file():
    return path
  name = text.removeprefix("configs/").removesuffix(".py")
  if name in shipped_configs():
    return _TOP_LEVEL / "configs" / f"{name}.py"
  problem = "is no Python file" if path.exists() else "there is no such file"
  raise ValueError(
    f"{flag}={text}: {problem}; give a .py file, or one of "
    f"{', '.join(shipped_configs())}."
  )


def load_config(text: str, flag: str = "--config") -> ConfigDict:
  """Loads a configuration.

  Args:
    text: a path or a name; see `find_config`.
    flag: that names it, for errors.

  Returns:
    What the file's `get_config()` returns, locked: no key can be added.

  Raises:
    ValueError: if there is no such file, or it is no configuration.
  """
  path = find_config(text, flag)
  add_top_level()
  try:
    spec = importlib.util.spec_from_file_location("config", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config() if hasattr(module, "get_config") else None
  except SyntaxError as error:
    raise ValueError(
      f"{flag}={text}: {error.filename}, line {error.lineno}: {error.msg}."
    ) from error
  except Exception as error:  # Whatever a user's file does.
    raise ValueError(f"{flag}={text}: {_where(error, path)}") from error
  if not isinstance(config, ConfigDict):
    raise ValueError(
      f"{flag}={text}: no configuration; the file needs a function "
      "get_config() that returns a ConfigDict."
    )
  if path.parent != _TOP_LEVEL / "configs":
    _check_keys(config, f"{flag}={text}")
  return config.lock()


def _check_keys(config: ConfigDict, where: str) -> None:
  """Raises ValueError for a key that no configuration of the program has.

  Each network has keys of its own: those of one that does not come with the
  program are checked where it is made.
  """
  shipped = [load_config(name) for name in shipped_configs()]
  known: set[str] = set()
  for other in shipped:
    keys = set(flatten(other.to_dict()))
    if other.model.name != config.get("model", {}).get("name"):
      keys = {key for key in keys if not key.startswith("model.")}
    known |= keys
  own = any(key.startswith("model.") for key in known)
  for key in flatten(config.to_dict()):
    if key in known or (key.startswith("model.") and not own):
      continue
    name = key.split(".")[-1]
    close = difflib.get_close_matches(key, known, 1) or [
      other for other in sorted(known) if other.split(".")[-1] == name
    ]
    hint = f"did you mean {close[0]}?" if close else "leave it out."
    raise ValueError(f"{where}: there is no key {key}; {hint}")


def _where(error: Exception, path: pathlib.Path) -> str:
  """An exception of a configuration file in one line."""
  lines = [
    frame.lineno
    for frame in traceback.extract_tb(error.__traceback__)
    if frame.filename == str(path)
  ]
  reason: object = error
  while isinstance(reason, Exception) and reason.args:
    reason = reason.args[0]
  # ConfigDict lists the values of all other keys.
  text = re.sub(r"Other fields present: .*\}", "", str(reason), flags=re.DOTALL)
  text = " ".join(text.replace('"', "").split())
  return f"line {lines[-1]}: {text}" if lines else text


def check_seed(seed: Any, name: str) -> int:
  """A seed that is a whole number from 0 to 2**32 - 1.

  Args:
    seed: what was set.
    name: of the flag, key or argument that sets it, for the error.

  Raises:
    ValueError: for anything else.
  """
  try:
    value = -1 if isinstance(seed, bool) else operator.index(seed)
  except TypeError:
    value = -1
  if not 0 <= value < 2**32:
    raise ValueError(
      f"{name}={seed}: give a whole number from 0 to {2**32 - 1}."
    )
  return value


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """`{"a": {"b": 1}}` becomes `{"a.b": 1}`."""
  flat: dict[str, Any] = {}
  for name, value in values.items():
    if isinstance(value, Mapping):
      flat |= flatten(value, f"{prefix}{name}.")
    else:
      flat[prefix + name] = value
  return flat
