"""Rows that add up, and figures that others published or that are worked by hand."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jaxdl import models, registry, tree
from jaxdl.config import part
from jaxdl.errors import UserError
from jaxdl.main import main
from jaxdl.nn.conv import Conv
from jaxdl.nn.pool import avg_pool, max_pool
from jaxdl.perf.flops import macs
from jaxdl.perf.summary import Row, of_module, summary, text


def of(*shape):
    return jax.ShapeDtypeStruct(shape, "float32")


class Small(nn.Module):
    """A convolution, a norm, a gate that multiplies by a parameter, two dense layers."""

    @nn.compact
    def __call__(self, x):
        x = Conv(4, (3, 3), use_bias=False, name="conv")(x)
        x = nn.BatchNorm(use_running_average=True, name="norm")(x)
        x = nn.Dropout(0.5, name="drop")(nn.relu(x), deterministic=True)
        x = Mixed(name="mixed")(x.reshape(x.shape[0], -1))
        return nn.Dense(3, name="out")(x)


class Mixed(nn.Module):
    """A dense layer, and a product with a parameter of its own."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(5, name="dense")(x)
        return self.turned(x)

    def turned(self, x):
        return x @ self.param("turn", nn.initializers.ones, (5, 5))


def test_a_small_network_worked_by_hand():
    shown = of_module(Small(), of(2, 6, 8, 3))
    assert shown.rows == (
        Row("input", "", ((2, 6, 8, 3),), activation_bytes=4 * 288),
        Row("", "Small", ((2, 3),)),
        Row("conv", "Conv", ((2, 6, 8, 4),), 108, 2 * 192 * 27, 4 * 384),
        Row("norm", "BatchNorm", ((2, 6, 8, 4),), 8, 0, 4 * 384),
        Row("drop", "Dropout", ((2, 6, 8, 4),)),  # hands its input through
        Row("mixed", "Mixed", ((2, 5),), 25, 2 * 5 * 5),  # without the layer inside
        Row("mixed/dense", "Dense", ((2, 5),), 965, 2 * 192 * 5, 4 * 10),
        Row("out", "Dense", ((2, 3),), 18, 2 * 5 * 3, 4 * 6),
    )
    assert shown.totals() == {
        "batch_size": 2,
        "parameters": 108 + 8 + 25 + 965 + 18,
        "macs": 2 * (192 * 27 + 25 + 960 + 15),
        "weight_bytes": 4 * 1124,
        "state_bytes": 4 * 8,  # mean and variance
        "inference_bytes": 4 * (384 + 384),
        "training_bytes": 4 * (288 + 384 + 384 + 10 + 6),
    }


def test_resnet50_as_it_is_known():
    shown = summary("resnet50")
    assert shown.parameters == 25_557_032
    assert shown.macs == 4_089_184_256
    assert shown.state_bytes == 4 * 2 * 26_560  # torchvision: 53,120 numbers are running statistics
    # The stem's 112 x 112 x 64 and its norm of the same size are the largest neighbours.
    assert shown.inference_bytes == 2 * 4 * 112 * 112 * 64


@pytest.mark.parametrize(("name", "millions"), [("resnet50", 11.1), ("resnext50_32x4d", 14.4)])
def test_activations_of_convolutions_as_published(name, millions):
    # Radosavovic et al. 2020, Designing Network Design Spaces, https://arxiv.org/abs/2003.13678:
    # the model zoo of its code gives the outputs of all convolutions, in millions.
    convolutions = [r for r in summary(name).rows if r.kind == "Conv"]
    assert round(sum(r.activation_bytes for r in convolutions) / 4e6, 1) == millions


@pytest.mark.parametrize(
    "model",
    ["lenet5", "mlp", part("cnn", widths=[8, 16]), "resnet20", part("resnet50", width=8)],
    ids=lambda m: getattr(m, "name", m),
)
def test_rows_add_up_to_the_model_at_every_depth(model):
    image = (32, 32, 3)
    shown = summary(model, image, num_classes=7, batch_size=2)
    module = registry.bind("models", model if hasattr(model, "args") else part(model))(7)
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((2, *image)))
    assert shown.parameters == tree.count(variables["params"])
    assert shown.macs == macs(module.apply, variables, of(2, *image))
    for row in shown.rows:  # each row's parameters are those of its path, less the rows inside
        inside = variables["params"]
        for key in filter(None, row.path.split("/")):
            inside = inside.get(key, {})
        below = [r for r in shown.rows if r.path.startswith(row.path and f"{row.path}/")]
        below = [r for r in below if r.path not in ("input", row.path)]
        assert row.parameters + sum(r.parameters for r in below) == tree.count(inside), row.path
    for depth in (1, 2, 9):
        merged = shown.at_depth(depth)
        assert merged.totals() == shown.totals()
        assert max(r.path.count("/") for r in merged.rows) < depth
    assert shown.at_depth(9) == shown
    assert [r.path for r in shown.at_depth(1).rows] == ["input", "", "backbone", "head"]


class Block(nn.Module):
    """The largest neighbours are one block's last layer and the next one's first."""

    @nn.compact
    def __call__(self, x, _=None):
        y = nn.Dense(7, name="narrow")(x)
        y = nn.Dense(2, name="bottleneck")(y)
        return nn.Dense(8, name="widen")(y), None


class Stack(nn.Module):
    """Four blocks, unrolled, or scanned and rematerialised."""

    scanned: bool

    @nn.compact
    def __call__(self, x):
        x = jnp.tile(x, (1, 8))
        if not self.scanned:
            for i in range(4):
                x, _ = Block(name=f"block{i}")(x)
            return x
        blocks = nn.scan(
            nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=4
        )
        return blocks(name="blocks")(x, None)[0]


def test_a_scanned_model_costs_what_it_costs_unrolled():
    x = of(3, 1)
    unrolled, scanned = (of_module(Stack(s), x) for s in (False, True))
    assert scanned.totals() == unrolled.totals()
    assert scanned.parameters == 4 * (8 * 7 + 7 + 7 * 2 + 2 + 2 * 8 + 8)
    assert scanned.macs == 4 * 3 * (56 + 14 + 16)
    assert scanned.inference_bytes == 4 * 3 * (8 + 7)
    narrow = next(r for r in scanned.rows if r.path == "blocks/narrow")
    assert narrow == Row("blocks/narrow", "Dense", ((3, 7),), 4 * 63, 4 * 168, 4 * 3 * 7 * 4)


def test_mapped_shared_and_wrapped_modules():
    class Lifted(nn.Module):
        @nn.compact
        def __call__(self, x):
            axes = {"in_axes": None, "variable_axes": {"params": 0}, "axis_size": 5}
            x = nn.vmap(nn.Dense, **axes, split_rngs={"params": True})(6, name="mapped")(x)
            shared = nn.Dense(6, name="shared")
            return nn.WeightNorm(nn.Dense(2, parent=None), name="normed")(shared(shared(x)))

    rows = {r.path: r for r in of_module(Lifted(), of(3, 4)).rows}
    assert rows["mapped"] == Row("mapped", "Dense", ((5, 3, 6),), 5 * 30, 15 * 24, 4 * 90)
    assert rows["shared"] == Row("shared", "Dense", ((5, 3, 6),), 42, 2 * 15 * 36, 2 * 4 * 90)
    assert rows["normed/layer_instance"].parameters == 14 + 2  # and a length for each output
    assert len(rows) == 6


Jitted = nn.jit(Block)


def test_a_module_traced_before_is_seen_again():
    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Jitted(name="block")(x)[0]

    x, paths = of(3, 8), ["input", "", "block", "block/narrow", "block/bottleneck", "block/widen"]
    variables = jax.eval_shape(Outer().init, jax.random.key(0), x)
    assert macs(Outer().apply, variables, x) == 3 * (56 + 14 + 16)
    for _ in range(2):
        rows = of_module(Outer(), x).rows
        assert [r.path for r in rows] == paths
        assert [r.macs for r in rows] == [0, 0, 0, 3 * 56, 3 * 14, 3 * 16]


def test_attention_has_products_of_its_own():
    rows = {r.path: r for r in of_module(nn.MultiHeadDotProductAttention(2), of(3, 5, 8)).rows}
    # q k' and weights times v: b * heads * t * t * d each
    assert rows[""].macs == 2 * 3 * 2 * 5 * 5 * 4
    assert rows["query"].macs == 3 * 5 * 8 * 8


def test_parameters_that_inference_leaves_out_have_their_row():
    class Trained(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.Dense(2, name="main")(x)
            if self.is_initializing():
                nn.Dense(9, name="auxiliary")(x)
            return y

    rows = of_module(Trained(), of(1, 4)).rows
    assert rows[-1] == Row("auxiliary", "", (), parameters=45)
    assert sum(r.parameters for r in rows) == 10 + 45


def test_tokens_go_in_too():
    ids = jax.ShapeDtypeStruct((2, 7), "int32")
    entry, embed = of_module(nn.Embed(11, 3), ids).rows
    assert entry.activation_bytes == 2 * 7 * 4
    assert embed == Row("", "Embed", ((2, 7, 3),), 33, 0, 4 * 42)


def test_a_model_has_its_own_image_size(monkeypatch, own_registry):
    assert summary("resnet20").rows[0].outputs == ((1, 32, 32, 3),)
    build = lambda num_classes, /: models.create("lenet5", num_classes)
    registry.register("models", "sized", image=(12, 10, 1))(build)
    assert summary("sized").rows[0].outputs == ((1, 12, 10, 1),)
    assert summary("sized", (20, 20, 2)).rows[0].outputs == ((1, 20, 20, 2),)


# The command


def test_the_command_prints_a_table_and_totals(capsys):
    assert main(["summary", "lenet5", "--image", "32x32x1", "--num-classes=10"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("backbone/c1  Conv   1x28x28x6")
    assert lines[2].endswith("       156        117.6 k     18.82 kB")
    assert lines[-6].split() == ["parameters", "61,706"]
    assert lines[-3].startswith("multiply-adds            416.5 k")
    assert len({line.index("Conv") for line in lines if "Conv" in line}) == 1


def test_the_command_takes_arguments_of_the_model_and_prints_json(capsys):
    arguments = ["--model.width=8", "--image=32x32x3", "--batch-size=2", "--depth=1", "--json"]
    assert main(["summary", "resnet18", *arguments]) == 0
    told = json.loads(capsys.readouterr().out)
    shown = summary(part("resnet18", width=8), (32, 32, 3), batch_size=2)
    assert told["totals"] == shown.totals()
    assert [r["path"] for r in told["rows"]] == ["input", "", "backbone", "head"]
    assert sum(r["macs"] for r in told["rows"]) == shown.macs


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lenet"], "unknown model 'lenet': did you mean 'lenet5'"),
        (["lenet5", "--image=28x28"], "'28x28' is not HxWxC, such as 224x224x3"),
        (["lenet5", "--image=0x28x1"], "'0x28x1' is not HxWxC"),
        (["lenet5", "--image"], "expected one argument"),
        (["lenet5", "--batch-size=0"], "--batch-size: expected a number from 1, got '0'"),
        (["lenet5", "--depth=deep"], "--depth: expected a number from 1, got 'deep'"),
        (["lenet5", "--model.pol=max"], "takes no argument 'pol': did you mean 'pool'?"),
        (["lenet5", "--model.pool"], "--model.pool needs a value: --model.pool=..."),
        (["lenet5", "--config=x"], "--config=x"),
        ([], "model"),
    ],
)
def test_a_mistake_is_said_in_one_line(capsys, arguments, said):
    assert main(["summary", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error
    assert said in error


def test_an_image_too_small_for_the_model_is_named():
    class Demanding(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = Conv(2, (5, 5), padding="VALID")(x)
            return nn.Dense(1)(x.reshape(x.shape[0], -1))

    with pytest.raises(UserError, match="the model does not take an image of 3x4x1: .*5x5.*3x4"):
        summary(Demanding(), (3, 4, 1))


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
def test_an_image_too_small_for_a_pooling_is_named(pool):
    class Pooled(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(pool(x, (4, 4), (4, 4)).reshape(x.shape[0], -1))

    with pytest.raises(UserError, match="3x8x1: a window of 4x4 does not fit into a map of 3x8"):
        summary(Pooled(), (3, 8, 1))


def test_large_numbers_are_readable():
    assert "4.089 G" in text(summary("resnet50").at_depth(1))
