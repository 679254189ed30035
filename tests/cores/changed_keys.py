"""One thing wrong with a checkpoint."""

from __future__ import annotations

import torch


def change_key(found: dict[str, torch.Tensor], name: str, change: str) -> str | None:
    """Change the tensor ``name`` of ``found``; returns the key that a refusal must name, None if nothing is changed.

    ``change`` is missing, extra, renamed (an s is added), transposed, shape, dtype (another float of up to 32 bits),
    double or integer. A tensor that is the same transposed is left alone.
    """
    tensor = found[name]
    if change in ("missing", "renamed"):
        del found[name]
        if change == "renamed":
            found[f"{name}s"] = tensor
    elif change == "extra":
        found[f"{name}.extra"] = torch.ones_like(tensor)
        return f"{name}.extra"
    elif change == "transposed":
        found[name] = tensor.permute(*reversed(range(tensor.ndim))).contiguous()
        return None if found[name].shape == tensor.shape else name
    elif change == "shape":
        found[name] = tensor[..., None].repeat(*[1] * tensor.ndim, 2)
    else:
        other = torch.float16 if tensor.dtype == torch.float32 else torch.float32
        found[name] = tensor.to({"dtype": other, "double": torch.float64, "integer": torch.int64}[change])
    return name
