"""Programs of a compile walk, of which tests compile some."""

import jax
import numpy as np

from jaxrobust.commands.compile_for import PlannedPrograms


class Chosen(PlannedPrograms):
    """Compiles the programs of some names and traces the others."""

    def __init__(self, placement, names):
        super().__init__(placement)
        self.names = names

    def _compile(self, name, jitted, args):
        if name in self.names:
            return super()._compile(name, jitted, args)
        self.notes[name] = {}
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), args)
        return jax.eval_shape(jitted, *shapes)
