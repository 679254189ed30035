"""Tokenizers of XGeM from local files: CLIP reads captions, GPT-2 spells reports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel
from tokenizers.models import BPE
from torch import Tensor
from transformers import CLIPTokenizer

from cxraug.errors import InputError

CLIP_FILES = ("tokenizer.json", "vocab.json")
GPT2_FILES = ("gpt2-vocab.json", "gpt2/vocab.json")
SPECIAL = 3  # <PAD>, <BOS>, <EOS>, behind the vocabulary of GPT-2


class Tokenizers:
    """The tokenizer files in ``folder``; each is opened when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def check(self) -> None:
        """Raise :class:`InputError` that says what is missing and where to put it."""
        missing = []
        if not any((self.folder / "clip" / name).is_file() for name in CLIP_FILES):
            missing.append("clip/tokenizer.json (or clip/vocab.json and clip/merges.txt) of "
                           "openai/clip-vit-large-patch14")  # fmt: skip
        if self._gpt2_file is None:
            missing.append(f"{GPT2_FILES[0]} (vocab.json of openai-community/gpt2)")
        if missing:
            raise InputError("tokenizers are missing", file=self.folder,
                             expected=f"{' and '.join(missing)}, there or in +tokenizers:DIR")  # fmt: skip

    def captions(self, texts: Sequence[str], length: int) -> Tensor:
        """Token ids (N, ``length``) of captions; what is longer is cut, as in training."""
        found = self._clip(list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return found["input_ids"]  # type: ignore[no-any-return]

    def report(self, ids: Sequence[int], vocabulary: int) -> str:
        """The text of token ids; ids from ``vocabulary`` - 3 on are special and not written."""
        spelled = self._gpt2.get_vocab_size()
        if spelled != vocabulary - SPECIAL:
            raise InputError("not the vocabulary of this GPT-2", file=self._gpt2_file, found=f"{spelled} tokens",
                             expected=f"{vocabulary - SPECIAL}")  # fmt: skip
        text: str = self._gpt2.decode([i for i in ids if i < spelled])
        return " ".join(text.split())

    @cached_property
    def _clip(self) -> CLIPTokenizer:
        self.check()
        return CLIPTokenizer.from_pretrained(self.folder / "clip", local_files_only=True)

    @cached_property
    def _gpt2_file(self) -> Path | None:
        return next((self.folder / name for name in GPT2_FILES if (self.folder / name).is_file()), None)

    @cached_property
    def _gpt2(self) -> Tokenizer:
        self.check()
        assert self._gpt2_file is not None
        try:
            vocabulary = {str(token): int(i) for token, i in json.loads(self._gpt2_file.read_text("utf-8")).items()}
        except (ValueError, AttributeError, TypeError) as error:
            raise InputError(f"not a vocabulary ({error})", file=self._gpt2_file) from None
        spelling = Tokenizer(BPE(vocabulary, []))
        spelling.decoder = ByteLevel()
        return spelling
