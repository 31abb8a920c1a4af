"""The recorder: what each test tried, and what came of it, for docs/reliability.md."""

from collections.abc import Iterator
from typing import Protocol

import pytest

from tests.faults.page import note


class Trial(Protocol):
    def __call__(self, fault: str, outcome: str, times: int = 1) -> None: ...


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-m 'not slow'` skips the long ones, too."""
    for item in items:
        if item.get_closest_marker("faults"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def trial(request: pytest.FixtureRequest) -> Iterator[Trial]:
    """``trial(fault, outcome)``: called once a fault that was tried, after all assertions about it.

    Equal lines are counted. The area is the module's name. A test that ends without having called
    it has failed, and is recorded as that.
    """
    area = request.module.__name__.rpartition("test_")[2]
    called = []

    def tried(fault: str, outcome: str, times: int = 1) -> None:
        called.append(fault)
        note(area, fault, outcome, times)

    yield tried
    if not called:
        note(area, request.node.name, "FAILED", 1)
