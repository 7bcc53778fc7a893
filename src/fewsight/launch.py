"""Several processes that train together: joined where `torchrun` started them, or started here by `launch`.

    torchrun --nproc-per-node 2 -m fewsight metatrain DATA --out RUN
    fewsight metatrain DATA --out RUN --devices 2

do the same. On processors the processes talk by gloo, on GPUs by NCCL, one GPU a process.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from fewsight.errors import FewsightError, InvalidInput

__all__ = ["joined", "launch"]

PATIENCE = timedelta(days=1)  # ranks wait for the one that decodes all photos
INTERRUPTED = 130


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Within the block this process is one of those that `torchrun` or `launch` started; else nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def launch(function: Callable[..., Any], arguments: Mapping[str, Any], devices: int) -> Any:
    """Call `function(**arguments)` in `devices` processes of this machine; gives what the first returns.

    Ctrl-C and SIGTERM go to all of them, once each time. If one fails, the others end too.

    Args:
        function: of a module, so that a new process finds it by name.
        devices: how many; on a machine with GPUs at most as many as there are.

    Raises:
        InvalidInput: there are fewer GPUs, or none was asked for.
        FewsightError: what the first failing process said.
        KeyboardInterrupt: they were told to leave, and had nothing to keep yet or were told twice.
    """
    if devices < 1:
        raise InvalidInput(f"devices is {devices}; expected at least 1.")
    if torch.cuda.is_available() and devices > torch.cuda.device_count():
        raise InvalidInput(f"devices is {devices}, and this machine has {torch.cuda.device_count()} GPUs.")
    from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

    answers = multiprocessing.get_context("spawn").SimpleQueue()
    running = start_processes(
        _child,
        (function, dict(arguments), devices, _free_port(), answers),
        nprocs=devices,
        join=False,
        start_method="spawn",
    )
    failure: BaseException | None = None
    with _signals_passed_on([process.pid for process in running.processes]) as arrived:
        try:
            while not running.join(timeout=1.0):
                pass
        except (ProcessExitedException, ProcessRaisedException) as error:
            failure = error
    said: dict[str, Any] = {}
    while not answers.empty():
        kind, value = answers.get()
        said.setdefault(kind, value)
    if "error" in said:
        raise said["error"]
    if failure is not None:
        if arrived or getattr(failure, "exit_code", None) == INTERRUPTED:
            raise KeyboardInterrupt
        raise failure
    return said.get("result")


def _child(
    rank: int, function: Callable[..., Any], arguments: dict[str, Any], devices: int, port: int, answers: Any
) -> None:
    os.setpgid(0, 0)  # a terminal's Ctrl-C reaches the parent alone, which passes it on once
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(devices),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // devices))
    try:
        result = function(**arguments)
    except FewsightError as error:
        answers.put(("error", error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    if rank == 0:
        answers.put(("result", result))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _signals_passed_on(processes: list[int | None]) -> Iterator[list[int]]:
    """SIGINT and SIGTERM go to the processes; gives the list of those that arrived, which grows."""
    arrived: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        arrived.append(number)
        for process in processes:
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGTERM)

    before: dict[signal.Signals, Any] = {}
    with contextlib.suppress(ValueError):  # not the main thread: signals are somebody else's
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, pass_on)
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
