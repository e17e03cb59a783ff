"""Reads other datasets as samples for the writer: one module per kind of source."""
