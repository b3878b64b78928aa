import pytest
from outputs import CASES, assert_golden, golden_config, golden_geometries, golden_output

from model.reference import reference_postprocess


@pytest.mark.parametrize("name", CASES)
def test_results_equal_the_originals(name: str) -> None:
    results = reference_postprocess(
        golden_output(name), golden_geometries(name), golden_config(CASES[name]["test_cfg"])
    )

    assert_golden(results, name)
