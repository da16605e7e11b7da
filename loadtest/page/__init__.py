"""A result as a page: one file, no scripts, plots as inline SVG."""
