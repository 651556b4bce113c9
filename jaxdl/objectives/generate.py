"""Autoregressive decoding: greedy or beam search.

Google's Neural Machine Translation System. Wu, Schuster, Chen, Le, Norouzi et al. 2016.
https://arxiv.org/abs/1609.08144, equation 14 without its coverage penalty. Vaswani et al. 2017
translate with 4 beams and a length penalty of 0.6.

Keys and values are not cached: for each token the network runs over all positions, so the cost
is that of a forward pass times the length. This suits evaluating short sequences with any model,
not serving. Models must be causal: positions after the current one hold padding.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdl.config import Count, NonNegative
from jaxdl.registry import register
from jaxdl.types import END, PADDING, Array, Batch, Objective, PyTree

Logits = Callable[[Array], Array]
"""Tokens (b, t) -> logits of each one's successor (b, t, k)."""


@register("predictors", unit="token")
def generate(
    objective: Objective,
    /,
    *,
    beams: Count = 1,
    length_penalty: NonNegative = 0.6,
    length: Count | None = None,
    prompt: Count = 1,
    end: int | None = END,
) -> Objective:
    """Predict, and also write `generated` (b, length): tokens as the model goes on from a prompt.

    The other outputs, such as the logits of the true tokens, are those of the objective. Behind
    the end there is padding, which is never written before it.

    Args:
        objective: whose logits (b, t, k) are those of the successors of `tokens` (b, t).
        beams: hypotheses that are followed at once; with 1, the likeliest token is taken each time.
        length_penalty: alpha of beam search: log-probabilities are compared divided by
            ((5 + tokens) / 6)^alpha, 0 for as they are. The end counts as a token.
        length: tokens in all; without it, as many as the batch's `tokens`.
        prompt: tokens of the batch that are given, the start among them.
        end: the token that ends a sequence; null where none does.
    """

    def predict(params: PyTree, variables: PyTree, batch: Batch, key: Array | None = None):
        total = length or batch["tokens"].shape[1]
        given = batch["tokens"][:, : min(prompt, total)]
        repeated = {name: jnp.repeat(x, beams, axis=0) for name, x in batch.items()}

        def logits(tokens: Array) -> Array:
            asked = {**repeated, "tokens": tokens}
            return objective.predict(params, variables, asked, key)["logits"]

        if beams == 1:
            generated = greedy(logits, given, total, end)
        else:
            generated = beam_search(logits, given, total, end, beams, length_penalty)
        outputs = objective.predict(params, variables, batch, key)
        return {**outputs, "generated": generated}

    return objective._replace(predict=predict)


def greedy(logits: Logits, given: Array, length: int, end: int | None = END) -> Array:
    """The likeliest token at each place.

    Args:
        logits: of successors.
        given: (b, n) the first tokens.
        length: of what is returned, at least n.
        end: the token that ends a sequence; None where none does.

    Returns:
        Tokens (b, length), int32, padding behind the end.
    """
    tokens = _begun(given, length)

    def goes_on(carry: tuple[Array, Array, Array]) -> Array:
        place, _, done = carry
        return (place < length) & ~jnp.all(done)

    def write(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        place, tokens, done = carry
        best = jnp.argmax(_log_probabilities(logits, tokens, place), axis=-1).astype(jnp.int32)
        best = jnp.where(done, PADDING, best)
        return place + 1, tokens.at[:, place].set(best), done | _is(best, end)

    first = (jnp.int32(given.shape[1]), tokens, _has_ended(given, end))
    return jax.lax.while_loop(goes_on, write, first)[1]


def beam_search(
    logits: Logits, given: Array, length: int, end: int | None, beams: int, alpha: float
) -> Array:
    """The sequence of the best score among those that `beams` hypotheses at once come upon.

    At each place the likeliest continuations stay alive, as many as there are beams, until none of
    them can come to a better score than the best that ended. One that did not end is taken only
    where none did.

    Args:
        logits: of successors, of b * beams sequences, the hypotheses of one example together.
        given: (b, n) the first tokens.
        length: of what is returned, at least n.
        end: the token that ends a sequence; None where none does.
        beams: hypotheses.
        alpha: of the length penalty.

    Returns:
        Tokens (b, length), int32, padding behind the end.
    """
    b, n = given.shape
    tokens = jnp.repeat(_begun(given, length)[:, None], beams, axis=1)
    # lp(y) = (5 + |y|)^alpha / (5 + 1)^alpha, of the tokens that were not given
    penalty = lambda place: ((5.0 + place - n) / 6.0) ** alpha
    closed = _has_ended(given, end)
    nothing = jnp.full((b, beams), -jnp.inf)
    # All beams begin alike: only one of them counts.
    alive = nothing.at[:, 0].set(jnp.where(closed, -jnp.inf, 0.0))

    def goes_on(carry: tuple[Array, ...]) -> Array:
        place, _, alive, _, score = carry
        # Log-probabilities only fall, so this is the most that one alive can come to.
        bound = alive[:, 0] / penalty(length)
        return (place < length) & jnp.any(score < bound)

    def write(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        place, tokens, alive, finished, score = carry
        log_p = _log_probabilities(logits, tokens.reshape(-1, length), place)
        k = log_p.shape[-1]
        total = (alive[:, :, None] + log_p.reshape(b, beams, k)).reshape(b, -1)
        # Of twice as many continuations as there are beams, half at most are an end.
        total, index = jax.lax.top_k(total, min(2 * beams, beams * k))
        token = (index % k).astype(jnp.int32)
        extended = _rows(tokens, index // k).at[:, :, place].set(token)
        stops = _is(token, end)

        ended = jnp.where(stops, total / penalty(place + 1), -jnp.inf)
        best = jnp.argmax(ended, axis=1, keepdims=True)
        ended = jnp.take_along_axis(ended, best, axis=1)[:, 0]
        is_better = ended > score
        finished = jnp.where(is_better[:, None], _rows(extended, best)[:, 0], finished)
        alive, kept = jax.lax.top_k(jnp.where(stops, -jnp.inf, total), beams)
        return place + 1, _rows(extended, kept), alive, finished, jnp.maximum(score, ended)

    first = (jnp.int32(n), tokens, alive, tokens[:, 0], jnp.where(closed, 0.0, -jnp.inf))
    _, tokens, _, finished, score = jax.lax.while_loop(goes_on, write, first)
    return jnp.where(jnp.isfinite(score)[:, None], finished, tokens[:, 0])


def _begun(given: Array, length: int) -> Array:
    rest = ((0, 0), (0, length - given.shape[1]))
    return jnp.pad(given.astype(jnp.int32), rest, constant_values=PADDING)


def _log_probabilities(logits: Logits, tokens: Array, place: Array) -> Array:
    """Of each token at a place, given those before it: (b, k), padding impossible."""
    here = jax.lax.dynamic_index_in_dim(logits(tokens), place - 1, axis=1, keepdims=False)
    return jax.nn.log_softmax(here.astype(jnp.float32).at[:, PADDING].set(-jnp.inf))


def _is(token: Array, end: int | None) -> Array:
    return jnp.zeros(token.shape, bool) if end is None else token == end


def _has_ended(given: Array, end: int | None) -> Array:
    return jnp.any((given == PADDING) | _is(given, end), axis=1)


def _rows(x: Array, index: Array) -> Array:
    """Of each example (b, m, t) the hypotheses (b, i)."""
    return jnp.take_along_axis(x, index[:, :, None], axis=1)
