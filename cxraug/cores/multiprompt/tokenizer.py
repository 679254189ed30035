"""Byte-level word pieces of reports: any text goes in and comes out again, full length."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from cxraug.errors import InputError

PAD, BOS, EOS = 0, 1, 2
SPECIAL = ("<pad>", "<bos>", "<eos>")


class ReportTokenizer:
    """Byte-pair encoding (Sennrich et al. 2016) over bytes: no text is unknown to it.

    Runs of white space count as one space. ``json`` is the whole tokenizer as text, to be kept beside the weights.
    """

    def __init__(self, json: str) -> None:
        try:
            self._tokenizer = Tokenizer.from_str(json)
        except Exception as error:  # the library raises nothing narrower
            raise InputError(f"not a tokenizer ({error})") from None
        if [self._tokenizer.id_to_token(i) for i in range(len(SPECIAL))] != list(SPECIAL):
            raise InputError("not a report tokenizer", expected=f"the first tokens {', '.join(SPECIAL)}")

    @classmethod
    def train(cls, reports: Iterable[str], vocabulary: int) -> ReportTokenizer:
        """Learn at most ``vocabulary`` tokens (3 special ones and 256 bytes among them) from ``reports``."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            min_frequency=2,
            special_tokens=list(SPECIAL),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator((normal(report) for report in reports), trainer)
        return cls(tokenizer.to_str())

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    @property
    def json(self) -> str:
        """The tokenizer as JSON text; ``ReportTokenizer(json)`` is the same tokenizer."""
        return self._tokenizer.to_str()

    def encode(self, reports: Sequence[str], max_tokens: int | None = None) -> list[list[int]]:
        """Token ids of each report, without bos and eos.

        Raises
        ------
        InputError
            A report that is longer than ``max_tokens`` (row counted as in a table with one header line).
        """
        ids = [
            found.ids for found in self._tokenizer.encode_batch([normal(r) for r in reports], add_special_tokens=False)
        ]
        for row, tokens in enumerate(ids):
            if max_tokens is not None and len(tokens) > max_tokens:
                raise InputError(
                    "report too long for the report codec", row=row + 2, column="report",
                    found=f"{len(tokens)} tokens", expected=f"at most {max_tokens} (the codec's max_tokens)",
                )  # fmt: skip
        return ids

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Text of each list of ids; special tokens are left out, bytes that are no UTF-8 become U+FFFD."""
        return [normal(text) for text in self._tokenizer.decode_batch([list(i) for i in ids], skip_special_tokens=True)]


def normal(report: str) -> str:
    """``report`` with every run of white space as one space: what a round trip can give back."""
    return " ".join(report.split())


def sentences(report: str) -> list[str]:
    """The sentences of a report in normal form; joined by spaces they are the report again."""
    return re.split(r"(?<=[.:;?!]) ", normal(report))
