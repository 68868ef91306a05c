import pytest

from executor import Executor, clean


@pytest.fixture(scope="module")
def cpu():
    with Executor("--backend=cpu", library=None) as executor:
        yield executor


@pytest.fixture
def cuda():
    with Executor() as executor:
        yield executor
        clean(executor)
