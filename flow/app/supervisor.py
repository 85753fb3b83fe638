"""The parent of the workers of one ``flow serve``: starts them, and stops when all have drained.

uvicorn's supervisor, with `flow.app.server.Server` in each worker. It waits for its workers
without a limit of its own: each of them stops within its bounds.
"""

from __future__ import annotations

import signal
from socket import socket

import structlog
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import multiprocess

from flow.app import garbage_collection as garbage
from flow.app.server import Server
from flow.app.stop_signals import die, stop_signals

logger = structlog.get_logger(__name__)


class Worker(multiprocess.Process):
    """One process that serves."""

    @property
    def server(self) -> Server:
        """The server of this process, made where it is first asked for: in the worker."""
        if not isinstance(self._server, Server):
            garbage.leave_alone()
            self._server = Server(self.config, supervised=True)
        return self._server


class Supervisor(multiprocess.Multiprocess):
    """Passes the first SIGTERM or SIGINT on to its workers, and kills them at the second."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket]) -> None:
        super().__init__(config, sockets)
        self._failed = False

    def supervise(self) -> int:
        """Run the workers until they are told to stop and have stopped; the exit status."""
        # Handled in `run`'s own loop: nothing but a note may be made while a lock may be held.
        with stop_signals(lambda: self.signal_queue.append(signal.SIGTERM), self._kill):
            self.run()
        return STARTUP_FAILURE if self._failed else 0

    def init_processes(self) -> None:
        """Start the workers."""
        self.processes = [self._started() for _ in range(self.processes_num)]

    def keep_subprocess_alive(self) -> None:
        """Start a worker anew that has ended or hangs; one that cannot start ends them all."""
        for place, worker in enumerate(self.processes):
            if self.should_exit.is_set():
                return
            if worker.is_alive(timeout=self.config.timeout_worker_healthcheck):
                continue
            worker.kill()
            worker.join()
            if worker.exitcode == STARTUP_FAILURE:
                logger.error("worker_cannot_start", pid=worker.pid)
                self._failed = True
                self.should_exit.set()
            else:
                logger.warning("worker_ended", pid=worker.pid, exit_code=worker.exitcode)
                self.processes[place] = self._started()

    def handle_hup(self) -> None:
        """Not for Flow: waiting for one worker to drain would leave the others unattended."""
        logger.warning("signal_ignored", hint="start another `flow serve`, then SIGTERM this one")

    handle_ttin = handle_ttou = handle_hup

    def _started(self) -> Worker:
        worker = Worker(self.config, self.sockets)
        worker.start()
        return worker

    def _kill(self, number: int) -> None:
        for worker in self.processes:
            worker.process.kill()
        die(number)
