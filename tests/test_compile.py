"""Programs for absent hardware: what XLA writes of them, and a whole run."""

import json

import pytest

from mmdiff_jax.aot import hlo
from mmdiff_jax.aot.compile import as_text, compile_for
from mmdiff_jax.aot.hardware import CHIPS, check_topology
from tests.conftest import make_tiny_config

HLO = """
HloModule jit_step

%body (p: f32[2]) -> f32[2] {
  %big = f32[1024,1024]{1,0} exponential(%p)
}

ENTRY %main {
  %a = f32[8,4]{1,0} parameter(0)
  %g = f32[32,4]{1,0} all-gather(%a), dimensions={0}
  %s = (bf16[2,3]{1,0}, bf16[16,3]{1,0}) all-gather-start(%b), dimensions={0}
  %d = bf16[16,3]{1,0} all-gather-done(%s)
  ROOT %r = u8[10]{0} add(%g, %d), metadata={op_name="jit(step)/block/add"}
}
"""


def test_collectives_are_counted_with_their_largest_result():
  found = hlo.collectives(HLO)
  assert found == {
    "all-gather": hlo.Collective(
      number=2, size=32 * 4 * 4 + 16 * 3 * 2, largest=512, shape="f32[32,4]"
    )
  }


def test_largest_values_are_those_of_the_entry_with_their_layer():
  assert hlo.largest_buffers(HLO, 1)[0][:2] == (512, "f32[32,4]")
  assert (10, "u8[10]", "block/add") in hlo.largest_buffers(HLO)


def test_memory_is_that_of_the_chips_main_memory():
  text = (
    "Memory Space: default (color=0)\nTotal bytes: 12 (12B)\n"
    "Memory Space: vmem (color=1)\nTotal bytes: 99 (99B)\n"
  )
  assert hlo.reported_memory(text) == 12
  assert hlo.reported_memory("nothing") is None


def test_a_program_for_virtual_devices_is_reported(tmp_path, capsys):
  config = make_tiny_config()
  config.mesh.fsdp = 2
  path = tmp_path / "report.json"
  report = compile_for(config, topology="cpu:2", output=str(path))
  assert report["mesh"] == {"data": 1, "fsdp": 2}
  # One device holds its shares of parameters, average and two moments.
  assert report["memory"] > 4 * report["parameters"] * 4 / 2
  assert report["collectives"]["all-gather"]["number"] > 0
  assert json.loads(path.read_text())["flops"] == report["flops"] > 1e6
  assert as_text(report) in capsys.readouterr().out
  with pytest.raises(ValueError, match="does not cover the 3 device"):
    compile_for(config, topology="cpu:3")


def test_what_cannot_be_compiled_for_is_one_line():
  assert check_topology("v5e:4x4") is CHIPS["v5e"]
  for name in ("v5e", "v5e:big", "h100:1x8", "cpu:0", ""):
    with pytest.raises(ValueError, match="--topology=.*give cpu:N"):
      check_topology(name)
