"""The report codec: a report as K latent tokens with noise-like statistics, and back.

A variational autoencoder whose posterior has a fixed spread: batch normalisation keeps every latent number at mean 0
and variance 1 over the reports (Zhu et al., ACL 2020, arXiv 2004.12585: the KL term is then a constant that cannot
vanish), noise of a known spread is added, and a causal decoder reads the latent tokens as its prefix (as in Optimus,
Li et al., EMNLP 2020, arXiv 2004.04092). Words the decoder has written are partly hidden from it while it learns
(Bowman et al., CoNLL 2016, arXiv 1511.06349), so that it reads the latent and not only the words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, GPT2Config, GPT2Model

from cxraug.cores.multiprompt.settings_codec import ReportCodecSettings
from cxraug.cores.multiprompt.tokenizer import BOS, EOS, PAD, ReportTokenizer

CHUNK = 16  # reports that are padded to a common length: little padding, large enough products
IGNORED = -100


class ReportCodec(nn.Module):
    """Encoder, latent statistics and decoder; ``latent_shape`` is (K, d)."""

    def __init__(self, settings: ReportCodecSettings, tokenizer: ReportTokenizer) -> None:
        super().__init__()
        self.settings, self.tokenizer = settings, tokenizer
        self.latent_shape = (settings.tokens, settings.channels)
        width = settings.width
        self.decoder = GPT2Model(GPT2Config(
            vocab_size=len(tokenizer), n_positions=settings.tokens + settings.max_tokens + 1, n_embd=width,
            n_layer=settings.decoder_layers, n_head=settings.heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            bos_token_id=BOS, eos_token_id=EOS,
        ))  # fmt: skip
        self.prefix = nn.Linear(settings.channels, width)
        self.queries = nn.Parameter(torch.randn(settings.tokens, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(settings.max_tokens, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, settings.heads, 2 * width, 0.0, F.gelu, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, settings.encoder_layers, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.read = nn.Linear(width, settings.channels)
        self.centre: Tensor
        self.scale: Tensor
        self.register_buffer("centre", torch.zeros(self.latent_shape))
        self.register_buffer("scale", torch.ones(self.latent_shape))

    @classmethod
    def from_parts(cls, state: Mapping[str, Tensor], settings: Mapping[str, Any], tokenizer: str) -> ReportCodec:
        """The codec of a state dict, its settings as a mapping and its tokenizer as JSON text, ready for use."""
        codec = cls(ReportCodecSettings(**settings), ReportTokenizer(tokenizer))
        codec.load_state_dict({name: tensor.float() for name, tensor in state.items()})
        return codec.eval()

    def encode(self, reports: Sequence[str]) -> Tensor:
        """Latents (B, K, d) of reports, without noise; each number has mean 0 and variance 1 over training reports.

        Raises :class:`InputError` for a report of more than ``settings.max_tokens`` tokens.
        """
        with torch.inference_mode():
            return (
                (self.raw(self.tokenizer.encode(reports, self.settings.max_tokens)) - self.centre) / self.scale
            ).clone()

    def decode(self, latents: Tensor, max_tokens: int | None = None) -> list[str]:
        """Reports of latents (B, K, d), each token the likeliest one, at most ``max_tokens`` of them."""
        limit = min(max_tokens or self.settings.max_tokens, self.settings.max_tokens)
        with torch.inference_mode():
            inputs = self._inputs(latents.float(), torch.full((len(latents), 1), BOS))
            cache = DynamicCache(config=self.decoder.config)
            written: list[Tensor] = []
            ended = torch.zeros(len(latents), dtype=torch.bool)
            while len(latents) and len(written) < limit and not ended.all():
                hidden = self.decoder(inputs_embeds=inputs, past_key_values=cache, use_cache=True).last_hidden_state
                token = self._logits(hidden[:, -1]).argmax(-1).masked_fill(ended, PAD)
                ended |= token == EOS
                written.append(token)
                inputs = self.decoder.wte(token[:, None])
        ids = torch.stack(written, 1).tolist() if written else [[] for _ in latents]
        return self.tokenizer.decode(ids)

    def loss(self, reports: Sequence[str], generator: torch.Generator) -> Tensor:
        """Mean negative log-likelihood of a token given the report's noisy latent and the words before it, in nats."""
        return self.token_loss(self.tokenizer.encode(reports, self.settings.max_tokens), generator)

    def token_loss(self, ids: Sequence[Sequence[int]], generator: torch.Generator) -> Tensor:
        """:meth:`loss` of reports that are token ids already."""
        ids = sorted(ids, key=len)
        raw = self.raw(ids)
        latents = (raw - raw.mean(0)) * (raw.var(0, unbiased=False) + 1e-5).rsqrt()
        spread = self.settings.noise * torch.rand(len(ids), 1, 1, generator=generator)
        latents = latents + spread * torch.randn(latents.shape, generator=generator)
        total = latents.new_zeros(())
        for start in range(0, len(ids), CHUNK):
            part = ids[start : start + CHUNK]
            tokens = _padded([[BOS, *i] for i in part])
            targets = _padded([[*i, EOS] for i in part], IGNORED)
            hidden_words = torch.rand(tokens.shape, generator=generator) < self.settings.word_dropout
            logits = self._written(latents[start : start + CHUNK], tokens, hidden_words)
            total = total + F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum")
        return total / sum(len(i) + 1 for i in ids)

    def token_accuracy(self, reports: Sequence[str], latents: Tensor) -> float:
        """Share of tokens (the end included) that are the likeliest given the latent and the true words before them."""
        ids = self.tokenizer.encode(reports, self.settings.max_tokens)
        right = 0
        with torch.inference_mode():
            for start in range(0, len(ids), CHUNK):
                part = ids[start : start + CHUNK]
                targets = _padded([[*i, EOS] for i in part], IGNORED)
                logits = self._written(latents[start : start + CHUNK], _padded([[BOS, *i] for i in part]))
                right += int((logits.argmax(-1) == targets).sum())
        return right / max(1, sum(len(i) + 1 for i in ids))

    def raw(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Latents (B, K, d) before standardisation, of token ids."""
        parts = []
        for start in range(0, len(ids), CHUNK):
            tokens = _padded(ids[start : start + CHUNK])
            words = self.decoder.wte(tokens) + self.positions[: tokens.shape[1]]
            queries = self.queries.expand(len(tokens), -1, -1)
            void = torch.cat([torch.zeros(queries.shape[:2], dtype=torch.bool), tokens == PAD], 1)
            found = self.encoder(torch.cat([queries, words], 1), src_key_padding_mask=void)
            parts.append(self.read(found[:, : self.settings.tokens]).float())
        return torch.cat(parts) if parts else torch.zeros(0, *self.latent_shape)

    def standardise(self, ids: Sequence[Sequence[int]]) -> None:
        """Set the stored mean and standard deviation of each latent number to those over these reports."""
        with torch.inference_mode():
            raw = self.raw(ids)
        self.centre.copy_(raw.mean(0))
        self.scale.copy_((raw.var(0, unbiased=False) + 1e-5).sqrt())

    def _inputs(self, latents: Tensor, tokens: Tensor, hidden_words: Tensor | None = None) -> Tensor:
        words = self.decoder.wte(tokens)
        if hidden_words is not None:
            words = words.masked_fill(hidden_words[..., None], 0.0)
        return torch.cat([self.prefix(latents), words], 1)

    def _written(self, latents: Tensor, tokens: Tensor, hidden_words: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) of what follows each of ``tokens`` (B, T)."""
        hidden = self.decoder(
            inputs_embeds=self._inputs(latents, tokens, hidden_words), use_cache=False
        ).last_hidden_state
        return self._logits(hidden[:, self.settings.tokens :])

    def _logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self.decoder.wte.weight.T


def _padded(ids: Sequence[Sequence[int]], value: int = PAD) -> Tensor:
    """(B, T) of lists of ids, filled up on the right."""
    return pad_sequence([torch.tensor(list(i), dtype=torch.long) for i in ids], batch_first=True, padding_value=value)
