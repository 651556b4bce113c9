"""`jaxdl profile`: traces as each backend writes them, and a real one."""

import json
import re
from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from conftest import ROOT

from jaxdl.config import Config, Data, part
from jaxdl.main import main
from jaxdl.perf import profile as profiler
from jaxdl.perf.profile import ops_of, read_program, text

# As XLA prints it: a convolution and its gradient, a fused product, movement alone, a library's
# kernels, a loop, a merged collective.
PROGRAM = """\
HloModule jit_step, is_scheduled=true

%fused_product (param_0: f32[8,4], param_1: f32[4,2]) -> f32[8,2] {
  %param_0 = f32[8,4]{1,0} parameter(0)
  %param_1 = f32[4,2]{1,0} parameter(1)
  ROOT %dot.1 = f32[8,2]{1,0} dot(%param_0, %param_1), lhs_contracting_dims={1}, metadata={op_name="jit(step)/jvp(Net)/head/dot_general" stack_frame_id=5}
}

%fused_move (param_0.1: f32[8,4]) -> f32[4,8] {
  %param_0.1 = f32[8,4]{1,0} parameter(0)
  ROOT %transpose.1 = f32[4,8]{1,0} transpose(%param_0.1), dimensions={1,0}
}

%fused_sum (param_0.2: f32[8,4]) -> f32[8] {
  %param_0.2 = f32[8,4]{1,0} parameter(0)
  %multiply.1 = f32[8,4]{1,0} multiply(%param_0.2, %param_0.2)
  ROOT %reduce.1 = f32[8]{0} reduce(%multiply.1), dimensions={1}, to_apply=%add
}

ENTRY %main (state: f32[8,4]) -> (f32[8,4], s32[]) {
  %state = f32[8,4]{1,0} parameter(0), metadata={op_name="state.params['head']"}
  %convolution.2 = f32[8,4]{1,0} convolution(%state, %state), window={size=3x3}, metadata={op_name="jit(step)/jvp(Net)/Net.features/backbone/while/body/conv1/conv_general_dilated"}
  %gradient = f32[8,4]{1,0:T(8,128)} convolution(%state, %convolution.2), window={size=3x3}
  %product = f32[8,2]{1,0} fusion(%convolution.2, %state), kind=kOutput, calls=%fused_product
  %move = f32[4,8]{1,0} fusion(%gradient), kind=kLoop, calls=%fused_move, metadata={op_name="jit(step)/transpose(jvp(Net))/backbone/conv1/transpose"}
  %sum = f32[8]{0} fusion(%gradient), kind=kInput, calls=%fused_sum, metadata={op_name="jit(step)/reduce_sum"}
  %add.9 = f32[8,4]{1,0} add(%gradient, %state), metadata={op_name="jit(step)/add"}
  %custom-call.1 = (f32[8,4]{1,0}, u8[0]{0}) custom-call(%state), custom_call_target="__cudnn$convForward"
  %custom-call.2 = (f32[8,4]{1,0}, u8[0]{0}) custom-call(%state), custom_call_target="__cublas$lt$matmul"
  %custom-call.3 = f32[8]{0} custom-call(%state), custom_call_target="TopK"
  %all-reduce-start = (f32[4]{0}, f32[]) all-reduce-start(%sum), metadata={op_name="jit(step)/transpose(jvp(Net))/(head/dot_general:backbone/conv1/reduce_sum)"}
  %rng.1 = u32[4]{0} rng-bit-generator(%state)
  %bits = u32[4]{0} xor(%rng.1, %rng.1), metadata={op_name="jit(step)/jvp(Net)/drop/threefry2x32"}
  %while.1 = (s32[], f32[8,4]{1,0}) while(%tuple.1), condition=%cond, body=%body
}
"""  # noqa: E501

CATEGORIES = {
    "convolution.2": "convolution",
    "gradient": "convolution",
    "product": "matmul",
    "move": "copy, transpose",
    "sum": "reduce",
    "add.9": "elementwise, fusion",
    "custom-call.1": "convolution",
    "custom-call.2": "matmul",
    "custom-call.3": "other",
    "all-reduce-start": "collective",
    "rng.1": "rng",
    "bits": "rng",
    "while.1": "other",
}


def trace(*planes):
    """A trace of planes {'name': ..., 'lines': {name: [(event, start, end, stats)]}}, in ns."""
    written = []
    for plane, lines in planes:
        events = sorted({e[0] for line in lines.values() for e in line})
        stats = sorted({key for line in lines.values() for e in line for key in e[3]})
        parts = [f"name: {json.dumps(plane)}"]
        for i, name in enumerate(events, 1):
            value = f"{{id: {i} name: {json.dumps(name)}}}"
            parts.append(f"event_metadata {{key: {i} value {value}}}")
        for i, name in enumerate(stats, 1):
            parts.append(f"stat_metadata {{key: {i} value {{id: {i} name: {json.dumps(name)}}}}}")
        for i, (line, found) in enumerate(lines.items(), 1):
            said = [f"id: {i} name: {json.dumps(line)}"]
            for name, start, end, known in found:
                values = " ".join(
                    f"stats {{metadata_id: {stats.index(k) + 1} str_value: {json.dumps(v)}}}"
                    for k, v in known.items()
                )
                said.append(
                    f"events {{metadata_id: {events.index(name) + 1} offset_ps: {1000 * start} "
                    f"duration_ps: {1000 * (end - start)} {values}}}"
                )
            parts.append(f"lines {{{' '.join(said)}}}")
        written.append(f"planes {{{' '.join(parts)}}}")
    serialized = jax.profiler.ProfileData.text_proto_to_serialized_xspace("\n".join(written))
    return jax.profiler.ProfileData.from_serialized_xspace(serialized)


def op(name, start, end):
    return (f"thunk {name}", start, end, {"hlo_op": name, "hlo_module": "jit_step"})


def nanoseconds(ops):
    return {o.name: round(1e9 * o.seconds) for o in ops}


def test_every_kind_of_instruction_has_its_category():
    line = [op(name, i, i + 1) for i, name in enumerate(CATEGORIES)]
    ops = ops_of(trace(("/host:CPU", {"tf_XLAEigen/1": line})), PROGRAM)
    assert {o.name: o.category for o in ops} == CATEGORIES


def test_where_an_instruction_comes_from():
    line = [op(name, i, i + 1) for i, name in enumerate(CATEGORIES)]
    ops = ops_of(trace(("/host:CPU", {"tf_XLAEigen/1": line})), PROGRAM)
    found = {o.name: (o.module, o.primitive, o.pass_) for o in ops}
    assert found["convolution.2"] == ("backbone/conv1", "conv_general_dilated", "forward")
    # It has no name: of its three readers, one is in the model.
    assert found["gradient"] == ("backbone/conv1", "transpose", "backward")
    # Nor has this one, and it is called as what is fused into it.
    assert found["product"] == ("head", "dot_general", "forward")
    assert found["sum"] == ("", "reduce_sum", "")
    assert found["all-reduce-start"] == ("head", "dot_general", "backward")
    assert found["custom-call.1"] == ("", "", "")


def test_on_cpu_only_what_has_an_op_counts_and_an_inner_op_is_not_counted_twice():
    calling = [
        ("ThunkExecutor::Execute", 0, 1000, {}),
        op("while.1", 100, 500),
        op("convolution.2", 110, 210),
        op("sum", 210, 250),  # begins as the other ends
        op("convolution.2", 300, 400),
        op("move", 600, 650),
        ("end: move", 650, 651, {}),
    ]
    pool = [op("sum", 120, 180)]
    planes = trace(
        ("/host:CPU", {"tf_XLAPjRtCpuClient/1": calling, "tf_XLAEigen/2": pool, "python": []}),
        ("/host:metadata", {}),
        ("Task Environment", {}),
    )
    ops = ops_of(planes, PROGRAM)
    # the loop: 400 - 100 - 40 - 100 of its own
    assert nanoseconds(ops) == {"while.1": 160, "convolution.2": 200, "sum": 100, "move": 50}
    assert {o.name: o.calls for o in ops} == {"while.1": 1, "convolution.2": 2, "sum": 2, "move": 1}
    assert [o.name for o in ops][0] == "convolution.2"  # the costliest first


def test_on_gpu_streams_alone_count_and_a_kernel_without_a_name_has_its_own():
    stream = [
        ("sm90_xmma_fprop_implicit_gemm", 0, 70, {"hlo_op": "custom-call.1"}),
        ("loop_add_fusion", 70, 90, {"hlo_op": "add.9"}),
        ("MemcpyD2D", 90, 100, {}),
        ("ampere_bf16_s16816gemm_nn", 100, 140, {}),
    ]
    derived = [("custom-call.1", 0, 70, {"hlo_op": "custom-call.1"})]
    planes = trace(
        ("/device:GPU:0", {"Stream #14(Compute)": stream, "XLA Ops": derived, "Steps": derived}),
        ("/device:GPU:1", {"Stream #14(Compute)": stream[:1]}),
        ("/host:CPU", {"python": [("PjitFunction(step)", 0, 900, {})]}),
    )
    ops = ops_of(planes, PROGRAM)
    assert nanoseconds(ops) == {
        "custom-call.1": 140, "add.9": 20, "MemcpyD2D": 10, "ampere_bf16_s16816gemm_nn": 40,
    }  # fmt: skip
    assert {o.name: o.category for o in ops} == {
        "custom-call.1": "convolution",
        "add.9": "elementwise, fusion",
        "MemcpyD2D": "copy, transpose",
        "ampere_bf16_s16816gemm_nn": "matmul",
    }


def test_on_tpu_the_line_of_ops_alone_counts():
    events = [("%while.1 = (s32[]) while(%tuple.1)", 0, 100, {"hlo_category": "while"})]
    events += [("%convolution.2 = f32[8,4]{1,0:T(8,128)} convolution(%a, %b)", 10, 80, {})]
    other = [("%convolution.2 = f32[8]", 0, 100, {})]
    planes = trace(
        ("/device:TPU:0", {"XLA Ops": events, "Async XLA Ops": other, "XLA Modules": other}),
        ("/device:TPU:0 SparseCore 0", {"XLA Ops": other}),
    )
    assert nanoseconds(ops_of(planes, PROGRAM)) == {"convolution.2": 70, "while.1": 30}


def test_fractions_add_up():
    line = [op(name, 100 * i, 101 * i) for i, name in enumerate(CATEGORIES, 1)]
    ops = ops_of(trace(("/host:CPU", {"tf_XLAEigen/1": line})), PROGRAM)
    found = profiler.Profile(ops, 2, 0.001, 0.25, 0.002, ROOT)
    assert round(1e9 * found.seconds) == sum(range(1, len(CATEGORIES) + 1)) == 91
    fractions = found.fractions("category")
    assert sum(fractions.values()) == pytest.approx(1)
    assert fractions["convolution"] == pytest.approx((1 + 2 + 7) / 91)
    assert list(fractions.values()) == sorted(fractions.values(), reverse=True)
    said = text(found, top=2)
    assert "2 steps of 1.00 ms (traced 2.00 ms), waiting for input 25.0 %" in said
    assert re.search(r"^convolution +0\.000 ms +11\.0 % +2$", said, re.MULTILINE)
    table = said.split("\n\n")[2].splitlines()
    assert [line.split()[0] for line in table] == ["op", "while.1", "bits"]


def test_a_real_program_is_read_whole():
    def step(x, w):
        y = jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ c), None), y[0, :, :, 0], length=3)[0].sum()

    shapes = (
        jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32),
        jax.ShapeDtypeStruct((3, 3, 3, 4), jnp.float32),
    )
    compiled = jax.jit(jax.grad(step, argnums=1)).lower(*shapes).compile()
    instructions, computations = read_program(compiled.as_text())
    opcodes = Counter(known.opcode for known in instructions.values())
    assert opcodes["while"] and opcodes["convolution"] and opcodes["dot"]
    # XLA's own count of what it compiled
    (module,) = compiled.runtime_executable().hlo_modules()
    assert {c.name for c in module.computations()} == set(computations)
    for known in instructions.values():
        assert not known.calls or known.calls in computations


CONFIG = Config(
    data=Data(source=part("fake", size=[8, 8, 3]), batch_size=16),
    model=part("cnn", widths=[4]),
    optimizer=part("sgd", learning_rate=0.1),
)


def test_a_real_trace(tmp_path):
    found = profiler.profile(CONFIG, tmp_path, steps=3)
    assert found.trace.is_file() and tmp_path in found.trace.parents
    assert 0 <= found.waited <= 1 and found.step_seconds > 0 and found.traced_seconds > 0
    assert {"convolution", "matmul", "reduce", "elementwise, fusion"} <= set(
        found.fractions("category")
    )
    assert "collective" in found.fractions("category")  # eight devices share a batch
    assert {"forward", "backward"} <= set(found.fractions("pass_"))
    modules = {o.module for o in found.ops if o.category == "convolution"}
    assert modules == {"backbone/conv0_0", "backbone/conv0_1"}
    # each of the eight devices runs each product once a step, three steps long
    assert {o.calls for o in found.ops if o.category in ("convolution", "matmul")} == {24}


def test_the_verb(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    arguments = ["--config", "configs/cnn.py", "--config.model=mlp", "--config.model.widths=[4]"]
    arguments += ["--config.augment=[]", "--steps", "2", "--top", "3"]
    assert main(["profile", *arguments, "--out", str(tmp_path / "new")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("2 steps of ") and "waiting for input" in out
    assert re.search(r"^matmul +[\d.]+ ms", out, re.MULTILINE)
    assert out.splitlines()[-1].startswith(f"trace  {tmp_path / 'new'}")
    assert main(["profile", *arguments, "--out", str(ROOT / "README.md" / "a")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: cannot write '") and error.count("\n") == 1
