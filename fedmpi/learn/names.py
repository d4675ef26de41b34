"""The names of the models, for command lines that are checked without torch."""

from fedmpi.errors import UsageError

NAMES = (
    "mlp",
    "cnn",
    "dlnet",
    "dlnet-tanh",
    "alexnet",
    "vgg16",
    "logistic",
    *(f"mlp-{layers}" for layers in (3, 5, 7)),
    *(f"resnet{layers}" for layers in (20, 32, 56)),
)
"""Those of `fedmpi.learn.models.MODELS`."""

AUTO = "auto"
"""In place of a name: `IMAGES` for rows that are images, `TABLES` for others."""
IMAGES, TABLES = "dlnet", "mlp"


def check_name(name: str) -> None:
    """Refuse what is neither the name of a model nor the form of an import path.

    Raises
    ------
    UsageError
    """
    module, colon, attribute = name.partition(":")
    if name not in NAMES and not (module and colon and attribute):
        raise UsageError(f"--model must be one of {', '.join(NAMES)}, or package.module:Class, got {name}")
