"""Several hosts on this machine."""

import importlib.util
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[3] / "launch" / "virtual-cluster"


@pytest.fixture(scope="session")
def program() -> Path:
    """launch/virtual-cluster, where this machine can have virtual hosts."""
    _module_or_skip()
    return PROGRAM


@pytest.fixture(scope="session")
def virtual_cluster() -> Callable[..., Any]:
    """Makes clusters; used as a context manager. Parameters: hosts, slots, rate."""
    return _module_or_skip().VirtualCluster


def _module_or_skip() -> ModuleType:
    loader = SourceFileLoader("virtual_cluster", str(PROGRAM))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    try:
        module.require_tools()
    except module.Failure as failure:
        pytest.skip(f"no virtual hosts: {failure}")
    return module
