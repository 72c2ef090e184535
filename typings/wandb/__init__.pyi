"""What jaxrobust uses of wandb, which only the extra of that name installs."""

from typing import Any

def init(**options: Any) -> Any: ...
