"""Measurements of a running Clarion, beside a bare loop of sends: see README.md."""
