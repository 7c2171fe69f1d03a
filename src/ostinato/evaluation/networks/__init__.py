"""Networks that metrics are computed on: `base` has one table of them, one download, one way to load their weights."""
