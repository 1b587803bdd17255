"""Memory traffic of small programs, against what they move by hand."""

import pytest

from mmdiff_jax.aot.hlo import Program
from mmdiff_jax.aot.traffic import traffic


def in_entry(lines, rest=""):
  """A program of which `lines` are what is called."""
  body = "\n".join(f"  {line}" for line in lines.strip().splitlines())
  return (
    f"HloModule m\n{rest}\n\nENTRY %main (x: f32[1]) -> f32[1] {{\n{body}\n}}\n"
  )


ROW_OF_A_ROW = """
%inner (a: bf16[128,1024], i: s32[]) -> bf16[2,1024] {
  %a = bf16[128,1024]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %s = bf16[2,1024]{1,0} dynamic-slice(%a, %i), \
dynamic_slice_sizes={2,1024}
}

%outer (b: bf16[128,1024], j: s32[]) -> f32[2,1024] {
  %b = bf16[128,1024]{1,0} parameter(0)
  %j = s32[] parameter(1)
  %f = bf16[2,1024]{1,0} fusion(%b, %j), kind=kLoop, calls=%inner
  ROOT %c = f32[2,1024]{1,0} convert(%f)
}
"""

# A product that computes its operand from a slice, and writes a slice.
IN_PLACE = """
%update (c: f32[64,8], u: f32[1,8], i: s32[]) -> f32[64,8] {
  %c = f32[64,8]{1,0} parameter(0)
  %u = f32[1,8]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %d = f32[64,8]{1,0} dynamic-update-slice(%c, %u, %i, %i)
}

%outer (a: f32[64,8], b: f32[1,8], j: s32[]) -> f32[64,8] {
  %a = f32[64,8]{1,0} parameter(0)
  %b = f32[1,8]{1,0} parameter(1)
  %j = s32[] parameter(2)
  %n = f32[1,8]{1,0} negate(%b)
  ROOT %g = f32[64,8]{1,0} fusion(%a, %n, %j), kind=kLoop, calls=%update
}
"""

# As XLA:GPU writes: slices of what is converted first; two results, one of
# them written in place.
SEVERAL = """
%several (a: f16[64,8], b: f32[64,8], i: s32[]) -> (f32[2,8], f32[64,8]) {
  %a = f16[64,8]{1,0} parameter(0)
  %b = f32[64,8]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %c = f32[64,8]{1,0} convert(%a)
  %s = f32[2,8]{1,0} slice(%c), slice={[0:2], [0:8]}
  %t = f32[1,8]{1,0} slice(%c), slice={[9:10], [0:8]}
  %d = f32[64,8]{1,0} dynamic-update-slice(%b, %t, %i, %i)
  ROOT %r = (f32[2,8]{1,0}, f32[64,8]{1,0}) tuple(%s, %d)
}
"""

# The updated array is read on, so that it is a copy.
READ_ON = """
%read_on (b: f32[64,8], u: f32[1,8], i: s32[]) -> f32[8] {
  %b = f32[64,8]{1,0} parameter(0)
  %u = f32[1,8]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %d = f32[64,8]{1,0} dynamic-update-slice(%b, %u, %i, %i)
  ROOT %r = f32[8]{0} reduce(%d), dimensions={0}, to_apply=%add
}
"""

KERNEL = (
  "%k = bf16[8,128]{1,0} custom-call(%x), "
  'custom_call_target="tpu_custom_call", backend_config={"custom_call_config":'
  '{"cost_estimate":{"flops":"1","transcendentals":"0",'
  '"bytes_accessed":"4096"}}}'
)

CASES = {
  "a slice in a fusion within a fusion": (
    in_entry(
      """
%x = bf16[128,1024]{1,0} parameter(0)
%k = s32[]{:S(2)} parameter(1)
ROOT %r = f32[2,1024]{1,0:S(1)} fusion(%x, %k), kind=kOutput, calls=%outer
""",
      ROW_OF_A_ROW,
    ),
    2 * 1024 * 2,
  ),
  "the same, written to the main memory": (
    in_entry(
      """
%x = bf16[128,1024]{1,0} parameter(0)
%k = s32[]{:S(2)} parameter(1)
ROOT %r = f32[2,1024]{1,0} fusion(%x, %k), kind=kOutput, calls=%outer
""",
      ROW_OF_A_ROW,
    ),
    2 * 1024 * 2 + 2 * 1024 * 4,
  ),
  "an asynchronous slice to the fast memory": (
    in_entry("""
%x = bf16[128,1024]{1,0} parameter(0)
%s = ((bf16[128,1024]{1,0}), bf16[2,1024]{1,0:S(1)}, s32[]{:S(2)}) \
slice-start(%x), slice={[0:2], [0:1024]}
ROOT %d = bf16[2,1024]{1,0:S(1)} slice-done(%s)
"""),
    2 * 1024 * 2,
  ),
  "an asynchronous slice within the main memory": (
    in_entry("""
%x = bf16[128,1024]{1,0} parameter(0)
%i = s32[]{:S(2)} parameter(1)
%s = ((bf16[128,1024]{1,0}, s32[]{:S(2)}), bf16[2,1024]{1,0}, s32[]) \
dynamic-slice-start(%x, %i), dynamic_slice_sizes={2,1024}
ROOT %d = bf16[2,1024]{1,0} dynamic-slice-done(%s)
"""),
    2 * 2 * 1024 * 2,
  ),
  "an asynchronous copy to the fast memory and one back": (
    in_entry("""
%x = f32[8,128]{1,0} parameter(0)
%s = (f32[8,128]{1,0:S(1)}, f32[8,128]{1,0}, u32[]{:S(2)}) copy-start(%x)
%d = f32[8,128]{1,0:S(1)} copy-done(%s)
%t = (f32[8,128]{1,0}, f32[8,128]{1,0:S(1)}, u32[]{:S(2)}) copy-start(%d)
ROOT %e = f32[8,128]{1,0} copy-done(%t)
"""),
    2 * 8 * 128 * 4,
  ),
  "a copy within the main memory": (
    in_entry("""
%x = f32[8,128]{1,0} parameter(0)
ROOT %e = f32[8,128]{0,1} copy(%x)
"""),
    2 * 8 * 128 * 4,
  ),
  "a row updated in place by a fusion within a fusion": (
    in_entry(
      """
%x = f32[64,8]{1,0} parameter(0)
%u = f32[1,8]{1,0} parameter(1)
%k = s32[]{:S(2)} parameter(2)
ROOT %r = f32[64,8]{1,0} fusion(%x, %u, %k), kind=kLoop, calls=%outer
""",
      IN_PLACE,
    ),
    2 * 8 * 4,
  ),
  "slices of a converted array, two results, one in place": (
    in_entry(
      """
%x = f16[64,8]{1,0} parameter(0)
%y = f32[64,8]{1,0} parameter(1)
%k = s32[] parameter(2)
ROOT %r = (f32[2,8]{1,0}, f32[64,8]{1,0}) fusion(%x, %y, %k), kind=kLoop, \
calls=%several
""",
      SEVERAL,
    ),
    3 * 8 * 2 + 3 * 8 * 4 + 4,
  ),
  "an update that is read on": (
    in_entry(
      """
%x = f32[64,8]{1,0} parameter(0)
%u = f32[1,8]{1,0} parameter(1)
%k = s32[] parameter(2)
ROOT %r = f32[8]{0} fusion(%x, %u, %k), kind=kInput, calls=%read_on
""",
      READ_ON,
    ),
    63 * 8 * 4 + 8 * 4 + 4 + 8 * 4,
  ),
  "an operand that is given twice": (
    in_entry("""
%x = f32[8,128]{1,0} parameter(0)
ROOT %m = f32[8,128]{1,0} multiply(%x, %x)
"""),
    2 * 8 * 128 * 4,
  ),
  "rows added to a table": (
    in_entry("""
%x = f32[1000,8]{1,0} parameter(0)
%i = s32[4]{0} parameter(1)
%u = f32[4,8]{1,0} parameter(2)
ROOT %m = f32[1000,8]{1,0} scatter(%x, %i, %u), to_apply=%add
"""),
    3 * 4 * 8 * 4 + 4 * 4,
  ),
  "a sum over devices that is started and awaited": (
    in_entry("""
%x = f32[8,128]{1,0} parameter(0)
%s = f32[8,128]{1,0} all-reduce-start(%x), to_apply=%add
ROOT %d = f32[8,128]{1,0} all-reduce-done(%s)
"""),
    2 * 8 * 128 * 4,
  ),
  "a permutation that is started and awaited": (
    in_entry("""
%x = f32[8,128]{1,0} parameter(0)
%s = (f32[8,128]{1,0}, f32[8,128]{1,0}, u32[], u32[]) \
collective-permute-start(%x), source_target_pairs={{0,1}}
ROOT %d = f32[8,128]{1,0} collective-permute-done(%s)
"""),
    2 * 8 * 128 * 4,
  ),
  "a kernel that says what it reads and writes": (
    in_entry(f"%x = bf16[512,128]{{1,0}} parameter(0)\nROOT {KERNEL}"),
    4096,
  ),
  "memory that is set aside": (
    in_entry("""
ROOT %x = f32[8,128]{1,0} custom-call(), custom_call_target="AllocateBuffer"
"""),
    0,
  ),
}


@pytest.mark.parametrize("name", CASES)
def test_traffic_is_what_moves(name):
  text, moved = CASES[name]
  assert traffic(Program(text)) == moved


LOOP = """
%fused (x: f32[64,8], n: s32[]) -> f32[1,8] {
  %x = f32[64,8]{1,0} parameter(0)
  %n = s32[] parameter(1)
  ROOT %cut = f32[1,8]{1,0} dynamic-slice(%x, %n), dynamic_slice_sizes={1,8}
}

%body (p: f32[64,8]) -> f32[64,8] {
  %p = f32[64,8]{1,0} parameter(0)
  %i = s32[]{:S(2)} custom-call(), custom_call_target="i"
  %row = f32[1,8]{1,0} fusion(%p, %i), kind=kLoop, calls=%fused
  ROOT %new = f32[64,8]{1,0} dynamic-update-slice(%p, %row, %i)
}

%condition (q: f32[64,8]) -> pred[] {
  %bound = s32[]{:S(2)} constant(5)
  ROOT %less = pred[]{:S(2)} custom-call(%bound), custom_call_target="less"
}
"""


def test_a_loop_moves_its_slices_as_often_as_it_runs():
  text = in_entry(
    """
%x = f32[64,8]{1,0} parameter(0)
ROOT %w = f32[64,8]{1,0} while(%x), condition=%condition, body=%body
""",
    LOOP,
  )
  row = 8 * 4
  assert traffic(Program(text)) == 5 * ((row + row) + (row + row))
