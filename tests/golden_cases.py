"""Arrays that the authors' code gave, by case, and how near ours come to them in a dtype."""

import numpy as np


def tolerances(dtype):
    if dtype == np.float64:
        return {"rtol": 1e-9, "atol": 1e-13}
    return {"rtol": 1e-5, "atol": 1e-6}


def arrays_of(golden, topic, case, dtype=None):
    names = [name for name in golden.names(topic) if name.startswith(case + "/")]
    arrays = {name.removeprefix(case + "/"): golden[topic, name] for name in names}
    return arrays if dtype is None else {n: x.astype(dtype) for n, x in arrays.items()}
