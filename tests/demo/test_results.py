import time

import pytest

from spnet_d2.demo.results import Clock, beats_baseline, make_results, peak_rss_gb, summary

METRICS = {
    "detection": {"AP50": 0.91, "recall50": 0.95, "rAP50": 0.9},
    "standard": {"mAP": 0.86, "top1": 0.97, "gt_mAP": 0.9, "gt_top1": 0.99},
    "reentry": {"mAP": 0.6, "top1": 0.7, "gt_mAP": 0.65, "gt_top1": 0.75},
}
STARTER = {
    "detection": {"AP50": 0.71, "recall50": 0.8, "rAP50": 0.6},
    "standard": {"mAP": 0.61, "top1": 0.92, "gt_mAP": 0.8, "gt_top1": 0.96},
    "reentry": {"mAP": 0.55, "top1": 0.65, "gt_mAP": 0.6, "gt_top1": 0.7},
}
BASELINE = {"standard": {"mAP": 0.7, "top1": 0.98}, "reentry": {"mAP": 0.62, "top1": 0.78}}


def test_results_have_exactly_these_keys():
    clock = Clock()
    results = make_results(METRICS, STARTER, BASELINE, clock.seconds(), peak_rss_gb(0))
    assert list(results) == [
        "detection", "standard", "reentry", "starter", "baseline_hsv", "seconds", "peak_rss_gb"
    ]  # fmt: skip
    assert results["detection"] == {"AP50": 0.91, "recall50": 0.95}
    assert results["standard"] == METRICS["standard"]
    assert results["baseline_hsv"] == BASELINE
    assert results["starter"]["detection"] == {"AP50": 0.71, "recall50": 0.8}
    assert results["starter"]["reentry"] == STARTER["reentry"]
    phases = {"prepare", "starter", "train", "evaluate", "search", "total"}
    assert set(results["seconds"]) == phases
    assert 0.05 < results["peak_rss_gb"] < 20 and peak_rss_gb(3) >= results["peak_rss_gb"]


def test_summary_says_who_is_better():
    results = make_results(METRICS, STARTER, BASELINE, Clock().seconds(), 1.5)
    assert beats_baseline(results, "standard") and not beats_baseline(results, "reentry")
    text = summary(results)
    assert "standard: yes, reentry: NO" in text and "86.0" in text and "AP50 71.0 -> 91.0" in text


def test_clock_does_not_count_inner_phases_twice():
    clock = Clock()
    with clock.phase("train"):
        time.sleep(0.1)
        with clock.phase("evaluate"):
            time.sleep(0.3)
    with pytest.raises(ZeroDivisionError), clock.phase("search"):
        time.sleep(0.1)
        raise ZeroDivisionError
    seconds = clock.seconds()
    assert 0.1 <= seconds["train"] < 0.3 <= seconds["evaluate"]
    assert seconds["search"] >= 0.1 and seconds["prepare"] == 0
    assert seconds["total"] >= 0.5
