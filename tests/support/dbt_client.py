"""Runs one dbt command on a warm server; see warm_dbt.py. Imports as little as it can."""

import json
import os
import signal
import socket
import sys
import time

# A fork that ends at once leaves semaphores to the system, which a helper of Python's tells of.
SERVER = ("-W", "ignore:resource_tracker:UserWarning", "-m", "tests.support.warm_dbt")


def connect(address: str) -> socket.socket:
    """Connect to the server; start it if nobody has yet, and wait until it answers."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    while True:
        try:
            connection.connect(address)
            return connection
        except FileNotFoundError:
            start(address)
        except ConnectionRefusedError:  # it has its socket, and does not listen yet
            time.sleep(0.01)


def start(address: str) -> None:
    """Start the server once; other clients wait meanwhile."""
    import fcntl
    import subprocess

    # Two files: the server inherits its log, and would keep the lock with it.
    with open(f"{address}.lock", "a") as lock, open(f"{address}.log", "a") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(address):
            return
        server = subprocess.Popen(
            [sys.executable, *SERVER, address],
            cwd=os.path.join(os.path.dirname(__file__), "..", ".."),  # a project may be elsewhere
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        while not os.path.exists(address):
            if server.poll() is not None:
                sys.exit(f"the server did not start; see {address}.log")
            time.sleep(0.02)


connection = connect(sys.argv[1])
order = {"arguments": sys.argv[2:], "environ": dict(os.environ), "folder": os.getcwd()}
socket.send_fds(connection, [json.dumps(order).encode() + b"\n"], [1, 2])
answers = connection.makefile()
process = int(answers.readline())
for one in (signal.SIGINT, signal.SIGTERM):
    signal.signal(one, lambda number, _: os.kill(process, number))
code = int(answers.readline())
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
