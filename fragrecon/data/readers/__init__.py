"""Readers of on-disk formats, one module for each; see `fragrecon.data.store.Reader`."""
