"""Boots Debian kernels in an emulated machine and runs test binaries there; see scripts/test-kernel."""
