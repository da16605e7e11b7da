"""A scenario file played against a server: who publishes, who listens, who watches."""
