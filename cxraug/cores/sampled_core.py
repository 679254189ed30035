"""What cores that sample in steps share: sampler settings that may be changed after opening."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel, ValidationError

from cxraug.cores.core import GenerativeCore
from cxraug.errors import InputError, first_problem


class SampledCore(GenerativeCore):
    """A core with ``settings``, of which the fields ``sampler_fields`` are the sampler's and no part of the weights."""

    settings: Any
    sampler_fields: Collection[str]

    def configure(self, *, steps: int | None = None, guidance: float | None = None, **others: Any) -> None:
        """Change sampler settings (``sampler_steps`` for short ``steps``, ``guidance``, ``solver``, ...).

        None keeps a setting. An unknown or impossible one is an :class:`InputError`.
        """
        wanted = {"sampler_steps": steps, "guidance": guidance, **others}
        wanted = {key: value for key, value in wanted.items() if value is not None}
        for key in wanted:
            if key not in self.sampler_fields:
                known = ", ".join(sorted(self.sampler_fields))
                raise InputError("not a sampler setting", found=key, expected=f"one of {known}")
        try:
            self._use(type(self.settings)(**{**self.settings.model_dump(), **wanted}))
        except ValidationError as error:
            raise InputError(f"sampler setting {': '.join(first_problem(error))}") from None

    def _use(self, settings: BaseModel) -> None:
        """Take over ``settings``, and say in ``sampler`` what provenance records of them."""
        self.settings = settings
        others = {
            name: getattr(settings, name) for name in sorted(set(self.sampler_fields) - {"solver", "sampler_steps"})
        }
        self.sampler = {
            "scheduler": f"{self.settings.solver} order 2", "steps": self.settings.sampler_steps, **others,
        }  # fmt: skip
