"""ctypes bindings of C libraries: their names and their errors, without any policy."""
