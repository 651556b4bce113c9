"""`jaxdl bench`: what it counts, how it times, what it calls a difference; the peers beside it."""

import itertools
import json
import re

import jax
import numpy as np
import pytest
from conftest import ROOT

from jaxdl.assemble import assemble
from jaxdl.config import part
from jaxdl.errors import UserError
from jaxdl.main import main
from jaxdl.perf import bench, bench_compare, roofline
from jaxdl.perf.bench import Cost, Round, compiled, config_of
from jaxdl.perf.roofline import Roofline
from tests import peers

PEAKS = Roofline("a machine", {"float32": 1e9, "bfloat16": 4e9}, 1e8, ((1024, 2e8),))
COST = Cost(
    model="mlp",
    mode="train",
    image=(8, 8, 1),
    batch_size=16,
    dtype="float32",
    devices=2,
    parameters=10,
    macs=1_000_000,
    activation_bytes=1000,
    init_seconds=0.1,
    lower_seconds=0.2,
    compile_seconds=0.3,
    program_bytes=4000,
    traffic_bytes=60_000,
)
DISABLED = "/jax/compilation_cache/task_disabled_cache"


def mlp(batch_size=16, **more):
    return config_of(part("mlp", widths=[4]), batch_size, (8, 8, 1), **more)


@pytest.fixture(scope="module")
def programs():
    config = mlp()
    plan = assemble(config)
    return {mode: compiled(config, plan, mode) for mode in ("train", "infer")}


def test_what_a_program_costs(programs):
    train, infer = programs["train"].cost, programs["infer"].cost
    # 64 pixels to 4 features, 4 features to 10 classes
    assert train.parameters == 64 * 4 + 4 + 4 * 10 + 10
    assert train.macs == infer.macs == 16 * (64 * 4 + 4 * 10)
    # of one of the eight devices, two FLOPs a multiply-add, three passes a training step
    assert infer.flops == 2 * infer.macs / 8 and train.flops == 3 * infer.flops
    assert (train.model, train.mode, train.image) == ("mlp(widths=[4])", "train", (8, 8, 1))
    assert (train.batch_size, train.dtype, train.devices) == (16, "float32", 8)
    # It reads two examples' pixels and labels, and all parameters; it writes two rows of logits.
    assert infer.traffic_bytes == 2 * 64 + 4 * train.parameters + 4 * 2 * 10
    assert infer.activation_bytes is None
    # At least the pixels as numbers are kept for the kernel's gradient. What moves: parameters,
    # momenta, and activations out and in.
    assert train.activation_bytes >= 16 * 64 * 4
    assert train.traffic_bytes > 4 * 4 * train.parameters + 2 * train.activation_bytes // 8
    # What is donated is there once.
    assert 0 < train.program_bytes < train.traffic_bytes + 10**6
    assert all(s > 0 for c in (train, infer) for s in (c.lower_seconds, c.compile_seconds))


def test_a_training_call_trains_and_inference_does_not(programs):
    loss = lambda: float(np.divide(*programs["train"].call()["loss"]))
    first = loss()
    assert [loss() for _ in range(40)][-1] < first
    answers = [np.asarray(programs["infer"].call()) for _ in range(2)]
    assert answers[0].shape == (16, 10) and np.array_equal(*answers)


def test_compilation_is_not_read_from_disk():
    events = []
    listen = lambda event, **_: events.append(event)
    jax.monitoring.register_event_listener(listen)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # a command has it otherwise
    try:
        config = mlp()
        compiled(config, assemble(config), "infer")
        assert not any("cache" in event for event in set(events) - {DISABLED})
        jax.jit(lambda x: x + 1.2345)(1.0)
        assert any("cache_hits" in e or "cache_misses" in e for e in events)  # as before
    finally:
        jax.monitoring.unregister_event_listener(listen)


def test_programs_take_turns(monkeypatch):
    called, ticks = [], itertools.count()
    monkeypatch.setattr(bench.time, "perf_counter", lambda: 0.05 * next(ticks))
    programs = [bench.Program(COST, lambda n=n: called.append(n)) for n in "AB"]
    found = bench._timed(programs, 3, clock=lambda: float(len(called)))
    # warm-up and a first look, then each round: two calls waited for, two that are not
    assert "".join(called) == "AAAABBBB" + 3 * "AAAABBBB"
    # the clock goes one on with each call
    assert [rounds for _, rounds in found] == [[Round(1.0, (1.0, 1.0))] * 3] * 2


def test_a_record():
    rounds = [Round(s, (s, 2 * s)) for s in (0.010, 0.012, 0.011, 0.030)]
    record = bench._record(COST, rounds, PEAKS)
    assert record["step_seconds"] == pytest.approx(0.0115)
    assert record["step_quartiles"] == pytest.approx([0.01075, 0.0165])
    assert record["latencies"] == 8 and record["p50_seconds"] == pytest.approx(0.021)
    assert 0.0578 < record["p99_seconds"] < 0.06
    assert record["examples_per_second"] == pytest.approx(16 / 0.0115)
    # 3e6 FLOPs on each device in 11.5 ms, of 1e9 a second
    assert record["flops"] == 3_000_000
    assert record["share_of_peak"] == pytest.approx(3e6 / 0.0115 / 1e9)
    # 50 FLOPs a byte at 1e8 bytes a second: memory allows more than the arithmetic
    assert record["share_of_roofline"] == record["share_of_peak"]
    slow = bench._record(COST._replace(traffic_bytes=600_000), rounds, PEAKS)
    # 5 FLOPs a byte: 5e8 a second at best
    assert slow["share_of_roofline"] == pytest.approx(2 * slow["share_of_peak"])


def test_out_of_memory_is_a_mistake_that_can_be_mended(monkeypatch):
    def fails(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(bench, "compiled", fails)
    with pytest.raises(UserError, match="fewer models at once, or a smaller batch"):
        bench.bench([mlp()])


def report(rounds, **more):
    told = {"model": "mlp", "mode": "train", "image": [8, 8, 1], "batch_size": 16}
    told |= {"dtype": "float32", "devices": 1, "rounds": rounds, **more}
    return {"clock": "wall", "results": [told]}


def test_a_difference_is_told_from_noise():
    quiet, noisy = [1.0, 1.01, 0.99, 1.0, 1.02, 0.98], [0.7, 1.0, 1.5, 0.8, 1.2, 1.3]
    (same,) = bench_compare.compare([report(quiet)], [report(quiet)])
    assert same.ratio == 1 and same.is_noise and same.low < 1 < same.high
    (faster,) = bench_compare.compare([report(quiet)], [report([s * 0.9 for s in quiet])])
    assert faster.ratio == pytest.approx(0.9) and not faster.is_noise
    assert faster.seconds == pytest.approx((1.0, 0.9))
    (lost,) = bench_compare.compare([report(noisy)], [report([s * 0.9 for s in noisy])])
    assert lost.ratio == pytest.approx(0.9) and lost.is_noise
    said = bench_compare.text([same, faster, lost]).splitlines()
    assert said[1].endswith("no difference beyond the noise") == said[3].endswith("the noise")
    assert said[2].endswith("10.0% less time")
    (once,) = bench_compare.compare([report([1.0])], [report([2.0])])
    assert once.is_noise  # a single round knows no noise


def test_the_interval_covers_the_truth():
    draw = np.random.default_rng(1)
    hits = 0
    for _ in range(100):
        # medians 1 and 1.3, as skewed as timings are
        first, second = draw.lognormal(0, 0.1, 20), 1.3 * draw.lognormal(0, 0.1, 20)
        low, high = bench_compare.ratio_interval([first], [second])
        hits += low <= 1.3 <= high
    assert 88 <= hits <= 99  # of 100, and 95 is what it says


def test_processes_that_differ_widen_the_interval():
    quiet = [1.0, 1.01, 0.99, 1.0, 1.02, 0.98]
    slow = [1.1 * s for s in quiet]
    (alone,) = bench_compare.compare([report(quiet)], [report(slow)])
    assert not alone.is_noise
    # The same code was as slow in another process of the first side.
    pairs = (
        [report(quiet), report(slow), report(quiet)],
        [report(slow), report(quiet), report(slow)],
    )
    (several,) = bench_compare.compare(*pairs)
    assert several.is_noise and several.low < 0.95 and several.high > 1.05


def test_only_the_same_programs_are_compared():
    with pytest.raises(UserError, match="no program in common"):
        bench_compare.compare([report([1.0])], [report([1.0], batch_size=32)])
    with pytest.raises(UserError, match="some are of cpu time and others of wall time"):
        bench_compare.compare([report([1.0])], [{**report([1.0]), "clock": "cpu"}])


def test_the_verb(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(roofline, "measure", lambda clock: PEAKS)
    file = tmp_path / "new" / "a.json"
    arguments = ["mlp(widths=[4])", "mlp(widths=[8])", "--image", "8x8x1", "--batch-size", "16"]
    arguments += ["--repeats", "3", "--clock", "cpu", "--precision", "bfloat16"]
    assert main(["bench", *arguments, "--infer", "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^mlp\(widths=\[4\]\) +8x8x1 +16 +bfloat16 +310 +4\.736 k", out, re.MULTILINE)
    assert re.search(r"^mlp\(widths=\[8\]\) +infer", out, re.MULTILINE)
    assert " train " not in out and "CPU time of all cores" in out and "a machine, measured" in out
    found = json.loads(file.read_text())
    assert {"versions", "hardware", "command", "git"} <= set(found["environment"])
    assert found["roofline"]["flops"] == PEAKS.flops and found["clock"] == "cpu"
    assert [len(r["rounds"]) for r in found["results"]] == [3, 3]
    assert main(["bench", "--compare", str(file), str(file)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert all(line.endswith("beyond the noise") for line in said[1:3])
    assert len(said) == 4 and said[3].startswith("noise within one process of each")
    assert main(["bench", "--compare", *[str(file)] * 4]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name models, or files to --compare"),
        (["mlp", "--compare", "a", "b"], "one of the two"),
        (["mpl", "--image", "8x8x1"], "unknown model 'mpl': did you mean 'mlp'"),
        (["mlp(width=3)", "--image", "8x8x1"], "takes no argument 'width'"),
        (["mlp", "--image", "8x8"], "'8x8' is not HxWxC"),
        (["mlp", "--batch-size", "0"], "expected a number from 1"),
        (["mlp", "--image", "8x8x1", "--batch-size", "12"], "does not divide over 8 devices"),
        (["mlp", "--image", "8x8x1", "--precision", "float31"], "did you mean 'float32'"),
        (["--compare", "a.json", "README.md"], "cannot read 'a.json': No such file"),
        (["--compare", "README.md", "README.md"], "nothing that `jaxdl bench --json` wrote"),
        (["--compare", "a.json"], "pairs A B, not 1 files"),
    ],
)
def test_mistakes(capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(ROOT)
    assert main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


# The peers


def test_peers_take_turns_and_are_compared_repeat_by_repeat():
    asked, seconds = [], {"torch": 1.0, "jaxdl": 3.0}

    def asker(name):
        def ask(command):
            asked.append((name, *command))
            steps = command.get("run", 0)
            return {"wall": 0.25 * steps, "cpu": seconds[name] * steps, "seconds": 1.0}

        return ask

    network = peers.CPU[0]
    times, loaded = peers.measure(network, {name: asker(name) for name in seconds}, 3, "cpu")
    loading = [(n, c) for n in seconds for c in ("load", "run")]
    assert asked == loading + 3 * [("torch", "run"), ("jaxdl", "run")]
    assert set(loaded) == set(seconds)
    assert times == {"torch": [1.0] * 3, "jaxdl": [3.0] * 3}
    # A machine that slows down in between slows both.
    drifting = {"torch": [1.0, 2.0, 4.0], "jaxdl": [1.5, 3.0, 8.0]}
    assert peers.ratios(drifting)["jaxdl"] == pytest.approx((1.5, 1.5, 1.75))
    assert peers.row(network, drifting) == (
        "| ResNet-20, 32x32, batch 128 | 2,000 ms (1.00; 1.00 to 1.00) "
        "| 3,000 ms (1.50; 1.50 to 1.75) |"
    )


def test_plain_flax_and_ours_are_the_same_mathematics():
    network = peers.Network("", "lenet5", "", 32, 8, 10)
    column = peers.Column("", "flax")
    plain, own = (step(network, column, "cpu", [0]) for step in (peers.plain_step, peers.own_step))
    for _ in range(2):
        assert plain(2) == pytest.approx(own(2), rel=1e-4)
