"""What the sampler refuses: an error of this package that scikit-learn also takes for one of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cxraug.errors import InputError


class SamplingError(InputError, ValueError):
    """Bad input to the sampler: one line as everywhere here, and a ``ValueError`` as scikit-learn's conventions ask."""


@contextmanager
def as_value_error() -> Iterator[None]:
    """Turn an :class:`InputError` of images, labels or cores into a :class:`SamplingError` with the same line."""
    try:
        yield
    except SamplingError:
        raise
    except InputError as error:
        raise SamplingError(str(error)) from error
