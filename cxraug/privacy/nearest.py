"""The nearest row of one matrix for each row of another: exact, in blocks, for sets that do not fit into memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

ROWS, COLUMNS = 1024, 4096  # of one block of products: 16 MB, large enough that the product alone takes the time
Block = Callable[[np.ndarray, tuple[np.ndarray, np.ndarray] | None], tuple[np.ndarray, np.ndarray]]


def nearest(
    a: np.ndarray,
    b: np.ndarray,
    *,
    groups: tuple[np.ndarray, np.ndarray] | None = None,
    euclidean: bool = False,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """The row of ``b`` that is nearest to each row of ``a``, and how near it is.

    Parameters
    ----------
    a, b : float32 (n, d) and (m, d); memory maps are read block by block.
    groups : the group of each row of a and b; rows of the same group are not compared.
    euclidean : False gives the largest dot product (a correlation, for unit vectors), True the smallest distance.
    device : ``cpu``, or where torch multiplies the blocks and takes their maxima.

    Returns
    -------
    Values (n,) and rows (n,). Where nothing is left to compare with they are NaN and -1; the first of equals is named.

    Notes
    -----
    Every pair is compared. Memory beyond a and b is one block of 1024 x 4096 products and two of features, whatever n
    and m are. Distances are searched in single precision about the mean of ``b`` (two training images whose distances
    agree to about 1e-3 of the spread may be exchanged) and then taken from the pair's difference.
    """
    best, where = np.full(len(a), -np.inf, np.float32), np.full(len(a), -1)
    codes = None if groups is None else _codes(*groups)
    centre = _mean(b) if euclidean and len(b) else None
    for j in range(0, len(b), COLUMNS):
        columns = slice(j, j + COLUMNS)
        largest = _largest(_rows(b, columns, centre), euclidean, device)
        for i in range(0, len(a), ROWS):
            rows = slice(i, i + ROWS)
            alike = None if codes is None else _equal(codes[0][rows], codes[1][columns])
            value, top = largest(_rows(a, rows, centre), alike)
            better = value > best[rows]
            best[rows] = np.where(better, value, best[rows])
            where[rows] = np.where(better, top + j, where[rows])
    found = where >= 0
    if euclidean:
        for i in range(0, len(a), ROWS):
            here = np.flatnonzero(found[i : i + ROWS]) + i
            best[here] = np.linalg.norm(np.asarray(a[here], float) - np.asarray(b[where[here]], float), axis=1)
    return np.where(found, best, np.nan), where


def unit(rows: np.ndarray) -> np.ndarray:
    """Scale each row to length 1; a row of (nearly) zeros becomes zero."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-6)


def _largest(right: np.ndarray, euclidean: bool, device: str) -> Block:
    """The largest product of rows with those of ``right``, and its place; pairs that are not asked for are left out."""
    bias = -0.5 * np.einsum("ij,ij->i", right, right) if euclidean else None
    if device == "cpu":
        buffer = np.empty((ROWS, len(right)), np.float32)

        def on_cpu(left: np.ndarray, alike: tuple[np.ndarray, np.ndarray] | None) -> tuple[np.ndarray, np.ndarray]:
            block = buffer[: len(left)]
            np.matmul(left, right.T, out=block)
            if bias is not None:
                np.add(block, bias, out=block)
            if alike is not None:
                block[alike] = -np.inf
            top = block.argmax(axis=1)
            return block[np.arange(len(top)), top], top

        return on_cpu
    there = torch.tensor(right, device=device)
    plus = None if bias is None else torch.tensor(bias, device=device)

    def on_device(left: np.ndarray, alike: tuple[np.ndarray, np.ndarray] | None) -> tuple[np.ndarray, np.ndarray]:
        rows = torch.tensor(left, device=device)
        block = rows @ there.T if plus is None else torch.addmm(plus, rows, there.T)
        if alike is not None:
            block[tuple(torch.from_numpy(x).to(device) for x in alike)] = -torch.inf
        value, top = block.max(dim=1)
        return value.cpu().numpy(), top.cpu().numpy()

    return on_device


def _rows(x: np.ndarray, rows: slice, centre: np.ndarray | None) -> np.ndarray:
    part = np.ascontiguousarray(x[rows], np.float32)
    return part if centre is None else part - centre


def _codes(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Groups as integers, which compare quickly."""
    if a.dtype.kind == b.dtype.kind == "i":
        return a, b
    both = np.unique(np.concatenate([np.asarray(a), np.asarray(b)]).astype(str), return_inverse=True)[1]
    return both[: len(a)], both[len(a) :]


def _equal(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places (row, column) of the pairs whose groups are equal, without a matrix of all pairs."""
    order = np.argsort(b, kind="stable")
    first, last = np.searchsorted(b[order], a, "left"), np.searchsorted(b[order], a, "right")
    size = last - first
    within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
    return np.repeat(np.arange(len(a)), size), order[np.repeat(first, size) + within]


def _mean(b: np.ndarray) -> np.ndarray:
    """Mean row of a matrix that may be a memory map."""
    total = sum(np.asarray(b[j : j + ROWS], float).sum(axis=0) for j in range(0, len(b), ROWS))
    return np.asarray(total / len(b), np.float32)
