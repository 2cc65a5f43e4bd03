"""Source directories: deployed without a build, or built from a copy with the same git description."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._artifact import Inputs, build
from ansible_collections.fleet.celery.plugins.module_utils._release import ReleaseError
from ansible_collections.fleet.celery.plugins.module_utils._source import clone
from ansible_collections.fleet.celery.plugins.module_utils._tree import (
    copy_for_build,
    described,
    is_buildable,
    left_out,
    pack_tree,
    tree_files,
)
from wheels import wheel

AUTHOR = {f"GIT_{who}_{what}": "x@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def git(directory: Path, *arguments: str) -> str:
    run = subprocess.run(
        ["git", "-C", str(directory), *arguments], capture_output=True, text=True, check=True, env=os.environ | AUTHOR
    )
    return run.stdout.rstrip()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Write the tutorial's project in a repository, with an ignored and an uncommitted file."""
    texts = {
        "manage.py": "import mysite\n",
        "mysite/__init__.py": "",
        "polls/templates/mail.txt": "Hello\n",
        "requirements.txt": "",
        ".gitignore": "secret.py\n*.sqlite3\n",
        ".github/workflow.yml": "",
        "secret.py": "PASSWORD = 's3cret'\n",
        "db.sqlite3": "",
    }
    source = tmp_path / "my-site"
    for name, text in texts.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    (source / "manage.py").chmod(0o755)
    git(tmp_path, "init", "--quiet", str(source))
    git(source, "add", ".")
    git(source, "commit", "--quiet", "--message", "x")
    git(source, "tag", "v1.4")
    return source


@pytest.mark.parametrize(
    ("file", "text", "buildable"),
    [
        ("setup.py", "", True),
        ("pyproject.toml", "[build-system]\nrequires = []\n", True),
        ("pyproject.toml", "[project]\nname = 'a'\n[project.scripts]\na = 'a:main'\n", True),
        ("pyproject.toml", "[project]\nname = 'a'\n[tool.setuptools]\n", True),
        ("pyproject.toml", "[project]\nname = 'a'\n[tool.uv]\npackage = true\n", True),
        ("pyproject.toml", "[build-system]\nrequires = []\n[tool.uv]\npackage = false\n", False),
        ("pyproject.toml", "[project]\nname = 'a'\n", False),
        ("pyproject.toml", "[tool.ruff]\nline-length = 100\n", False),
        ("requirements.txt", "", False),
    ],
)
def test_buildable_directories_are_detected(tmp_path: Path, file: str, text: str, buildable: bool) -> None:
    (tmp_path / file).write_text(text)
    assert is_buildable(tmp_path) == buildable


def test_invalid_pyproject_is_reported_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project\n")
    with pytest.raises(ReleaseError, match=r"pyproject\.toml can't be read: "):
        is_buildable(tmp_path)


def test_tree_contains_files_that_git_does_not_ignore(site: Path) -> None:
    (site / "new.py").touch()
    found = {str(path.relative_to(site)) for path in tree_files(site)}
    assert found == {"manage.py", "mysite/__init__.py", "polls/templates/mail.txt", "requirements.txt", "new.py"}


def test_a_tree_that_a_repository_around_it_ignores_is_refused(site: Path, tmp_path: Path) -> None:
    (site / ".gitignore").write_text("/build_of_mine/\n")
    (site / "build_of_mine").mkdir()
    (site / "build_of_mine" / "requirements.txt").touch()
    with pytest.raises(ReleaseError, match=r"has no file that git does not ignore in the repository .*my-site\. Name"):
        pack_tree(site / "build_of_mine", "mine", tmp_path)


def test_tree_is_packed_unchanged_with_its_data(site: Path, tmp_path: Path) -> None:
    wheel = pack_tree(site, "my-site", tmp_path)
    target = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(target)], check=True)
    subprocess.run([str(target / "bin" / "pip"), "-q", "install", "--no-index", "--no-deps", str(wheel)], check=True)
    tree = target / "src"
    assert (tree / "polls" / "templates" / "mail.txt").read_text() == "Hello\n"
    assert os.access(tree / "manage.py", os.X_OK)
    assert not (tree / "secret.py").exists()
    subprocess.run([str(target / "bin" / "python"), str(tree / "manage.py")], check=True)
    with zipfile.ZipFile(wheel) as archive:
        (record,) = (name for name in archive.namelist() if name.endswith("RECORD"))
        assert archive.read(record).count(b"sha256=") == len(archive.namelist()) - 1


def test_packages_in_src_of_a_tree_are_on_the_path(site: Path, tmp_path: Path) -> None:
    (site / "src" / "shop").mkdir(parents=True)
    (site / "src" / "shop" / "__init__.py").write_text("")
    with zipfile.ZipFile(pack_tree(site, "my-site", tmp_path)) as archive:
        assert archive.read("my_site.pth") == b"../../../src/src\n"
        assert any(name.endswith("/data/src/src/shop/__init__.py") for name in archive.namelist())


def test_data_files_that_a_wheel_lacks_are_found(site: Path, tmp_path: Path) -> None:
    for name in ("polls/__init__.py", "polls/icon.svg", "polls/tests/data.json", "polls/README.md", "docs/x.html"):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text("")
    built = wheel(tmp_path, "mysite-1.0", more={"polls/__init__.py": "", "polls/icon.svg": ""})
    assert left_out(site, built) == ["polls/templates/mail.txt"]
    (site / "src").mkdir()
    (site / "polls").rename(site / "src" / "polls")
    assert left_out(site, built) == ["src/polls/templates/mail.txt"]


def test_version_of_a_tree_depends_on_its_content(site: Path, tmp_path: Path) -> None:
    first = pack_tree(site, "my-site", tmp_path)
    content = first.read_bytes()
    os.utime(site / "manage.py", (1, 1))
    (site / "secret.py").write_text("changed")
    assert pack_tree(site, "my-site", tmp_path) == first
    assert first.read_bytes() == content
    (site / "manage.py").write_text("changed\n")
    assert pack_tree(site, "my-site", tmp_path) != first


def test_artifact_of_a_tree_contains_its_requirements(site: Path, tmp_path: Path) -> None:
    artifact, built = build(
        Inputs(site, requirements=site / "requirements.txt"),
        directory=tmp_path / "a",
        python="3.11.2",
        machine="x86_64",
    )
    assert built
    assert artifact.name.startswith("my-site-0+")


def test_build_has_the_repository_and_uncommitted_changes(site: Path, tmp_path: Path) -> None:
    (tmp_path / "clean").mkdir()
    assert described(site) == ""
    (site / "setup.py").touch()
    git(site, "add", ".")
    git(site, "commit", "--quiet", "--message", "y")
    git(site, "tag", "v1.5")
    copy = copy_for_build(site, tmp_path / "clean")
    assert described(copy) == "v1.5"
    assert (copy / ".gitignore").exists()
    (site / "manage.py").write_text("changed\n")
    (site / "mysite" / "__init__.py").unlink()
    (site / "new.py").touch()
    (tmp_path / "changed").mkdir()
    copy = copy_for_build(site, tmp_path / "changed")
    assert described(copy) == described(site) == "v1.5-dirty"
    assert (copy / "manage.py").read_text() == "changed\n"
    assert (copy / "new.py").exists()
    assert not (copy / "mysite" / "__init__.py").exists()
    assert git(site, "status", "--short").splitlines() == [" M manage.py", " D mysite/__init__.py", "?? new.py"]


def test_subdirectory_is_built_with_its_whole_repository(site: Path, tmp_path: Path) -> None:
    copy = copy_for_build(site / "polls", tmp_path)
    assert (copy / "templates" / "mail.txt").exists()
    assert (copy.parent / "manage.py").exists()


def test_git_url_gives_its_commit(site: Path, tmp_path: Path) -> None:
    url = f"git+{site.as_uri()}"
    (site / "manage.py").write_text("second\n")
    git(site, "commit", "--quiet", "--all", "--message", "y")
    commit = git(site, "rev-parse", "HEAD")

    def text(suffix: str) -> str:
        return (clone(url + suffix, tmp_path / "kept")[0] / "manage.py").read_text()

    assert text("") == text(f"@{commit}") == "second\n"
    assert text("@v1.4") == "import mysite\n"
    path, new = clone(f"{url}@v1.4", tmp_path / "kept")
    assert (path.name, new) == ("my-site", False)
    assert git(path, "describe", "--tags") == "v1.4"
    assert clone(f"{url}@v1.4#subdirectory=polls", tmp_path / "kept")[0] == path / "polls"
    git(site, "tag", "--force", "v1.4")
    assert text("@v1.4") == "second\n"


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        ("@v9", "has no branch, tag or commit v9"),
        ("@--output=x", "has no branch, tag or commit --output=x"),
        ("#subdirectory=web", "has no directory web"),
        ("#subdirectory=../..", r"has no directory \.\./\.\."),
        ("/nowhere", r"nowhere from this machine \(celery_app_source\): git fetch failed"),
    ],
)
def test_git_url_without_such_a_commit_or_directory_is_refused(
    site: Path, tmp_path: Path, suffix: str, message: str
) -> None:
    with pytest.raises(ReleaseError, match=message):
        clone(f"git+{site.as_uri()}{suffix}", tmp_path / "kept")
    with pytest.raises(ReleaseError, match=r"begins with git\+ext://"):
        clone("git+ext://sh -c touch% /tmp/x", tmp_path / "kept")
