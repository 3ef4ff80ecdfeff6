from __future__ import annotations

from pathlib import Path

import pytest

_SHARED = Path(__file__).parents[3] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and reference tables that may lie beside the checkout."""
    if not _SHARED.is_dir():
        pytest.skip("no folder 'shared' with real data beside this checkout")
    return _SHARED
