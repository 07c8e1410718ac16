"""pyblish-base's own test suite, from its source distribution, has the same outcomes with our plugins as without.

Run it with ``python -m pytest -m slow tests/test_upstream.py``. Some of its tests fail by themselves: files that they need are
not in the distribution, or they were written for older versions of Python.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as Tree
from pathlib import Path

import pytest

HERE = Path(__file__).parent
VERSION = "1.8.12"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked distribution."""
    folder = tmp_path_factory.mktemp("upstream")
    words = ["pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(folder), f"pyblish-base=={VERSION}"]
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the source distribution of pyblish-base cannot be had: {done.stderr}")
    with tarfile.open(folder / f"pyblish-base-{VERSION}.tar.gz") as archive:
        archive.extractall(folder, filter="data") if hasattr(tarfile, "data_filter") else archive.extractall(folder)
    return folder / f"pyblish-base-{VERSION}"


def outcomes(suite: Path, whose: str, folder: str = "") -> dict[tuple[str | None, str | None], str]:
    """What became of each test."""
    pytest.importorskip("nose", reason="pynose is not installed: pip install -e '.[test]'")
    report = suite.parent / f"{whose}.xml"
    words = [sys.executable, str(HERE / "upstream.py"), whose, "--with-xunit", f"--xunit-file={report}", "tests"]
    surroundings = {**os.environ, "PYBLISHPLUGINPATH": folder}
    subprocess.run(words, cwd=suite, capture_output=True, check=False, env=surroundings, timeout=250)
    cases = [case for case in Tree.parse(report).getroot() if case.tag == "testcase"]
    kinds = [{part.tag for part in case} & {"failure", "error", "skipped"} for case in cases]
    return {(case.get("classname"), case.get("name")): next(iter(kind), "ok") for case, kind in zip(cases, kinds)}


def test_the_suite_has_the_same_outcomes_with_our_plugins_registered(suite: Path) -> None:
    without = outcomes(suite, "nobody")
    assert len(without) > 150
    assert list(without.values()).count("ok") > 0.9 * len(without)
    assert outcomes(suite, "ours") == without


def test_a_folder_of_ours_in_the_environment_is_to_it_like_any_other(suite: Path, tmp_path: Path) -> None:
    """Tests that count all plugins do not expect any folder there."""
    for name, order in (("collect", 0), ("validate", 1), ("integrate", 3)):
        text = f"import pyblish.api\nclass Any{order}(pyblish.api.ContextPlugin):\n    order = {order}\n"
        (tmp_path / f"{name}_any.py").write_text(text)
    other = outcomes(suite, "nobody", str(tmp_path))
    ours = outcomes(suite, "ours", str(HERE.parent / "plugins"))
    labelled = ("tests.pre11.test_plugins", "test_print_plugin")  # wants a plugin without a label
    assert {name: kind for name, kind in ours.items() if other[name] != kind and name != labelled} == {}
