import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many goldens were reproduced to the bit, which is more than the tests ask for."""
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    identical = [
        value
        for report in reports
        if report.when == "call"
        for name, value in report.user_properties
        if name == "identical"
    ]
    if identical:
        compared = f"{len(identical)} results of MMDetection compared"
        terminalreporter.write_line(f"{compared}, {sum(identical)} identical to the bit")
