"""The keys of a configuration with their meaning, which is read from its file.

The comment above a key says what it is; keys that follow without a blank or a
comment between share it.
"""

import ast
import io
import itertools
import pathlib
import tokenize

from ml_collections import ConfigDict, FieldReference

from mmdiff_jax.cli.overrides import all_keys, find_key
from mmdiff_jax.cli.parser import program_name
from mmdiff_jax.configuration import find_config, load_config


def describe(name: str, config: ConfigDict, key: str = "") -> str:
  """Lists keys as `KEY = VALUE` under their comments.

  Args:
    name: of the configuration, as --config has it.
    config: the configuration itself, whose values are shown.
    key: the key or section to list; "" lists all.

  Returns:
    The lines.

  Raises:
    ValueError: if there is no such key.
  """
  if key:
    find_key(config, key, lambda k: f"{program_name()} config {k}")
  comments = read_comments(name)
  default = load_config("default")
  wanted = [
    k for k in _sorted_as(comments, all_keys(config))
    if not key or k == key or k.startswith(f"{key}.")
  ]  # fmt: skip
  defaults = set(all_keys(default))
  blocks = []
  for comment, group in itertools.groupby(
    wanted, lambda k: comments.get(k, "")
  ):
    lines = [f"# {line}" for line in comment.splitlines()]
    for k in group:
      line = f"{k} = {_value(config, k)}"
      if k in defaults and _value(default, k) != _value(config, k):
        line += f"  (in the default: {_value(default, k)})"
      lines.append(line)
    blocks.append("\n".join(lines))
  return "\n\n".join(blocks)


def summarise(keys: tuple[str, ...]) -> list[tuple[str, str]]:
  """Keys with their default values, and their comments in one line."""
  config, comments = load_config("default"), read_comments("default")
  rows = []
  for comment, group in itertools.groupby(keys, lambda k: comments[k]):
    *others, last = group
    rows += [(f"--config.{k}={_value(config, k)}", "") for k in others]
    rows.append(
      (f"--config.{last}={_value(config, last)}", " ".join(comment.split()))
    )
  return rows


def read_comments(name: str) -> dict[str, str]:
  """What the files say of the keys of a configuration.

  Args:
    name: of the configuration, as --config has it.

  Returns:
    The comments by key: those of its own file, else of the default one, in
    the order of the default one.
  """
  comments = _comments_of(find_config("default"))
  for key, comment in _comments_of(find_config(name)).items():
    # A variant's comments give its reasons; the meaning is in the default.
    comments.setdefault(key, comment)
  # The sampler's options appear twice: config.sr.sample takes them again.
  for key in [k for k in comments if k.startswith("sample.")]:
    comments.setdefault(f"sr.{key}", comments[key])
  return comments


def _comments_of(path: pathlib.Path) -> dict[str, str]:
  """The comment above each assignment to a key in `get_config`."""
  with tokenize.open(path) as file:  # In the encoding that the file declares.
    source = file.read()
  comments = {
    token.start[0]: token.string.removeprefix("#").strip()
    for token in tokenize.generate_tokens(io.StringIO(source).readline)
    if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#")
  }
  functions = [
    node for node in ast.parse(source).body
    if isinstance(node, ast.FunctionDef) and node.name == "get_config"
  ]  # fmt: skip
  found: dict[str, str] = {}
  sections = {"config": ""}
  previous, shared = 0, ""
  for statement in functions[0].body if functions else []:
    if not isinstance(statement, ast.Assign):
      continue
    first = statement.lineno
    lines: list[str] = []
    while first - 1 in comments:
      first -= 1
      lines.insert(0, comments[first])
    comment = "\n".join(lines)
    if not lines and previous == statement.lineno - 1:
      comment = shared
    previous, shared = statement.end_lineno or statement.lineno, comment
    keys = [_key(target, sections) for target in statement.targets]
    for key in filter(None, keys):
      found[key] = comment
      for target in statement.targets:
        if isinstance(target, ast.Name):
          sections[target.id] = f"{key}."
  return found


def _key(target: ast.expr, sections: dict[str, str]) -> str:
  """The key that is assigned to: `train.batch_size`; "" if it is none."""
  names: list[str] = []
  while isinstance(target, ast.Attribute):
    names.insert(0, target.attr)
    target = target.value
  if not names or not isinstance(target, ast.Name) or target.id not in sections:
    return ""
  return sections[target.id] + ".".join(names)


def _sorted_as(comments: dict[str, str], keys: list[str]) -> list[str]:
  places = {key: place for place, key in enumerate(comments)}
  return sorted(keys, key=lambda key: places.get(key, len(places)))


def _value(config: ConfigDict, key: str) -> str:
  section, name = find_key(config, key)
  if section[name] is None:
    fields = dict(section.items(preserve_field_references=True))
    if isinstance(fields[name], FieldReference):
      return f"None ({section.get_type(name).__name__})"
  return repr(section[name])
