"""Tokenizers of every tested encoder type: its own class, a vocabulary of a few words."""

from collections.abc import Iterable

import tokenizers
from tokenizers import (
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import (
    AlbertTokenizer,
    CamembertTokenizer,
    DebertaV2Tokenizer,
    MPNetTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

BERT_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def tokenizer_for(kind: str, pieces: list[str]) -> PreTrainedTokenizerBase:
    """Return the tokenizer of an encoder type.

    Args:
        kind: the model type.
        pieces: its words and word pieces as BERT has them, special tokens first.
    """
    words = [piece for piece in pieces if piece.isalpha() and len(piece) > 1]
    match kind:
        case "roberta":
            return RobertaTokenizer(**byte_pairs(words, ROBERTA_TOKENS))
        case "modernbert":
            return _modernbert(words)
        case "mpnet":
            rest = [piece for piece in pieces if piece not in BERT_TOKENS]
            vocabulary = [*ROBERTA_TOKENS, "[UNK]", *rest]
            return MPNetTokenizer({token: number for number, token in enumerate(vocabulary)})
        case "albert":
            return AlbertTokenizer(unigrams(words, ["<pad>", "<unk>", *BERT_TOKENS[2:]]))
        case "deberta-v2":
            return DebertaV2Tokenizer(unigrams(words, BERT_TOKENS))
        case "xlm-roberta":
            special = ["<s>", "<pad>", "</s>", "<unk>"]
            return XLMRobertaTokenizer([*unigrams(words, special), ("<mask>", 0.0)])
        case "camembert":
            special = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"]
            return CamembertTokenizer(vocab=[*unigrams(words, special), ("<mask>", 0.0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=word_pieces(pieces),
        **_named(BERT_TOKENS),
        model_input_names=_inputs(segments=kind != "distilbert"),
    )


def _named(tokens: list[str]) -> dict[str, str]:
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return dict(zip(names, tokens, strict=True))


def _inputs(segments: bool) -> list[str]:
    return ["input_ids", *(["token_type_ids"] if segments else []), "attention_mask"]


def word_pieces(pieces: Iterable[str], lowercase: bool = True) -> tokenizers.Tokenizer:
    """Return BERT's tokenizer with these pieces, special tokens first."""
    vocabulary = {token: number for number, token in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = _pairs(vocabulary)
    return tokenizer


def _pairs(vocabulary: dict[str, int]) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )


def byte_pairs(words: list[str], special: list[str]) -> dict:
    """Return `vocab` and `merges` of a byte-level BPE that knows words after a space."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = dict.fromkeys([*special, *alphabet])
    merges = {}
    for word in words:
        merged = "Ġ"
        for letter in word:
            merges[merged, letter] = None
            merged += letter
            vocabulary[merged] = None
    return {
        "vocab": {token: number for number, token in enumerate(vocabulary)},
        "merges": list(merges),
    }


def unigrams(words: list[str], special: list[str]) -> list[tuple[str, float]]:
    """Return pieces of a sentencepiece model with their scores: words, and single characters."""
    characters = sorted({*"".join(words), *"abcdefghijklmnopqrstuvwxyz0123456789.,?!'"})
    scores = {**dict.fromkeys(special, 0.0), **{f"▁{word}": -2.0 for word in words}}
    return list({**scores, "▁": -4.0, **dict.fromkeys(characters, -6.0)}.items())


def _modernbert(words: list[str]) -> PreTrainedTokenizerFast:
    """ModernBERT's: byte-level BPE with BERT's special tokens; offsets include the space."""
    parts = byte_pairs(words, BERT_TOKENS)
    tokenizer = tokenizers.Tokenizer(models.BPE(**parts))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = _pairs(parts["vocab"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **_named(BERT_TOKENS), model_input_names=_inputs(segments=False)
    )
