"""`metrics`: gives Prometheus what `health` sees."""

from __future__ import annotations

from pathlib import Path

import rich_click as click
from prometheus_client import generate_latest, write_to_textfile
from prometheus_client.exposition import choose_encoder

from pgsplit.base.errors import NotReady
from pgsplit.cli import serving
from pgsplit.cli.console import out
from pgsplit.cli.options import connect_project
from pgsplit.cli.serving import Address, Page
from pgsplit.observe import metrics
from pgsplit.observe.vitals.gather import Watch


@click.command("metrics")
@click.option("--serve", type=Address(), help="Serve /metrics; without HOST, on this machine only.")
@click.option(
    "--textfile",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write them once to this file, NAME.prom, for node_exporter.",
)
def command(serve: tuple[str, int] | None, textfile: Path | None) -> None:
    """Give the state of all services in the text format of Prometheus.

    Without an option it prints them once. Nothing is written to any database.
    """
    if serve and textfile:
        raise click.UsageError("--serve and --textfile exclude each other.")
    if textfile and textfile.suffix != ".prom":
        raise click.UsageError(f"{textfile} has to end in .prom: node_exporter reads no other.")
    connections = connect_project()
    services = connections.project.select(())
    watch = Watch(connections, services, connections.max_lag_seconds)
    registry = metrics.registry(watch)
    if serve:

        def scrape(accept: str) -> Page:
            encode, kind = choose_encoder(accept)
            return Page(encode(registry), type=kind)

        serving.serve(serve, {"/metrics": scrape})
    elif textfile:
        try:
            write_to_textfile(str(textfile), registry)  # replaces it as a whole
        except OSError as error:
            raise NotReady(
                f"The metrics can't be written: {error.strerror or error}.",
                where=str(textfile),
                hint=f"mkdir -p {textfile.parent}, and let this login write there",
            ) from error
    else:
        out.file.write(generate_latest(registry).decode())
    watch.close()
