"""Text with ``{name}`` in it, filled from columns of a table. Nothing but a name is read in the braces."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["fill_template", "template_fields"]

_FIELD = re.compile(r"\{(\w+)\}")


def template_fields(template: str) -> tuple[str, ...]:
    """Return the names that a template asks for, each once, in order.

    >>> template_fields("{title}, {brand} ({title})")
    ('title', 'brand')
    """
    return tuple(dict.fromkeys(_FIELD.findall(template)))


def fill_template(template: str, values: Mapping[str, str]) -> str:
    """Put values in the place of their names; what they contain is not read again.

    >>> fill_template("{title} by {brand}", {"title": "{brand}", "brand": "Acme"})
    '{brand} by Acme'

    Raises:
        KeyError: If a name has no value.
    """
    return _FIELD.sub(lambda match: values[match[1]], template)
