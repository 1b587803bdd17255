"""Programs for absent hardware: what XLA writes of them, and a whole run."""

import importlib.util
import json

import pytest

from configs import smoke
from mmdiff_jax.aot import compile as aot_compile
from mmdiff_jax.aot import hlo, ladder
from mmdiff_jax.aot.compile import DoesNotFitError, compile_for
from mmdiff_jax.aot.hardware import check_installed, check_topology
from mmdiff_jax.aot.report import as_text, needed_memory, reported_memory
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
  "model_flops": 1.0,
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

  def compiled(config, topology, what, slices, limit, cycles):
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
  assert found[:4] == [
    {"model.remat": "products"},
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


@pytest.mark.parametrize(
  "name",
  ["v5e:1x1", "v6e:1x1", "v5e:16x16", "v4:2x2x1", "v4:4x4x4", "v5p:1x1x1"]
  + ["v5p:2x2x4", "v5p:4x8x12", "v5p:8x8x8", "h100:2x8", "4090:1x1", "cpu:8"],
)
def test_topologies_that_exist_are_taken(name):
  chip = check_topology(name)
  assert (chip is None) == name.startswith("cpu")


# What is given, and what the answer says beside it.
WRONG = {
  "": "'' is unknown; give one of v4, v5e",
  "tpu:4x4": "'tpu' is unknown",
  "v7:2x2": "'v7' is unknown.*give one of",
  "V5E:4x4": "did you mean 'v5e'",
  "v5lite:4x4": "'v5lite' is unknown",
  "h10:1x8": "did you mean 'h100'",
  "A100:1x8": "did you mean 'a100'",
  "rtx4090:1x1": "did you mean '4090'",
  "v5e": "no such slice of v5e; there are 1x1, 2x2",
  "v5e:": "no such slice",
  "v5e:big": "no such slice",
  "v5e:16": "no such slice.*4x4",
  "v5e:3x3": "no such slice.*16x16",
  "v5e:4x2": "no such slice.*2x4",
  "v5e:4x4x4": "no such slice.*8x16",
  "v5e:1000x1000": "no such slice.*16x16",
  "v6e:4x4x4": "no such slice of v6e.*8x8",
  "v6e:0x0": "no such slice",
  "v5p:4x4": "no such slice of v5p.*2x2x1, 2x2x2",
  "v5p:2x2x2x2": "no such slice of v5p.*2x2x4",
  "v5p:3x3x3": "ascending multiples of 4",
  "v5p:8x4x4": "ascending multiples of 4",
  "v5p:32x32x32": "of at most 6144 chips",
  "v4:1x1x1": "no such slice of v4.*2x2x1",
  "h100": "give HOSTSxGPUS, such as h100:1x8",
  "h100:8": "8 on one machine are h100:1x8",
  "h100:1x16": "at most 8 GPUs; give HOSTSxGPUS, such as h100:2x8",
  "h100:0x8": "give HOSTSxGPUS",
  "h100:2x2x2": "give HOSTSxGPUS",
  "cpu": "number of virtual devices, such as cpu:8",
  "cpu:0": "such as cpu:8",
  "cpu:2x2": "such as cpu:8",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_topology_that_does_not_exist_is_one_line_with_the_cure(name):
  with pytest.raises(ValueError, match=WRONG[name]) as error:
    check_topology(name)
  assert str(error.value).startswith(f"--topology={name}: ")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("name", "slices", "message"),
  [
    ("h100:1x8", 2, "only TPUs come in slices; give HOSTSxGPUS"),
    ("cpu:8", 2, "only TPUs come in slices"),
    ("v5e:4x4", 0, "--slices=0: give 1 or more"),
  ],
)
def test_slices_are_of_tpus(name, slices, message):
  with pytest.raises(ValueError, match=message):
    check_topology(name, slices)


def test_between_machines_the_network_is_slower():
  assert check_topology("h100:1x8").network > check_topology("h100:2x8").network


def test_a_missing_compiler_is_named(monkeypatch):
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
