"""Text with ``{name}`` fields, filled from columns of a table. Braces may contain a name only."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["fill_template", "template_fields"]

_FIELD = re.compile(r"\{(\w+)\}")


def template_fields(template: str) -> tuple[str, ...]:
    """Return the distinct names in a template, in order.

    >>> template_fields("{title}, {brand} ({title})")
    ('title', 'brand')
    """
    return tuple(dict.fromkeys(_FIELD.findall(template)))


def fill_template(template: str, values: Mapping[str, str]) -> str:
    """Replace names by values; braces in values are not replaced.

    >>> fill_template("{title} by {brand}", {"title": "{brand}", "brand": "Acme"})
    '{brand} by Acme'

    Raises:
        KeyError: If a name has no value.
    """
    return _FIELD.sub(lambda match: values[match[1]], template)
