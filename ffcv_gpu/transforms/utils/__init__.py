"""FFCV's old place of `fast_crop`."""
