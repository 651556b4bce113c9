"""The registry: every kind is found, arguments are checked, a user's own file can join."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated

import pytest

from jaxdl import registry
from jaxdl.assemble import import_user_module
from jaxdl.config import Count, Duration, Rate, part
from jaxdl.errors import UserError
from jaxdl.listing import describe

ALL = [(kind, entry) for kind in registry.ROOMS for entry in registry.entries(kind)]


# What a refresh sets is an objective's own: they are written beside one, as in refreshed.py.
@pytest.mark.parametrize("kind", [kind for kind in registry.ROOMS if kind != "refreshes"])
def test_every_room_offers_something(kind):
    assert registry.entries(kind)


@pytest.mark.parametrize(("kind", "entry"), ALL, ids=[f"{k}-{e.name}" for k, e in ALL])
def test_every_entry_is_documented_and_checkable(kind, entry):
    assert entry.summary
    for name, parameter in entry.arguments().items():
        assert parameter.annotation is not inspect.Parameter.empty, name
        if parameter.default is not parameter.empty and not callable(parameter.default):
            bound = registry.bind(
                kind, part(entry.name, **_required(entry), **{name: parameter.default})
            )
            assert callable(bound)


def _required(entry):
    samples = {"learning_rate": 0.1, "dataset": "mnist", "path": "x"}
    samples |= {"source": "de", "target": "en"}
    samples |= {"examples": 100, "augment": ["random_flip"]}
    samples |= {"index": 0, "of": 5, "ways": 5, "shots": 1, "queries": 15}
    missing = [n for n, p in entry.arguments().items() if p.default is p.empty]
    return {n: samples[n] for n in missing}


@pytest.fixture
def own(own_registry):
    @registry.register("models")
    def own_model(
        num_classes: int,
        /,
        *,
        width: Count = 8,
        drop_rate: Rate = 0.0,
        inner: Annotated[Callable | None, registry.Of("losses")] = None,
        warmup: Duration = "10%",
    ):
        """A model of the user's own. https://example.org/paper."""
        return num_classes, width, drop_rate, inner, warmup

    return own_model


def test_a_users_own_builder(own):
    assert registry.bind("models", part("own_model", width=3))(10)[:2] == (10, 3)
    assert registry.find("models", "own_model").paper == "https://example.org/paper"


def test_a_nested_part_is_bound_in_its_own_kind(own):
    inner = part("cross_entropy", label_smoothing=0.5)
    built = registry.bind("models", part("own_model", inner=inner))(10)
    assert built[3].keywords == {"label_smoothing": 0.5}
    with pytest.raises(UserError, match="unknown losse? 'cross'|unknown loss"):
        registry.bind("models", part("own_model", inner=part("cross")))


def test_durations_arrive_as_steps(own):
    to_steps = {"10%": 7, "2 epochs": 50}.__getitem__
    assert registry.bind("models", part("own_model"), to_steps)(10)[4] == 7
    assert registry.bind("models", part("own_model", warmup="2 epochs"), to_steps)(10)[4] == 50


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"widht": 3}, "did you mean 'width'"),
        ({"width": 0}, "'width': expected `int` >= 1, got 0"),
        ({"width": "wide"}, "'width': expected `int`, got `str`"),
        ({"drop_rate": 1.0}, "'drop_rate': expected `float` < 1.0"),
        ({"width": part("cnn")}, "takes a plain value"),
        ({"num_classes": 3}, "takes no argument 'num_classes'"),
    ],
)
def test_bad_arguments_are_named(own, args, said):
    with pytest.raises(UserError) as caught:
        registry.bind("models", part("own_model", **args))
    assert said in str(caught.value) and "own_model" in str(caught.value)


def test_unknown_names():
    with pytest.raises(UserError, match="did you mean 'resnet18'"):
        registry.find("models", "resnet19")
    with pytest.raises(UserError, match="it is one of the wrappers"):
        registry.find("optimizers", "sam")
    with pytest.raises(UserError, match="unknown kind"):
        registry.entries("modles")


def test_two_files_cannot_offer_one_name(own):
    other = functools.wraps(own)(lambda: None)
    other.__module__ = "elsewhere"
    with pytest.raises(ValueError, match="own_model"):
        registry.register("models", "own_model")(other)


def test_natural_order_and_wildcards():
    names = [e.name for e in registry.entries("models", "resnet*")]
    assert names == sorted(names, key=lambda n: int(n.removeprefix("resnet")))
    assert registry.entries("models", "no*such*model") == []


def test_describe_says_types_ranges_and_defaults(own):
    assert describe(registry.find("models", "own_model")) == [
        "width: int >= 1 = 8",
        "drop_rate: float >= 0 < 1 = 0.0",
        "inner: one of the losses = null",
        'warmup: duration = "10%"',
    ]


@pytest.mark.parametrize(("kind", "entry"), ALL, ids=[f"{k}-{e.name}" for k, e in ALL])
def test_every_entry_can_be_described(kind, entry):
    assert len(describe(entry)) == len(entry.arguments())


def test_one_of_a_kind_in_words():
    words = {"losses": "loss", "refreshes": "refresh", "averages": "average"}
    assert {kind: registry.singular(kind) for kind in words} == words


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [("lossess", "mine", "unknown kind 'lossess'"), ("losses", "focal", "losses 'focal' is in")],
)
def test_a_file_that_registers_amiss_is_answered_in_a_line(tmp_path, kind, name, said):
    registry.find("losses", "focal")
    file = tmp_path / f"{kind}_amiss.py"
    file.write_text(
        "from jaxdl.registry import register\n\n"
        f"@register({kind!r}, {name!r})\ndef build():\n    return None\n"
    )
    with pytest.raises(UserError, match=f"cannot import '.*amiss.py': {said}"):
        import_user_module(str(file))
