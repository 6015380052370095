"""Processes that train, as forks of this one, which has imported everything."""

import multiprocessing
import os
import socket
import sys
from multiprocessing.process import BaseProcess

from mtdnn.cli.main import main
from mtdnn.errors import MtdnnError
from mtdnn.training.loop import train

PATIENCE_SECONDS = 120
_FORK = multiprocessing.get_context("fork")


def begin(*command: str) -> BaseProcess:
    """Begin `mtdnn` with these arguments."""
    process = _FORK.Process(target=lambda: sys.exit(main(command)))
    process.start()
    return process


def together(size: int, run_dir, run, before=lambda rank: None, **options) -> list[int]:
    """Train a run in processes with the environment that torchrun gives.

    Returns:
        Their exit statuses.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def work(rank: int) -> None:
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size}
        own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in own.items()})
        before(rank)
        try:
            train(run_dir, run, threads=1, **options)
        except MtdnnError as error:
            print(error, file=sys.stderr)
            os._exit(3)

    processes = [_FORK.Process(target=work, args=(rank,)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]
