"""Capture of document streams, the catalog daemon, queries and export."""
