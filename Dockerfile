# One image for every command: `docker run keepstream --help`.
# Where pip's index brings torch with CUDA (gigabytes that a CPU never uses), name PyTorch's index
# of CPU wheels, as its installation page gives it: --build-arg TORCH_INDEX=…

FROM python:3.11.14-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/keepstream
ENV PATH=/opt/keepstream/bin:$PATH
ARG TORCH_INDEX=
# Largest and steadiest first: a layer is built again only when what stands above it changes.
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0
WORKDIR /src
COPY pyproject.toml .
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > /requirements.txt \
 && pip install -r /requirements.txt
COPY . .
RUN pip install --no-deps .

FROM python:3.11.14-slim-bookworm
COPY --from=build /opt/keepstream /opt/keepstream
ENV PATH=/opt/keepstream/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/var/cache/keepstream
RUN useradd --system --uid 10001 --home-dir /runs --no-log-init keepstream \
 && mkdir -p /runs /archive /knowledge /var/cache/keepstream /etc/keepstream \
 && chown keepstream:keepstream /runs /archive /knowledge /var/cache/keepstream
USER keepstream
WORKDIR /runs
# Compiles the kernels into the image: a new container then starts in seconds, not half a minute.
RUN keepstream demo --folder /tmp/demo --impressions 2000 --seconds 1 --quiet && rm -r /tmp/demo
EXPOSE 6066
# No HEALTHCHECK: only a worker answers on a port, and compose.yaml asks it. A trainer that waits for
# Kafka is well; one that is not ends by itself.
ENTRYPOINT ["keepstream"]
CMD ["--help"]
