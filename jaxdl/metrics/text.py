"""Metrics of generated text against references: BLEU and ROUGE.

BLEU: a Method for Automatic Evaluation of Machine Translation. Papineni, Roukos, Ward, Zhu 2002.
https://aclanthology.org/P02-1040/
ROUGE: A Package for Automatic Evaluation of Summaries. Lin 2004. https://aclanthology.org/W04-1013/

As metrics, words are token ids: `generated` of the outputs against `tokens` of the batch, behind
the prompt and before the end. No stemming, no other tokens than the data's, so that such values
compare runs on one data set and not with those of papers; `corpus_bleu` and `rouge` take text. All
are computed by sacrebleu and rouge-score: `pip install 'jaxdl[text]'`.
"""

import math
import types
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jaxdl.config import Count
from jaxdl.errors import UserError
from jaxdl.metrics.base import Metric, Outputs
from jaxdl.registry import register
from jaxdl.types import END, PADDING, Array, Batch

Smoothing = Literal["exp", "floor", "add-k", "none"]
Measure = Literal["precision", "recall", "f1"]
Overlap = Literal["rouge1", "rouge2", "rougeL"]


def ended(tokens: Array, end: int | None = END) -> Array:
    """Tokens (b, t) with padding in place of the end and of all behind it; None where none ends."""
    stop = tokens == PADDING
    if end is not None:
        stop = stop | (tokens == end)
    return jnp.where(jnp.cumsum(stop, axis=1) > 0, PADDING, tokens)


def corpus_bleu(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    tokenize: str = "13a",
    smoothing: Smoothing = "exp",
) -> float:
    """BLEU of a corpus, 0 to 100, as sacrebleu has it.

    BP exp(mean over n of 1 to 4 of log p_n), p_n the clipped fraction of n-grams over the whole
    corpus, BP = min(1, exp(1 - r / c)) for r words of references and c of hypotheses.

    Args:
        hypotheses: what was written.
        references: what should have been, one each.
        tokenize: '13a' for text as it is, 'intl', 'zh', 'ja-mecab', 'char'; 'none' where words
            and spaces already alternate.
        smoothing: what stands for a p_n without any match: 'exp', half of the one before it.

    Returns:
        NaN where there is nothing.

    Raises:
        UserError: sacrebleu is not installed, or the two are not of one length.
    """
    try:
        import sacrebleu
    except ImportError as error:
        raise UserError("BLEU is computed by sacrebleu: pip install 'jaxdl[text]'") from error
    if not _paired(hypotheses, references):
        return math.nan
    found = sacrebleu.corpus_bleu(
        list(hypotheses),
        [list(references)],
        tokenize=tokenize,
        smooth_method=smoothing,
        force=True,  # no warning that the text looks tokenized: token ids are
    )
    return float(found.score)


def rouge(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    overlap: Overlap = "rougeL",
    measure: Measure = "f1",
    stem: bool = False,
    tokenize: Callable[[str], list[str]] | None = None,
) -> float:
    """Mean over pairs of ROUGE, 0 to 1, as rouge-score has it.

    Args:
        hypotheses: what was written.
        references: what should have been, one each.
        overlap: of words 'rouge1', of pairs of words 'rouge2', or the longest common subsequence
            'rougeL', each pair of texts as one sentence.
        measure: 'recall' is the fraction of the reference that was written, as Lin has it,
            'precision' that of what was written; 'f1' is their harmonic mean.
        stem: compare words by Porter's stems.
        tokenize: text to words; without it, runs of lower-case letters and digits.

    Returns:
        NaN where there is nothing.

    Raises:
        UserError: rouge-score is not installed, or the two are not of one length.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise UserError("ROUGE is computed by rouge-score: pip install 'jaxdl[text]'") from error
    if not _paired(hypotheses, references):
        return math.nan
    tokenizer = types.SimpleNamespace(tokenize=tokenize) if tokenize else None
    scorer = RougeScorer([overlap], use_stemmer=stem, tokenizer=tokenizer)
    field = {"f1": "fmeasure"}.get(measure, measure)
    pairs = zip(references, hypotheses, strict=True)
    return float(np.mean([getattr(scorer.score(*pair)[overlap], field) for pair in pairs]))


def _paired(hypotheses: Sequence[str], references: Sequence[str]) -> bool:
    if len(hypotheses) != len(references):
        raise UserError(f"{len(hypotheses)} hypotheses have {len(references)} references")
    return len(hypotheses) > 0


def texts(rows: dict[str, np.ndarray]) -> tuple[list[str], list[str]]:
    """Hypotheses and references as token ids and spaces, of arrays (n, t) padded behind the end."""
    said = lambda ids: [" ".join(map(str, row[row != PADDING])) for row in ids]
    return said(rows["hypothesis"]), said(rows["reference"])


def bleu_of(rows: dict[str, np.ndarray], smoothing: Smoothing = "exp") -> float:
    """BLEU of token ids as words."""
    return corpus_bleu(*texts(rows), tokenize="none", smoothing=smoothing)


def rouge_of(rows: dict[str, np.ndarray], overlap: Overlap, measure: Measure = "f1") -> float:
    """ROUGE of token ids as words."""
    return rouge(*texts(rows), overlap=overlap, measure=measure, tokenize=str.split)


def _written(prompt: int, end: int | None) -> Callable[[Outputs, Batch], dict[str, Array]]:
    def sums(outputs: Outputs, batch: Batch) -> dict[str, Array]:
        if "generated" not in outputs:
            raise UserError(
                "BLEU and ROUGE read what a model writes: set config.evaluation.predictors=generate"
            )
        behind = lambda tokens: ended(tokens[:, prompt:], end)
        return {"hypothesis": behind(outputs["generated"]), "reference": behind(batch["tokens"])}

    return sums


_METADATA: dict[str, Any] = {"unit": "token", "inputs": "generated"}


@register("metrics", **_METADATA)
def bleu(*, smoothing: Smoothing = "exp", prompt: Count = 1, end: int | None = END) -> Metric:
    """BLEU of a whole split, 0 to 100, n-grams of 1 to 4 token ids, with the brevity penalty.

    What was written is the output `generated` (b, t), see the predictor `generate`.

    Args:
        smoothing: see `corpus_bleu`.
        prompt: tokens that were given, the start among them, and are not counted.
        end: the token that ends a sequence; null where none does.
    """
    return Metric(_written(prompt, end), partial(bleu_of, smoothing=smoothing), "concat")


def _rouge(overlap: Overlap, measure: Measure, prompt: int, end: int | None) -> Metric:
    value = partial(rouge_of, overlap=overlap, measure=measure)
    return Metric(_written(prompt, end), value, "concat")


@register("metrics", **_METADATA)
def rouge_1(*, measure: Measure = "f1", prompt: Count = 1, end: int | None = END) -> Metric:
    """Mean over examples of the token ids that the text written and the reference share.

    Args as of `bleu`, and `measure`: 'recall', 'precision' or 'f1', see `rouge`.
    https://aclanthology.org/W04-1013/
    """
    return _rouge("rouge1", measure, prompt, end)


@register("metrics", **_METADATA)
def rouge_2(*, measure: Measure = "f1", prompt: Count = 1, end: int | None = END) -> Metric:
    """Mean over examples of the pairs of token ids that both have, side by side.

    Args as of `rouge_1`. https://aclanthology.org/W04-1013/
    """
    return _rouge("rouge2", measure, prompt, end)


@register("metrics", **_METADATA)
def rouge_l(*, measure: Measure = "f1", prompt: Count = 1, end: int | None = END) -> Metric:
    """Mean over examples of the longest common subsequence of token ids.

    Args as of `rouge_1`. https://aclanthology.org/W04-1013/
    """
    return _rouge("rougeL", measure, prompt, end)
