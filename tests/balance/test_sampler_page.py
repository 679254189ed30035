"""The page of the sampler: its examples run, and its list of upstream checks is the one upstream has."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

from imblearn.utils import estimator_checks

from cxraug.balance import SyntheticOverSampler

PAGE = Path(__file__).parents[2] / "docs" / "sampler.md"


def test_its_examples_print_what_it_says() -> None:
    options = doctest.NORMALIZE_WHITESPACE
    failed, tried = doctest.testfile(str(PAGE), module_relative=False, optionflags=options, encoding="utf-8")
    assert failed == 0
    assert tried > 25


def test_it_lists_every_check_for_samplers() -> None:
    text = PAGE.read_text().split("## Upstream's checks")[1].split("## What")[0]
    passing, others = text.split("These do not:")
    run = {check.func.__name__ for _, check in estimator_checks.estimator_checks_generator(SyntheticOverSampler())}
    failing = {"check_target_type", "check_samplers_string"}
    beside = {"check_param_validation", "check_dataframe_column_names_consistency"}
    assert set(re.findall(r"`(check_\w+)`", passing)) == (run - failing) | beside
    named = re.findall(r"\| `(check_\w+)` \|", others)
    assert set(named) == failing | {"check_samplers_sparse", "check_samplers_nan"}
    for_samplers = {n for n in dir(estimator_checks) if re.match("check_(samplers?|target)_", n)}
    assert for_samplers <= set(re.findall(r"`(check_\w+)`", text))
