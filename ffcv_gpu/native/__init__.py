"""ctypes bindings of third-party C libraries: their names and their errors, without any policy."""
