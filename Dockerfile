# fcmae on NVIDIA GPUs and CPUs. torch's wheels bring CUDA; the host needs a driver and the NVIDIA Container Toolkit.
#
#     docker build -t fcmae .
#     docker run --rm --gpus all --shm-size 8g -v "$PWD/images:/data:ro" -v "$PWD/runs:/runs" fcmae \
#         pretrain --config pretrain --data.path /data --output runs/mine
FROM python:3.12.12-slim-bookworm

# Triton compiles its launchers when a kernel first runs. Debian keeps old versions of no package.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

ENV PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY fcmae fcmae
COPY models models
COPY sparse sparse
COPY configs configs
# the checkout's own version; pyproject.toml has the limits of the others
# hadolint ignore=DL3013
RUN pip install --disable-pip-version-check ".[dicom,gcs,heif,http,nifti,onnx,parquet,s3,zarr]"

# runs and caches of kernels go where this user may write; another --user needs a writable HOME
RUN useradd --create-home --uid 1000 fcmae \
    && mkdir /runs \
    && chown fcmae:fcmae /runs
USER 1000
WORKDIR /

ENTRYPOINT ["fcmae"]
CMD ["--help"]
