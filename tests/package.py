"""Build the wheel and the sdist into dist/, and test the wheel where nothing else is installed.

`python3 dev.py package` runs this. The wheel is built from the unpacked sdist, so that a file
missing there is missed here. What README.md and the tutorial have a reader install is installed so,
and has to suffice for their programs. What follows is passed on to pytest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from pages import blocks, with_output

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "lastly"

# Registers one async callback, and shows that what is loaded is the installed one.
SMOKE = """
import sys, lastly
assert "site-packages" in lastly.__file__, lastly.__file__
@lastly.register
async def close():
    print("closed")
"""


def run(*command: str | Path, cwd: Path = ROOT, **env: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **env},
        text=True,
        stdout=subprocess.PIPE,
        check=True,
    )
    return done.stdout


def build(into: Path) -> tuple[Path, Path]:
    """Build both, and return the wheel and the sdist."""
    run(sys.executable, "-m", "build", "--quiet", "--no-isolation", "--outdir", into)
    [wheel], [sdist] = into.glob("*.whl"), into.glob("*.tar.gz")
    return wheel, sdist


def faults(wheel: Path, sdist: Path) -> list[str]:
    """Say what is missing, and what is too much."""
    tracked = set(run("git", "ls-files").splitlines())
    sources = {path for path in tracked if path.startswith("src/lastly/")}
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        told = [name for name in archive.namelist() if name.endswith(("/METADATA", "/LICENSE"))]
    found = [
        f"the wheel has no {name}" for name in {s.removeprefix("src/") for s in sources} - names
    ]
    found += [f"the wheel has {name}" for name in names - {s.removeprefix("src/") for s in sources}]
    if len(told) != 2:
        found.append(f"the wheel has of metadata and licence only {told}")
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {path for path in tracked if not path.startswith((".ci/", "."))}
    found += [f"the sdist has no {path}" for path in wanted - inside]
    found += [f"the sdist has {path}" for path in inside - tracked - {"PKG-INFO", ".gitignore"}]
    return sorted(found)


def install(home: Path, *requirements: str) -> Path:
    """Return the interpreter of a fresh environment that has these, and what they need."""
    run(sys.executable, "-m", "venv", home)
    python = home / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", *requirements)
    return python


def read_along(project: Path) -> None:
    """Install what README.md and the tutorial say, in their words, and run what they show."""
    readme, tutorial = ROOT / "README.md", ROOT / "docs" / "tutorial.md"
    work = project.with_name("work")
    work.mkdir()
    run(sys.executable, "-m", "venv", work / "bare")
    python = work / "bare" / "bin" / "python"
    install_as_told(readme, project, python.parent)
    for program, output in with_output(readme, "program"):
        (work / "readme.py").write_text(program)
        assert run(python, "readme.py", cwd=work) == output, program
    install_as_told(tutorial, work, Path(sys.executable).parent)
    code = "import sys, pathlib, pages; pages.follow(*map(pathlib.Path, sys.argv[1:]))"
    python = work / "venv" / "bin" / "python"
    run(python, "-c", code, tutorial, work, PYTHONPATH=str(ROOT / "tests"))


def install_as_told(page: Path, directory: Path, executables: Path) -> None:
    """Type the blocks of this page that install something."""
    path = os.pathsep.join([str(executables), os.environ["PATH"]])
    for block in blocks(page):
        if block.kind == "sh" and "pip install" in block.text:
            run("bash", "-ec", block.text, cwd=directory, PATH=path, PIP_QUIET="1")


def main() -> None:
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    wheel, sdist = build(dist)
    if found := faults(wheel, sdist):
        sys.exit("package: " + "\npackage: ".join(found))
    print(f"built {wheel.name} and {sdist.name}", flush=True)
    with TemporaryDirectory() as directory:
        bare = install(Path(directory, "bare"), str(wheel))
        assert run(bare, "-c", SMOKE, cwd=Path(directory)) == "closed\n"
        print("installed the wheel where nothing else is, and it works", flush=True)
        with tarfile.open(sdist) as archive:
            archive.extractall(directory, filter="data")
        [unpacked] = Path(directory).glob("lastly-*")
        unpacked = unpacked.rename(unpacked.with_name("lastly"))
        read_along(unpacked)
        print("read README.md and the tutorial along, and all is there", flush=True)
        full = install(Path(directory, "full"), f"{wheel}[test,docs]")
        # Out of the unpacked sdist, and without its sources: what is tested is what was installed.
        shutil.rmtree(unpacked / "src")
        where = [unpacked / "tests", "--override-ini", f"testpaths={unpacked / 'tests'}"]
        command = [full, "-m", "pytest", "-q", *where, *sys.argv[1:]]
        sys.exit(subprocess.run([str(part) for part in command], cwd=unpacked).returncode)


if __name__ == "__main__":
    main()
