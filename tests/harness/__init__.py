"""A whole node for tests, the quickstart and the benchmark: registry, images, daemons."""
