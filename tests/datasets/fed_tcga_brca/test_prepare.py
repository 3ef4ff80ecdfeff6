from __future__ import annotations

import hashlib

import pandas as pd
import pytest

from polyclinic.datasets.fed_tcga_brca import FEATURES, FedTcgaBrca, download, ensure_prepared, mock, prepare
from polyclinic.datasets.fed_tcga_brca.prepare import FILE
from polyclinic.errors import ConfigError, DatasetError


def test_a_made_up_table_goes_the_whole_way(tmp_path):
    made = mock(tmp_path / "raw", patients_per_center=10, seed=5)
    ready = prepare(made, tmp_path / "ready")
    assert ensure_prepared(ready) == ready
    sizes = [[len(FedTcgaBrca(center=c, train=t, data_path=ready)) for t in (True, False)] for c in range(6)]
    assert sizes == [[8, 2]] * 6
    table = pd.read_csv(ready / "brca.csv")
    assert tuple(table.columns) == ("pid", *FEATURES, "E", "T")
    assert table["pid"].is_unique
    # Seven pairs of columns are equal in the real table, too.
    for one, other in (("Stage IA", "stage ia"), ("Stage IIB", "stage iib"), ("Stage IIIC", "stage iiic")):
        assert (table[f"ajcc_pathologic_stage_{one}"] == table[f"tumor_stage_{other}"]).all()
    assert 0 < table["E"].mean() < 1


def test_the_same_seed_makes_the_same_bytes(tmp_path):
    one, same, other = ((mock(tmp_path / str(k), 5, seed) / "brca.csv") for k, seed in enumerate((1, 1, 2)))
    assert one.read_bytes() == same.read_bytes() != other.read_bytes()


def test_bad_requests_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="4 patients cannot be split"):
        mock(tmp_path, patients_per_center=4)
    with pytest.raises(DatasetError, match="does not ship with us"):
        ensure_prepared(None)
    with pytest.raises(ConfigError, match="GDC open access"):
        download(tmp_path)


def test_the_digest_of_the_download_is_that_of_the_real_table(shared):
    content = (shared / "data" / "flamby_meta" / "fed_tcga_brca" / "brca.csv").read_bytes()
    assert hashlib.sha256(content).hexdigest() == FILE.sha256
