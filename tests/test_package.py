"""What is shipped, and that the index of the examples is complete."""

from __future__ import annotations

import re
from pathlib import Path

import package
import pytest
from package import ROOT


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only git knows what belongs to it")
def test_the_wheel_and_the_sdist_have_what_they_should(tmp_path: Path) -> None:
    """All that is tracked is in the sdist, all of the package in the wheel, and nothing else."""
    assert package.faults(*package.build(tmp_path)) == []


def test_the_index_of_the_examples_is_complete() -> None:
    """examples/README.md links each program once, and nothing that is not there."""
    examples = ROOT / "examples"
    linked = re.findall(r"\[(.+?\.py)\]\((.+?\.py)\)", (examples / "README.md").read_text())
    assert all(shown == target for shown, target in linked)
    assert sorted(target for _, target in linked) == sorted(
        str(path.relative_to(examples)) for path in examples.rglob("*.py")
    )
