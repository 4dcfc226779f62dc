"""Ask the signal server of this container whether it is alive. Exits with 0 if it is."""

import http.client
import os
import sys

host, _, port = os.environ["TUNNEL_SIGNAL_LISTEN"].rpartition(":")
connection = http.client.HTTPConnection("127.0.0.1" if host == "0.0.0.0" else host.strip("[]"), int(port), timeout=4)
connection.request("GET", "/healthz")
sys.exit(connection.getresponse().status != 200)
