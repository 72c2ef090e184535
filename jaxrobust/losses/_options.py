"""The one sentence that refuses an unknown option, shared by losses and selection."""

import difflib
from collections.abc import Sequence


def check_option(name: str, value: str, valid: Sequence[str]) -> None:
    """Raises ValueError, with the valid names and the nearest one, unless `value` is among them."""
    if value in valid:
        return
    nearest = difflib.get_close_matches(str(value), valid, n=1, cutoff=0.0)[0]
    raise ValueError(
        f"Unknown {name}={value!r}: use one of {', '.join(map(repr, valid))}; "
        f"did you mean {nearest!r}?"
    )
