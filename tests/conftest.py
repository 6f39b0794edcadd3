"""For every test: signals as a terminal has them, whoever started us."""

import os
import signal

import pytest

# A shell starts a job in the background with these ignored, nohup and CI runners too; commands under test inherit that.
for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number is signal.SIGINT else signal.SIG_DFL)

EXPECTED_SKIPS = 4  # SCTP twice, DCCP and SMC, where the kernel has none of them


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A skip says why; more of them than expected mean that something was not tested, which CI does not let pass."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = len(reporter.stats.get("skipped", [])) if reporter else 0
    if os.environ.get("CI") and skipped > EXPECTED_SKIPS and session.exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"{skipped} tests were skipped, {EXPECTED_SKIPS} are expected", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
