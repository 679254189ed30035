"""CLIP embeddings of norm 1, the prompts that all modalities share."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPModel

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the images that CLIP was trained on, in [0, 1]
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def embed_text(clip: CLIPModel, ids: Tensor) -> Tensor:
    """(N, 1, D) of norm 1 from token ids (N, T); the token with the highest id ends a text."""
    return _unit(clip.text_projection(clip.text_model(input_ids=ids).pooler_output))


def embed_images(clip: CLIPModel, pixels: Tensor) -> Tensor:
    """(N, 1, D) of norm 1 from :func:`clip_pixels` (N, 3, S, S)."""
    return _unit(clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output))


def clip_pixels(image: np.ndarray, side: int) -> Tensor:
    """A grey uint8 image (R, R) as CLIP sees it, (3, ``side``, ``side``): bicubic, standardised, thrice the same.

    The settings of openai/clip-vit-large-patch14. The original cuts floats in [0, 1] to uint8 first; here they are.
    """
    resized = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
    grey = torch.from_numpy(resized.astype(np.float32) / 255)
    return (grey - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]


def _unit(embedding: Tensor) -> Tensor:
    return (embedding / embedding.norm(dim=-1, keepdim=True))[:, None]
