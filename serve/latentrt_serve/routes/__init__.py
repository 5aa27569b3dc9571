"""The interfaces of the server, one module each."""
