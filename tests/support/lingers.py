"""A test that never ends, for the test that kills it; no run collects it by itself."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from tests.support.run_folder import VARIABLE
from tests.support.servers import oldest
from tests.support.split import Split


def test_never_ends(split: Split) -> None:
    if "LINGERS_WITH_DBT" in os.environ:
        assert split.dbt("--version").returncode == 0
    with oldest() as cluster, subprocess.Popen(["sleep", "600"]) as child:
        told = [os.environ[VARIABLE], split.server.socket, cluster.server.tcp, str(child.pid)]
        said = Path(os.environ["LINGERS"])
        said.with_suffix(".part").write_text("\n".join(told))
        said.with_suffix(".part").rename(said)
        time.sleep(600)
