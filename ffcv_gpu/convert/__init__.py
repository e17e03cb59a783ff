"""Other datasets as samples for the writer: one file for each kind of source."""
