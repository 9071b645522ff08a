"""The embedded miniature: a small world in which open-ended training can be watched on a laptop."""
