"""The Clarion server: sockets, sessions, the private HTTP API and the command line."""

__version__ = "0.1.0"
