"""The shape that all operations share: check first, then do the steps, and give a result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any, ClassVar, Generic, TypeVar

from pgsplit.cutover.later import own_tables
from pgsplit.cutover.locks import Watches
from pgsplit.cutover.preflight import PreflightReport
from pgsplit.postgres.connect import describe
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication.slot import Connection
from pgsplit.state.ledger import Ledger
from pgsplit.state.saga import Kind, Saga

Result = TypeVar("Result")

RECORDS_TIMEOUT = "2s"


class Operation(ABC, Generic[Result]):
    """One operation on a service: its preflight, what it does, and its result.

    Every part may be done again, so an operation that was interrupted can be resumed.
    """

    title: ClassVar[str]

    def __init__(
        self,
        service: Service,
        connections: Connections,
        ledger: Ledger,
        say: Callable[[str], None],
        result: Result,
    ) -> None:
        self.service, self.connections, self.ledger = service, connections, ledger
        self.say, self.result = say, result
        self.report = PreflightReport()

    @abstractmethod
    def preflight(self) -> PreflightReport:
        """Check whether it can be done now; nothing but heartbeats and a sync is written.

        Raises:
            NotReady: the service is in another state, or has an unfinished operation.
        """

    @abstractmethod
    def execute(self) -> None:
        """Do it, without asking whether it can be done; fill in the result."""

    def check(self) -> PreflightReport:
        """Run the preflight, and raise NotReady with all problems in one message.

        This is the whole of a dry run.
        """
        self.report = report = self.preflight()
        report.require(
            self.service, describe(self.connections.urls[self.service.database]), self.title
        )
        return report

    def run(self) -> Result:
        """Check, then do it."""
        self.check()
        self.execute()
        return self.result

    def resume(self) -> Result:
        """Finish it after an interruption."""
        self.execute()
        return self.result


class SagaOperation(Operation[Result]):
    """An operation whose steps are recorded one by one, and undone if one fails."""

    kind: ClassVar[Kind]
    watches: Watches = Watches()
    records: Sequence[Connection] = ()

    @abstractmethod
    def steps(self) -> Saga:
        """Give its steps, with what undoes them."""

    def waiters(self) -> Sequence[Connection]:
        """Name the connections whose waiting for locks is explained."""
        return ()

    def intent(self) -> dict[str, Any]:
        """Give what the ledger is to keep of the whole."""
        return {}

    def execute(self) -> None:
        """Do the steps; undo them if one fails before the point of no return."""
        with self.prepared():
            self.steps().run(self.ledger, self.say, **self.intent())

    def recorded_in(self) -> Sequence[str]:
        """Name the databases in which this project's own tables have to stay writable."""
        return (self.connections.control,)

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Keep this project's own tables writable for the block, and explain all other locks.

        Raises:
            NotReady: somebody has a lock on one of them already; nothing was changed.
        """
        with ExitStack() as stack:
            self.records = [
                stack.enter_context(closing(self.connections.connect(name)))
                for name in self.recorded_in()
            ]
            with Watches(*self.records) as watches, watches.explained():
                self.keep_writable()
            self.watches = stack.enter_context(Watches(*self.waiters(), *self.records))
            yield

    def keep_writable(self) -> None:
        """Lock this project's own tables as writers do: nobody can get a lock that stops them."""
        for connection in self.records:
            connection.rollback()
            connection.execute("begin")
            connection.execute(f"set local lock_timeout = '{RECORDS_TIMEOUT}'")
            if tables := own_tables(connection):
                connection.execute(f"lock table {', '.join(tables)} in row exclusive mode")
