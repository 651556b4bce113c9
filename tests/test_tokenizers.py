"""Tokenizers stay with their split; a vocabulary is one thing, the classes of a text another."""

import dataclasses

import numpy as np
import pytest

from jaxdl import loaded, registry
from jaxdl.aliases import current_config
from jaxdl.assemble import assemble
from jaxdl.config import Checkpoint, Config, Data, Evaluation, Log, part
from jaxdl.data import open_split
from jaxdl.data.arrays import from_arrays
from jaxdl.data.tokenizers import recorded_tokenizer, word_tokenizer
from jaxdl.errors import UserError
from jaxdl.registry import bind, supply
from jaxdl.run import run
from jaxdl.rundir.read import read_manifest

SMALL = {"width": 8, "depth": 1, "heads": 2, "hidden": 8, "drop_rate": 0.0}
TEXTS = ["a dog runs.", "A cat sleeps", "a dog sleeps, a cat runs"]
LANGUAGE = Config(
    data=Data(
        source=part("characters", length=8),
        train="train[:64]",
        validation="validation[:16]",
        test=None,
        batch_size=16,
    ),
    model=part("transformer_decoder", **SMALL),
    objective=part("language"),
    preprocess=(),
    evaluation=Evaluation(
        metrics=(part("perplexity"),), monitor="validation/perplexity", mode="min"
    ),
    checkpoint=Checkpoint(every="100%"),
    log=Log(sinks=()),
    duration="2 steps",
)


def test_bytes_come_back():
    made = supply(bind("tokenizers", part("bytes")), texts=None)
    assert made.encode("aä").tolist() == [98, 0xC3 + 1, 0xA4 + 1]
    assert made.decode([98, 0xC3 + 1, 0xA4 + 1, 0]) == "aä"
    assert made.vocabulary == 257 and made.end is None
    broken = b"\xff\x00a".decode("utf-8", "surrogateescape")
    assert made.encode(broken).tolist() == [256, 1, 98]
    assert made.decode([256, 98]) == "\N{REPLACEMENT CHARACTER}a"


def test_words_come_back_but_for_the_rare_ones():
    made = supply(bind("tokenizers", part("words", size=8)), texts=lambda: TEXTS)
    # a 4 times; cat, dog, runs, sleeps twice: of equally frequent ones the first by spelling.
    assert made.part == part("words", vocabulary=["a", "cat", "dog", "runs"])
    assert made.encode("The cat runs").tolist() == [1, 5, 7]
    assert made.decode([2, 5, 1, 7, 3, 0, 0]) == "cat <unknown> runs"
    assert (made.vocabulary, made.start, made.end) == (8, (2,), 3)
    again = recorded_tokenizer({"tokenizer": dataclasses.asdict(made.part)})
    assert again.encode("A dog.").tolist() == made.encode("A dog.").tolist() == [4, 6, 1]
    with pytest.raises(UserError, match="'words' needs a vocabulary"):
        word_tokenizer(None)


def test_a_source_learns_its_tokenizer_from_the_training_split(tmp_path):
    (tmp_path / "text").write_text("red green blue " * 40 + "black")
    source = part("characters", path=str(tmp_path / "text"), length=3, tokenizer="words")
    train, test = (open_split(bind("sources", source), s, memory=2**20) for s in ("train", "test"))
    assert train.tokenizer.part == test.tokenizer.part
    assert train.tokenizer.decode(train.arrays["tokens"][0]) == "red green blue red"
    assert "black" not in train.tokenizer.part.args["vocabulary"]
    assert train.arrays["tokens"].min() > 1 and np.any(test.arrays["tokens"] == 1)


def test_a_translation_needs_a_start_and_an_end(monkeypatch):
    monkeypatch.setattr("jaxdl.data.pairs.prepared", lambda *_: None)
    source = part("translation", dataset="x", source="de", target="en", tokenizer="bytes")
    with pytest.raises(UserError, match="a start and an end, which tokenizer 'bytes'"):
        bind("sources", source)("train")


@pytest.fixture
def labelled(own_registry):
    @registry.register("sources")
    def moods(split, /):
        """Texts of two classes."""
        made = word_tokenizer(lambda: TEXTS)
        rows = [made.encode(text) for text in TEXTS * 16]
        tokens = np.zeros((len(rows), 8), np.int32)
        for row, text in zip(tokens, rows, strict=True):
            row[: len(text)] = text
        label = np.arange(len(rows)) % 3 % 2
        return from_arrays({"tokens": tokens, "label": label}, ("calm", "lively"), tokenizer=made)


def test_classes_and_vocabulary_reach_the_model_apart(labelled):
    data = Data(source=part("moods"), batch_size=16)
    config = Config(data=data, model=part("transformer_encoder", **SMALL), preprocess=())
    plan = assemble(config)
    train = plan.splits["train"]
    assert (train.num_classes, train.vocabulary) == (2, 11)
    assert (plan.model.num_classes, plan.model.vocabulary) == (2, 11)
    params = plan.abstract_state(0).params
    assert params["backbone"]["embed"]["table"]["embedding"].shape == (11, 8)
    assert params["head"]["logits"]["kernel"].shape == (8, 2)


def test_a_model_of_tokens_needs_to_know_how_many(own_registry):
    @registry.register("sources")
    def numbers(split, /):
        """Tokens of nobody's vocabulary."""
        return {"tokens": np.ones((32, 4), np.int32), "label": np.arange(32) % 2}

    config = Config(
        data=Data(source=part("numbers"), batch_size=16),
        model=part("transformer_encoder", **SMALL),
        preprocess=(),
    )
    with pytest.raises(UserError, match="needs a vocabulary, and source 'numbers'"):
        assemble(config)


def test_a_finished_run_has_its_tokenizer_without_the_texts(tmp_path, monkeypatch):
    run(LANGUAGE, tmp_path)
    data = read_manifest(tmp_path)["data"]
    assert data["num_classes"] is None and data["vocabulary"] == 257
    assert data["tokenizer"] == {"name": "bytes", "args": {}}
    monkeypatch.setattr("jaxdl.data.text._help", lambda: pytest.fail("the text was read"))
    split = loaded.load_run(tmp_path).plan.splits["train"]
    assert split.vocabulary == 257 and split.tokenizer.decode([98]) == "a"


def test_older_runs_wrote_the_names_of_their_tokens():
    names = ["<padding>", "<unknown>", "<start>", "<end>", "red", "blue"]
    old = recorded_tokenizer({"class_names": names, "num_classes": 6})
    assert old.encode("blue red").tolist() == [5, 4] and old.vocabulary == 6
    elements = {"tokens": {"shape": [9], "dtype": "int32"}}
    old = recorded_tokenizer({"num_classes": 257, "class_names": [], "elements": elements})
    assert old.part.name == "bytes"
    assert recorded_tokenizer({"num_classes": 10, "class_names": ["a"]}) is None
    tree = {"data": {"source": {"name": "translation", "args": {"vocabulary": 50, "length": 4}}}}
    words = {"name": "words", "args": {"size": 50}}
    source = current_config(tree)["data"]["source"]
    assert source == {"name": "translation", "args": {"length": 4, "tokenizer": words}}
