"""Builds the shim and starts the driver, once for a test run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.harness import HERE, Disk, Driver, Studio, ext4, fast_folder


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled library."""
    if not sys.platform.startswith("linux"):
        pytest.skip("NOT TESTED: faults of real processes need Linux")
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("NOT TESTED: faults of real processes need a C compiler; install gcc")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(library), str(HERE / "shim.c")]
    subprocess.run([*command, "-ldl", "-lpthread"], check=True, timeout=120)
    return library


@pytest.fixture(scope="session")
def driver(shim: Path) -> Iterator[Driver]:
    started = Driver(shim)
    yield started
    started.close()


@pytest.fixture(scope="session")
def studio(driver: Driver) -> Iterator[Studio]:
    """The studio that all runs are copies of."""
    with tempfile.TemporaryDirectory(dir=fast_folder(), prefix="integrator-faults-", ignore_cleanup_errors=True) as folder:
        yield Studio(folder, driver)


@pytest.fixture
def disk() -> Iterator[Disk]:
    """A mounted ext4 file system with a journal."""
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: a file system of one's own needs root")
    try:
        with ext4(fast_folder()) as mounted:
            yield mounted
    except OSError as error:
        pytest.skip(f"NOT TESTED: {error}")
