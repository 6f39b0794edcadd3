"""Run as a program, in a setting: shakes hands as often as a line of input says, answers with microseconds each."""

import socket
import ssl
import sys
import time

address, name, authority = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)
for line in sys.stdin:
    taken = []
    for _ in range(int(line)):
        began = time.perf_counter_ns()
        with socket.create_connection((address, 443)) as plain:
            tls = context.wrap_socket(plain, server_hostname=name)
            taken.append((time.perf_counter_ns() - began) / 1000)
            tls.close()
    print(*taken, flush=True)
