from __future__ import annotations

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._units import parse_size
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("200MB", 200 * 1024**2),
        ("200 MiB", 200 * 1024**2),
        ("2g", 2 * 1024**3),
        ("1.5GB", 3 * 1024**3 // 2),
        ("64K", 65536),
    ],
)
def test_sizes_with_a_unit_are_powers_of_1024(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["200", 200, "lots", "", None, "MB", "-1MB", "1 parsec", True, ["1MB"]])
def test_an_invalid_size_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match="200MB"):
        parse_size(text)


@given(st.integers(1, 10**6), st.sampled_from([("K", 1), ("MB", 2), ("GiB", 3)]))
def test_any_number_with_any_unit(number: int, unit: tuple[str, int]) -> None:
    assert parse_size(f"{number}{unit[0]}") == number * 1024 ** unit[1]
