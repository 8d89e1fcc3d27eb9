"""What `python -m build` makes: an sdist and a wheel with all they need, and the wheel at work."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

PACKAGES = ("distillens_plugin/", "eval_harness/")


def call(*command, cwd, expected=0):
    # PYTHONPATH would put a checkout before what the wheel brought.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        env={**environment, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert done.returncode == expected, done.stdout[-2000:] + done.stderr[-3000:]
    return done


def files_below(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def tracked(repo) -> list[str]:
    """The files of the checkout that git knows and that are there."""
    if shutil.which("git") is None or not (repo / ".git").exists():
        pytest.skip("needs a git checkout: what is tracked is what has to be shipped")
    names = call("git", "ls-files", "-z", cwd=repo).stdout.split("\0")
    return [name for name in names if name and (repo / name).is_file()]


@pytest.fixture(scope="module")
def built(repo, tracked, tmp_path_factory) -> Path:
    """The folder with sdist and wheel, built from the tracked files alone and without a network."""
    folder = tmp_path_factory.mktemp("build")
    for name in tracked:
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repo / name, folder / "source" / name)
    # The wheel is built from the sdist.
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist")
    call(*build, folder / "source", cwd=folder)
    return folder / "dist"


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """An environment with the wheel; its dependencies are those of the running interpreter."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, system_site_packages=True, with_pip=False)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
    (wheel,) = built.glob("*.whl")
    call(*pip, "--no-deps", "--no-index", "--ignore-installed", wheel, cwd=folder)
    # The running interpreter is a venv itself: its packages come after those of the new one.
    purelib = call(
        python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder
    ).stdout.strip()
    ours = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(purelib, "running_interpreter.pth").write_text("\n".join(sorted(ours)) + "\n")
    return folder


@pytest.fixture
def empty(tmp_path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def test_the_wheel_holds_the_packages_and_the_recipes_and_nothing_else(built, tracked):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    recipes = {f"distillens_plugin/{name}" for name in tracked if name.startswith("recipes/")}
    assert names == recipes | {name for name in tracked if name.startswith(PACKAGES)}
    suffixes = {Path(name).suffix for name in names}
    assert suffixes >= {".py", ".j2", ".yaml", ".jsonl", ".safetensors"}
    assert {"distillens_plugin/py.typed", "eval_harness/py.typed"} <= names


def test_the_sdist_holds_all_that_is_tracked(built, tracked):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = [member.name for member in archive.getmembers() if member.isfile()]
    names = {name.split("/", 1)[1] for name in members}
    made = {name for name in names if name.startswith("distillens.egg-info/")}
    assert names - made - {"PKG-INFO", "setup.cfg"} == set(tracked)


def test_the_metadata_names_commands_license_and_python(installed, empty):
    code = (
        "from importlib.metadata import entry_points, metadata; m = metadata('distillens');"
        "print(m['License-Expression'], m['Requires-Python'],"
        " *sorted(e.name for e in entry_points(group='console_scripts')"
        " if e.dist.name == 'distillens'))"
    )
    words = call(installed / "bin" / "python", "-c", code, cwd=empty).stdout.split()
    assert words[:2] == ["Apache-2.0", ">=3.11"]
    assert set(words[2:]) == {"distillens", "eval-harness"}


def test_the_installed_package_runs_the_quickstart_in_an_empty_folder(installed, empty):
    code = (
        "import distillens_plugin, eval_harness as e; print(distillens_plugin.__file__, e.__file__)"
    )
    imported = call(installed / "bin" / "python", "-c", code, cwd=empty).stdout.split()
    assert len(imported) == 2
    assert all(Path(path).is_relative_to(installed) for path in imported), imported
    package = Path(imported[0]).parent
    before = files_below(package)

    done = call(installed / "bin" / "distillens", "run", "quickstart", "--dry-run", cwd=empty)
    assert str(package / "recipes" / "quickstart" / "train.jsonl") in done.stdout
    assert "peak memory" in done.stdout
    assert files_below(package) == before
    assert not files_below(empty)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("run", "quickstart.yaml", "--with", "methods/sft"), "runs/quickstart-sft is free"),
        (("study", "quickstart"), "ok lens_identity: 5 final runs"),
    ],
)
def test_packaged_names_validate_in_an_empty_folder(installed, empty, arguments, expected):
    done = call(installed / "bin" / "distillens", *arguments, "--validate", cwd=empty)
    assert expected in done.stdout
    assert not files_below(empty)


def test_the_installed_command_lists_the_recipes_and_writes_them_out(
    repo, tracked, installed, empty
):
    shipped = {name.removeprefix("recipes/") for name in tracked if name.startswith("recipes/")}
    distillens = installed / "bin" / "distillens"
    listed = call(distillens, "recipes", cwd=empty).stdout
    for name in shipped:
        if name.endswith(".yaml"):
            # What accelerate reads is no recipe.
            is_recipe = not name.startswith("accelerate/")
            assert (f"  {name.removesuffix('.yaml')} " in listed) is is_recipe
    call(distillens, "recipes", "--copy", "mine", cwd=empty)
    assert files_below(empty / "mine") == shipped
    for name in shipped:
        assert (empty / "mine" / name).read_bytes() == (repo / "recipes" / name).read_bytes()

    refused = call(distillens, "recipes", "--copy", "mine", cwd=empty, expected=2)
    assert refused.stderr.count("\n") == 1
    assert "found existing " in refused.stderr


def test_the_installed_evaluation_harness_has_its_benchmarks(installed, empty):
    listed = call(installed / "bin" / "eval-harness", "ls", cwd=empty).stdout
    assert "gsm8k" in listed
