"""The supervisor of the workers of one ``flow serve``: starts, restarts and stops processes.

uvicorn's own supervisor, but for four things that it has no settings for:

- Its workers run `flow.app.server.Server`, which drains before it stops. uvicorn creates its own
  server, by name, in every place that starts a worker.
- A second SIGTERM or SIGINT kills the workers; uvicorn ignores it.
- The exit status tells a service that could not start from one that was stopped.
- SIGHUP, SIGTTIN and SIGTTOU do nothing. uvicorn waits for one worker to stop, which here takes as
  long as its calls, and supervises no other meanwhile.

It waits for its workers without a limit of its own: each of them stops within its bounds.
"""

from __future__ import annotations

import signal

import structlog
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

    def supervise(self) -> int:
        """Run the workers until they are told to stop and have stopped; the exit status."""
        # The handler only queues the signal, for `run`'s loop: it may interrupt a held lock.
        with stop_signals(lambda: self.signal_queue.append(signal.SIGTERM), self._kill):
            self.run()
        failed = any(worker.exitcode == STARTUP_FAILURE for worker in self.processes)
        return STARTUP_FAILURE if failed else 0

    def init_processes(self) -> None:
        """Start the workers."""
        self.processes = [self._started() for _ in range(self.processes_num)]

    def keep_subprocess_alive(self) -> None:
        """Replace a worker that has ended or hangs; one that cannot start stops them all."""
        for place, worker in enumerate(self.processes):
            if self.should_exit.is_set():
                return
            if worker.is_alive(timeout=self.config.timeout_worker_healthcheck):
                continue
            worker.kill()
            worker.join()
            if worker.exitcode == STARTUP_FAILURE:
                logger.error("worker_cannot_start", pid=worker.pid)
                self.should_exit.set()
            else:
                logger.warning("worker_ended", pid=worker.pid, exit_code=worker.exitcode)
                self.processes[place] = self._started()

    def handle_hup(self) -> None:
        """Do nothing: waiting for one worker to drain would leave the others unsupervised."""
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
