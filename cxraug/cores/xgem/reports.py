"""Reports and their latents: BERT encodes a report, GPT-2 writes one.

Source: Optimus (Li et al. 2020, arXiv 2004.04092); the latent enters GPT-2 as one extra position in front of the
text, whose keys equal its values, and is added to every token's embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BertModel, DynamicCache, GPT2LMHeadModel


def encode_report(bert: BertModel, linear: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance, each (N, width of the latent), of token ids (N, T), 0 where there is none."""
    pooled = bert(input_ids=ids, attention_mask=(ids > 0).long()).pooler_output
    mean, logvar = F.linear(pooled, linear).chunk(2, -1)
    return mean, logvar


def latent_cache(gpt2: GPT2LMHeadModel, linear: Tensor, latent: Tensor) -> DynamicCache:
    """What GPT-2 remembers before the first token: the position of the latent (N, D) in every layer."""
    config = gpt2.config
    heads, width = config.n_head, config.n_embd
    cache = DynamicCache(config=config)
    for layer, vector in enumerate(F.linear(latent, linear).split(width, -1)):
        position = vector.reshape(len(latent), 1, heads, width // heads).transpose(1, 2)
        cache.update(position, position.clone(), layer)
    return cache


def next_logits(gpt2: GPT2LMHeadModel, matrices: Mapping[str, Tensor], latent: Tensor, ids: Tensor,
                cache: DynamicCache) -> Tensor:  # fmt: skip
    """Logits (N, T, vocabulary) after each of the tokens ``ids`` (N, T), which ``cache`` then holds too.

    Tokens count from position 1; the latent has position 0.
    """
    embedded = gpt2.transformer.wte(ids) + F.linear(latent, matrices["linear_emb"])[:, None]
    past = cache.get_seq_length()
    position = torch.arange(past, past + ids.shape[1], device=ids.device)[None]
    logits: Tensor = gpt2(inputs_embeds=embedded, position_ids=position, past_key_values=cache, use_cache=True).logits
    return logits


def write_tokens(gpt2: GPT2LMHeadModel, matrices: Mapping[str, Tensor], latent: Tensor, *, longest: int,
                 choose: Callable[[Tensor], Tensor]) -> Tensor:  # fmt: skip
    """Token ids (N, up to ``longest`` + 1) of reports with these latents, beginning with the start token.

    ``choose`` picks the next ids (N,) by logits (N, vocabulary). Writing ends where every report has ended, or at
    ``longest`` tokens; what stands behind a report's end token means nothing.
    """
    config: Any = gpt2.config
    bos, eos = int(config.bos_token_id), int(config.eos_token_id)
    ids = torch.full((len(latent), 1), bos, device=latent.device)
    ended = torch.zeros(len(latent), dtype=torch.bool, device=latent.device)
    cache = latent_cache(gpt2, matrices["linear"], latent)
    longest = min(longest, int(config.n_positions) - 1)
    for _ in range(longest):
        following = choose(next_logits(gpt2, matrices, latent, ids[:, -1:], cache)[:, -1])
        ids = torch.cat([ids, following[:, None]], 1)
        ended |= following == eos
        if ended.all():
            break
    return ids
