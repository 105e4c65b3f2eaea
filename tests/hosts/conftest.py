"""Every family that is reduced before its language model, one after the other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from families import mark_slow

from .kernels import flash_kernel
from .support import FAMILIES, HOSTED, ZooEntry

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_slow(items)


@pytest.fixture(params=HOSTED, ids=str, scope="session")
def entry(request: pytest.FixtureRequest) -> ZooEntry:
    """A family of `support.CORE`; with LFTR_EVERY_FAMILY=1 any family that is reduced here."""
    value: ZooEntry = request.param
    return value


@pytest.fixture
def llava() -> ZooEntry:
    """The simplest family, for what does not depend on the family."""
    return FAMILIES["llava"]


@pytest.fixture
def flash() -> Iterator[str]:
    """The name of an attention implementation that takes what FlashAttention takes."""
    with flash_kernel() as name:
        yield name


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
