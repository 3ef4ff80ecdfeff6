from __future__ import annotations

import hashlib

from polyclinic.datasets.fed_heart_disease.dataset import SOURCES, source_file
from polyclinic.datasets.fed_heart_disease.prepare import _SHA256


def test_digests_of_the_download_are_those_of_ucis_files(shared):
    for center, source in enumerate(SOURCES):
        content = (shared / "data" / "heart_disease" / source_file(center)).read_bytes()
        assert hashlib.sha256(content).hexdigest() == _SHA256[source]
