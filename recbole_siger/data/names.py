"""Names of features: one rule for datasets, for models, and for the commands that write features."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

__all__ = ["name_problem"]


def name_problem(name: Any) -> str:
    """Return what is wrong with the name of a modality or of a user feature; "" if it can be used.

    The name is a part of a file name and the name of a module of torch, which has own attributes.

    >>> name_problem("audio"), name_problem("3d")
    ('', "use letters, digits and _, with no digit first, e.g. 'image'")
    >>> name_problem("train")
    "torch.nn uses this name itself; choose another name, e.g. 'train_1'"
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_]\w*", name):
        return "use letters, digits and _, with no digit first, e.g. 'image'"
    if hasattr(nn.ModuleDict(), name):
        return f"torch.nn uses this name itself; choose another name, e.g. '{name}_1'"
    return ""
