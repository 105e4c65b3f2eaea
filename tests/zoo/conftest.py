"""Tests of the families that resemble others run in `.ci/run`."""

from __future__ import annotations

import pytest
from families import mark_slow


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_slow(items)
