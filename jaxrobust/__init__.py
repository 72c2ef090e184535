"""Learning when the supervision cannot be trusted, in JAX/Flax.

The public names are imported on first use (PEP 562), so that importing the package, or only its
losses, starts no backend and takes little time.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxrobust.errors import UserError

__version__ = "0.1.0"

UNLABELED = -1
"""In an array of annotations: the example has not been annotated."""

UNKNOWN = -2
"""In an array of annotations: the example is of none of the known classes."""

# Public name -> the module that defines it.
_LAZY = {
    "Features": "jaxrobust.embedding",
    "LabelIssues": "jaxrobust.label_issues",
    "QueryResult": "jaxrobust.querying",
    "RobustClassifier": "jaxrobust.robust_classifier",
    "distill": "jaxrobust.distillation",
    "embed": "jaxrobust.embedding",
    "find_label_issues": "jaxrobust.label_issues",
    "load_classifier": "jaxrobust.classifiers",
    "query": "jaxrobust.querying",
}

if TYPE_CHECKING:
    from jaxrobust.classifiers import load_classifier
    from jaxrobust.distillation import distill
    from jaxrobust.embedding import Features, embed
    from jaxrobust.label_issues import LabelIssues, find_label_issues
    from jaxrobust.querying import QueryResult, query
    from jaxrobust.robust_classifier import RobustClassifier

__all__ = [
    "UNKNOWN",
    "UNLABELED",
    "Features",
    "LabelIssues",
    "QueryResult",
    "RobustClassifier",
    "UserError",
    "__version__",
    "distill",
    "embed",
    "find_label_issues",
    "load_classifier",
    "query",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
