"""MobileNet v1 with the authors' weights, which are real: what its features tell of flowers."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jaxdl import models, tree
from jaxdl.config import part
from jaxdl.hub.convert import flatten_variables, from_theirs, namings, to_theirs
from jaxdl.hub.read import read
from jaxdl.registry import bind

MODEL = models.create("mobilenet_v1_025", 1000)
NAMING = namings("mobilenet_v1_025")["keras"]


def authors():
    """The tensors of the file, under its names."""
    return read(Path(os.environ["TFDS_DATA_DIR"]).parent / "weights" / "mobilenet_v1_0.25_224.npz")


def loaded(tensors):
    """Our variables, and those tensors under our names."""
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    shapes = dict(jax.eval_shape(MODEL.init, jax.random.key(0), image))
    ours = from_theirs(NAMING, flatten_variables(shapes["params"], shapes), tensors)
    names = {kind: tree.names(leaves) for kind, leaves in shapes.items()}
    return jax.tree.map(lambda name: jnp.asarray(ours[name]), names), ours


@pytest.mark.data
def test_the_authors_weights_go_in_and_come_out():
    theirs = authors()
    back = to_theirs(NAMING, loaded(theirs)[1])  # from_theirs refuses what is missing or left over
    assert back.keys() == theirs.keys() and len(back) == 27 * 5 + 2
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


def flowers(split):
    """(images at 224x224 as uint8, labels)."""
    source = bind("sources", part("tfds", dataset="tf_flowers_small"))(split)
    records = source.read(range(len(source)))
    resized = [
        Image.fromarray(r["image"]).resize((224, 224), Image.Resampling.BILINEAR) for r in records
    ]
    return np.stack(resized), np.array([r["label"] for r in records])


@jax.jit
def pooled(variables, image):
    """(b, 256), global means of the last map."""
    image = image.astype(jnp.float32) / 127.5 - 1
    return MODEL.apply(variables, image, method="features").mean(axis=(1, 2))


def probed(variables, train, test):
    """Test accuracy of a logistic regression on the features, each of mean 0 and variance 1."""
    features = [
        np.concatenate([pooled(variables, images[i : i + 50]) for i in range(0, len(images), 50)])
        for images, _ in (train, test)
    ]
    assert features[0].shape == (1200, 256)
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    return regression.fit(features[0], train[1]).score(features[1], test[1])


@pytest.mark.data
def test_the_authors_features_tell_flowers_apart():
    train, test = flowers("train"), flowers("test")
    theirs = authors()
    assert abs(probed(loaded(theirs)[0], train, test) - 0.795) < 0.015
    random = np.random.default_rng(0)
    shuffled = {n: random.permutation(t.ravel()).reshape(t.shape) for n, t in theirs.items()}
    # Chance is a fifth: the same numbers in another order know little more than that.
    assert probed(loaded(shuffled)[0], train, test) < 0.4
