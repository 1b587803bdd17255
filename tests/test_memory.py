"""Programs are compared with the memory that there is."""

import jax
import jax.numpy as jnp
import pytest

from mmdiff_jax.devices import memory


@pytest.fixture(scope="module")
def square():
  """A program that takes and returns a megabyte."""
  x = jnp.zeros((512, 512))
  return jax.jit(lambda x: x @ x).lower(x).compile()


def test_a_program_counts_what_it_takes_and_returns(square):
  assert 2 * 2**20 <= memory.program_bytes(square) < 4 * 2**20


def test_memory_that_is_given_back_counts_once():
  x = jnp.zeros((512, 512))
  program = jax.jit(lambda x: x + 1, donate_argnums=0).lower(x).compile()
  assert memory.program_bytes(program) == 2**20


def check(program, monkeypatch, free, **options):
  monkeypatch.setattr(memory, "available_host_bytes", lambda: free)
  memory.check_memory(program, "The step", ("a=1", "b"), **options)


def test_too_large_a_program_is_one_line_with_figures_and_cures(
  square, monkeypatch
):
  count = len(jax.local_devices())
  check(square, monkeypatch, 4 * 2**20 * count)
  with pytest.raises(memory.DoesNotFitError) as error:
    check(square, monkeypatch, 2**20)
  text = str(error.value)
  assert "\n" not in text
  assert "The step needs 0.0" in text and "has free 0.00" in text
  assert "a=1, b; or --force" in text
  check(square, monkeypatch, 2**20, force=True)
  check(square, monkeypatch, None)


def test_what_is_held_needs_no_more_room(square, monkeypatch):
  count = len(jax.local_devices())
  needed = memory.program_bytes(square) * count
  held = jnp.zeros((512, 512))
  check(square, monkeypatch, needed - 2**20, held={"x": held})
  with pytest.raises(memory.DoesNotFitError):
    check(square, monkeypatch, needed - 2**20 - 1, held={"x": held})


def test_what_a_cpu_kernel_holds_of_an_attention_counts(monkeypatch):
  """XLA says nothing of it: the program would be killed, or fail inside."""
  tokens = 2**16

  def attend(q, k, v):
    return jax.nn.softmax(q @ k.T) @ v

  x = jax.ShapeDtypeStruct((tokens, 8), jnp.float32)
  program = jax.jit(attend).lower(x, x, x).compile()
  logits = 4 * tokens**2
  with pytest.raises(memory.DoesNotFitError, match="The step needs"):
    check(program, monkeypatch, logits)
  check(program, monkeypatch, 3 * logits * len(jax.local_devices()))


def write_group(folder, limit, used, cached):
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "memory.max").write_text(f"{limit}\n")
  (folder / "memory.current").write_text(f"{used}\n")
  (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")


def test_the_tightest_limit_of_the_host_counts(tmp_path, monkeypatch):
  info, own = tmp_path / "meminfo", tmp_path / "cgroup"
  info.write_text("MemTotal: 99 kB\nMemAvailable:   50 kB\n")
  own.write_text("0::/jobs/ours\n")
  monkeypatch.setattr(memory, "_MEMINFO", info)
  monkeypatch.setattr(memory, "_OWN_GROUP", own)
  monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "groups")
  assert memory.available_host_bytes() == 50 * 1024
  write_group(tmp_path / "groups" / "jobs", 40_000, 30_000, 4_000)
  assert memory.available_host_bytes() == 14_000
  write_group(tmp_path / "groups" / "jobs" / "ours", "max", 1, 0)
  assert memory.available_host_bytes() == 14_000
  write_group(tmp_path / "groups" / "jobs" / "ours", 9_000, 1_000, 0)
  assert memory.available_host_bytes() == 8_000
  # Within a container only the root is seen.
  own.write_text("0::/of/the/host\n")
  assert memory.available_host_bytes() == 50 * 1024
  write_group(tmp_path / "groups", 7_000, 1_000, 0)
  assert memory.available_host_bytes() == 6_000


def test_systems_that_do_not_say_are_not_checked(tmp_path, monkeypatch):
  monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
  monkeypatch.setattr(memory, "_OWN_GROUP", tmp_path / "none")
  assert memory.available_host_bytes() is None
