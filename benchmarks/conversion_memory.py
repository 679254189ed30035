"""Peak anonymous memory of converting a checkpoint of the published size, on a made-up file of its layout.

    python benchmarks/conversion_memory.py xgem KEYS.json --work runs/conversion --dtype float32

KEYS.json maps every key of the original to its shape. Weights are random bytes for one tensor in ten and zeros for the
rest; the file is written in its whole length. The conversion runs in a process of its own, whose ``RssAnon`` is read
twenty times a second: what is mapped from the file is not counted, what is copied is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CONVERT = """
import sys
from pathlib import Path
from cxraug.cores.registry import convert_core
convert_core(sys.argv[1], Path(sys.argv[2]))
"""


def main() -> None:
    """Write the file, convert it, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["chexgen", "xgem"])
    parser.add_argument("keys", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    source = asked.work / f"{asked.kind}-{asked.dtype}.{'pth' if asked.kind == 'chexgen' else 'pt'}"
    if not source.is_file():
        write_checkpoint(asked.kind, json.loads(asked.keys.read_text()), source, DTYPES[asked.dtype])
    folder = asked.work / f"{asked.kind}-{asked.dtype}"
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", CONVERT, f"{asked.kind}:{source}", str(folder)])
    peak = 0
    while process.poll() is None:
        peak = max(peak, anonymous(process.pid))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(process.returncode)
    made = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{asked.kind}, {asked.dtype}: {source.stat().st_size / 2**30:.1f} GiB to {made / 2**30:.1f} GiB in "
          f"{time.perf_counter() - began:.0f} s, peak anonymous memory {peak / 2**30:.2f} GiB")  # fmt: skip


def write_checkpoint(kind: str, keys: dict[str, list[int]], path: Path, dtype: torch.dtype) -> None:
    """A file of the layout; what a conversion compares with a formula has its values."""
    tensors = {}
    for number, (name, shape) in enumerate(keys.items()):
        tensors[name] = torch.zeros(shape, dtype=dtype)  # untouched zeros take no memory until they are written out
        if number % 10 == 0:
            tensors[name].random_(0, 2)
    if kind == "xgem":
        from cxraug.cores.xgem.layout import TIED
        from cxraug.cores.xgem.sampler import scheduler

        tensors["alphas_cumprod"] = scheduler().alphas_cumprod.clone()
        tensors[TIED[0]] = tensors[TIED[1]]
        torch.save(tensors, path)
    else:
        from diffusers.models.embeddings import get_2d_sincos_pos_embed

        for name in [n for n in keys if n.endswith("pos_embed")]:
            side, width = int(keys[name][1] ** 0.5), keys[name][2]
            formula = get_2d_sincos_pos_embed(width, side, base_size=side, interpolation_scale=2.0, output_type="pt")
            tensors[name] = formula[None].to(dtype)
        torch.save({"state_dict_ema": tensors}, path)


def anonymous(pid: int) -> int:
    """Anonymous resident memory of a process in bytes; 0 once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0)


if __name__ == "__main__":
    main()
