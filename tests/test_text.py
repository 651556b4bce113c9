"""Sources of tokens, bytes in windows and pairs of sequences; and what they are judged by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.config import part
from jaxdl.data import open_split
from jaxdl.data.tokenizers import SPECIAL, most_frequent, words
from jaxdl.errors import UserError
from jaxdl.metrics.language import exp_of_mean
from jaxdl.registry import bind

GIB = 2**30
SPLITS = ("train", "validation", "test")


def opened(name, split, **args):
    return open_split(bind("sources", part(name, **args)), split, memory=GIB)


def text_of(split):
    """Windows joined again: the byte that two of them share is counted once."""
    tokens = split.arrays["tokens"]
    joined = np.concatenate([tokens[0, :1], tokens[:, 1:].ravel()])
    return bytes((joined[joined > 0] - 1).astype(np.uint8))


@pytest.mark.parametrize("n", [40, 41, 49, 1000])
def test_windows_hold_the_whole_text_once(tmp_path, n):
    text = bytes(np.random.default_rng(n).integers(0, 256, n, np.uint8))
    (tmp_path / "text").write_bytes(text)
    parts = [opened("characters", s, path=str(tmp_path / "text"), length=8) for s in SPLITS]
    assert b"".join(map(text_of, parts)) == text
    assert len(text_of(parts[0])) == round(0.9 * n)
    for split in parts:
        tokens = split.arrays["tokens"]
        assert tokens.shape[1] == 9 and tokens.dtype == np.int32 and split.vocabulary == 257
        np.testing.assert_array_equal(tokens[1:, 0], tokens[:-1, -1])


def test_a_short_text_by_hand(tmp_path):
    (tmp_path / "text").write_text("abcdefghij" + "k" * 10)
    split = opened("characters", "train[:2]", path=str(tmp_path / "text"), length=4)
    expected = [[98, 99, 100, 101, 102], [102, 103, 104, 105, 106]]
    np.testing.assert_array_equal(split.arrays["tokens"], expected)
    with pytest.raises(UserError, match="split 'test' is empty"):
        # A single byte has no successor.
        opened("characters", "test", path=str(tmp_path / "text"), length=4)


def test_the_embedded_text_is_english_and_its_parts_are_different():
    parts = {name: text_of(opened("characters", name)).decode() for name in SPLITS}
    assert len(parts["train"]) > 250_000 and min(map(len, parts.values())) > 10_000
    assert all(" the " in text for text in parts.values())
    lines = {line.strip() for line in parts["train"].splitlines()}
    tested = [x.strip() for x in parts["test"].splitlines() if len(x.strip()) > 20]
    assert np.mean([line in lines for line in tested]) < 0.1


def test_a_text_that_cannot_be_read_is_told(tmp_path):
    for args, message in [
        ({"path": str(tmp_path / "none")}, "cannot read the text .*none: No such file"),
        ({"path": "a", "dataset": "b"}, "a path or a dataset, not both"),
    ]:
        with pytest.raises(UserError, match=message):
            opened("characters", "train", **args)
    with pytest.raises(UserError, match="unknown split 'trian': did you mean 'train'"):
        opened("characters", "trian")


def test_a_reversal_is_backwards():
    parts = [opened("reversal", s, length=6, symbols=5, examples=50) for s in SPLITS]
    assert [len(p) for p in parts] == [50, 5, 5]
    assert parts[0].vocabulary == 9 and parts[0].num_classes is None
    assert parts[0].tokenizer.decode([2, 4, 8, 3, 0]) == "0 4"
    seen = set()
    for split in parts:
        for source, tokens in zip(split.arrays["source"], split.arrays["tokens"], strict=True):
            read, written = source[source > 0].tolist(), tokens[tokens > 0].tolist()
            assert written == [2, *read[-2::-1], 3] and read[-1] == 3 and 3 <= len(read) - 1 <= 6
            assert min(read[:-1]) >= 4
            assert not source[len(read) :].any() and not tokens[len(written) :].any()
            seen.add(len(read))
    assert seen == {4, 5, 6, 7}


def test_words_and_their_vocabulary():
    assert words("Ein Hund, der läuft.") == ["ein", "hund", ",", "der", "läuft", "."]
    sentences = [["b", "a", "b"], ["c", "a", "b"]]
    assert most_frequent(sentences, 6) == (*SPECIAL, "b", "a")
    assert most_frequent(sentences, 99) == (*SPECIAL, "b", "a", "c")


def test_perplexity_by_hand():
    # Two sequences over 3 tokens; where the model is certain it is right, else it has no idea.
    tokens = jnp.asarray([[1, 2, 2], [1, 1, 0]])
    certain = jnp.asarray([[[0, 0, 99.0], [0, 0, 0], [0, 0, 0]], [[0, 0, 0]] * 3])
    outputs, batch = {"logits": certain}, {"tokens": tokens}
    total, count = bind("metrics", part("perplexity"))().sums(outputs, batch)
    assert count == 3
    # log 1 + log 3 + log 3 over three tokens: 3^(2/3)
    value = bind("metrics", part("perplexity"))().value
    assert value(np.float64(total), np.float64(count)) == pytest.approx(3 ** (2 / 3), rel=1e-6)
    total, count = bind("metrics", part("bits_per_token"))().sums(outputs, batch)
    np.testing.assert_allclose(total / count, 2 / 3 * np.log2(3), rtol=1e-6)


def test_perplexity_of_nothing_and_of_too_much_warns_of_nothing():
    assert np.isnan(exp_of_mean(np.float64(0), np.float64(0)))
    assert exp_of_mean(np.float64(1e6), np.float64(1)) == np.inf


@pytest.mark.data
def test_real_shakespeare_has_its_published_length():
    # 1,115,394 characters, https://github.com/karpathy/char-rnn: 90%, 5% and 5% of them
    parts = [opened("characters", s, dataset="tiny_shakespeare", length=100) for s in SPLITS]
    texts = [text_of(p) for p in parts]
    assert [len(t) for t in texts] == [1_003_854, 55_770, 55_770]
    assert texts[0].startswith(b"First Citizen:\nBefore we proceed any further")
    with pytest.raises(UserError, match="'mnist' has no feature 'text'"):
        opened("characters", "test", dataset="mnist")


@pytest.mark.data
def test_real_sentences_can_be_read_back():
    args = {"dataset": "multi30k_de_en", "source": "de", "target": "en"}
    split = opened("translation", "train[:2]", **args)
    assert split.vocabulary == 8000 and split.num_classes is None
    say = lambda row: split.tokenizer.decode(row)
    assert list(split.arrays["tokens"][0][[0, 12]]) == [2, 3]
    assert say(split.arrays["tokens"][0]) == (
        "two young , white males are outside near many bushes ."
    )
    assert say(split.arrays["source"][0]).startswith("zwei junge weiße männer sind im freien")
    assert say(split.arrays["source"][0]).endswith(".")
    test = opened("translation", "test", **args)
    assert len(test) == 1000 and test.tokenizer is split.tokenizer
    assert test.element_spec["tokens"] == jax.ShapeDtypeStruct((34,), np.int32)
    # Of the words of new sentences few are unknown.
    written = test.arrays["tokens"]
    assert np.mean(written[written > 0] == 1) < 0.03
    for changes, message in [
        ({"source": "fr"}, "has no language 'fr': choices: de, en"),
        ({"dataset": "mnist"}, "'mnist' has no language 'de'"),
    ]:
        with pytest.raises(UserError, match=message):
            opened("translation", "test", **{**args, **changes})
    with pytest.raises(UserError, match="unknown split 'tset' of data set 'multi30k_de_en'"):
        opened("translation", "tset", **args)
