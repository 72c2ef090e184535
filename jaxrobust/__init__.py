"""Learning when the supervision cannot be trusted, in JAX/Flax.

The public names are imported on first use (PEP 562), so importing the package, or only its losses,
starts no backend and takes little time.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxrobust.errors import UserError, check_limits

__version__ = "0.1.0"

UNLABELED = -1
"""In an array of annotations: the example has not been annotated."""

UNKNOWN = -2
"""In an array of annotations: the example is of none of the known classes."""

# Public name -> the module that defines it.
_LAZY = {
    "Audit": "jaxrobust.api.audit",
    "Consensus": "jaxrobust.api.consensus",
    "Features": "jaxrobust.models.embedding",
    "LabelIssues": "jaxrobust.api.label_issues",
    "QueryResult": "jaxrobust.api.querying",
    "RobustClassifier": "jaxrobust.api.robust_classifier",
    "audit": "jaxrobust.api.audit",
    "consensus": "jaxrobust.api.consensus",
    "distill": "jaxrobust.api.distill",
    "embed": "jaxrobust.models.embedding",
    "find_label_issues": "jaxrobust.api.label_issues",
    "load_classifier": "jaxrobust.methods.classifiers",
    "query": "jaxrobust.api.querying",
}

if TYPE_CHECKING:
    from jaxrobust.api.audit import Audit, audit
    from jaxrobust.api.consensus import Consensus, consensus
    from jaxrobust.api.distill import distill
    from jaxrobust.api.label_issues import LabelIssues, find_label_issues
    from jaxrobust.api.querying import QueryResult, query
    from jaxrobust.api.robust_classifier import RobustClassifier
    from jaxrobust.methods.classifiers import load_classifier
    from jaxrobust.models.embedding import Features, embed

__all__ = [
    "UNKNOWN",
    "UNLABELED",
    "Audit",
    "Consensus",
    "Features",
    "LabelIssues",
    "QueryResult",
    "RobustClassifier",
    "UserError",
    "__version__",
    "audit",
    "consensus",
    "distill",
    "embed",
    "find_label_issues",
    "load_classifier",
    "query",
]


_PACKAGES = ("data", "losses", "metrics", "models", "recipes", "selection", "tasks")
"""Packages that are attributes without an import of their own."""

if not TYPE_CHECKING:  # a type checker would take any name for one that is there

    def __getattr__(name: str) -> Any:
        if name in _PACKAGES:
            return importlib.import_module(f"jaxrobust.{name}")
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        check_limits()
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_PACKAGES})
