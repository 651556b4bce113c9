"""The battery over all losses of an example, and their values by hand and by other libraries."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from sklearn.metrics import brier_score_loss, hinge_loss, log_loss

from jaxdl import registry
from jaxdl.config import part
from jaxdl.errors import UserError
from jaxdl.losses.binary import binary_cross_entropy
from jaxdl.losses.compose import balanced, weighted
from jaxdl.losses.cross_entropy import cross_entropy
from jaxdl.losses.focal import focal, sigmoid_focal
from jaxdl.losses.hinge import hinge
from jaxdl.losses.noisy import generalized_cross_entropy, symmetric_cross_entropy
from jaxdl.losses.poly import poly1
from jaxdl.losses.regression import huber, squared_error

LOSSES = [e.name for e in registry.entries("losses")]
ARGS = {
    "weighted": {"losses": ["cross_entropy", "focal"], "weights": [0.5, 2.0]},
    "balanced": {"weights": [1.0, 2.0, 3.0, 0.5]},
}
HARD_ONLY = {"hinge"}
LOGITS = jnp.asarray([[0.0, 0.0, 0.0, 0.0], [2.0, 1.0, 0.0, -1.0], [-3.0, 5.0, 0.5, 1.0]])
LABEL = jnp.asarray([2, 0, 3])
# No two logits are the same, nor 1 apart, and no error is huber's delta: where slopes jump.
SMOOTH = jnp.asarray([[0.3, -0.2, 0.1, 0.45], [1.9, 1.2, -0.1, -1.4], [-3.0, 5.0, 0.5, 1.2]])


def bound(name):
    return registry.bind("losses", part(name, **ARGS.get(name, {})))


def run(loss, logits, label, /, **args):
    return jax.jit(functools.partial(loss, **args))(logits, label)


def float64(x):
    return np.asarray(x, np.float64)


def softmax(x):
    e = np.exp(float64(x) - np.max(x, axis=-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-float64(x)))


@pytest.mark.parametrize("name", LOSSES)
def test_one_finite_float32_number_an_example(name):
    loss = bound(name)
    both = jax.jit(lambda x: (loss(x, LABEL), jax.grad(lambda x: loss(x, LABEL).sum())(x)))
    for logits in (LOGITS, LOGITS.astype(jnp.bfloat16), 1e4 * LOGITS, jnp.zeros_like(LOGITS)):
        values, grads = both(logits)
        assert values.shape == (3,) and values.dtype == jnp.float32
        assert np.all(np.isfinite(values)) and np.all(values >= 0)
        assert np.all(np.isfinite(grads))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_and_vmap(name):
    loss = bound(name)
    whole = jax.jit(lambda x: loss(x, LABEL))
    check_grads(whole, (SMOOTH,), order=2, modes=["rev"], atol=2e-2, rtol=2e-2)
    alone = jax.jit(jax.vmap(lambda x, y: loss(x[None], y[None])[0]))(LOGITS, LABEL)
    np.testing.assert_allclose(alone, whole(LOGITS), rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_an_example_does_not_see_the_others(name):
    loss, order = jax.jit(bound(name)), np.array([2, 0, 1])
    np.testing.assert_allclose(
        loss(LOGITS[order], LABEL[order]), loss(LOGITS, LABEL)[order], rtol=1e-6
    )


@pytest.mark.parametrize("name", sorted(set(LOSSES) - HARD_ONLY))
def test_a_hard_label_is_its_one_hot(name):
    loss = jax.jit(bound(name))
    np.testing.assert_allclose(
        loss(LOGITS, LABEL), loss(LOGITS, jax.nn.one_hot(LABEL, 4)), rtol=1e-5
    )


def test_cross_entropy_by_hand():
    values = cross_entropy(LOGITS, LABEL)
    # log 4; log(e^2 + e + 1 + 1/e) - 2; log(e^-3 + e^5 + e^0.5 + e) - 1
    expected = [
        np.log(4),
        np.log(np.exp(2) + np.exp(1) + 1 + np.exp(-1)) - 2,
        np.log(np.exp(-3) + np.exp(5) + np.exp(0.5) + np.exp(1)) - 1,
    ]
    np.testing.assert_allclose(values, expected, rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_label_smoothing_by_hand(smoothing):
    log_p = np.asarray(jax.nn.log_softmax(LOGITS), np.float64)
    # Szegedy et al., equation in section 7: (1 - e) * H(label, p) + e * H(uniform, p)
    expected = -(1 - smoothing) * log_p[np.arange(3), LABEL] - smoothing * log_p.mean(-1)
    values = cross_entropy(LOGITS, LABEL, label_smoothing=smoothing)
    np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "loss", [cross_entropy, focal, poly1, generalized_cross_entropy], ids=lambda f: f.__name__
)
def test_soft_labels_are_the_mixture(loss):
    soft = 0.3 * jax.nn.one_hot(LABEL, 4) + 0.7 * jax.nn.one_hot(jnp.asarray([0, 1, 2]), 4)
    other = loss(LOGITS, jnp.asarray([0, 1, 2]))
    mixed = 0.3 * loss(LOGITS, LABEL) + 0.7 * other
    np.testing.assert_allclose(loss(LOGITS, soft), mixed, rtol=1e-5)


def test_losses_of_scikit_learn():
    p = softmax(SMOOTH)
    np.testing.assert_allclose(
        cross_entropy(SMOOTH, LABEL).mean(), log_loss(LABEL, p, labels=range(4)), rtol=1e-6
    )
    np.testing.assert_allclose(
        run(hinge, SMOOTH, LABEL).mean(), hinge_loss(LABEL, SMOOTH, labels=range(4)), rtol=1e-6
    )
    answers = np.array([1, 0, 1])
    np.testing.assert_allclose(
        run(binary_cross_entropy, SMOOTH[:, :1], answers).mean(),
        log_loss(answers, sigmoid(SMOOTH[:, 0])),
        rtol=1e-6,
    )
    # The Brier score of two classes is the squared error of the second's probability.
    np.testing.assert_allclose(
        squared_error(jnp.asarray(sigmoid(SMOOTH[:, :1]), jnp.float32), answers).mean(),
        brier_score_loss(answers, sigmoid(SMOOTH[:, 0])),
        rtol=1e-6,
    )


def test_losses_of_pytorch():
    # torch.nn.functional in float64: huber_loss(delta=0.7) and binary_cross_entropy_with_logits,
    # summed over classes; cross_entropy(weight=[1, 2, 3, 0.5]).
    x = jnp.asarray([[0.3, -0.2, 0.1, 0.4], [2.0, 1.0, 0.0, -1.0], [-3.0, 5.0, 0.5, 1.0]])
    np.testing.assert_allclose(run(huber, x, LABEL, delta=0.7), [0.53, 1.365, 5.235], rtol=1e-6)
    np.testing.assert_allclose(
        run(binary_cross_entropy, x, LABEL),
        [3.0099060263236423, 2.4465985666393637, 6.342641371761189],
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        run(balanced, x, LABEL, weights=(1.0, 2.0, 3.0, 0.5)),
        [4.384261010337534, 0.44018969856119533, 2.0146629303014607],
        rtol=1e-6,
    )


def test_binary_cross_entropy_by_hand():
    # One logit: log(1 + e^-x) for yes and log(1 + e^x) for no.
    one = jnp.asarray([[1.5], [1.5], [0.0]])
    np.testing.assert_allclose(
        run(binary_cross_entropy, one, jnp.asarray([1, 0, 0])),
        [np.log1p(np.exp(-1.5)), np.log1p(np.exp(1.5)), np.log(2)],
        rtol=1e-6,
    )
    # Any number of classes may be there; smoothing 0.2 makes the targets 0.9 and 0.1.
    many = jnp.asarray([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    for smoothing in (0.0, 0.2):
        t = (1 - smoothing) * float64(many) + smoothing / 2
        p = sigmoid(SMOOTH)
        expected = -(t * np.log(p) + (1 - t) * np.log(1 - p)).sum(-1)
        values = run(binary_cross_entropy, SMOOTH, many, label_smoothing=smoothing)
        np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_focal_by_hand():
    p = softmax(SMOOTH)[np.arange(3), LABEL]
    for gamma in (0.0, 0.5, 2.0):
        expected = -((1 - p) ** gamma) * np.log(p)
        np.testing.assert_allclose(run(focal, SMOOTH, LABEL, gamma=gamma), expected, rtol=1e-5)
    np.testing.assert_allclose(
        run(focal, SMOOTH, LABEL, gamma=0.0), cross_entropy(SMOOTH, LABEL), rtol=1e-6
    )
    # The paper's two numbers: with gamma 2, p = 0.9 weighs 100 times less, p = 0.968 about 1000.
    easy = jnp.asarray([[np.log(0.9), np.log(0.1)], [np.log(0.968), np.log(0.032)]])
    zero = jnp.zeros(2, jnp.int32)
    less = cross_entropy(easy, zero) / run(focal, easy, zero)
    np.testing.assert_allclose(less, [100, 976.5625], rtol=1e-4)


def test_sigmoid_focal_by_hand():
    p, t = sigmoid(SMOOTH), np.eye(4)[LABEL]
    right = np.where(t == 1, p, 1 - p)
    share = np.where(t == 1, 0.25, 0.75)  # the class that is there weighs alpha
    expected = -(share * (1 - right) ** 2 * np.log(right)).sum(-1)
    np.testing.assert_allclose(run(sigmoid_focal, SMOOTH, LABEL), expected, rtol=1e-5)
    np.testing.assert_allclose(
        run(sigmoid_focal, SMOOTH, LABEL, alpha=None, gamma=0.0),
        run(binary_cross_entropy, SMOOTH, LABEL),
        rtol=1e-5,
    )
    # One logit with answers 0 and 1 is the paper's equation 5.
    one = run(sigmoid_focal, SMOOTH[:, :1], jnp.asarray([1, 0, 0]))
    q = sigmoid(SMOOTH[:, 0])
    first = -0.25 * (1 - q[0]) ** 2 * np.log(q[0])
    rest = -0.75 * q[1:] ** 2 * np.log(1 - q[1:])
    np.testing.assert_allclose(one, [first, *rest], rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("loss", [focal, sigmoid_focal], ids=["softmax", "sigmoid"])
def test_focal_is_steep_nowhere(loss, gamma):
    # (1 - p)^gamma has an infinite slope at p = 1 where gamma is below 1.
    x = jnp.asarray([[20.0, -20.0], [200.0, 0.0], [1e4, 0.0], [0.0, 0.0]])
    slope = jax.jit(jax.grad(lambda x: loss(x, jnp.zeros(4, jnp.int32), gamma=gamma).sum()))(x)
    assert np.all(np.isfinite(slope)) and np.all(np.abs(slope) < 2)


def test_poly1_by_hand():
    p = softmax(SMOOTH)[np.arange(3), LABEL]
    for epsilon in (-1.0, 0.0, 2.0):
        expected = -np.log(p) + epsilon * (1 - p)
        np.testing.assert_allclose(run(poly1, SMOOTH, LABEL, epsilon=epsilon), expected, rtol=1e-5)
    # With smoothing both terms see the smoothed label.
    q = 0.9 * np.eye(4)[LABEL] + 0.1 / 4
    expected = -(q * np.log(softmax(SMOOTH))).sum(-1) + 2 * (q * (1 - softmax(SMOOTH))).sum(-1)
    np.testing.assert_allclose(run(poly1, SMOOTH, LABEL, label_smoothing=0.1), expected, rtol=1e-5)


def test_regression_by_hand():
    output = jnp.asarray([[1.0, -2.0], [0.5, 3.0]])
    target = jnp.asarray([[0.0, 0.0], [0.0, 3.5]])
    np.testing.assert_allclose(run(squared_error, output, target), [5.0, 0.5])
    # errors 1 and 2 at delta 1: 1/2, and 2 - 1/2; errors 1/2 and 1/2: 1/8 each
    np.testing.assert_allclose(run(huber, output, target), [2.0, 0.25])
    # One number an example
    np.testing.assert_allclose(
        run(squared_error, output[:, :1], jnp.asarray([0.0, 2.5])), [1.0, 4.0]
    )
    # Classes are corners: (1 - 0)^2 + (-2 - 1)^2, (0.5 - 1)^2 + 3^2
    np.testing.assert_allclose(run(squared_error, output, jnp.asarray([1, 0])), [10.0, 9.25])


def test_losses_against_noise_by_hand():
    p = softmax(SMOOTH)[np.arange(3), LABEL]
    for q in (0.3, 0.7, 1.0):
        expected = (1 - p**q) / q
        np.testing.assert_allclose(
            run(generalized_cross_entropy, SMOOTH, LABEL, q=q), expected, 1e-5
        )
    # Its limits: cross-entropy, and half the absolute error
    near = run(generalized_cross_entropy, SMOOTH, LABEL, q=1e-3)
    np.testing.assert_allclose(near, cross_entropy(SMOOTH, LABEL), rtol=5e-3)
    half = np.abs(np.eye(4)[LABEL] - softmax(SMOOTH)).sum(-1) / 2
    np.testing.assert_allclose(
        run(generalized_cross_entropy, SMOOTH, LABEL, q=1.0), half, rtol=1e-5
    )
    # -sum_k p_k log q_k with log 0 = -4 is 4 (1 - p_label)
    np.testing.assert_allclose(
        run(symmetric_cross_entropy, SMOOTH, LABEL, alpha=0.5, beta=2.0),
        -0.5 * np.log(p) + 2 * 4 * (1 - p),
        rtol=1e-5,
    )


def test_a_weighted_sum_from_a_config():
    loss = registry.bind(
        "losses",
        part(
            "weighted",
            losses=[part("cross_entropy", label_smoothing=0.1), part("focal", gamma=1.0), "hinge"],
            weights=[1.0, 0.5, 0.0],
        ),
    )
    expected = cross_entropy(LOGITS, LABEL, label_smoothing=0.1) + 0.5 * run(
        focal, LOGITS, LABEL, gamma=1.0
    )
    np.testing.assert_allclose(loss(LOGITS, LABEL), expected, rtol=1e-6)
    # Weights that are not given are 1.
    twice = weighted(LOGITS, LABEL, losses=(cross_entropy, cross_entropy))
    np.testing.assert_allclose(twice, 2 * cross_entropy(LOGITS, LABEL))


def test_balanced_weighs_an_example_by_its_label():
    weights = (1.0, 2.0, 3.0, 0.5)
    focused = run(balanced, LOGITS, LABEL, loss=focal, weights=weights)
    np.testing.assert_allclose(
        focused, np.take(weights, LABEL) * run(focal, LOGITS, LABEL), rtol=1e-6
    )
    soft = jnp.asarray([[0.5, 0.5, 0, 0], [0, 0, 1, 0], [0.25, 0.25, 0.25, 0.25]])
    expected = np.array([1.5, 3.0, 1.625]) * cross_entropy(LOGITS, soft)
    np.testing.assert_allclose(run(balanced, LOGITS, soft, weights=weights), expected, rtol=1e-6)
    # One logit has two classes: no, yes.
    one, answers = LOGITS[:, :1], jnp.asarray([1, 0, 1])
    values = run(balanced, one, answers, loss=binary_cross_entropy, weights=(1.0, 3.0))
    np.testing.assert_allclose(
        values, np.array([3, 1, 3]) * run(binary_cross_entropy, one, answers), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: weighted(LOGITS, LABEL), "0 losses"),
        (lambda: weighted(LOGITS, LABEL, losses=(focal,), weights=(1.0, 2.0)), "2 weights"),
        (lambda: run(balanced, LOGITS, LABEL, weights=(1.0, 2.0)), "2 weights for 4 classes"),
        (lambda: run(hinge, LOGITS, jnp.ones((3, 4))), "not a soft label"),
        (
            lambda: run(focal, LOGITS, jnp.ones((3, 1))),
            r"float32\[3, 1\] does not fit logits \[3, 4\]",
        ),
        (lambda: run(squared_error, LOGITS, jnp.ones(3)), r"float32\[3\] does not fit"),
        (lambda: registry.bind("losses", part("poly1", epsilon=-2.0)), "'epsilon': expected"),
        (lambda: registry.bind("losses", part("balanced", weights=[0.0])), "expected `float` > 0"),
        (lambda: registry.bind("losses", part("weighted", losses=["focl"])), "mean 'focal'"),
    ],
)
def test_mistakes_are_named(build, said):
    with pytest.raises(UserError, match=said):
        build()


def test_a_users_own_loss_joins(own_registry):
    @registry.register("losses")
    def absolute(logits, label, /, *, scale: float = 1.0):
        """|1 - p|. https://example.org."""
        return scale * jnp.abs(1 - jax.nn.softmax(logits)[jnp.arange(len(label)), label])

    made = part("weighted", losses=[part("absolute", scale=2.0), "cross_entropy"])
    values = registry.bind("losses", made)(LOGITS, LABEL)
    p = softmax(LOGITS)[np.arange(3), LABEL]
    np.testing.assert_allclose(values, 2 * (1 - p) - np.log(p), rtol=1e-5)


@pytest.mark.parametrize("kind", ["losses", "segmentation_losses", "embedding_losses"])
def test_every_loss_has_its_paper(kind):
    missing = [e.name for e in registry.entries(kind) if not e.paper.startswith("https://")]
    assert missing == []
