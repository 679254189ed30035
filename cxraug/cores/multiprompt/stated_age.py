"""The age that a report states."""

from __future__ import annotations

import re

_AGE = re.compile(r"\b\d{1,3}(?=[- ]years?[- ]old\b)|(?<=\baged )\d{1,3}\b|(?<=, )\d{1,3}(?= years\.)", re.IGNORECASE)


def state_age(report: str, age: float) -> str:
    """``report`` with the ages it states ("64-year-old", "aged 64", "woman, 64 years.") set to ``age``, in whole years.

    A latent of a few hundred numbers carries the digits of an age badly, and a wrong one is no matter of taste. Other
    numbers of years, and a report that states no age, stay as they are.
    """
    return _AGE.sub(f"{age:.0f}", report)
