"""Licences by the names that people, the Hugging Face hub and Croissant give them."""

from __future__ import annotations

import re

OTHER = "other"
# what a core's card may begin with -> name on the Hugging Face hub, address
KNOWN = {
    "cc0-1.0": ("cc0-1.0", "https://creativecommons.org/publicdomain/zero/1.0/"),
    "cc-by-4.0": ("cc-by-4.0", "https://creativecommons.org/licenses/by/4.0/"),
    "cc-by-sa-4.0": ("cc-by-sa-4.0", "https://creativecommons.org/licenses/by-sa/4.0/"),
    "cc-by-nc-4.0": ("cc-by-nc-4.0", "https://creativecommons.org/licenses/by-nc/4.0/"),
    "cc-by-nc-sa-4.0": ("cc-by-nc-sa-4.0", "https://creativecommons.org/licenses/by-nc-sa/4.0/"),
    "cc-by-nd-4.0": ("cc-by-nd-4.0", "https://creativecommons.org/licenses/by-nd/4.0/"),
    "cc-by-nc-nd-4.0": ("cc-by-nc-nd-4.0", "https://creativecommons.org/licenses/by-nc-nd/4.0/"),
    "mit": ("mit", "https://opensource.org/license/mit"),
    "apache-2.0": ("apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0"),
}


def hub_licence(text: str | None) -> tuple[str, str | None]:
    """The hub's name of a licence and its address; ``("other", None)`` where the text names none that is known.

    Only the part before a comma or semicolon is looked at: ``CC BY 4.0, with the credits of ...`` is ``cc-by-4.0``.
    """
    key = re.sub(r"[\s_]+", "-", re.split(r"[,;(]", text or "")[0].strip().lower())
    return KNOWN.get(key, (OTHER, None))
