"""The page as a browser shows it; skipped where Chromium is not installed."""

import pytest
from browser import BINARY, Browser
from folders import write_bench, write_run

from leapcore.bench.report import write_bench_report
from leapcore.report.run_report import write_run_report

pytestmark = pytest.mark.skipif(BINARY is None, reason="needs Chromium (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    root = tmp_path_factory.mktemp("pages")
    long = ("vit_small_patch16_dinov2", "convnext_tiny_in22k")
    return [
        write_bench_report(write_bench(root / "b", long, long, seeds=(0, 1))).page,
        write_run_report(write_run(root / "r")).page,
    ]


@pytest.mark.parametrize("width", [390, 1280])
def test_pages_fit_any_window(pages, width, tmp_path):
    with Browser(tmp_path / "profile") as browser:
        for page in pages:
            sizes = browser.open(page, width)
            assert sizes["page"] <= sizes["window"]
            assert sizes["pictures"]
            assert all(min(size) > 5 for size in sizes["pictures"])
            assert len(sizes["ids"]) == len(set(sizes["ids"]))
        assert browser.complaints() == []
        assert browser.pdf().startswith(b"%PDF")
