"""Run the command line as ``python -m ffcv_gpu``."""

from ffcv_gpu.cli import main

if __name__ == "__main__":
    main()
