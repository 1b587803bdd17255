import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from mmdiff_jax import checkpoint
from mmdiff_jax.checkpoint import parameters
from mmdiff_jax.convert import exporter
from mmdiff_jax.disk import leftovers


def make_state(value=1.0):
  params = {"w": jnp.full((4, 3), value)}
  ema = {"w": jnp.full((4, 3), -value)}
  return {"params": params, "ema_params": ema, "step": jnp.int32(3)}


def abstract(tree):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


@pytest.fixture
def run(tmp_path):
  config = default.get_config()
  with checkpoint.Checkpoints(
    tmp_path / "checkpoints", keep_every=2
  ) as checkpoints:
    for step in range(1, 6):
      checkpoints.save(
        step,
        make_state(step),
        {"n": jnp.ones(2)},
        config=config,
        loader_state={"next_index": 10 * step},
      )
  return tmp_path


def test_latest_and_every_nth_are_kept(run):
  kept = {p.name for p in (run / "checkpoints").iterdir()}
  assert kept == {"2", "4", "5"}


def test_what_is_restored_is_what_was_saved(run):
  state = make_state(5)
  with checkpoint.Checkpoints(run / "checkpoints") as checkpoints:
    assert checkpoints.latest_step == 5
    restored, window, loader = checkpoints.restore(
      5, abstract(state), abstract({"n": jnp.ones(2)})
    )
  jax.tree.map(np.testing.assert_array_equal, restored, state)
  np.testing.assert_array_equal(window["n"], [1, 1])
  assert loader == {"next_index": 50}


def test_config_comes_back_with_its_tuples(run):
  config = checkpoint.load_config(run)
  assert config.to_dict() == default.get_config().to_dict()
  assert isinstance(config.model.channel_mult, tuple)


@pytest.mark.parametrize(("ema", "expected"), [(True, -5), (False, 5)])
def test_parameters_are_read_alone(run, ema, expected):
  params = checkpoint.load_params(
    run, abstract(make_state()["params"]), ema=ema
  )
  np.testing.assert_array_equal(params["w"], np.full((4, 3), expected))


@pytest.mark.parametrize(
  "wanted", [{"w": (4, 4)}, {"v": (4, 3)}, {"w": (4, 3), "v": (1,)}]
)
def test_other_network_is_an_error_that_names_the_parameter(run, wanted):
  wanted = {k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in wanted.items()}
  with pytest.raises(ValueError, match="does not fit this model.*in the model"):
    checkpoint.load_params(run, wanted)


def test_half_written_checkpoint_is_not_seen(run):
  (run / "checkpoints" / "6.orbax-checkpoint-tmp").mkdir()
  assert checkpoint.find_checkpoint(run).name == "5"
  with checkpoint.Checkpoints(run / "checkpoints") as checkpoints:
    assert checkpoints.latest_step == 5


def test_missing_checkpoint_says_what_to_give(tmp_path):
  with pytest.raises(FileNotFoundError, match="--workdir"):
    checkpoint.find_checkpoint(tmp_path)


def test_saved_parameters_are_readable_as_a_run(tmp_path):
  params = {"w": np.arange(6.0, dtype=np.float32).reshape(2, 3)}
  checkpoint.save_params(tmp_path, params, default.get_config())
  loaded = checkpoint.load_params(
    tmp_path, {"w": jax.ShapeDtypeStruct((2, 3), jnp.float32)}
  )
  np.testing.assert_array_equal(loaded["w"], params["w"])


def test_exported_parameters_are_the_average_in_half_the_bits(run, tmp_path):
  path = exporter.export_params(run, tmp_path / "exported")
  params = checkpoint.load_params(path, abstract(make_state()["ema_params"]))
  assert params["w"].dtype == jnp.float32
  np.testing.assert_array_equal(params["w"], np.full((4, 3), -5.0))
  assert (
    checkpoint.load_config(path).to_dict() == default.get_config().to_dict()
  )
  # As after a kill at its very end.
  before = sorted((p, p.stat().st_mtime_ns) for p in path.rglob("*"))
  assert exporter.export_params(run, path) == path
  assert before == sorted((p, p.stat().st_mtime_ns) for p in path.rglob("*"))
  older = run / "checkpoints" / "4"
  for source, target in ((older, path), (run, tmp_path / "checkpoints")):
    with pytest.raises(FileExistsError, match="exists, and is another"):
      exporter.export_params(source, target)
  files = [file for file in path.rglob("*") if file.is_file()]
  assert not any(str(tmp_path).encode() in f.read_bytes() for f in files)


def test_the_later_of_two_exports_leaves_nothing_behind(
  run, tmp_path, monkeypatch
):
  target = tmp_path / "out" / "exported"
  others = exporter.export_params(run, tmp_path / "others")
  monkeypatch.setattr(
    parameters, "add_checksums", lambda _: others.rename(target)
  )
  with pytest.raises(FileExistsError, match="made by another process"):
    exporter.export_params(run, target)
  assert [path.name for path in target.parent.iterdir()] == ["exported"]
  checkpoint.load_params(target, abstract(make_state()["ema_params"]))


def test_export_refuses_what_its_type_cannot_hold(tmp_path):
  large = {"w": jnp.full((2,), 1e6)}
  checkpoint.save_params(tmp_path, large, default.get_config())
  with pytest.raises(ValueError, match="not finite in float16"):
    exporter.export_params(tmp_path, tmp_path / "exported")
  assert not (tmp_path / "exported").exists()


def flip_bit(path, position):
  data = bytearray(path.read_bytes())
  data[position // 8 % len(data)] ^= 1 << position % 8
  path.write_bytes(data)


def read_all(path):
  """Everything that a run or a sampler takes from a checkpoint."""
  window = abstract({"n": jnp.ones(2)})
  with checkpoint.Checkpoints(path.parent) as checkpoints:
    state = checkpoints.restore(5, abstract(make_state()), window)
  config = checkpoint.load_config(path).to_dict()
  params = checkpoint.load_params(path, abstract(make_state()["params"]))
  return jax.tree.map(np.asarray, (state, params)), config


@pytest.mark.parametrize("exported", [False, True])
def test_no_flipped_bit_is_read_over(run, tmp_path, exported):
  path, read = run / "checkpoints" / "5", read_all
  if exported:
    path = exporter.export_params(run, tmp_path / "exported")
    wanted = abstract(make_state()["ema_params"])

    def read(path):
      params = checkpoint.load_params(path, wanted)
      return jax.tree.map(np.asarray, params), checkpoint.load_config(path)

  expected, config = read(path)
  rng = np.random.default_rng(0)
  found = 0
  files = sorted(p for p in path.rglob("*") if p.is_file() and p.stat().st_size)
  for file in files:
    content = file.read_bytes()
    for position in rng.integers(8 * len(content), size=4):
      flip_bit(file, int(position))
      try:
        values, read_config = read(path)
      except (ValueError, FileNotFoundError) as error:
        # The second: no configuration, no checkpoint.
        assert "\n" not in str(error)
        found += 1
      else:
        # Where and when it was written says nothing of what was written.
        assert file.name in ("commit_success.txt", "_CHECKPOINT_METADATA")
        jax.tree.map(np.testing.assert_array_equal, values, expected)
        assert read_config == config
    file.write_bytes(content)
  assert found >= 3 * (len(files) - 1)


def test_the_damaged_file_is_named(run):
  path = run / "checkpoints" / "5"
  array = max((path / "state").rglob("d/*"), key=lambda p: p.stat().st_size)
  flip_bit(array, 100)
  with pytest.raises(
    ValueError, match=f"5 cannot be read .*{array.name}.*checksum"
  ):
    checkpoint.load_params(run, abstract(make_state()["params"]))


def test_a_checkpoint_without_checksums_is_one_of_the_first_version(
  run, caplog
):
  """Those that a later version wrote must have them."""
  path = run / "checkpoints" / "5"
  (path / "checksums.json").unlink()
  with pytest.raises(ValueError, match="checksums.json is missing"):
    checkpoint.load_config(run)
  mark = path / "_CHECKPOINT_METADATA"
  content = json.loads(mark.read_text())
  for key in ("version", "step", "checksum"):
    del content["custom_metadata"][key]
  mark.write_text(json.dumps(content))
  with caplog.at_level("INFO", "mmdiff_jax"):
    params = checkpoint.load_params(run, abstract(make_state()["params"]))
  np.testing.assert_array_equal(params["w"], np.full((4, 3), -5))
  assert "has no checksums" in caplog.text


def restore_newest(directory):
  window = abstract({"n": jnp.ones(2)})
  with checkpoint.Checkpoints(directory) as checkpoints:
    step = checkpoints.latest_step
    return checkpoints.restore(step, abstract(make_state()), window)


def unmark(folder):
  (folder / "5" / "_CHECKPOINT_METADATA").unlink()


def empty_list(folder):
  (folder / "5" / "checksums.json").write_text("{}")


def copy_over(folder):
  shutil.copytree(folder / "4", folder / "5", dirs_exist_ok=True)


def replace_by(folder):
  shutil.rmtree(folder / "5")
  shutil.copytree(folder / "4", folder / "5")


def exchange_lists(folder):
  shutil.copy(folder / "4" / "checksums.json", folder / "5")


def exchange_marks(folder):
  shutil.copy(folder / "4" / "_CHECKPOINT_METADATA", folder / "5")


@pytest.mark.parametrize(
  ("damage", "words"),
  [
    (unmark, "_CHECKPOINT_METADATA is missing"),
    (empty_list, "checksums.json is damaged"),
    (copy_over, "it holds step 4"),
    (replace_by, "it holds step 4"),
    (exchange_lists, "not what was written|bytes of|is missing"),
    (exchange_marks, "it holds step 4"),
  ],
)
def test_a_damaged_newest_checkpoint_is_never_passed_over(run, damage, words):
  folder = run / "checkpoints"
  before = restore_newest(folder)
  jax.tree.map(np.testing.assert_array_equal, before, restore_newest(folder))
  damage(folder)
  for read in (
    restore_newest,
    lambda _: checkpoint.load_config(run),
    lambda _: checkpoint.load_params(run, abstract(make_state()["params"])),
  ):
    with pytest.raises(ValueError, match=rf"5 cannot be read \(.*({words})"):
      read(folder)


def test_a_folder_of_one_step_may_have_any_other_name(run, tmp_path):
  (run / "checkpoints" / "5").rename(tmp_path / "best")
  checkpoint.load_config(tmp_path / "best")


def test_nothing_is_removed_unless_something_was_saved(run):
  with checkpoint.Checkpoints(run / "checkpoints"):
    pass
  kept = {p.name for p in (run / "checkpoints").iterdir()}
  assert kept == {"2", "4", "5"}


def test_a_kill_while_an_old_checkpoint_is_removed_leaves_none_of_it(
  run, monkeypatch
):
  folder = run / "checkpoints"

  def die(*arguments, **keywords):
    raise KeyboardInterrupt

  monkeypatch.setattr(leftovers.shutil, "rmtree", die)
  with checkpoint.Checkpoints(folder) as checkpoints:
    with pytest.raises(KeyboardInterrupt):
      checkpoints.discard(4)
    monkeypatch.undo()
  assert {p.name for p in folder.iterdir() if p.name.isdigit()} == {"2", "5"}
  leftovers.remove_leftovers(folder)
  assert {p.name for p in folder.iterdir()} == {"2", "5"}
