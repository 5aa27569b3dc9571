"""What the export tests share."""

import pytest

from tests.one_thread import one_thread as on_one_thread


@pytest.fixture(scope="module")
def one_thread():
    """For a whole module."""
    with on_one_thread():
        yield
