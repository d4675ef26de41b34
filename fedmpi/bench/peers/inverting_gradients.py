"""One image by the authors' program of inverting gradients [Geiping et al. 2020], JonasGeiping/invertinggradients.

``PYTHON -m fedmpi.bench.peers.inverting_gradients CHECKOUT FILE.npz ITERATIONS SEED`` reads the name of a model,
the shape of the image, parameters and gradient, writes the image in their place, and prints JSON.
"""

import json
import sys
import time
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from fedmpi.learn import build_model

CONFIG = {
    "signed": True,
    "boxed": True,
    "cost_fn": "sim",
    "indices": "def",
    "weights": "equal",
    "lr": 0.1,
    "optim": "adam",
    "restarts": 1,
    "max_iterations": 4800,
    "total_variation": 1e-2,
    "init": "randn",
    "filter": "none",
    "lr_decay": True,
    "scoring_choice": "loss",
}
"""Their defaults, but for signed derivatives, as in their own examples, and for the weight of the total variation: with
a tenth of their default they found test image 100 of CIFAR-10, which the comparison does not have, at 27.7 dB, and with
the default at 19.8."""


def program_of(checkout: Path) -> Any:
    """Their module of the reconstruction, without their data sets and models, which need torchvision."""
    for name in ("inversefed", "inversefed.nn"):
        package = ModuleType(name)
        package.__path__ = [str(checkout.joinpath(*name.split(".")))]
        sys.modules[name] = package
    vars(sys.modules["inversefed.nn"])["MetaMonkey"] = import_module("inversefed.nn.modules").MetaMonkey
    sys.modules.setdefault("torchvision", ModuleType("torchvision"))  # for a score that is not used here
    return import_module("inversefed.reconstruction_algorithms")


def main(checkout: str, file: str, iterations: int, seed: int) -> None:
    """Find the image; processor seconds of the search alone."""
    torch.set_num_threads(1)
    program = program_of(Path(checkout))
    with np.load(file) as work:
        arrays = {name: work[name] for name in work.files}
    shape, classes = tuple(arrays["shape"].tolist()), int(arrays["classes"])
    model = build_model(str(arrays["model"]), shape, classes, 0)
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.from_numpy(arrays[f"parameter{i}"]))
    gradient = [torch.from_numpy(arrays[f"gradient{i}"]) for i in range(len(list(model.parameters())))]
    torch.manual_seed(seed)
    mean, deviation = torch.zeros(shape[0], 1, 1), torch.ones(shape[0], 1, 1)  # pixels are in [0, 1]
    config = CONFIG | {"max_iterations": iterations}
    begun = time.process_time()
    inversion = program.GradientReconstructor(model, (mean, deviation), config, num_images=1)
    image, _ = inversion.reconstruct(gradient, None, img_shape=shape)
    seconds = time.process_time() - begun
    np.savez(file, image=image.numpy())
    print(json.dumps({"cpu_seconds": seconds}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
