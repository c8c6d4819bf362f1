"""The paper's plots, one module a figure. It may import every other package; none imports it."""
