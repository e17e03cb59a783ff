"""The other libraries, each set up as its own documentation advises; most in an environment of its own."""

from __future__ import annotations

from benchmarks.peers.base import Peer

__all__ = ["FFCV", "PEERS", "TURBOJPEG"]

# What the peers on PyTorch share, so that torch is downloaded once.
PYTORCH = "pytorch"
TORCH = ("torch==2.13.0", "numpy", "pillow==13.0.0")
# Wanted for its transforms in Python alone, without its binaries, which belong to exactly one build of torch.
TORCHVISION = ("--no-deps", "torchvision==0.28.0")
WITH_TORCHVISION = "from importlib.metadata import version; version('torchvision')"
#: a DataLoader over a folder, as PyTorch's tuning guide has it
FOLDER = {"container": "folder", "prefetch_factor": 2, "persistent_workers": True}

# ---- FFCV, the ancestor: compiled on installation against OpenCV's and libjpeg-turbo's headers. The 1.0.2
# package prints 0.0.3rc1 as its `__version__`; results carry the version that pip knows.

DEBIAN = "pkg-config g++ libturbojpeg0-dev libopencv-dev"
# What its setup.py and its modules import without saying so comes first; isolation would hide it again.
FFCV_REQUIREMENTS = (
    "torch", "numba", "opencv-python-headless", "pillow", "tqdm", "psutil", "pandas", "fastargs",
    "terminaltables", "pytorch_pfn_extras", "setuptools", "wheel",
)  # fmt: skip
FFCV = Peer(
    name="ffcv",
    version="1.0.2",
    script="ffcv_worker.py",
    steps=(FFCV_REQUIREMENTS, ("--no-build-isolation", "ffcv==1.0.2")),
    needs={"libturbojpeg": DEBIAN, "opencv4": DEBIAN},
    # It decodes with the fast DCT, and cannot otherwise.
    loader={"FFCV": {"output": "uint8"}},
)

# ---- pipelines of their own

#: NVIDIA DALI's pipeline for the CPU, which needs no GPU: the file reader shuffles and reads ahead,
#: ``image_random_crop`` decodes only what the crop needs where it can. Its build for CUDA 12 is
#: nvidia-dali-cuda120.
DALI = Peer(
    name="dali",
    version="2.4.0",
    script="dali_worker.py",
    steps=(("nvidia-dali-cuda130==2.4.0", "numpy"),),
    probe="import nvidia.dali.fn",
    loader={
        "DALI (CPU)": {
            "container": "folder", "prefetch_queue_depth": 2, "resample": "linear, antialias",
            "output": "uint8 NHWC",
        }
    },
    decoder={"DALI (CPU)": {"prefetch_queue_depth": 2, "output": "RGB"}},
)  # fmt: skip
#: SPDL: each stage runs in the pipeline's threads, one a core; FFmpeg crops, scales and mirrors in one graph;
#: a batch is converted to one buffer. It needs FFmpeg's libraries (4 to 9), all of them, of the system.
SPDL = Peer(
    name="spdl",
    version="0.8.0",
    script="spdl_worker.py",
    steps=(("spdl==0.8.0", "spdl-io==0.8.0", "numpy"),),
    probe="import spdl.io; spdl.io.decode_config()",
    hint="FFmpeg's libraries: apt install ffmpeg",
    loader={
        "SPDL": {"container": "folder", "buffer_size": 3, "resample": "bilinear", "output": "uint8 NHWC"}
    },
    decoder={"SPDL": {"output": "RGB"}},
)

# ---- on torch's DataLoader

#: OpenCV decodes, crops and resizes, by area as FFCV and ffcv_gpu do. Its own threads are off in the workers,
#: as its users are told to do beside a DataLoader: the processes are the parallelism.
TORCH_OPENCV = Peer(
    name="torch-opencv",
    version="torch 2.13.0, OpenCV 5.0.0",
    script="opencv_worker.py",
    steps=(TORCH, ("opencv-python-headless==5.0.0.93",)),
    environment=PYTORCH,
    own=True,
    probe="import torch, cv2",
    loader={"DataLoader, OpenCV": FOLDER | {"resample": "area", "output": "uint8 NHWC"}},
)
#: The common way, as in PyTorch's tuning guide and torchvision's reference scripts: an ImageFolder, a worker
#: process a core, kept between epochs, one thread in each; transforms v2 on Pillow images, tensors last.
TORCH_PILLOW = Peer(
    name="torch-pillow",
    version="torch 2.13.0, torchvision 0.28.0, Pillow 13.0.0",
    script="pillow_worker.py",
    steps=(TORCH, TORCHVISION),
    environment=PYTORCH,
    own=True,
    probe=f"import torch, PIL; {WITH_TORCHVISION}",
    loader={"DataLoader, Pillow": FOLDER | {"resample": "bilinear", "output": "uint8 NCHW"}},
)
#: The same JPEG bytes in tar shards: samples are shuffled in a buffer and batched inside each worker, so that
#: whole batches go between processes, and WebLoader takes them as they are (``batch_size=None``).
WEBDATASET = Peer(
    name="webdataset",
    version="1.0.2",
    script="webdataset_worker.py",
    steps=(TORCH, TORCHVISION, ("webdataset==1.0.2",)),
    environment=PYTORCH,
    own=True,
    probe=f"import torch, PIL, webdataset; {WITH_TORCHVISION}",
    loader={
        "WebDataset, Pillow": FOLDER
        | {"container": "tar", "shuffle": 1000, "resample": "bilinear", "output": "uint8 NCHW"}
    },
)
#: To which torchvision's image decoders have moved: on the CPU one image a call is as fast as many; here with
#: transforms v2 on uint8 tensors, resized with antialiasing. The package index's wheel is linked against
#: torch's CUDA build, also for its CPU decoder: it needs that build, not a GPU, and does not load beside a
#: torch for the CPU. So it has an environment of its own, 5.6 GB. PyTorch's own index has CPU builds of all:
#: ``setup-peer torchcodec --pip "--extra-index-url https://download.pytorch.org/whl/cpu"``
TORCHCODEC = Peer(
    name="torchcodec",
    version="0.17.0",
    script="torchcodec_worker.py",
    steps=(("torch==2.14.1", "torchvision==0.29.1", "torchcodec==0.17.0"),),
    probe="from torchcodec.decoders import decode_jpeg",
    hint="the package index's wheel needs torch's CUDA build, PyTorch's CPU index has another",
    loader={"DataLoader, TorchCodec": FOLDER | {"resample": "bilinear, antialias", "output": "uint8 NCHW"}},
    decoder={"TorchCodec": {"output": "RGB, CHW"}},
)

# ---- decoders alone; the suite has the first two installed itself

PILLOW = Peer(
    name="pillow",
    version="",
    script="pillow_worker.py",
    own=True,
    probe="import PIL",
    hint="pip install pillow beside the suite",
    decoder={"Pillow": {"output": "Pillow image"}},
)
OPENCV = Peer(
    name="opencv",
    version="",
    script="opencv_worker.py",
    own=True,
    probe="import cv2",
    hint="pip install opencv-python-headless beside the suite",
    decoder={"OpenCV": {"output": "RGB", "opencv_threads": 1}},
)
NVIMGCODEC = Peer(
    name="nvimgcodec",
    version="0.9.0",
    script="nvimgcodec_worker.py",
    steps=(("nvidia-nvimgcodec-cu13==0.9.0.20", "numpy"),),
    probe="from nvidia.nvimgcodec import *; Decoder(backends=[Backend(BackendKind.CPU_ONLY)])",
    hint="it needs a GPU, even for its CPU decoder",
    decoder={"nvImageCodec (CPU)": {"output": "RGB"}},
)

# ---- the floor: every image is decoded whole, in threads, into memory that is there already. What a loader
# does more comes on top.

SIMPLEJPEG = Peer(
    name="simplejpeg",
    version="",
    script="simplejpeg_worker.py",
    own=True,
    loader={"bare simplejpeg, whole images, no crop": {"container": "folder", "dct": "accurate"}},
    decoder={"bare simplejpeg": {"dct": "accurate"}},
)
TURBOJPEG = Peer(
    name="turbojpeg",
    version="3",
    script="turbojpeg_worker.py",
    own=True,
    probe="from ffcv_gpu.native.turbojpeg3 import required; required()",
    hint="libturbojpeg 3 or newer: of the system or conda, or its file named by FFCV_GPU_TURBOJPEG",
    loader={"bare libturbojpeg 3, whole images, no crop": {"container": "folder", "dct": "accurate"}},
    decoder={"bare libturbojpeg 3": {"dct": "accurate"}},
)
NVJPEG = Peer(
    name="nvjpeg",
    version="",
    script="",
    elsewhere="a decoder on the GPU: python -m benchmarks gpu measures it",
    loader={"bare nvJPEG": {}},
    decoder={"bare nvJPEG": {}},
)

_ALL = (FFCV, DALI, SPDL, TORCH_OPENCV, TORCH_PILLOW, WEBDATASET, TORCHCODEC, OPENCV, PILLOW, NVIMGCODEC,
        SIMPLEJPEG, TURBOJPEG, NVJPEG)  # fmt: skip
PEERS = {peer.name: peer for peer in _ALL}
