"""JPEG backends decode bytes to pixels. A new decoder is one file here; `facts` reads headers."""
