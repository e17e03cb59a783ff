"""An open ``.beton`` file: its fields as objects, its columns, and where each payload is."""
