"""For every test: signals as a terminal has them, whoever started us."""

import signal

# A shell starts a job in the background with these ignored, nohup and CI runners too; commands under test inherit that.
for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number is signal.SIGINT else signal.SIG_DFL)
