"""Runs one dbt command on a warm server; see warm_dbt.py. Imports as little as it can."""

import json
import os
import signal
import socket
import sys

connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
connection.connect(sys.argv[1])
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
