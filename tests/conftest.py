"""What all tests share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("integrator.testing")
from hosts import OLD, Host, interpreter  # noqa: E402 - assertions are rewritten at the first import
from studio import Studio, fast_folder  # noqa: E402


@pytest.fixture(autouse=True)
def _own_umask() -> Iterator[None]:
    """The command line changes the umask of its process, which here is that of all tests."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Settings of whoever runs the tests must not change what they see."""
    for name in ("INTEGRATOR_ROOT", "INTEGRATOR_DATABASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "no-user-settings"))


#: Files of tests/faults that are quick enough to run every time; the others are `slow`.
_QUICK = ("test_shim.py", "test_unmounted.py", "test_order.py", "test_database_errors.py", "test_kill.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for test in items:
        if test.path.parent.name == "faults" and test.path.name not in _QUICK:
            test.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def _studio() -> Iterator[Studio]:
    with tempfile.TemporaryDirectory(dir=fast_folder(), prefix="integrator-test-") as folder:
        yield Studio(os.path.join(folder, "studio"))


@pytest.fixture
def studio(_studio: Studio) -> Iterator[Studio]:
    """A studio of its own, with v001 of two subsets."""
    copy = _studio.fresh()
    yield copy
    copy.remove()


@pytest.fixture(params=OLD)
def python(request: pytest.FixtureRequest) -> str:
    found = interpreter(request.param)
    if not found:
        pytest.skip(f"there is no Python {request.param} here: the client was NOT seen to run with it")
    return found


@pytest.fixture
def oldest() -> str:
    found = next(filter(None, map(interpreter, OLD)), "")
    if not found:
        pytest.skip(f"there is none of Python {', '.join(OLD)} here: the client was NOT seen to run with any of them")
    return found


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)
