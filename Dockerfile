# The project with what one kind of hardware needs:
#   docker build --build-arg EXTRA=cuda12 -t mmdiff-jax .    (or cuda13, tpu)
#   docker run --gpus=all -v "$PWD/data:/data" -v "$PWD/runs:/runs" mmdiff-jax \
#     train --config=configs/landscape.py --workdir=/runs/landscape \
#     --config.data.source=tfrecord:/data/landscape
FROM python:3.11-slim

ARG EXTRA=cuda12
WORKDIR /mmdiff_jax

# Dependencies first: a change of the code does not install them anew.
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY mmdiff_jax/__init__.py mmdiff_jax/
RUN pip install --no-cache-dir -c constraints.txt -e ".[${EXTRA},gs,s3]"

COPY . .
# Compiled programs are kept where a volume can be mounted.
ENV JAX_COMPILATION_CACHE_DIR=/runs/.xla
ENTRYPOINT ["python", "main.py"]
CMD ["--help"]
