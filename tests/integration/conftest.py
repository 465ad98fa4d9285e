"""An S3 server for the tests that ask for one."""

from __future__ import annotations

import pytest

from tests.s3_proxy import S3Proxy
from tests.s3_server import running_server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The real one."""
    running = running_server(tmp_path_factory.mktemp("s3"))
    yield running
    running.kill()


@pytest.fixture
def proxy(server):
    """What stands before it and can be told to fail."""
    running = S3Proxy(server.endpoint)
    yield running
    running.close()
