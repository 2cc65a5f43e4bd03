"""Services of a host with workers. Each is started by `python3 -m`."""
