"""`python -m jaxrobust.embed DIR --out=features.npz`: the command line of `jaxrobust.embed(...)`.

The package's attribute `embed` is the function. Importing this module replaces the attribute, so
the module can be called in the same way.
"""

import sys
import types

from jaxrobust.embedding import embed, main


class _Callable(types.ModuleType):
    __call__ = staticmethod(embed)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    sys.exit(main())
