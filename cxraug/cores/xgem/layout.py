"""The layout of an XGeM checkpoint: every key with its shape, and which keys have no part in drawing.

Source: the state dict of the class MedCoDi_M (repository danielemolino/XGeM, commit fc06dcc). ``connecters`` is spelt
as there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from cxraug.cores.xgem.recognition import UNETS
from cxraug.cores.xgem.sizes import SLOTS, TransformerSizes, UNetSizes, XGeMSizes

Shape = tuple[int, ...]
Entries = Iterator[tuple[str, Shape]]

# Weights of the video model that XGeM grew from; images never pass through them.
UNUSED = {
    **{f"{UNETS}unet_{slot}.": re.compile(r"temporal_attn|temporal_rel_pos_bias|frameshiftblock|\.ff\.proj_(in|out)")
       for slot in ("frontal", "lateral")},
    "autokl.": re.compile("video_att"),
    "clip.": re.compile("temporal_self_attn"),
}  # fmt: skip
SCHEDULE = (
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
)  # fmt: skip
BUFFERS = re.compile(r"optimus\.decoder\.transformer\.h\.\d+\.attn\.bias|clip\.model\..*\.position_ids")
TIED = "optimus.decoder.lm_head.weight", "optimus.decoder.transformer.wte.weight"
FRAMES = 30
TEMPORAL_HEADS = 8


def is_buffer(key: str) -> bool:
    """Whether a key holds what can be computed again: the schedule, a causal mask, positions."""
    return key in SCHEDULE or BUFFERS.fullmatch(key) is not None


def is_unused(key: str) -> bool:
    """Whether a key is a weight without any effect on images and reports."""
    return any(key.startswith(prefix) and pattern.search(key) for prefix, pattern in UNUSED.items())


def expected_layout(sizes: XGeMSizes) -> dict[str, Shape]:
    """Key -> shape of a checkpoint of these sizes."""
    entries: dict[str, Shape] = dict.fromkeys(SCHEDULE, (sizes.schedule,))
    for slot in SLOTS:
        unet = sizes.unets[slot]
        entries.update(_under(f"{UNETS}unet_{slot}.", _text_unet(unet) if unet.rows else _image_unet(unet)))
    entries.update(_under("autokl.", _autoencoder(sizes)))
    entries.update(_under("optimus.encoder.", _bert(sizes)))
    entries.update(_under("optimus.decoder.", _gpt2(sizes)))
    entries.update(_under("clip.model.", _clip(sizes)))
    return entries


def _under(prefix: str, entries: Entries) -> Entries:
    for name, shape in entries:
        yield prefix + name, shape


def _layer(name: str, *weight: int) -> Entries:
    """A linear layer or convolution with its bias."""
    yield f"{name}.weight", weight
    yield f"{name}.bias", (weight[0],)


def _norm(name: str, width: int) -> Entries:
    yield from _layer(name, width)


def _image_unet(sizes: UNetSizes) -> Entries:
    embedding = 4 * sizes.width
    yield from _layer("time_embed.0", embedding, sizes.width)
    yield from _layer("time_embed.2", embedding, embedding)
    half = sizes.width // 2
    yield from _layer("connecters_out.0.0", half, sizes.channels, 3, 3)
    last = half
    for i, width in enumerate(sizes.environment):
        if i:
            yield from _layer(f"connecters_out.{2 * i}.0.op", last, last, 3, 3)
        yield from _image_block(f"connecters_out.{2 * i + 1}.0.", last, width, sizes)
        last = width
    step = 2 * len(sizes.environment)
    yield from _norm(f"connecters_out.{step}.0", last)
    yield from _layer(f"connecters_out.{step}.2", sizes.environment_width, last, 3, 3)
    yield from _layer("input_blocks.0.0", sizes.width, sizes.channels, 3, 3)
    for kind, block, first, width, level in walk(sizes):
        start = f"{kind}.{block}."
        if kind == "change":
            yield from _layer(f"input_blocks.{block}.0.op", width, width, 3, 3)
        elif kind == "middle_block":
            yield from _image_block("middle_block.0.", width, width, sizes)
            yield from _transformer("middle_block.1.", width, sizes.context)
            yield from _image_block("middle_block.2.", width, width, sizes)
        else:
            yield from _image_block(start + "0.", first, width, sizes)
            yield from _attached(kind, block, width, level, sizes)
            if kind == "output_blocks" and (place := upsampler(sizes, block)):
                yield from _layer(f"{start}{place}.conv", width, width, 3, 3)
    yield from _norm("out.0", sizes.width)
    yield from _layer("out.2", sizes.channels, sizes.width, 3, 3)


def _text_unet(sizes: UNetSizes) -> Entries:
    embedding, rows = 4 * sizes.width, sizes.rows
    yield from _layer("time_embed.0", embedding, sizes.width)
    yield from _layer("time_embed.2", embedding, embedding)
    last = sizes.width // 2 * rows
    yield from _layer("connecters_out.0.0", last, sizes.channels)
    for i, width in enumerate(sizes.environment):
        if i:
            yield from _layer(f"connecters_out.{2 * i}.0", last, last)
        yield from _residual(f"connecters_out.{2 * i + 1}.0.", last, width * rows, embedding, 1)
        last = width * rows
    step = 2 * len(sizes.environment)
    yield from _norm(f"connecters_out.{step}.0", last // rows)
    yield from _layer(f"connecters_out.{step}.2", sizes.environment_width, last)
    yield from _layer("input_blocks.0.0", sizes.width * rows, sizes.channels)
    for kind, block, first, width, level in walk(sizes):
        start, wide = f"{kind}.{block}.", width * rows
        if kind == "change":
            yield from _layer(f"input_blocks.{block}.0", wide, wide)
        elif kind == "middle_block":
            yield from _residual("middle_block.0.", wide, wide, embedding, 1)
            yield from _transformer("middle_block.1.", width, sizes.context)
            yield from _residual("middle_block.2.", wide, wide, embedding, 1)
        else:
            yield from _residual(start + "0.", first * rows, wide, embedding, 1)
            yield from _attached(kind, block, width, level, sizes)
            if kind == "output_blocks" and (place := upsampler(sizes, block)):
                yield from _layer(f"{start}{place}", wide, wide)
    yield from _norm("out.0", sizes.width)
    yield from _layer("out.2", sizes.channels, sizes.width * rows)


def walk(sizes: UNetSizes) -> Iterator[tuple[str, int, int, int, int]]:
    """The blocks of a UNet in their order: kind, number, width before (with the skip), width after, level.

    Kinds are ``input_blocks`` and ``output_blocks`` with a residual block, ``change`` (an input block that goes one
    level down) and ``middle_block``.
    """
    width, block = sizes.width, 1
    skips = [width]
    for number, level in enumerate(sizes.levels):
        if number:
            yield "change", block, width, width, number
            skips.append(width)
            block += 1
        for _ in range(level.blocks):
            yield "input_blocks", block, width, level.width, number
            width = level.width
            skips.append(width)
            block += 1
    yield "middle_block", 0, width, width, len(sizes.levels) - 1
    block = 0
    for number, level in reversed(list(enumerate(sizes.levels))):
        for _ in range(level.blocks + 1):
            yield "output_blocks", block, width + skips.pop(), level.width, number
            width = level.width
            block += 1


def upsampler(sizes: UNetSizes, block: int) -> int:
    """The place of the step up a level in an output block, 0 where the block has none."""
    last = -1
    for level in reversed(sizes.levels[1:]):
        last += level.blocks + 1
        if block == last:
            return 2 if level.attention else 1
    return 0


def _attached(kind: str, block: int, width: int, level: int, sizes: UNetSizes) -> Entries:
    """What follows a residual block: attention, a connector."""
    if sizes.levels[level].attention:
        yield from _transformer(f"{kind}.{block}.1.", width, sizes.context)
    if sizes.levels[level].connectors:
        side = kind.removesuffix("s")
        yield from _transformer(f"{side}_connecters_in.{block}.0.", width, sizes.environment_width)


def _image_block(start: str, first: int, width: int, sizes: UNetSizes) -> Entries:
    yield from _residual(f"{start}0.", first, width, 4 * sizes.width, 3)
    yield from _layer(f"{start}1.frameshiftblock.out_layers.0", width)
    yield from _layer(f"{start}1.frameshiftblock.out_layers.2", width, width, 3, 3)
    inner = TEMPORAL_HEADS * (width // sizes.temporal)
    yield from _temporal(f"{start}1.", width, inner, TEMPORAL_HEADS)
    feed = int(width * 4 * 2 / 3)
    yield f"{start}1.ff.proj_in.0.weight", (2 * feed, width, 1, 1, 1)
    yield f"{start}1.ff.proj_out.0.g", (feed, 1, 1, 1)
    yield f"{start}1.ff.proj_out.1.weight", (width, feed, 1, 1, 1)


def _temporal(start: str, width: int, inner: int, heads: int) -> Entries:
    yield f"{start}temporal_attn.pos_embeds", (1, FRAMES, width)
    yield f"{start}temporal_attn.frame_rate_embeds", (1, FRAMES, width)
    yield f"{start}temporal_attn.norm.g", (width,)
    yield f"{start}temporal_attn.to_q.weight", (inner, width)
    yield f"{start}temporal_attn.to_kv.weight", (2 * inner, width)
    yield f"{start}temporal_attn.to_out.weight", (width, inner)
    yield from _layer(f"{start}temporal_rel_pos_bias.net.0.0", width // 2, 1)
    yield from _layer(f"{start}temporal_rel_pos_bias.net.1.0", width // 2, width // 2)
    yield from _layer(f"{start}temporal_rel_pos_bias.net.2", heads, width // 2)


def _residual(start: str, first: int, width: int, embedding: int, side: int) -> Entries:
    yield from _norm(f"{start}in_layers.0", first)
    yield from _layer(f"{start}in_layers.2", width, first, side, side)
    yield from _layer(f"{start}emb_layers.1", width, embedding)
    yield from _norm(f"{start}out_layers.0", width)
    yield from _layer(f"{start}out_layers.3", width, width, side, side)
    if first != width:
        yield from _layer(f"{start}skip_connection", width, first, 1, 1)


def _transformer(start: str, width: int, context: int) -> Entries:
    yield from _norm(f"{start}norm", width)
    yield from _layer(f"{start}proj_in", width, width, 1, 1)
    block = f"{start}transformer_blocks.0."
    for attention, keys in (("attn1", width), ("attn2", context)):
        yield f"{block}{attention}.to_q.weight", (width, width)
        yield f"{block}{attention}.to_k.weight", (width, keys)
        yield f"{block}{attention}.to_v.weight", (width, keys)
        yield from _layer(f"{block}{attention}.to_out.0", width, width)
    yield from _layer(f"{block}ff.net.0.proj", 8 * width, width)
    yield from _layer(f"{block}ff.net.2", width, 4 * width)
    for number in (1, 2, 3):
        yield from _norm(f"{block}norm{number}", width)
    yield from _layer(f"{start}proj_out", width, width, 1, 1)


def _autoencoder(sizes: XGeMSizes) -> Entries:
    kl = sizes.autoencoder
    yield from _layer("encoder.conv_in", kl.widths[0], kl.channels, 3, 3)
    last = kl.widths[0]
    for i, width in enumerate(kl.widths):
        for j in range(kl.blocks):
            yield from _autoencoder_block(f"encoder.down.{i}.block.{j}.", last, width)
            last = width
        if i < len(kl.widths) - 1:
            yield from _layer(f"encoder.down.{i}.downsample.conv", width, width, 3, 3)
    yield from _autoencoder_middle("encoder.mid.", last)
    yield from _norm("encoder.norm_out", last)
    yield from _layer("encoder.conv_out", 2 * kl.latent, last, 3, 3)
    yield from _layer("decoder.conv_in", last, kl.latent, 3, 3)
    yield from _autoencoder_middle("decoder.mid.", last)
    yield from _shift("decoder.mid.video_att.", last)
    for i, width in reversed(list(enumerate(kl.widths))):
        for j in range(kl.blocks + 1):
            yield from _autoencoder_block(f"decoder.up.{i}.block.{j}.", last, width)
            last = width
            if i:
                yield from _shift(f"decoder.up.{i}.video_attn.{j}.", width)
        if i:
            yield from _layer(f"decoder.up.{i}.upsample.conv", width, width, 3, 3)
    yield from _norm("decoder.norm_out", last)
    yield from _layer("decoder.conv_out", kl.channels, last, 3, 3)
    yield from _layer("quant_conv", 2 * kl.latent, 2 * kl.latent, 1, 1)
    yield from _layer("post_quant_conv", kl.latent, kl.latent, 1, 1)


def _autoencoder_block(start: str, first: int, width: int) -> Entries:
    yield from _norm(f"{start}norm1", first)
    yield from _layer(f"{start}conv1", width, first, 3, 3)
    yield from _norm(f"{start}norm2", width)
    yield from _layer(f"{start}conv2", width, width, 3, 3)
    if first != width:
        yield from _layer(f"{start}nin_shortcut", width, first, 1, 1)


def _autoencoder_middle(start: str, width: int) -> Entries:
    yield from _autoencoder_block(f"{start}block_1.", width, width)
    yield from _norm(f"{start}attn_1.norm", width)
    for name in ("q", "k", "v", "proj_out"):
        yield from _layer(f"{start}attn_1.{name}", width, width, 1, 1)
    yield from _autoencoder_block(f"{start}block_2.", width, width)


def _shift(start: str, width: int) -> Entries:
    yield from _layer(f"{start}frameshiftblock.out_layers.0", width)
    yield from _layer(f"{start}frameshiftblock.out_layers.2", width, width, 3, 3)


def _bert(sizes: XGeMSizes) -> Entries:
    bert = sizes.bert
    yield "embeddings.word_embeddings.weight", (bert.vocabulary, bert.width)
    yield "embeddings.position_embeddings.weight", (bert.positions, bert.width)
    yield "embeddings.token_type_embeddings.weight", (2, bert.width)
    yield from _norm("embeddings.LayerNorm", bert.width)
    for i in range(bert.layers):
        layer = f"encoder.layer.{i}."
        for name in ("query", "key", "value"):
            yield from _layer(f"{layer}attention.self.{name}", bert.width, bert.width)
        yield from _layer(f"{layer}attention.output.dense", bert.width, bert.width)
        yield from _norm(f"{layer}attention.output.LayerNorm", bert.width)
        yield from _layer(f"{layer}intermediate.dense", bert.inner, bert.width)
        yield from _layer(f"{layer}output.dense", bert.width, bert.inner)
        yield from _norm(f"{layer}output.LayerNorm", bert.width)
    yield from _layer("pooler.dense", bert.width, bert.width)
    yield "linear.weight", (2 * sizes.report, bert.width)


def _gpt2(sizes: XGeMSizes) -> Entries:
    gpt2 = sizes.gpt2
    yield "transformer.wte.weight", (gpt2.vocabulary, gpt2.width)
    yield "transformer.wpe.weight", (gpt2.positions, gpt2.width)
    for i in range(gpt2.layers):
        layer = f"transformer.h.{i}."
        yield from _norm(f"{layer}ln_1", gpt2.width)
        yield f"{layer}attn.bias", (1, 1, gpt2.positions, gpt2.positions)
        for name, first, width in (
            ("attn.c_attn", gpt2.width, 3 * gpt2.width), ("attn.c_proj", gpt2.width, gpt2.width),
            ("mlp.c_fc", gpt2.width, gpt2.inner), ("mlp.c_proj", gpt2.inner, gpt2.width),
        ):  # fmt: skip
            yield f"{layer}{name}.weight", (first, width)
            yield f"{layer}{name}.bias", (width,)
        yield from _norm(f"{layer}ln_2", gpt2.width)
    yield from _norm("transformer.ln_f", gpt2.width)
    yield "transformer.linear.weight", (gpt2.layers * gpt2.width, sizes.report)
    yield "transformer.linear_emb.weight", (gpt2.width, sizes.report)
    yield "lm_head.weight", (gpt2.vocabulary, gpt2.width)


def _clip(sizes: XGeMSizes) -> Entries:
    text, vision, heads = sizes.clip_text, sizes.clip_vision, sizes.published.clip_vision_heads
    yield "logit_scale", ()
    yield "text_model.embeddings.position_ids", (1, text.positions)
    yield "text_model.embeddings.token_embedding.weight", (text.vocabulary, text.width)
    yield "text_model.embeddings.position_embedding.weight", (text.positions, text.width)
    for i in range(text.layers):
        yield from _clip_layer(f"text_model.encoder.layers.{i}.", text)
    yield from _norm("text_model.final_layer_norm", text.width)
    yield "vision_model.embeddings.class_embedding", (vision.width,)
    yield "vision_model.embeddings.position_ids", (1, vision.positions)
    yield "vision_model.embeddings.patch_embedding.weight", (vision.width, 3, vision.patch, vision.patch)
    yield "vision_model.embeddings.position_embedding.weight", (vision.positions, vision.width)
    yield from _norm("vision_model.pre_layrnorm", vision.width)
    for i in range(vision.layers):
        layer = f"vision_model.encoder.layers.{i}."
        yield from _clip_layer(layer, vision)
        yield from _temporal(f"{layer}temporal_self_attn.", vision.width, vision.width, heads)
        feed = int(vision.width * 4 * 2 / 3)
        yield f"{layer}temporal_self_attn.ff.proj_in.0.weight", (2 * feed, vision.width, 1)
        yield f"{layer}temporal_self_attn.ff.proj_out.0.g", (1, feed, 1)
        yield f"{layer}temporal_self_attn.ff.proj_out.1.weight", (vision.width, feed, 1)
    yield from _norm("vision_model.post_layernorm", vision.width)
    yield "visual_projection.weight", (sizes.shared, vision.width)
    yield "text_projection.weight", (sizes.shared, text.width)


def _clip_layer(start: str, sizes: TransformerSizes) -> Entries:
    for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
        yield from _layer(f"{start}self_attn.{name}", sizes.width, sizes.width)
    yield from _norm(f"{start}layer_norm1", sizes.width)
    yield from _layer(f"{start}mlp.fc1", sizes.inner, sizes.width)
    yield from _layer(f"{start}mlp.fc2", sizes.width, sizes.inner)
    yield from _norm(f"{start}layer_norm2", sizes.width)
