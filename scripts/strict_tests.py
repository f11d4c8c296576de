"""A pytest plugin: a skipped test fails the run, except for what the machine cannot have.

PYTHONPATH=scripts python -m pytest -p strict_tests
"""

from __future__ import annotations

import pytest

ALLOWED = {
    "codec2 is not installed": "programs of the operating system: apt-get install codec2",
    "opus-tools are not installed": "programs of the operating system: apt-get install opus-tools",
    "Chromium is not installed": "programs of the operating system: apt-get install chromium",
    "no SIGKILL here": "Windows has no such signal",
}
"""Reasons for a skip that are accepted, and what each stands for."""

_refused: list[str] = []


def _check(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if reason not in ALLOWED:
        _refused.append(f"{report.nodeid}: {reason}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _check(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _check(report)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _refused and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _refused:
        terminalreporter.section("skipped tests that are not allowed here", red=True)
        for line in _refused:
            terminalreporter.line(line)
