"""Captions as features: the encoder of T5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cxraug.cores.chexgen.cleaning import clean_caption
from cxraug.errors import InputError


class TextEncoder:
    """Encodes one caption at a time, so that its features do not depend on its neighbours.

    Parameters
    ----------
    model : encoder of T5, tokenizer : its tokenizer.
    tokens : L, to which captions are padded and cut.
    """

    def __init__(self, model: Any, tokenizer: Any, tokens: int) -> None:
        self.model, self.tokenizer, self.tokens = model.eval().requires_grad_(False), tokenizer, tokens

    @torch.no_grad()
    def __call__(self, caption: str) -> tuple[Tensor, Tensor]:
        """Features (L, C) in float32 and mask (L,), 1 where there is a token."""
        found = self.tokenizer(
            clean_caption(caption), padding="max_length", max_length=self.tokens, truncation=True,
            add_special_tokens=True, return_attention_mask=True, return_tensors="pt",
        )  # fmt: skip
        ids, mask = found["input_ids"].to(self.model.device), found["attention_mask"].to(self.model.device)
        return self.model(input_ids=ids, attention_mask=mask)[0][0].float(), mask[0]


def load_text_encoder(folder: Path, *, tokens: int, width: int, device: str = "cpu") -> TextEncoder:
    """The encoder and tokenizer in ``folder``, in bfloat16 as in training.

    Raises
    ------
    InputError
        If they cannot be opened or are not whole, if features are not ``width`` wide, and if the tokenizer knows no
        words: without sentencepiece, transformers opens a ``spiece.model`` as a vocabulary of nothing.
    """
    from transformers import AutoTokenizer, T5EncoderModel

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        opened: Any = T5EncoderModel.from_pretrained(
            folder, local_files_only=True, dtype=torch.bfloat16, output_loading_info=True
        )
        model, info = opened
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"not a T5 encoder with its tokenizer ({line})", file=folder) from None
    if info["missing_keys"]:
        raise InputError(f"key {min(info['missing_keys'])} is missing", file=folder, expected="a T5 encoder")
    if model.config.d_model != width:
        raise InputError("a T5 encoder of another width", file=folder, found=model.config.d_model, expected=str(width))
    words = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("heart", "lung")]
    if words[0] == words[1]:
        raise InputError("the tokenizer knows no words", file=folder,
                         expected="tokenizer.json, or spiece.model and `pip install sentencepiece`")  # fmt: skip
    return TextEncoder(model.to(device), tokenizer, tokens)
