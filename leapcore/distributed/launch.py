"""Several processes on this machine, through torch's own launcher."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from leapcore.distributed.cores import cores_each
from leapcore.errors import RanksError

# As the command `leapcore` does it: `python -m` would import from the current folder first.
COMMAND = "import sys; sys.path[:] = filter(None, sys.path); from leapcore.cli import main; main()"


def _end_as(codes: dict[int, int]) -> NoReturn:
    """End as the first process did that failed, by the exit codes of all that failed."""
    # Those that the launcher ended itself, once one had failed, explain nothing.
    rank = next((rank for rank, code in codes.items() if code != -signal.SIGTERM), min(codes))
    if -codes[rank] in (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT):  # it printed nothing itself
        raise _gone(rank, -codes[rank]) from None
    sys.exit(codes[rank] if codes[rank] > 0 else 128 - codes[rank])  # by a signal: as the shell counts


def _gone(rank: int, number: int) -> RanksError:
    """The error of a process that a signal ended; the others may be ended before they have noticed."""
    error = RanksError(
        f"a process of this run is gone: rank {rank} was ended by {signal.Signals(number).name}",
        "It may have been short of memory. Go on from the last checkpoint: the same command with --resume.",
    )
    error.exit_code = 128 + number
    return error


def launch(arguments: Sequence[str], processes: int) -> NoReturn:
    """Run the same command in several processes; when one fails, the others are ended.

    Args:
        arguments: The command line without the program's name.
        processes: How many.

    Raises:
        RanksError: One of them was ended by the system.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # It reports each failure with tables and tracebacks; the processes print themselves what is wrong.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(cores_each(processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=str(os.getpid()),
        max_restarts=0,
        monitor_interval=0.5,
    )
    try:
        elastic_launch(config, sys.executable)("-c", COMMAND, *arguments)
    except ChildFailedError as error:
        _end_as({rank: failure.exitcode for rank, failure in sorted(error.failures.items())})
    except SignalException as error:
        sys.exit(128 + error.sigval)
    sys.exit(0)
