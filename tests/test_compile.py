"""Programs for absent hardware: what XLA writes of them, and a whole run."""

import importlib.util
import json

import pytest

from configs import smoke
from mmdiff_jax.aot import compile as aot_compile
from mmdiff_jax.aot import hlo, ladder
from mmdiff_jax.aot.compile import DoesNotFitError, compile_for
from mmdiff_jax.aot.hardware import TPUS, check_installed, check_topology
from mmdiff_jax.aot.report import as_text, needed_memory, reported_memory
from mmdiff_jax.aot.traffic import traffic
from tests.conftest import make_tiny_config
from tests.toy import make_toy_config

REPORT = {
  "what": "train",
  "topology": "cpu:2",
  "slices": 1,
  "devices": 2,
  "clips": 8,
  "mesh": {"data": 2, "fsdp": 1},
  "parameters": 1,
  "flops_per_device": 1.0,
  "hbm": None,
  "seconds": 1.0,
}

HLO = """
HloModule jit_step

%fused (x: f32[64,8], n: s32[]) -> f32[1,8] {
  %x = f32[64,8]{1,0} parameter(0)
  %n = s32[] parameter(1)
  ROOT %cut = f32[1,8]{1,0} dynamic-slice(%x, %n), dynamic_slice_sizes={1,8}
}

%body (p: f32[64,8]) -> f32[64,8] {
  %p = f32[64,8]{1,0} parameter(0)
  %i = s32[] custom-call(), custom_call_target="i"
  %row = f32[1,8]{1,0} fusion(%p, %i), kind=kLoop, calls=%fused
  %all = f32[1,8]{1,0} all-reduce(%row), to_apply=%sum
  ROOT %new = f32[64,8]{1,0} dynamic-update-slice(%p, %all, %i)
}

%condition (q: f32[64,8]) -> pred[] {
  %bound = s32[] constant(5)
  ROOT %less = pred[] custom-call(%bound), custom_call_target="less"
}

ENTRY %main (a: f32[8,4]) -> u8[10] {
  %a = f32[8,4]{1,0} parameter(0)
  %g = f32[32,4]{1,0} all-gather(%a), dimensions={0}
  %b = bf16[2,3]{1,0:S(1)} copy(%a)
  %s = (bf16[2,3]{1,0}, bf16[16,3]{1,0}) all-gather-start(%b), dimensions={0}
  %d = bf16[16,3]{1,0} all-gather-done(%s)
  %w = f32[64,8]{1,0} while(%g), condition=%condition, body=%body
  ROOT %r = u8[10]{0} add(%g, %d), metadata={op_name="jit(step)/\
transpose(jvp(Net))/block/block._stream/checkpoint/conv/add"}
}
""".replace("\\\n", "")


def test_collectives_are_counted_as_often_as_they_run():
  found = hlo.collectives(hlo.Program(HLO))
  assert found["all-gather"] == hlo.Collective(
    number=2,
    size=32 * 4 * 4 + 16 * 3 * 2,
    moved=32 * 4 * 4 + 16 * 3 * 2,
    largest=512,
    shape="f32[32,4]",
    layer="all-gather",
  )
  assert found["all-reduce"][:3] == (5, 5 * 32, 2 * 5 * 32)


def test_traffic_counts_slices_and_trips_but_not_the_fast_memory():
  gathers = 4 * 8 * 4 + 4 * 32 * 4 + 0 + 16 * 3 * 2 + 2 * 3 * 2
  last = 10 + 4 * 32 * 4 + 16 * 3 * 2
  copy = 4 * 8 * 4
  # A row read, a row reduced, a row written; and an index and a condition.
  trip = (32 + 32) + (32 + 32) + (32 + 32) + 2 * 4 + 4 + 4 + 1
  assert traffic(hlo.Program(HLO)) == gathers + last + copy + 5 * trip


def test_largest_values_have_the_layer_that_makes_them():
  program = hlo.Program(HLO)
  assert hlo.largest_buffers(program, 1)[0][:2] == (2048, "f32[64,8]")
  assert (10, "u8[10]", "block/conv (backward)") in hlo.largest_buffers(program)


MEMORY_REPORT = (
  "Memory Space: default (color=0)\nTotal bytes: 12 (12B)\n"
  "Memory Space: vmem (color=1)\nTotal bytes: 99 (99B)\n"
)


def test_memory_is_that_of_the_chips_main_memory():
  assert hlo.reported_memory(MEMORY_REPORT) == 12
  assert hlo.reported_memory("nothing") is None


def test_a_memory_report_that_is_being_written_is_none_yet(tmp_path):
  assert reported_memory(tmp_path) is None
  path = tmp_path / "module_0003.jit_train_step.memory-usage-report.txt"
  half = MEMORY_REPORT.index("12 (") + 1
  for text in ("", MEMORY_REPORT[:half]):
    path.write_text(text)
    assert reported_memory(tmp_path) is None
  path.write_text(MEMORY_REPORT)
  assert reported_memory(tmp_path) == 12


def test_a_program_for_virtual_devices_is_reported(tmp_path, capsys):
  config = make_tiny_config()
  config.mesh.fsdp = 2
  path = tmp_path / "report.json"
  report = compile_for(config, topology="cpu:2", output=str(path))
  assert report["mesh"] == {"data": 1, "fsdp": 2}
  assert report["held"]["parameters"] == report["held"]["their average"]
  # Of four bytes each; half of the larger leaves is on the other device.
  assert 2 < report["held"]["parameters"] / report["parameters"] < 3.7
  assert (
    report["memory"] == sum(report["held"].values()) + report["temporaries"]
  )
  assert report["fits"] is None
  assert json.loads(path.read_text())["flops"] == report["flops"] > 1e3
  assert as_text(report) in capsys.readouterr().out
  with pytest.raises(ValueError, match="does not cover the 3 device"):
    compile_for(config, topology="cpu:3")


def test_fit_takes_the_first_change_that_fits(tmp_path, monkeypatch, capsys):
  """What a program needs is made up: 1 GiB, and 1 GiB for each clip."""
  path = tmp_path / "report.json"

  def compiled(config, topology, what, slices, limit):
    rows = config.train.batch_size // config.train.microbatches // 2
    return REPORT | {
      "memory": (1 + rows) * 2**30,
      "held": {"parameters": 2**30},
      "fits": (1 + rows) * 2**30 <= limit,
    }

  monkeypatch.setattr(aot_compile, "_compile", compiled)
  config = make_toy_config()
  config.train.batch_size = 8
  at = {"topology": "cpu:2", "output": str(path)}
  report = compile_for(config, hbm=3.5, fit=True, **at)
  assert report["changes"] == {"train.microbatches": 2}
  assert [one["fits"] for one in report["tries"]] == [False, True]
  # Four microbatches are needed; two are known not to do.
  report = compile_for(config, hbm=2.5, fit=True, **at)
  assert report["changes"] == {"train.microbatches": 4}
  assert len(report["tries"]) == 2
  assert "microbatches=2: not tried" in capsys.readouterr().out
  with pytest.raises(DoesNotFitError, match="--config.train.microbatches=2; "):
    compile_for(config, hbm=3.5, **at)
  with pytest.raises(DoesNotFitError, match="Nothing that was tried fits"):
    compile_for(config, hbm=0.4, fit=True, **at)
  assert json.loads(path.read_text())["fits"] is False
  with pytest.raises(ValueError, match="give --hbm=GIB"):
    compile_for(config, fit=True, **at)


def test_changes_begin_with_the_smallest():
  config = make_tiny_config()
  config.train.batch_size = 4
  found = list(ladder.rungs(config, "train", 2))
  remat = {"model.remat": "blocks"}
  assert found[:3] == [
    remat,
    remat | {"train.microbatches": 2},
    remat | {"mesh.fsdp": 2},
  ]
  assert found[-1] == remat | {
    "mesh.fsdp": 2,
    "train.batch_size": 2,
    "train.microbatches": 1,
  }
  config.sample.batch_size = 4
  assert list(ladder.rungs(config, "sample", 2)) == [
    {"sample.batch_size": 2},
    {"mesh.fsdp": 2, "sample.batch_size": 2},
  ]


def test_memory_that_xla_refuses_is_read_from_its_message():
  text = "RESOURCE_EXHAUSTED: Ran out. Used 24.5G of 15.75G hbm. Exceeds"
  assert needed_memory(text) == 24.5 * 2**30
  assert needed_memory("another error") is None


def test_what_cannot_be_compiled_for_is_one_line(monkeypatch):
  assert check_topology("v5e:4x4") is TPUS["v5e"]
  assert check_topology("h100:1x8").network > check_topology("h100:2x8").network
  for name in ("v5e", "v5e:big", "h100:8", "cpu:0", ""):
    with pytest.raises(ValueError, match="--topology=.*give cpu:N"):
      check_topology(name)
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  for name, package in (("v5e:4x4", "tpu"), ("h100:1x8", "jax-cuda12-pjrt")):
    with pytest.raises(ImportError, match=f"pip install .*{package}"):
      check_installed(name)


def has_compiler_for(topology):
  try:
    check_installed(topology)
  except ImportError:
    return False
  return True


@pytest.mark.skipif(
  not has_compiler_for("h100:1x8"), reason="no compiler for GPUs"
)
def test_rematerialised_blocks_need_no_more_on_several_gpus():
  config = smoke.get_config()
  config.model.remat = "blocks"
  config.model.dtype = "bfloat16"
  needed = []
  for gpus in (1, 8):
    config.train.batch_size = 64 * gpus
    report = compile_for(config, topology=f"h100:1x{gpus}")
    needed.append(report["memory"])
  # By XLA's default it is 2.6 times as much: see `models/remat.py`.
  assert needed[1] < 1.2 * needed[0]


def test_why_the_compiler_ended_early_is_said(tmp_path):
  with pytest.raises(RuntimeError, match="FileNotFoundError.*job.json"):
    aot_compile._run_child(tmp_path)
