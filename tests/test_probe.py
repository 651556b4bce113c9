"""The machine's figures: what is computed is what is counted; published ones; pages that run."""

import contextlib
import io
import json
import re
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from jaxdl.errors import UserError
from jaxdl.main import main
from jaxdl.perf import probe, roofline
from jaxdl.perf.roofline import CHIPS, QUICK, Roofline, published

HUNDRED = Roofline("a machine", {"float32": 100.0, "bfloat16": 200.0}, 10.0, ((16, 10.0),))


def test_the_roof_by_hand():
    assert HUNDRED.ridge("float32") == 10 and HUNDRED.ridge("bfloat16") == 20
    assert HUNDRED.attainable(20, 10, "float32") == 20  # 2 FLOPs a byte, 10 bytes/s
    assert HUNDRED.attainable(1000, 10, "float32") == 100
    assert HUNDRED.attainable(1000, 0, "float32") == 100
    with pytest.raises(UserError, match="'float8' was not measured: .*'float32'"):
        HUNDRED.ridge("float8")


def test_what_is_counted_is_computed():
    a, b = roofline._sums((jnp.zeros(8), jnp.arange(8.0)), rounds=5)
    np.testing.assert_array_equal(a, 5 * b)
    x = jax.random.normal(jax.random.key(0), (4, 4))
    _, power = roofline._products((x, x), rounds=3)
    np.testing.assert_allclose(power, np.linalg.matrix_power(np.asarray(x), 4), rtol=1e-4)
    _, total = probe._add_every((jnp.arange(12.0), jnp.ones(4)), stride=3)
    np.testing.assert_array_equal(total, [1, 4, 7, 10])
    square = jnp.arange(9.0).reshape(3, 3)
    np.testing.assert_array_equal(probe._sum((square, square[0]), axis=1)[1], [3, 12, 21])


def test_loops_are_neither_skipped_nor_shortened():
    # XLA may see that a round changes nothing, or do many in one.
    for function, state in [
        (roofline._sums, (jnp.zeros(8), jnp.ones(8))),
        (roofline._products, (jnp.eye(8), jnp.eye(8))),
    ]:
        text = function.lower(state, rounds=1000).compile().as_text()
        assert '"known_trip_count":{"n":"1000"}' in text


def test_a_time_is_the_median_of_three_at_least():
    lasts = iter([9.0, 1.0, 2.0])  # the first call, which compiles, is not timed
    now = 0.0

    def clock():
        return now

    def call(count):
        nonlocal now
        now += next(lasts) if count else 50.0
        return count + 1

    assert roofline.timed(call, 0, 1.0, clock) == statistics.median([9, 1, 2])
    assert next(lasts, None) is None


def test_a_measurement_is_positive_and_is_json():
    found = roofline.measure(0.02, work=QUICK)
    assert set(found.flops) == set(roofline.DTYPES) and found.device
    assert min(*found.flops.values(), found.bandwidth) > 1e6
    assert [n for n, _ in found.cache] == list(QUICK.memory)
    assert json.loads(json.dumps(found._asdict()))["bandwidth"] == found.bandwidth


# FLOPs a byte, https://jax-ml.github.io/scaling-book/roofline, /tpus and /gpus.
RIDGES = {"TPU v5e": 240, "TPU v5p": 164, "TPU v6e": 575, "H100": 295, "H200": 206}


@pytest.mark.parametrize("name", RIDGES)
def test_published_peaks_meet_at_the_published_ridge(name):
    (chip,) = (c for c in CHIPS if c.name == name)
    assert chip.flops / chip.bandwidth == pytest.approx(RIDGES[name], rel=0.03)


def test_a_chip_is_found_by_what_jax_calls_it():
    assert published("TPU v5 lite").name == "TPU v5e"
    assert published("NVIDIA H200").memory == 141e9
    assert published("NVIDIA L40S") is None and published("cpu") is None
    kinds = [kind for chip in CHIPS for kind in chip.kinds]
    assert len(kinds) == len(set(kinds))


def test_tpus_are_as_jax_knows_them():
    info = pytest.importorskip("jax._src.pallas.mosaic.tpu_info")
    # jax 0.12 gave it another name.
    figures = getattr(info, "get_tpu_info_for_chip", None) or info._get_tpu_info_impl
    for chip in CHIPS[:4]:
        version = info.chip_version_from_device_kind(chip.kinds[0])
        known = figures(version, 1)  # of one core
        assert chip.cores == version.num_physical_tensor_cores_per_chip
        assert chip.flops == pytest.approx(known.bf16_ops_per_second * chip.cores, rel=0.01)
        assert chip.bandwidth == pytest.approx(known.mem_bw_bytes_per_second * chip.cores, rel=0.13)
        assert chip.on_chip == known.vmem_capacity_bytes


def test_the_command(capsys):
    assert main(["probe", "--quick"]) == 0
    said = capsys.readouterr().out
    for line in ("product", "by width", "memory by size", "every so many", "sum along", "a call"):
        assert line in said
    assert main(["probe", "--quick", "--clock", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [n for n, _ in found["strides"]] == list(probe.STRIDES)
    peak, ridge = found["roofline"]["flops"], found["roofline"]["ridge"]
    assert peak["float32"] == pytest.approx(ridge["float32"] * found["roofline"]["bandwidth"])
    assert main(["probe", "--seconds", "0"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


PAGES = {
    name: re.findall(
        r"```python\n(.*?)```\n\n```text\n(.*?)```", (ROOT / "docs" / name).read_text(), flags=re.S
    )
    for name in ("gpu.md", "tpu.md")
}


@pytest.mark.parametrize(
    ("name", "i"), [(name, i) for name, found in PAGES.items() for i in range(len(found))]
)
def test_the_pages_print_what_they_say(name, i):
    code, said = PAGES[name][i]
    if "topologies" in code:
        pytest.importorskip("libtpu")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, name, "exec"), {})
    assert printed.getvalue() == said


def test_pages_have_code():
    assert min(map(len, PAGES.values())) >= 2
