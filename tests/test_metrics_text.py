"""BLEU and ROUGE: the papers' examples, the formula by hand, sacrebleu and rouge-score on ids."""

import builtins
import collections
import math

import jax
import numpy as np
import pytest

from jaxdl import registry
from jaxdl.config import part
from jaxdl.data import pairs
from jaxdl.errors import UserError
from jaxdl.metrics.text import corpus_bleu, ended, rouge, texts
from jaxdl.types import END, PADDING

pytest.importorskip("sacrebleu")
pytest.importorskip("rouge_score")

METRICS = ("bleu", "rouge_1", "rouge_2", "rouge_l")


def test_the_end_is_that_of_the_data():
    split = pairs.reversal("train", length=4, examples=5)
    tokens = split.read([0])[0]["tokens"]
    assert tokens[tokens != PADDING][-1] == END


def bleu_by_hand(hypotheses, references):
    """Papineni et al., section 2.3, words between spaces, not smoothed."""
    grams = lambda words, n: collections.Counter(zip(*(words[i:] for i in range(n)), strict=False))
    logs = []
    for n in range(1, 5):
        hits = total = 0
        for h, r in zip(hypotheses, references, strict=True):
            said, true = grams(h.split(), n), grams(r.split(), n)
            hits += sum(min(c, true[g]) for g, c in said.items())
            total += sum(said.values())
        logs.append(math.log(hits / total))
    c, r = (sum(len(t.split()) for t in texts) for texts in (hypotheses, references))
    return 100 * (1 if c > r else math.exp(1 - r / c)) * math.exp(sum(logs) / 4)


def sentences(n, seed, symbols=6):
    """Hypotheses and references that have much in common, of other lengths, some empty."""
    rng = np.random.default_rng(seed)
    references = [rng.integers(4, 4 + symbols, rng.integers(0, 12)) for _ in range(n)]
    hypotheses = []
    for r in references:
        h = np.where(rng.random(len(r)) < 0.2, rng.integers(4, 4 + symbols, len(r)), r)
        hypotheses.append(np.insert(h, 0, 5) if rng.random() < 0.2 else h[: rng.integers(0, 12)])
    said = lambda rows: [" ".join(map(str, row)) for row in rows]
    return hypotheses, references, said(hypotheses), said(references)


@pytest.mark.parametrize("seed", range(3))
def test_bleu_by_its_formula(seed):
    _, _, hypotheses, references = sentences(40, seed)
    expected = bleu_by_hand(hypotheses, references)
    assert 20 < expected < 95
    found = corpus_bleu(hypotheses, references, tokenize="none")
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_brevity_penalty_and_clipping():
    reference = "the cat is on the mat by the door"
    said = "the cat is on the mat"
    found = corpus_bleu([said], [reference], tokenize="none")
    np.testing.assert_allclose(found, 100 * math.exp(1 - 9 / 6))
    # Papineni's: seven times 'the' has two hits, and no pair; 'exp' halves what stands for those.
    found = corpus_bleu(["the " * 7], ["the cat is on the mat"], tokenize="none")
    shares = [2 / 7, 1 / (2 * 6), 1 / (4 * 5), 1 / (8 * 4)]
    np.testing.assert_allclose(found, 100 * math.prod(shares) ** (1 / 4))
    assert corpus_bleu(["the " * 7], ["a"], smoothing="none") == 0


def test_longest_common_subsequence_as_lin_has_it():
    # Section 3.1: 3/4 and 2/4, though both share as many pairs.
    reference = "police killed the gunman"
    for said, expected in [("police kill the gunman", 3 / 4), ("the gunman kill police", 2 / 4)]:
        assert rouge([said], [reference]) == expected
        np.testing.assert_allclose(rouge([said], [reference], overlap="rouge2"), 1 / 3)
    assert rouge(["police kill the gunman"], [reference], stem=True) == 1


def test_precision_recall_and_f1():
    found = lambda **args: rouge(["a b c d e f"], ["a b x"], overlap="rouge1", **args)
    assert found(measure="recall") == 2 / 3
    assert found(measure="precision") == 2 / 6
    np.testing.assert_allclose(found(measure="f1"), 2 * 2 / (3 + 6))


def padded(rows, length, end=True):
    out = np.full((len(rows), length), PADDING, np.int32)
    for i, row in enumerate(rows):
        full = [2, *row, *([END] if end else [])][:length]
        out[i, : len(full)] = full
    return out


def value(name, generated, tokens, **args):
    metric = registry.bind("metrics", part(name, **args))()
    rows = jax.jit(metric.sums)({"generated": generated}, {"tokens": tokens})
    return metric.value(jax.tree.map(np.asarray, rows))


def test_ids_are_words():
    hypotheses, references, said, true = sentences(40, 9)
    generated, tokens = padded(hypotheses, 14), padded(references, 14)
    # What is written behind the end is nobody's business.
    generated = np.where(np.cumsum(generated == END, axis=1) > 0, 7, generated)
    generated[np.arange(40), [len(h) + 1 for h in hypotheses]] = END
    bleu = bleu_by_hand(said, true)
    np.testing.assert_allclose(value("bleu", generated, tokens), bleu, rtol=1e-9)

    for name, n in [("rouge_1", 1), ("rouge_2", 2)]:
        for measure in ("precision", "recall", "f1"):
            found = value(name, generated, tokens, measure=measure)
            expected = np.mean([overlap(h, r, n)[measure] for h, r in zip(said, true, strict=True)])
            np.testing.assert_allclose(found, expected, rtol=1e-9, err_msg=f"{name} {measure}")
    found = value("rouge_l", generated, tokens, measure="recall")
    expected = [common(h, r) / max(len(r), 1) for h, r in zip(hypotheses, references, strict=True)]
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-9)


def overlap(said, true, n):
    grams = lambda t: collections.Counter(zip(*(t.split()[i:] for i in range(n)), strict=False))
    said, true = grams(said), grams(true)
    hits = sum((said & true).values())
    p, r = hits / max(said.total(), 1), hits / max(true.total(), 1)
    return {"precision": p, "recall": r, "f1": 2 * p * r / (p + r) if hits else 0}


def common(a, b):
    """Length of the longest common subsequence."""
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            best = max(table[i, j + 1], table[i + 1, j])
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else best
    return table[-1, -1]


def test_the_same_text_is_all_right_and_another_is_not():
    tokens = padded([[4, 5, 6, 7, 8]] * 3, 8)
    other = padded([[14, 15, 16, 17, 18]] * 3, 8)
    for name in METRICS:
        best = 100 if name == "bleu" else 1
        np.testing.assert_allclose(value(name, tokens, tokens), best)
        assert value(name, other, tokens, **({"smoothing": "none"} if best == 100 else {})) == 0


def test_nothing_written_is_nothing_gained():
    tokens, empty = padded([[4, 5, 6, 7, 8]] * 3, 8), padded([[]] * 3, 8)
    for name in METRICS:
        assert value(name, empty, tokens) == 0
        assert value(name, empty, empty) == 0
        no_rows = {"hypothesis": tokens[:0], "reference": tokens[:0]}
        assert np.isnan(registry.bind("metrics", part(name))().value(no_rows))


def test_prompt_and_end_are_left_out():
    tokens = np.array([[2, 9, 4, 5, END, 0], [2, 9, 4, 4, 4, 4]], np.int32)
    rows = registry.bind("metrics", part("bleu", prompt=2))().sums(
        {"generated": tokens}, {"tokens": tokens}
    )
    assert texts(jax.tree.map(np.asarray, rows))[0] == ["4 5", "4 4 4 4"]
    np.testing.assert_array_equal(ended(tokens, None), tokens)


def test_mistakes_are_said(monkeypatch):
    with pytest.raises(UserError, match="evaluation.predictors=generate"):
        registry.bind("metrics", part("bleu"))().sums({}, {"tokens": np.zeros((1, 2))})
    with pytest.raises(UserError, match="2 hypotheses have 1 references"):
        corpus_bleu(["a", "b"], ["a"])
    load = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.split(".")[0] in ("sacrebleu", "rouge_score"):
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    for function in (corpus_bleu, rouge):
        with pytest.raises(UserError, match=r"pip install 'jaxdl\[text\]'"):
            function(["a"], ["a"])
