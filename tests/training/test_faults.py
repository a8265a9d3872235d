"""The short version of faults.py, whose last long run is in docs/results/faults.log."""

import importlib.util

import pytest
from faults import run_faults

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="needs tensorflow"
)


def test_a_job_whose_workers_are_killed_ends_with_the_same_bits(tmp_path):
    run_faults(tmp_path, workers=2, kills=2, epochs=8)


@pytest.mark.slow
def test_twenty_kills(tmp_path):
    run_faults(tmp_path, workers=2, kills=20, epochs=200)
