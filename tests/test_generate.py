"""Writing tokens: by a loop in Python, by enumeration, by hand, on any number of devices."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from zoo import initial

from jaxdl import models, registry, tree
from jaxdl.config import part
from jaxdl.data import pairs
from jaxdl.data.pipeline import evaluation_batches, open_split
from jaxdl.objectives.base import Model
from jaxdl.objectives.generate import beam_search, generate, greedy
from jaxdl.objectives.language import language
from jaxdl.train.evaluate import make_evaluate
from jaxdl.train.sharding import AXES, batch_sharding
from jaxdl.types import END, PADDING, Objective

START = 2
VOCABULARY = 5  # padding, unknown, start, end and one word: few enough to try every sequence
LENGTH = 5


def whole_prefix(seed):
    """Logits that depend on all tokens so far and on nothing behind them."""
    table = np.random.default_rng(seed).normal(0, 2, (VOCABULARY**LENGTH, VOCABULARY))
    table = jnp.asarray(table, jnp.float32)
    powers = VOCABULARY ** jnp.arange(LENGTH)
    return lambda tokens: table[jnp.cumsum(tokens * powers[None], axis=1)]


def log_p(logits, sequence):
    """Log-probability of what follows the first token, padding being impossible."""
    tokens = np.zeros((1, LENGTH), np.int32)
    tokens[0, : len(sequence)] = sequence
    values = np.array(logits(jnp.asarray(tokens))[0], np.float64)
    values[:, PADDING] = -np.inf
    values -= np.log(np.exp(values).sum(-1, keepdims=True))
    return sum(values[i, token] for i, token in enumerate(sequence[1:]))


def ended_sequences():
    words = [t for t in range(1, VOCABULARY) if t != END]
    for n in range(LENGTH - 1):
        for middle in itertools.product(words, repeat=n):
            yield (START, *middle, END)


def padded(sequence):
    return np.pad(sequence, (0, LENGTH - len(sequence)), constant_values=PADDING)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_wide_beams_find_what_enumeration_finds(alpha):
    search = jax.jit(
        lambda logits, given: beam_search(logits, given, LENGTH, END, 32, alpha), static_argnums=0
    )
    for seed in range(4):
        logits = whole_prefix(seed)
        score = lambda s, f=logits: log_p(f, s) / ((5 + len(s) - 1) / 6) ** alpha
        best = max(ended_sequences(), key=score)
        np.testing.assert_array_equal(search(logits, jnp.array([[START]]))[0], padded(best))


def test_a_long_sentence_needs_the_penalty():
    # A word at 0.8 or the end at 0.2. Words and the end, n tokens, have log 0.2 + (n - 1) log 0.8:
    # 1, 1.139, 1.277, 1.416 times that of the end alone. Penalties ((5 + n) / 6)^0.8 are 1, 1.131,
    # 1.259, 1.383, too little; to the power of 0.9 they are 1, 1.149, 1.296, 1.440.
    p = jnp.full((LENGTH, VOCABULARY), 1e-6).at[:, 4].set(0.8).at[:, END].set(0.2)
    logits = lambda tokens: jnp.broadcast_to(jnp.log(p), (len(tokens), LENGTH, VOCABULARY))
    found = lambda alpha: beam_search(logits, jnp.array([[START]]), LENGTH, END, 3, alpha)[0]
    without, little, enough = jax.jit(lambda: (found(0.0), found(0.8), found(0.9)))()
    np.testing.assert_array_equal(without, padded([START, END]))
    np.testing.assert_array_equal(little, padded([START, END]))
    np.testing.assert_array_equal(enough, [START, 4, 4, 4, END])


def test_two_beams_see_past_a_bad_start():
    # Word 1 has 0.6, and whatever follows it no more than 0.4; word 4 has 0.4 and then ends.
    after = np.full((VOCABULARY, VOCABULARY), 1e-9)
    after[START, [1, 4]] = 0.6, 0.4
    after[1, [1, 4, END]] = 0.3, 0.3, 0.4
    after[4, END] = 1
    logits = lambda tokens: jnp.log(jnp.asarray(after, jnp.float32))[tokens]
    given = jnp.array([[START]])
    greedily = jax.jit(lambda: greedy(logits, given, LENGTH)[0])()
    np.testing.assert_array_equal(greedily, padded([START, 1, END]))
    search = lambda: [beam_search(logits, given, LENGTH, END, beams, 0.0)[0] for beams in (2, 4)]
    for found in jax.jit(search)():
        np.testing.assert_array_equal(found, padded([START, 4, END]))


def test_without_an_end_the_likeliest_alive_is_taken():
    logits = whole_prefix(7)
    words = range(1, VOCABULARY)
    every = ((START, *rest) for rest in itertools.product(words, repeat=LENGTH - 1))
    best = max(every, key=lambda s: log_p(logits, s))
    search = jax.jit(lambda given: beam_search(logits, given, LENGTH, None, 64, 0.6)[0])
    found = search(jnp.array([[START]]))
    np.testing.assert_array_equal(found, best)


def test_examples_do_not_know_of_each_other():
    logits = whole_prefix(3)
    given = jnp.array([[START, 1], [START, 4], [START, END], [START, PADDING], [1, 1]])
    writers = [partial(greedy, end=END), lambda *a: beam_search(*a, END, 3, 0.6)]
    for write in map(partial(jax.jit, static_argnums=(0, 2)), writers):
        together = np.asarray(write(logits, given, LENGTH))
        np.testing.assert_array_equal(together[:, :2], given)
        for i in range(len(given)):
            np.testing.assert_array_equal(write(logits, given[i : i + 1], LENGTH)[0], together[i])
        # What the prompt has ended already stays as it is.
        assert not together[2:4, 2:].any() and together[[0, 1, 4], 2].all()


MODELS = {
    "transformer": {"heads": 2, "width": 8, "hidden": 8, "depth": 1},
    "transformer_decoder": {"heads": 2, "width": 8, "hidden": 8, "depth": 1, "tied": False},
}


@pytest.mark.parametrize("name", MODELS)
def test_a_real_network_by_a_loop_with_nonsense_behind_the_place(name):
    module = models.create(name, 9, **MODELS[name])
    goal = language(Model(module, jnp.dtype("float32")))
    rng = np.random.default_rng(0)
    of_words = lambda *shape: rng.integers(1, 9, shape).astype(np.int32)
    batch = {"source": of_words(16, 6), "tokens": of_words(16, 8)}
    batch["tokens"][:, :2] = np.where(batch["tokens"][:, :2] == END, 1, batch["tokens"][:, :2])
    params, variables = initial(goal.init, jax.random.key(0), batch)
    # Not as they begin, when a network repeats its last token.
    drawn = lambda x, n: x if n.endswith("bias") else rng.normal(size=x.shape).astype(np.float32)
    params = jax.tree.map(drawn, params, tree.names(params))
    outputs = jax.jit(generate(goal, prompt=2).predict)(params, variables, batch)

    forward = jax.jit(goal.predict)
    expected, done = batch["tokens"].copy(), np.zeros(16, bool)
    for i in range(2, 8):
        expected[:, i:] = of_words(16, 8 - i)
        logits = np.asarray(forward(params, variables, {**batch, "tokens": expected})["logits"])
        best = np.where(done, PADDING, logits[:, i - 1, 1:].argmax(-1) + 1)
        expected[:, i], done = best, done | (best == END)
    np.testing.assert_array_equal(outputs["generated"], expected)
    assert len(np.unique(expected[:, 2:], axis=0)) > 4
    truth = forward(params, variables, batch)
    np.testing.assert_allclose(outputs["logits"], truth["logits"], rtol=1e-4, atol=1e-4)


# It has learnt by heart to write its source backwards, between a start and an end.
def _reverse(params, variables, batch, key=None):
    source = batch["source"]
    length = jnp.sum(source > END, axis=1, keepdims=True)
    place = length - 1 - jnp.arange(source.shape[1])[None]
    word = jnp.take_along_axis(source, jnp.maximum(place, 0), axis=1)
    successor = jnp.where(place >= 0, word, END)
    return {"logits": params * jax.nn.one_hot(successor, 30), "asked": batch["tokens"]}


KNOWS = Objective(lambda key, batch: (jnp.ones(()), {}), None, _reverse)


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("devices", [1, 8])
def test_what_is_known_by_heart_is_written_and_measured(devices, beams):
    split = open_split(partial(pairs.reversal, length=6, examples=21), "train", memory=2**30)
    shape = np.asarray(jax.devices()[:devices]).reshape(devices, 1, 1, 1)
    mesh = Mesh(shape, AXES, axis_types=(AxisType.Auto,) * 4)
    writing = registry.bind("predictors", part("generate", beams=beams))(KNOWS)
    metrics = {
        e.name: registry.bind("metrics", part(e.name))()
        for e in registry.entries("metrics")
        if e.metadata.get("unit") == "token"
    }
    same = lambda outputs, batch: {"same": (outputs["generated"] == batch["tokens"]).all(1)}
    metrics["same"] = metrics["bleu"]._replace(sums=same, value=lambda rows: rows["same"])
    batches = evaluation_batches(split, batch_size=16, sharding=batch_sharding(mesh))
    found = make_evaluate(writing, metrics, mesh)(jnp.float32(50), {}, batches)
    assert found["same"].shape == (21,) and found["same"].all()
    np.testing.assert_allclose(found["bleu"], 100)
    for name in ("rouge_1", "rouge_2", "rouge_l", "next_token_accuracy", "perplexity"):
        np.testing.assert_allclose(found[name], 1, rtol=1e-6)


def test_lengths_prompts_and_the_rest_of_the_objective():
    split = pairs.reversal("train", length=6, examples=4)
    records = split.read(range(4))
    batch = {k: np.stack([r[k] for r in records]) for k in records[0]}
    write = lambda **args: jax.jit(generate(KNOWS, **args).predict)(1.0, {}, batch)
    np.testing.assert_array_equal(write(prompt=100)["generated"], batch["tokens"])
    outputs = write(prompt=3)
    np.testing.assert_array_equal(outputs["generated"], batch["tokens"])
    np.testing.assert_array_equal(outputs["asked"], batch["tokens"])
    np.testing.assert_array_equal(write(end=None)["generated"] > 0, True)
    long = jax.jit(lambda t: greedy(lambda t: jax.nn.one_hot(t, 9), t, 12, None))(jnp.array([[4]]))
    np.testing.assert_array_equal(long, np.full((1, 12), 4))
    found = generate(KNOWS)
    assert found.init is KNOWS.init and found.loss is KNOWS.loss


def test_shorter_than_the_truth():
    split = pairs.reversal("train", length=6, examples=4)
    tokens = np.stack([r["tokens"] for r in split.read(range(4))])
    logits = lambda t: 9.0 * jax.nn.one_hot(jnp.full(t.shape, 4), 30)
    found = jax.jit(lambda given: greedy(logits, given, 3))(tokens[:, :1])
    np.testing.assert_array_equal(found, [[START, 4, 4]] * 4)


def test_the_key_reaches_the_network():
    seen = []
    spying = KNOWS._replace(
        predict=lambda p, v, b, key=None: (seen.append(key), _reverse(p, v, b))[1]
    )
    batch = {"source": jnp.ones((1, 4), jnp.int32), "tokens": jnp.full((1, 4), START)}
    generate(spying).predict(1.0, {}, batch, "key")
    assert set(seen) == {"key"}
