"""Further streams: orders of their own on any hosts and after any stop, labels that cannot leak."""

import dataclasses
import json
import types

import hosts
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from jax.sharding import AxisType, Mesh

from jaxdl import registry
from jaxdl.assemble import assemble
from jaxdl.config import (
    Checkpoint,
    Config,
    Data,
    Evaluation,
    Gradient,
    Log,
    Population,
    Stream,
    part,
)
from jaxdl.config import Mesh as Axes
from jaxdl.data import Source, open_split, pipeline
from jaxdl.data.multistep import multistep_batches
from jaxdl.data.sampler import shuffle
from jaxdl.data.streams import MAIN, TrainStream
from jaxdl.errors import UserError
from jaxdl.loaded import load_run
from jaxdl.main import main
from jaxdl.objectives.base import StreamTransforms, augmented
from jaxdl.override import override
from jaxdl.perf.memory import estimate
from jaxdl.population.run import run as run_population
from jaxdl.run import run
from jaxdl.session import final_state, first_state, training_batches
from jaxdl.train.sharding import AXES, batch_sharding, make_mesh
from jaxdl.types import Aux, Objective

PLUGIN = str(ROOT / "tests" / "streams_regularizer.py")
GIB = 2**30


@pytest.fixture(autouse=True)
def plugin(own_registry):
    import streams_regularizer

    registry.register("regularizers")(streams_regularizer.on_stream)


def config(streams=None, batch_size=32, **fields):
    streams = {"target": Stream(batch_size=16)} if streams is None else streams
    data = Data(
        source=part("fake", size=(8, 8, 1), examples=100), batch_size=batch_size, streams=streams
    )
    return Config(
        **{
            "data": data,
            "model": part("cnn", widths=[2]),
            "optimizer": part("sgd", learning_rate=0.05),
            "schedule": part("constant"),
            "regularizers": (part("on_stream"),),
            "augment": (part("random_flip"),),
            "evaluation": Evaluation(every=100),
            "checkpoint": Checkpoint(every=100),
            "log": Log(every=1, sinks=()),
            "duration": 9,
            **fields,
        }
    )


def leaves_of(*trees):
    return [np.asarray(x) for t in trees for x in jax.tree.leaves(t)]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(leaves_of(a), leaves_of(b), strict=True))


# Orders


def orders(config):
    streams = assemble(config).streams
    return {
        name: np.stack([s.order(config.seed, name)(t) for t in range(41)])
        for name, s in streams.items()
    }


def test_streams_of_one_source_have_orders_of_their_own():
    two = orders(config({"a": Stream(batch_size=32), "b": Stream(batch_size=32)}))
    assert two["a"].shape == (41, 32)
    for x, y in [("a", "b"), ("a", MAIN), ("b", MAIN)]:
        assert (two[x] != two[y]).mean() > 0.9
    for order in two.values():
        passes = order.ravel()[: 41 * 32 // 100 * 100].reshape(-1, 100)
        assert (np.sort(passes, axis=1) == np.arange(100)).all()
    third = {n: Stream(batch_size=32) for n in ("a", "b", "c")}
    more = orders(config(third, batch_size=64))
    for name in ("a", "b"):
        np.testing.assert_array_equal(more[name], two[name])
    other = orders(config({"a": Stream(batch_size=32)}, seed=1))
    assert (other["a"] != two["a"]).mean() > 0.9


class Numbers:
    """Examples that are their numbers."""

    def __len__(self):
        return 100

    def __getitem__(self, i):
        return {"number": i}


def numbered(memory):
    split = open_split(lambda _: Source(Numbers()), "all", memory=memory)
    return {n: TrainStream(split, shuffle, size) for n, size in ((MAIN, 32), ("a", 16), ("b", 32))}


@pytest.mark.parametrize("memory", [0, GIB])
def test_any_number_of_processes_and_a_stop_give_the_same_examples(memory, monkeypatch):
    streams = numbered(memory)
    whole = batch_sharding(make_mesh())
    monkeypatch.setattr(pipeline, "_put", lambda batch, size, sharding: batch)

    def host(i, count):
        mine = set(jax.devices()[i::count])
        places = lambda shape: {
            d: at for d, at in whole.devices_indices_map(shape).items() if d in mine
        }
        return types.SimpleNamespace(
            addressable_devices_indices_map=places, device_set=mine, num_devices=8
        )

    def numbers(stages):
        found = {name: np.full((41, s.batch_size), -1) for name, s in streams.items()}
        for count, start, stop in stages:
            for i in range(count):
                place = host(i, count)
                batches = pipeline.stream_batches(
                    streams, seed=3, start=start, stop=stop, sharding=place
                )
                for t, batch in zip(range(start, stop), batches, strict=True):
                    for name, rows in found.items():
                        part = batch if name == MAIN else batch[name]
                        mine = pipeline.local_rows(place, streams[name].batch_size)
                        rows[t, mine] = part["number"]
        return found

    one = numbers([(1, 0, 41)])
    for name, stream in streams.items():
        order = stream.order(3, name)
        np.testing.assert_array_equal(one[name], [order(t) for t in range(41)])
    for name, rows in numbers([(2, 0, 17), (1, 17, 30), (2, 30, 41)]).items():
        np.testing.assert_array_equal(rows, one[name])


@pytest.mark.parametrize("placement", ["device", "host"])
def test_batches_are_the_same_wherever_the_data_is(placement):
    sharding = batch_sharding(make_mesh())
    options = {"seed": 3, "start": 2, "stop": 9, "sharding": sharding}
    expected = list(pipeline.stream_batches(numbered(0), **options))
    got = list(pipeline.stream_batches(numbered(GIB), placement=placement, **options))
    several = []
    for many in multistep_batches(
        numbered(GIB), seed=3, runs=[range(2, 5), range(5, 9)], longest=4, sharding=sharding
    ):
        several += [many.batch(i) for i in range(int(many.steps))]
    for a, b, c in zip(expected, got, several, strict=True):
        assert list(a) == ["number", "a", "b"] and a["a"]["number"].shape == (16,)
        assert same(a, b) and same(a, c)


# What a stream's batch holds


def test_augmentations_and_views_of_a_stream():
    """Its own in place of the run's, views of the same examples, each with its own key."""
    seen = []

    def loss(params, variables, batch, key):
        seen.append(batch)
        return jnp.float32(0), Aux(variables, {}, {})

    inner = Objective(init=lambda key, batch: (batch, {}), loss=loss, predict=lambda *_: {})
    noise = lambda key, batch: {**batch, "image": batch["image"] + jax.random.normal(key, (4,))}
    double = lambda key, batch: {**batch, "image": 2 * batch["image"]}
    stream = StreamTransforms([noise], [double], {"weak": [], "strong": [noise]})
    objective = augmented(inner, [noise], [], {"target": stream})
    alone = augmented(inner, [noise], [])
    image = jnp.arange(4.0)
    batch = {"image": image, "target": {"image": 10 * image, "index": jnp.arange(4)}}
    key = jax.random.key(0)
    objective.loss({}, {}, batch, key)
    alone.loss({}, {}, {"image": image}, key)
    whole, plain = seen
    np.testing.assert_array_equal(whole["image"], plain["image"])  # another stream changes nothing
    target = whole["target"]
    assert set(target) == {"image", "index", "weak", "strong"}
    np.testing.assert_array_equal(target["weak"]["image"], 20 * image)
    np.testing.assert_array_equal(target["strong"]["index"], jnp.arange(4))
    drawn = [
        target["image"] / 2 - 10 * image,
        target["strong"]["image"] / 2 - 10 * image,
        whole["image"] - image,
    ]
    for i, a in enumerate(drawn):
        assert float(jnp.abs(a).min()) > 1e-4
        for b in drawn[i + 1 :]:
            assert float(jnp.abs(a - b).min()) > 1e-4
    first, _ = objective.init(key, batch)
    np.testing.assert_array_equal(first["target"]["strong"]["image"], 20 * image)
    np.testing.assert_array_equal(first["image"], image)


def test_views_and_transforms_come_from_the_config():
    views = {"strong": (part("random_invert", probability=1.0),)}
    own = Stream(batch_size=16, augment=(), views=views)
    wanted = config({"target": own}, augment=())
    streams = assemble(wanted).objective
    batch = {
        "image": np.zeros((8, 8, 8, 1), np.uint8), "label": np.zeros(8, np.int32),
        "target": {"image": np.full((8, 8, 8, 1), 255, np.uint8), "label": np.zeros(8, np.int32)},
    }  # fmt: skip
    plan, losses = assemble(wanted), {}
    state = first_state(wanted, plan)
    for name, args in (("plain", {}), ("view", {"view": "strong"})):
        changed = dataclasses.replace(wanted, regularizers=(part("on_stream", **args),))
        objective = assemble(changed).phases[0][1].__closure__ and assemble(changed).objective
        aux = objective.loss(state.params, state.variables, batch, state.key)[1]
        losses[name] = float(aux.metrics["stream_loss"][0])
    # The view is of white made black, which is what the main stream holds.
    black = {**batch, "target": {**batch["target"], "image": batch["image"]}}
    aux = streams.loss(state.params, state.variables, black, state.key)[1]
    assert losses["view"] == float(aux.metrics["stream_loss"][0]) != losses["plain"]


def test_a_builder_that_declares_index_gets_numbers():
    @registry.register("regularizers", index=True)
    def reads_index(objective: Objective, /) -> Objective:
        """Asks for the number of each example."""
        return objective

    asks = config(regularizers=(part("reads_index"),), batch_size=16)
    asks = dataclasses.replace(
        asks, data=dataclasses.replace(asks.data, subset=part("fraction", part=0.5))
    )
    for memory in (4.0, 1e-9):
        data = dataclasses.replace(asks.data, memory=memory)
        plan = assemble(dataclasses.replace(asks, data=data))
        assert plan.batch_spec(8)["index"].shape == (8,)
        for t, batch in enumerate(training_batches(asks, plan, 0, 3)):
            for name, stream in plan.streams.items():
                part_of = batch if name == MAIN else batch[name]
                index = stream.order(0, name)(t)
                np.testing.assert_array_equal(part_of["index"], index)
                expected = stream.split.examples(index)["image"]
                np.testing.assert_array_equal(part_of["image"], expected)
    assert "index" not in assemble(config()).batch_spec(8)


@pytest.mark.parametrize("memory", [0, GIB])
def test_no_target_is_left_without_labels(memory):
    arrays = {
        "image": np.zeros((6, 2, 2, 1), np.uint8), "label": np.arange(6), "age": np.ones(6),
        "mask_of_parts": np.zeros((6, 2, 2), np.uint8),
    }  # fmt: skip
    records = [{k: a[i] for k, a in arrays.items()} for i in range(6)]
    whole = open_split(lambda _: Source(records, num_classes=6), "all", memory=memory)
    bare = open_split(lambda _: Source(records), "all", memory=memory, labels=False)
    for split in (bare, whole.without_labels()):
        assert list(split.element_spec) == ["image"] == list(split.examples(np.arange(2)))
        assert split.targets == {}
    assert set(whole.targets) == {"label", "age", "mask_of_parts"}


# Whole runs


def lines_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = ("images_per_second", "data_wait")
    return [{k: v for k, v in line.items() if not k.endswith(timed)} for line in lines]


def state_of(config, folder):
    state = final_state(config, assemble(config), folder)
    return state.params, state.variables, state.opt_state


@pytest.mark.parametrize(
    ("accumulate", "several"),
    [
        pytest.param(2, 1, marks=pytest.mark.slow),
        pytest.param(1, 4, marks=pytest.mark.slow),
        (2, 4),
    ],
)
def test_a_run_goes_on_to_the_bit_where_it_was_stopped(tmp_path, accumulate, several):
    whole = config(gradient=Gradient(accumulate=accumulate), steps_per_execution=several)
    run(whole, tmp_path / "whole")
    run(dataclasses.replace(whole, duration=5), tmp_path / "run")
    run(whole, tmp_path / "run")
    assert same(state_of(whole, tmp_path / "whole"), state_of(whole, tmp_path / "run"))
    assert lines_of(tmp_path / "whole")[-1] == lines_of(tmp_path / "run")[-1]
    assert "train/stream_loss" in lines_of(tmp_path / "whole")[0]
    manifest = json.loads((tmp_path / "whole" / "manifest.json").read_text())
    assert manifest["data"]["streams"] == {
        "target": {"source": "fake", "examples": 100, "batch_size": 16}
    }
    assert "100 target" in (tmp_path / "whole" / "report.html").read_text()
    found = load_run(tmp_path / "whole").evaluate("test")
    expected = lines_of(tmp_path / "whole")[-1]
    np.testing.assert_allclose(found["accuracy"], expected["test/accuracy"], rtol=1e-6)


def labelled(factor):
    def source(split: str, /) -> dict[str, np.ndarray]:
        """The same images, with other labels."""
        image = np.random.default_rng(len(split)).integers(0, 256, (100, 8, 8, 1)).astype(np.uint8)
        return {"image": image, "label": np.arange(100) * factor % 10}

    return source


@pytest.fixture
def sources():
    for i, factor in enumerate((1, 3)):
        registry.register("sources", f"labelled_{i}")(labelled(factor))


@pytest.mark.parametrize("labels", [False, True])
def test_without_labels_other_labels_change_no_bit(tmp_path, sources, labels):
    found = []
    for i in range(2):
        stream = Stream(
            source=part(f"labelled_{i}"),
            batch_size=16,
            labels=labels,
            subset=part("fraction", part=0.5),
            views={"strong": (part("random_invert"),)},
        )
        readers = (part("on_stream"), part("on_stream", view="strong"))
        wanted = config({"target": stream}, regularizers=readers, duration=5)
        folder = tmp_path / str(i)
        run(wanted, folder)
        found.append((state_of(wanted, folder), lines_of(folder)))
    (states, lines), (other_states, other_lines) = found
    assert same(states, other_states) != labels
    assert (lines == other_lines) != labels


def test_without_labels_nothing_that_reads_them_is_taken(sources):
    for field, named in (
        ("sampler", part("balanced")),
        ("subset", part("classes", keep=[1])),
    ):
        stream = Stream(source=part("labelled_0"), labels=False, **{field: named})
        message = r"config\.data\.streams\.target: .* reads the class of each example"
        with pytest.raises(UserError, match=message):
            assemble(config({"target": stream}))
    mixing = config({"target": Stream(labels=False)}, augment=(part("mixup"),))
    with pytest.raises(UserError, match="'mixup' mixes labels, and config.data.streams.target"):
        assemble(mixing)


def test_eight_devices_do_what_one_does():
    wanted, one = config(), np.asarray(jax.devices()[:1]).reshape(1, 1, 1, 1)
    losses = []
    for mesh in (make_mesh(), Mesh(one, AXES, axis_types=(AxisType.Auto,) * 4)):
        plan = assemble(wanted, mesh=mesh)
        state, step = first_state(wanted, plan), jax.jit(plan.step)
        found = []
        for batch in training_batches(wanted, plan, 0, 3):
            state, metrics = step(state, batch)
            found.append([float(metrics[k][0]) for k in ("loss", "stream_loss")])
        losses.append(found)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


@pytest.mark.slow
def test_a_population_follows_each_members_streams(tmp_path):
    together = config(
        model=part("mlp", widths=[4]), population=Population(seeds=2), steps_per_execution=2
    )
    run_population(together, tmp_path / "population")
    for seed in (0, 1):
        alone = dataclasses.replace(together, population=None, seed=seed)
        run(alone, tmp_path / str(seed))
        expected = lines_of(tmp_path / str(seed))
        got = lines_of(tmp_path / "population" / "members" / str(seed))
        for a, b in zip(expected, got, strict=True):
            assert a.keys() == b.keys()
            np.testing.assert_allclose(list(b.values()), list(a.values()), rtol=2e-4)


@pytest.mark.slow
def test_two_processes_see_the_run_of_one(tmp_path):
    common = [
        "--config", "configs/cnn.py", "--import", PLUGIN, "--config.data.source=fake",
        "--config.data.source.size=[8,8,1]", "--config.data.streams.target.batch_size=16",
        "--config.regularizers=on_stream", "--config.data.batch_size=32", "--config.duration=4",
        "--config.model.widths=[2]", "--config.log.every=1", "--config.log.sinks=[]",
        "--config.gradient.accumulate=2",
    ]  # fmt: skip
    losses = []
    for count, devices in ((1, 2), (2, 1)):
        folder = tmp_path / str(count)
        done = hosts.finish(hosts.start_all([*common, "--workdir", folder], count, devices=devices))
        assert [status for status, *_ in done] == [0] * count, done[0][2]
        losses.append([x["train/stream_loss"] for x in lines_of(folder) if "train/loss" in x])
    assert len(losses[0]) == 4
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


# From the shell, and what is refused


def test_a_stream_from_the_shell():
    got = override(
        Config(),
        [
            ("data.streams.target.source", "tfds(dataset=usps)"),
            ("data.streams.target.labels", "false"),
            ("data.streams.target.views.strong", "random_flip, random_crop(padding=2)"),
            ("data.streams.target.augment", "[]"),
            ("data.streams.other.sampler", "balanced"),
        ],
    )
    assert got.data.streams == {
        "target": Stream(
            source=part("tfds", dataset="usps"),
            labels=False,
            augment=(),
            views={"strong": (part("random_flip"), part("random_crop", padding=2))},
        ),
        "other": Stream(sampler=part("balanced")),
    }


@pytest.mark.data
def test_a_real_stream_beside_the_embedded_digits():
    changes = [
        ("data.source", "digits"),
        ("data.streams.target.source", "tfds(dataset=usps)"),
        ("data.streams.target.sampler", "balanced"),
    ]
    wanted = override(config({}), changes)
    (batch,) = training_batches(wanted, assemble(wanted), 0, 1)
    assert batch["image"].shape == (32, 8, 8, 1)
    assert batch["target"]["image"].shape == (32, 16, 16, 1)
    assert set(np.bincount(batch["target"]["label"], minlength=10)) == {3, 4}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("streams.target.sorce", "digits", "unknown key config.data.streams.target.sorce: did "),
        ("streams.target.source", "digit", "unknown source 'digit': did you mean 'digits'"),
        ("streams.target.sampler", "shufle", "did you mean 'shuffle'"),
        ("streams.target.views.strong", "random_flap", "did you mean 'random_flip'"),
        ("streams.image.labels", "false", "'image' is not a name for a stream"),
        ("streams.target.views.label", "random_flip", "'label' is not a name for a view"),
        ("streams.target.batch_size", "12", "streams.target.batch_size 12 does not divide over 8"),
        ("streams.target.split", "trian", "config.data.streams.target: unknown split 'trian'"),
        ("streams.target.subset", "fraction(part=1.0)", "leaves all 100 examples of split"),
        (
            "streams.target.sampler",
            "episodes(ways=2,shots=1,queries=1)",
            "config.data.streams.target: sampler 'episodes' makes batches of 1 x 2 x 2 = 4",
        ),
        ("streams.target.preprocess", "random_flip", "put it into config.data.streams.target.aug"),
    ],
)
def test_what_does_not_fit_is_refused(path, value, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        assemble(override(config(), [(f"data.{path}", value)]))


def test_pipelines_take_one_stream():
    for fields in ({"mesh": Axes(stage=2)}, {"gradient": Gradient(method=part("gpipe"))}):
        with pytest.raises(UserError, match="a pipeline .* takes batches of one stream"):
            assemble(config(**fields))


def test_a_stream_that_nothing_reads_is_told(tmp_path, capsys):
    run(config(regularizers=(), duration=1), tmp_path / "a")
    assert "stream 'target' changes nothing" in capsys.readouterr().out
    run(config(duration=1), tmp_path / "b")
    assert "changes nothing" not in capsys.readouterr().out


def test_the_estimate_of_memory_counts_streams():
    small, large = config(), config({"target": Stream(batch_size=64)})
    sizes = [estimate(c, assemble(c)) for c in (small, large)]
    assert sizes[1].activations > 1.5 * sizes[0].activations
    assert sizes[1].batch > sizes[0].batch


def test_the_command_line_ends_with_2(tmp_path, capsys):
    arguments = ["--config", "cnn", "--config.data.streams.target.sorce=x"]
    assert main([*arguments, "--workdir", str(tmp_path)]) == 2
    assert "did you mean 'source'" in capsys.readouterr().err


def test_images_that_do_not_fit_the_network_are_refused(tmp_path):
    other = Stream(source=part("fake", size=(8, 8, 3), examples=100), batch_size=16)
    with pytest.raises(UserError, match=r"main \(8, 8, 1\), target \(8, 8, 3\): give them one"):
        run(config({"target": other}), tmp_path)
