"""Topics, publications, history and brokers: what carries a message between publishers and hubs.

Nothing in this package knows a client's socket. The server package imports it; never the
other way round.
"""
