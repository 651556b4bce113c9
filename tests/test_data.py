"""The pipeline: which examples come, in which order, on which device."""

import gc
import hashlib
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

from jaxdl.data import Source, evaluation_batches, open_split, train_batches, train_indices
from jaxdl.data.pipeline import _on_device, local_rows
from jaxdl.data.sampler import permutation
from jaxdl.errors import UserError

GIB, ROOT = 2**30, Path(__file__).parents[1]


class Rows:
    """Records that are not arrays, so that they may be streamed; `read` counts what was asked."""

    def __init__(self, n, delay=0.0, broken=None):
        self.n, self.delay, self.broken, self.read = n, delay, broken, 0

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        self.read += 1
        time.sleep(self.delay)
        if i == self.broken:
            raise FileNotFoundError(f"record {i} is gone")
        image = np.random.default_rng(i).integers(0, 256, (5, 4, 3), np.uint8)
        return {"image": image, "label": i % 7, "number": np.int64(i)}


def rows(n, memory=GIB, **options):
    return open_split(lambda _: Source(Rows(n, **options), num_classes=7), "train", memory=memory)


def one_device():
    return SingleDeviceSharding(jax.devices()[0])


def all_devices(reverse=False):
    devices = np.array(jax.devices()[:: -1 if reverse else 1]).reshape(4, 2)
    mesh = jax.sharding.Mesh(devices, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def collect(batches):
    return [jax.tree.map(np.asarray, batch) for batch in batches]


def training(split, start=0, stop=6, sharding=None, batch_size=16, **options):
    sharding = sharding or one_device()
    return collect(
        train_batches(
            split,
            batch_size=batch_size,
            seed=3,
            start=start,
            stop=stop,
            sharding=sharding,
            **options,
        )
    )


def same(a, b):
    assert len(a) == len(b) > 0
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert jax.tree.map(lambda x: x.dtype, a) == jax.tree.map(lambda x: x.dtype, b)


# Order


@pytest.mark.parametrize(("n", "b"), [(10, 3), (7, 7), (3, 8), (97, 32), (1, 4), (5, 1)])
def test_every_example_comes_once_an_epoch(n, b):
    steps = 4 * n
    stream = np.concatenate([train_indices(0, t, n=n, batch_size=b) for t in range(steps)])
    assert stream.shape == (steps * b,) and stream.dtype == np.int64
    for epoch in stream[: len(stream) // n * n].reshape(-1, n):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(n))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 300), st.integers(1, 40), st.integers(1, 50))
def test_a_batch_is_cut_from_the_stream_of_permutations(seed, t, n, b):
    epochs = range(t * b // n, (t + 1) * b // n + 1)
    stream = [i for e in epochs for i in permutation(n, seed, e)]
    first = t * b - epochs[0] * n
    assert train_indices(seed, t, n=n, batch_size=b).tolist() == stream[first : first + b]


def test_the_order_stays_the_same_for_ever():
    order = np.concatenate([train_indices(5, t, n=1000, batch_size=64) for t in (0, 15, 400)])
    digest = hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == "7bc2530e92da9015"


def test_epochs_and_seeds_differ_and_look_random():
    n = 2000
    first, second = (train_indices(0, e, n=n, batch_size=n) for e in range(2))
    other = train_indices(1, 0, n=n, batch_size=n)
    for a, b in [(first, second), (first, other), (first, np.arange(n))]:
        # fixed points of a random permutation: about 1; correlation: about 1 / sqrt(n)
        assert np.sum(a == b) < 8
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.1


# Batches


@pytest.mark.parametrize("memory", [GIB, 0])
def test_any_start_continues_the_uninterrupted_stream(memory):
    split = rows(37, memory)
    whole = training(split, 0, 9)
    same(training(split, 4, 9), whole[4:])
    assert training(split, 5, 5) == []
    numbers = np.concatenate([batch["number"] for batch in whole])
    np.testing.assert_array_equal(np.sort(numbers[:37]), np.arange(37))


@pytest.mark.parametrize("sharding", [one_device, all_devices])
def test_memory_stream_and_device_give_the_same_bits(sharding):
    kept, streamed = rows(37), rows(37, memory=0)
    assert kept.in_memory and not streamed.in_memory
    expected = training(kept, 2, 8)
    expected_image = Rows(37)[int(expected[3]["number"][5])]["image"]
    np.testing.assert_array_equal(expected[3]["image"][5], expected_image)
    for threads in (0, 1, 2):
        same(training(streamed, 2, 8, sharding(), threads=threads), expected)
    same(training(kept, 2, 8, sharding()), expected)
    same(training(kept, 2, 8, sharding(), placement="device"), expected)


@pytest.mark.parametrize("placement", ["host", "device"])
def test_each_device_holds_its_rows(placement):
    sharding = all_devices(reverse=True)
    (batch,) = train_batches(
        rows(37), batch_size=16, seed=3, start=4, stop=5, sharding=sharding, placement=placement
    )
    expected = training(rows(37), 4, 5)[0]["number"]
    assert batch["image"].sharding.is_equivalent_to(sharding, 4)
    for k, device in enumerate(sharding.mesh.devices.flat):
        (shard,) = (s for s in batch["number"].addressable_shards if s.device == device)
        np.testing.assert_array_equal(shard.data, expected[2 * k : 2 * k + 2])


@pytest.mark.parametrize(("n", "b"), [(37, 16), (32, 16), (3, 16), (1, 8)])
@pytest.mark.parametrize("memory", [GIB, 0])
def test_evaluation_counts_every_example_once_in_order(n, b, memory):
    split = rows(n, memory)
    batches = collect(evaluation_batches(split, batch_size=b, sharding=all_devices()))
    assert len(batches) == -(-n // b)
    assert all(x.shape[0] == b for batch in batches for x in batch.values())
    number, mask = (np.concatenate([batch[k] for batch in batches]) for k in ("number", "mask"))
    assert mask.dtype == np.float32 and set(mask) <= {0.0, 1.0}
    np.testing.assert_array_equal(number[mask == 1], np.arange(n))
    np.testing.assert_array_equal(number[mask == 0], 0)


def test_a_small_split_goes_to_an_accelerator_and_a_large_one_does_not():
    split, gpu = rows(10), SimpleNamespace(device_set=[SimpleNamespace(platform="gpu")])
    assert split.nbytes == 10 * (60 + 4 + 4)
    assert _on_device(split, gpu, 680, "auto") and not _on_device(split, gpu, 679, "auto")
    assert not _on_device(split, gpu, 680, "host")
    assert not _on_device(split, one_device(), 680, "auto")
    assert not _on_device(rows(10, memory=0), gpu, 680, "auto")


PROCESS = """
import sys
import jax, numpy as np
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
rank, port = int(sys.argv[1]), sys.argv[2]
sys.stdout = open(sys.argv[3], "w")  # threads of Gloo write to the other one, half a line at a time
jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank, initialization_timeout=60)
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from jaxdl.data import from_arrays, open_split, train_batches, evaluation_batches
devices = np.array(jax.devices())[[3, 0, 2, 1]]  # rows 1 and 3 belong to process 0
sharding = NamedSharding(Mesh(devices, ("data",), axis_types=(AxisType.Auto,)), P("data"))
split = open_split(lambda _: {"number": np.arange(10)}, "train", memory=2**30)
whole = jax.jit(lambda x: x, out_shardings=NamedSharding(sharding.mesh, P()))
for placement in ("host", "device"):
    for batch in train_batches(split, batch_size=8, seed=3, start=2, stop=5, sharding=sharding,
                               placement=placement):
        print(np.asarray(whole(batch["number"])).tolist())
for batch in evaluation_batches(split, batch_size=8, sharding=sharding):
    print(np.asarray(whole(batch["number"])).tolist(), np.asarray(whole(batch["mask"])).tolist())
"""


def test_two_processes_make_the_batches_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", PROCESS]
    said = [tmp_path / str(rank) for rank in range(2)]
    running = [
        subprocess.Popen(
            [*command, str(rank), port, str(said[rank])], cwd=ROOT, stdout=-1, stderr=-1, text=True
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120) for process in running]
    finally:
        for process in running:
            process.kill()
    train = [train_indices(3, t, n=10, batch_size=8).tolist() for t in (2, 3, 4)]
    filled = [[*range(8)], [1.0] * 8], [[8, 9, *[0] * 6], [1.0, 1.0, *[0.0] * 6]]
    expected = [str(numbers) for numbers in train * 2] + [f"{n} {mask}" for n, mask in filled]
    for process, (_, err), file in zip(running, outputs, said, strict=True):
        assert process.returncode == 0, err
        assert file.read_text().splitlines() == expected


def test_rows_follow_the_mesh():
    assert local_rows(all_devices(reverse=True), 16).tolist() == list(range(16))
    replicated = NamedSharding(all_devices().mesh, PartitionSpec())
    assert local_rows(replicated, 5).tolist() == list(range(5))
    with pytest.raises(UserError, match="batch size 12 cannot be divided evenly over 8 devices"):
        local_rows(all_devices(), 12)


# The thread


def data_threads():
    return [t for t in threading.enumerate() if t.name.startswith(("jaxdl-data", "grain"))]


@pytest.mark.parametrize("memory", [GIB, 0])
def test_the_thread_ends_with_its_user(memory):
    options = {"batch_size": 4, "seed": 0, "start": 0, "stop": 10**9, "sharding": one_device()}
    batches = train_batches(rows(9, memory), **options)
    next(batches)
    time.sleep(0.2)  # the queue is full now, and the thread waits for room
    assert data_threads()
    batches.close()
    assert next(batches, None) is None
    batches = train_batches(rows(9, memory), **options)
    next(batches)
    del batches
    gc.collect()
    deadline = time.monotonic() + 5
    while data_threads() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not data_threads()


def test_batches_are_made_ahead_but_not_without_bound():
    split = rows(100, memory=0)
    read = split.source.records.read
    batches = train_batches(
        split, batch_size=5, seed=0, start=0, stop=20, sharding=one_device(), prefetch=3, threads=0
    )

    def made():
        return (split.source.records.read - read) / 5

    deadline = time.monotonic() + 5
    while made() < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    assert made() == 4  # three in the queue, one in hand
    assert len(list(batches)) == 20


@pytest.mark.parametrize("threads", [0, 2])
def test_an_exception_reaches_the_consumer_with_its_type(threads):
    split = rows(50, memory=0, broken=31)
    batches = evaluation_batches(split, batch_size=10, sharding=one_device(), threads=threads)
    assert len([next(batches) for _ in range(3)]) == 3
    with pytest.raises(FileNotFoundError, match="record 31 is gone"):
        next(batches)
    assert next(batches, None) is None
    with pytest.raises(FileNotFoundError, match="record 31 is gone"):
        rows(50, broken=31)


def test_waiting_is_measured():
    slow = train_batches(
        rows(8, memory=0, delay=0.05),
        batch_size=2,
        seed=0,
        start=0,
        stop=5,
        sharding=one_device(),
        threads=0,
    )
    assert slow.waited == 0
    list(slow)
    assert 0.3 < slow.waited < 5  # 5 batches of 0.1 s, the first begun before
    ready = train_batches(
        rows(8), batch_size=2, seed=0, start=0, stop=2, sharding=one_device(), prefetch=4
    )
    time.sleep(0.5)
    list(ready)
    assert ready.waited < 0.1
