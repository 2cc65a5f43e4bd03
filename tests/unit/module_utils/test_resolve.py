"""Dependencies are resolved for the Python and the machine of the hosts, not of the controller."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._release import ReleaseError
from ansible_collections.fleet.celery.plugins.module_utils._resolve import (
    Package,
    end_of,
    index_environment,
    locked_hashes,
    redacted,
    resolve,
)
from wheels import wheel

EXAMPLE = Path(__file__).parents[3] / "example"
A, B, C = (letter * 64 for letter in "abc")
LOCK = f"""\
# made by hand
--index-url https://index.example/simple;x
amqp==5.4.2 \\
    --hash=sha256:{A} \\
    --hash=sha256:{B}
Async_Timeout[x]==5.0.1 ; python_full_version < '3.11.3' --hash sha256:{C}
tzdata==2026.1 ; python_version >= "3.12" # a comment --hash=sha256:{A}
vine==5.1.0  # via amqp; and others
"""


@pytest.fixture(autouse=True)
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")


def names(found: list[Package]) -> set[str]:
    return {package.name for package in found}


def found(tmp_path: Path, *lines: str, python: str = "3.11.2", machine: str = "x86_64") -> list[Package]:
    (tmp_path / "requirements.txt").write_text("\n".join(["--find-links links", *lines]) + "\n")
    return resolve([], [tmp_path / "requirements.txt"], python=python, machine=machine, directory=tmp_path)


@pytest.mark.parametrize(
    ("python", "expected"), [("3.11.2", {"redis", "async-timeout"}), ("3.13.5", {"redis", "tzdata"})]
)
def test_markers_are_evaluated_for_the_hosts_python(tmp_path: Path, python: str, expected: set[str]) -> None:
    wheel(tmp_path / "links", "redis-8.1", needs="async-timeout ; python_full_version < '3.11.3'")
    wheel(tmp_path / "links", "async_timeout-5.0")
    wheel(tmp_path / "links", "tzdata-2026.1")
    assert names(found(tmp_path, "redis", "tzdata ; python_version >= '3.12'", python=python)) == expected


def test_version_for_a_newer_python_is_not_chosen(tmp_path: Path) -> None:
    wheel(tmp_path / "links", "soupsieve-4.0")
    wheel(tmp_path / "links", "soupsieve-4.1", python=">=3.11.5")
    (old,) = found(tmp_path, "soupsieve", python="3.11.2")
    (new,) = found(tmp_path, "soupsieve", python="3.13.5")
    assert (old.version, new.version) == ("4.0", "4.1")


def test_wheels_fit_the_hosts_python_and_machine(tmp_path: Path) -> None:
    for tag in (
        "cp311-cp311-manylinux_2_28_x86_64",
        "cp313-cp313-manylinux1_x86_64",
        "cp313-cp313-manylinux_2_17_aarch64",
        "cp313-cp313-musllinux_1_2_x86_64",
    ):
        wheel(tmp_path / "links", "libsass-1.0", tag=tag)

    def tags(python: str, machine: str = "x86_64") -> list[str]:
        (package,) = found(tmp_path, "libsass", python=python, machine=machine)
        return [url.rpartition("/")[2] for url in package.wheels]

    assert tags("3.11.2") == ["libsass-1.0-cp311-cp311-manylinux_2_28_x86_64.whl"]
    assert tags("3.13.5") == ["libsass-1.0-cp313-cp313-manylinux1_x86_64.whl"]
    assert tags("3.13.5", "aarch64") == ["libsass-1.0-cp313-cp313-manylinux_2_17_aarch64.whl"]


def test_paths_are_relative_to_the_base_directory(tmp_path: Path) -> None:
    lib = tmp_path / "project" / "lib"
    lib.mkdir(parents=True)
    (lib / "pyproject.toml").write_text('[project]\nname = "lib"\nversion = "1.0"\ndependencies = ["vine"]\n')
    wheel(tmp_path / "links", "vine-5.1")
    file = tmp_path / "project" / "requirements.txt"
    file.write_text("--find-links ../links\n-e ./lib\n")
    packages = resolve([], [file], python="3.13.5", machine="x86_64", directory=file.parent)
    assert {package.name: package.source for package in packages} == {"lib": f"lib @ {lib.as_uri()}", "vine": ""}


def test_error_of_the_resolver_has_the_reason(tmp_path: Path) -> None:
    wheel(tmp_path / "links", "shop-1.0", needs="celery<5")
    wheel(tmp_path / "links", "celery-5.7")
    with pytest.raises(ReleaseError, match=r"can't be resolved for Python 3\.11\.2 on x86_64:\n(?s:.*)celery<5"):
        found(tmp_path, "shop", "celery>=5")


def test_other_python_of_the_hosts_is_advised(tmp_path: Path) -> None:
    wheel(tmp_path / "links", "shop-1.0", python=">=3.12")
    with pytest.raises(ReleaseError, match=r"\nRequire versions .* Python 3\.11\.2, or .* Debian 13 has 3\.13$"):
        found(tmp_path, "shop==1.0", python="3.11.2")


def test_end_of_a_text_has_whole_lines() -> None:
    assert end_of("a long line\nsecond\nthird\n", 15) == "second\nthird"
    assert end_of("first\nsecond\n", 6) == "second"
    assert end_of("one long line", 4) == "line"


def test_hashes_are_read_from_the_lock() -> None:
    assert locked_hashes([LOCK]) == {"amqp": {A, B}, "async-timeout": {C}}
    assert locked_hashes(["vine\namqp==5.4\n"]) == {}


def test_lock_of_the_example_differs_between_debian_12_and_13() -> None:
    text = (EXAMPLE / "requirements.lock").read_text(encoding="utf-8")
    assert "async-timeout" in locked_hashes([text])


def test_uv_uses_the_package_sources_of_pip() -> None:
    configured = "\n".join(
        [
            "global.index-url='https://old.example/simple'",
            "global.extra-index-url='https://a.example/simple\\nhttps://b.example/simple'",
            "global.find-links='/opt/wheels /opt/more'",
            "install.no-index='true'",
            "global.timeout='60'",
            ":env:.index-url='https://u:pw@new.example/simple'",
            ":env:.cert='/etc/ca.pem'",
        ]
    )
    variables, options = index_environment(configured, {"SSL_CERT_FILE": "/etc/own.pem"})
    assert variables == {
        "UV_DEFAULT_INDEX": "https://u:pw@new.example/simple",
        "UV_INDEX": "https://a.example/simple https://b.example/simple",
        "UV_FIND_LINKS": "/opt/wheels,/opt/more",
    }
    assert options == []
    assert index_environment(":env:.no-index='1'", {}) == ({}, ["--no-index"])


def test_passwords_are_redacted() -> None:
    assert redacted("GET https://u:s3cret@index.example/simple failed") == "GET https://index.example/simple failed"
