"""Other people's C libraries through ctypes: their names, their errors, no policy of ours."""
